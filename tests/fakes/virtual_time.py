"""An event loop whose clock jumps to the next timer as soon as there is nothing else to do.

Latencies and deadlines of any length pass at once and exactly, so a test may compare times. For code
that takes its time from the loop and talks over `FakeNetwork`: real sockets and threads would be
overtaken. A test that waits for what can never happen fails instead of hanging.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Starts at time 0."""

    _ready: Any
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        if not self._ready:
            timers = [timer.when() for timer in self._scheduled if not timer.cancelled()]
            if not timers:
                raise RuntimeError("nothing is left that could ever happen")
            self._now = max(self._now, min(timers))
        super()._run_once()  # type: ignore[misc]


def run_virtual(coroutine: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result, in a loop of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coroutine)
