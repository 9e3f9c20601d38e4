"""What was written in one turn of the event loop leaves at the end of that turn, together.

One `Tick` is shared by all links of a process. Inside a drain the drain's end flushes; elsewhere the
first write plans one flush behind everything that is ready to run now. So messages fill by themselves
and no timer adds latency.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType


class Tick(AbstractContextManager["Tick"]):
    """`with tick:` is a drain: what it wrote leaves when it ends."""

    __slots__ = ("_depth", "_due", "_loop", "_planned")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due: list[Callable[[], None]] = []
        self._planned = False
        self._depth = 0

    def at_end(self, flush: Callable[[], None]) -> None:
        """Call `flush` at the end of this turn, once for each time that it was given."""
        self._due.append(flush)
        if not self._depth:
            self.plan()

    def plan(self) -> None:
        """Flush after everything that is ready now, as when a drain has started tasks."""
        if not self._planned:
            self._planned = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._planned = False
        self.flush()

    def flush(self) -> None:
        while self._due:
            due, self._due = self._due, []
            for flush in due:
                flush()

    def __enter__(self) -> Tick:
        self._depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if not self._depth:
            self.flush()
