"""Whether so many items leave for one peer that they had better wait for each other. Pure.

Waking a ZeroMQ socket costs about 100 us of CPU in all. Above some 5,000 items a second, items after a
stream's first wait up to `HOLD_SECONDS` and leave together.
"""

from __future__ import annotations

HOLD_SECONDS = 0.001
ITEMS_PER_SECOND = 5000
LOOK_SECONDS = 0.05


class Pace:
    """Items a second, looked at every twentieth of one."""

    __slots__ = ("_count", "_since", "fast")

    def __init__(self) -> None:
        self._count = 0
        self._since = 0.0
        self.fast = False

    def note(self, items: int, now: float) -> None:
        self._count += items
        passed = now - self._since
        if passed >= LOOK_SECONDS:
            self.fast = self._count > ITEMS_PER_SECOND * passed
            self._count, self._since = 0, now
