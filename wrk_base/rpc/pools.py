"""Where blocking functions run: in a thread or a process of a pool, so that the event loop never waits.

A call has a seat, a thread or a process, until nothing of it runs any more; more calls than seats wait in
order. A thread cannot be stopped: who gives its call up has the result cancelled and the seat taken until
the function returns. A process can: it is killed, with all that it started, and another takes its place.

Why not a library: concurrent.futures waits for its threads when the interpreter ends and cannot kill one
process; loky gives up all calls when one process dies; pebble (LGPL) sees that a call was cancelled by
looking every 0.1 s and asks with SIGTERM first; a busy process of anyio's outlives a parent that was
killed, and nobody learns how it died itself.

Everything here runs in the event loop's thread; `pool_seats` knows the threads and the processes.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from .. import errors
from . import pool_process
from .pool_process import name_of
from .pool_seats import ProcessSeat, ThreadSeat

T = TypeVar("T")


class Running(Generic[T]):
    """A call in a pool; `await` it for its result, cancel `result` to give it up.

    `ended` is done when nothing of the call runs any more: the function has returned, its process is dead,
    or it never began. `begun` says whether it ever left the queue.
    """

    __slots__ = ("_seat", "begun", "ended", "function", "result", "work")

    def __init__(self, function: Callable[..., T]) -> None:
        loop = asyncio.get_running_loop()
        self.result: asyncio.Future[T] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.begun = False
        self.function = function
        self.work: Any = None
        self._seat: Seat | None = None

    def __await__(self) -> Generator[Any, None, T]:
        return self.result.__await__()

    def _fail(self, error: Exception) -> None:
        if not self.result.done():
            self.result.set_exception(error)

    def _end(self) -> None:
        self.work = self._seat = None
        if not self.ended.done():  # a task that awaited it may have been cancelled, and it with it
            self.ended.set_result(None)


class Pools:
    """At most `threads` threads and `processes` processes; none is made before a call needs it.

    How many calls wait is not bounded here: the runner bounds the requests that it admits.
    """

    def __init__(self, threads: int, processes: int) -> None:
        if threads < 1 or processes < 1:
            raise ValueError("a pool has one thread and one process at least; they cost nothing until used")
        self._threads = Lane(threads, ThreadSeat, "thread")
        self._processes = Lane(processes, ProcessSeat, "process")

    @property
    def busy_threads(self) -> int:
        """Threads whose function has not returned, those that nobody waits for among them."""
        return len(self._threads.running)

    @property
    def busy_processes(self) -> int:
        return len(self._processes.running)

    @property
    def waiting(self) -> int:
        """Calls that have no seat yet."""
        return len(self._threads.waiting) + len(self._processes.waiting)

    def run_in_thread(self, function: Callable[..., T], *args: Any) -> Running[T]:
        """The result raises what the function raised, `CapacityExceeded` where no thread can be made, or
        `Unavailable` once closed; a `BaseException` such as SystemExit comes as `Internal`."""
        call = Running(function)
        call.work = partial(function, *args)
        self._threads.submit(call)
        return call

    def run_in_process(self, function: Callable[..., T], *args: Any) -> Running[T]:
        """As in a thread, and `Internal` for a process that died. Function, arguments and result are pickled:
        `BadRequest` for arguments that cannot be, `Internal` for a function or a result that cannot."""
        call = Running(function)
        try:
            call.work = pool_process.pack_call(function, args)
        except errors.WrkError as error:
            call._fail(error)
            call._end()
        else:
            self._processes.submit(call)
        return call

    def close(self) -> None:
        """Fail what waits and runs with `Unavailable`, end the idle threads, kill the processes.

        Returns when these are gone, within `END_SECONDS` for each that cannot be. A thread that still runs
        is left behind; it does not keep the process from its end.
        """
        self._threads.close()
        self._processes.close()


# --- who has a seat


class Seat(Protocol):
    def begin(self, call: Running[Any]) -> None: ...

    def abort(self) -> None:
        """Nobody waits for its call any more."""

    def close(self) -> None: ...


class Lane:
    """The seats of one kind, the calls that have one, and those that wait for one, in order."""

    def __init__(self, size: int, seat: Callable[[Lane], Seat], what: str) -> None:
        self._size, self._make_seat, self._what = size, seat, what
        self._seats: set[Seat] = set()
        self._idle: list[Seat] = []
        self.running: dict[Seat, Running[Any]] = {}
        self.waiting: OrderedDict[Running[Any], None] = OrderedDict()
        self._closed = False

    def submit(self, call: Running[Any]) -> None:
        if self._closed:
            call._fail(_closing(not_started=True))
            call._end()
            return
        self.waiting[call] = None
        call.result.add_done_callback(partial(self._on_result, call))
        self._fill()

    def _fill(self) -> None:
        while self.waiting and (self._idle or len(self._seats) < self._size):
            call, _ = self.waiting.popitem(last=False)
            if call.result.done():  # given up in this very turn of the loop
                call._end()
                continue
            try:
                seat = self._idle.pop() if self._idle else self._hire()
            except (OSError, RuntimeError) as error:
                full = f"no {self._what} can be started: {error}"
                call._fail(errors.CapacityExceeded(full, retry_after_ms=1000, not_started=True))
                call._end()
                continue
            self.running[seat] = call
            call._seat, call.begun = seat, True
            seat.begin(call)

    def _hire(self) -> Seat:
        seat = self._make_seat(self)
        self._seats.add(seat)
        return seat

    def _on_result(self, call: Running[Any], result: asyncio.Future[Any]) -> None:
        """Either all is over already, or the call was given up."""
        if call in self.waiting:
            del self.waiting[call]
            call._end()
        elif call._seat is not None:
            call._seat.abort()

    def finished(self, seat: Seat, value: Any, error: Exception | None) -> None:
        """The function has returned or raised; its seat is free."""
        call = self.running.pop(seat)
        if error is not None:
            call._fail(error)
        elif not call.result.done():
            call.result.set_result(value)
        call._end()
        if not self._closed:
            self._idle.append(seat)
            self._fill()

    def lost(self, seat: Seat, how: str) -> None:
        """The seat is gone. One that was lost at work is replaced now; one that was idle, or that cannot
        be replaced, when a call needs it: so nothing is started over and over."""
        self._seats.discard(seat)
        call = self.running.pop(seat, None)
        if call is None:
            self._idle = [other for other in self._idle if other is not seat]
            return
        call._fail(errors.Internal(f"{name_of(call.function)} failed: its {self._what} {how}"))
        call._end()
        if self._closed:
            return
        if not self.waiting:
            try:
                self._idle.append(self._hire())
            except (OSError, RuntimeError):
                pass
        self._fill()

    def close(self) -> None:
        self._closed = True
        waiting, self.waiting = self.waiting, OrderedDict()
        for call in waiting:
            call._fail(_closing(not_started=True))
            call._end()
        for call in self.running.values():
            call._fail(_closing(not_started=False))
        for seat in self._seats:
            seat.abort()
        for seat in list(self._seats):
            seat.close()
        self._seats.clear()
        self._idle.clear()


def _closing(*, not_started: bool) -> errors.Unavailable:
    return errors.Unavailable("this worker is stopping", not_started=not_started)
