"""How late the event loop runs: the first thing to know before judging anybody else's silence."""

from __future__ import annotations

import asyncio
from collections import deque

SAMPLE_SECONDS = 0.25
SAMPLES = 240  # the last minute


class LoopLag:
    """Samples by a timer how much later than asked it runs. `last` and the percentiles are seconds."""

    def __init__(self) -> None:
        self.last = 0.0
        self._samples: deque[float] = deque(maxlen=SAMPLES)
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._plan(asyncio.get_running_loop())

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def percentile(self, share: float) -> float:
        ordered = sorted(self._samples)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0

    def _plan(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + SAMPLE_SECONDS
        self._timer = loop.call_at(due, self._sample, loop, due)

    def _sample(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self.last = max(0.0, loop.time() - due)
        self._samples.append(self.last)
        self._plan(loop)
