"""One event loop for many processes: virtual time, and processes that are stopped, stuck or dead.

Everything that is planned while a process runs belongs to that process. What belongs to one that is held
up waits for it, as after SIGSTOP; what belongs to a dead one never runs, as after SIGKILL: no `finally`,
no goodbye. The clock jumps to the next timer when nothing else is left to do. Every process has a
monotonic clock of its own that began at another moment, as on several machines.

It must not know what processes do. The invariant: what runs, and in which order, follows from what was
planned and from nothing else, not from hashes, addresses or the speed of this machine.
"""

from __future__ import annotations

import asyncio
from asyncio import Handle, TimerHandle
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import contextmanager
from contextvars import Context
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

Order = Literal["as planned", "timers first", "timers last"]


class Process:
    """What runs together, stops together and dies together. `offset`: how far its clock is ahead."""

    def __init__(self, name: str, offset: float = 0.0) -> None:
        self.name, self.offset = name, offset
        self.alive = True
        self.held = 0  # how many reasons there are that its event loop does not run
        self.stopped = 0  # and how many that not even its threads do
        self.parked: list[
            tuple[bool, Handle]
        ] = []  # what it would have done meanwhile, and whether by a timer
        self.tasks: set[asyncio.Task[Any]] = set()


class SimLoop(asyncio.BaseEventLoop):
    """Starts at time 0. `current` is the process that runs now; None: the world around all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.current: Process | None = None
        self.over = False
        self._todo: deque[tuple[Process | None, Handle]] = deque()
        self._timers: list[tuple[float, int, Process | None, TimerHandle]] = []
        self._numbers = count()

    # --- what asyncio asks for

    def time(self) -> float:
        """The clock of the process that asks."""
        return self.now if self.current is None else self.now + self.current.offset

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:
        handle = Handle(callback, args, self, context)
        self._todo.append((self.current, handle))
        return handle

    call_soon_threadsafe = call_soon

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> TimerHandle:
        process = self.current
        due = when if process is None else when - process.offset
        handle = TimerHandle(when, callback, args, self, context)
        heappush(self._timers, (due, next(self._numbers), process, handle))
        return handle

    def create_task(self, coro: Any, **more: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = super().create_task(coro, **more)
        if self.current is not None:  # the dead leave no garbage: its collection would run their code
            self.current.tasks.add(task)
            task.add_done_callback(self.current.tasks.discard)
        return task

    def _run_once(self) -> None:
        todo, timers = self._todo, self._timers
        if not todo:
            while timers and timers[0][3]._cancelled:  # type: ignore[attr-defined]
                heappop(timers)
            if not timers:
                raise RuntimeError("nothing is left that could ever happen")
            self.now = max(self.now, timers[0][0])
        now = self.now
        while timers and timers[0][0] <= now:
            _, _, process, handle = heappop(timers)
            if process is not None and process.held:
                process.parked.append((True, handle))
            else:
                todo.append((process, handle))
        for _ in range(len(todo)):
            process, handle = todo.popleft()
            if handle._cancelled:  # type: ignore[attr-defined]
                continue
            if process is not None:
                if not process.alive:
                    continue
                if process.held:
                    process.parked.append((False, handle))
                    continue
            self.current = process
            handle._run()  # type: ignore[attr-defined]
        self.current = None

    def _timer_handle_cancelled(self, handle: TimerHandle) -> None:
        """It is passed over when its time comes."""

    def _write_to_self(self) -> None:
        """There is nobody to be woken."""

    def _process_events(self, event_list: object) -> None:
        """There are none."""

    def _asyncgen_finalizer_hook(self, agen: Any) -> None:
        """A generator that nobody reads any more is closed by its process, if that lives."""
        if not self.over and (self.current is None or self.current.alive):
            self.create_task(agen.aclose())

    # --- processes

    @contextmanager
    def as_process(self, process: Process | None) -> Iterator[None]:
        """What is planned inside belongs to the process."""
        before, self.current = self.current, process
        try:
            yield
        finally:
            self.current = before

    def soon(self, process: Process | None, callback: Callable[..., object], *args: Any) -> None:
        self._todo.append((process, Handle(callback, args, self, None)))

    def at(self, when: float, process: Process | None, callback: Callable[..., object], *args: Any) -> None:
        """Plan something in the world's time."""
        heappush(self._timers, (when, next(self._numbers), process, TimerHandle(when, callback, args, self)))

    def spawn(self, process: Process, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        with self.as_process(process):
            return self.create_task(work)

    def hold(self, process: Process) -> None:
        """It stands still until each `hold` had its `release`."""
        process.held += 1

    def release(self, process: Process, order: Order = "as planned") -> None:
        """It goes on; which of what is due it does first depends on its event loop."""
        process.held -= 1
        if process.held or not process.alive:
            return
        parked, process.parked = process.parked, []
        if order != "as planned":
            parked.sort(key=lambda item: item[0] is (order == "timers last"))
        self._todo.extend((process, handle) for _, handle in parked)

    def kill(self, process: Process) -> None:
        """It is gone: nothing that it had planned will happen."""
        process.alive = False
        process.parked.clear()
