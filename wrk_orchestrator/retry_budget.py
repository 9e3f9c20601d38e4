"""How many calls may be sent again: enough for single failures, too few to double an outage. Pure.

Within the last ten seconds at most the greater of a share of the requests and a rate per second may
have been repeated (as in Finagle's and Linkerd's retry budgets). Seconds are counted in ten buckets.
"""

from __future__ import annotations

WINDOW_S = 10


class RetryBudget:
    """`share` of requests (0.2) or `floor` repetitions a second (3), whichever allows more."""

    __slots__ = ("_floor", "_requests", "_second", "_share", "_spent")

    def __init__(self, share: float, floor: float) -> None:
        self._share, self._floor = share, floor
        self._requests = [0] * WINDOW_S
        self._spent = [0] * WINDOW_S
        self._second = 0

    def note_request(self, now: float) -> None:
        self._turn(now)
        self._requests[self._second % WINDOW_S] += 1

    def spend(self, now: float) -> bool:
        """True, and counted, when one more repetition is allowed."""
        self._turn(now)
        allowed = max(self._share * sum(self._requests), self._floor * WINDOW_S)
        if sum(self._spent) + 1 > allowed:
            return False
        self._spent[self._second % WINDOW_S] += 1
        return True

    def overdraw(self, now: float) -> None:
        """Count a repetition that is made whatever is left, so that others wait for it."""
        self._turn(now)
        self._spent[self._second % WINDOW_S] += 1

    def _turn(self, now: float) -> None:
        second = int(now)
        if second <= self._second:
            return
        for passed in range(max(self._second + 1, second - WINDOW_S + 1), second + 1):
            self._requests[passed % WINDOW_S] = 0
            self._spent[passed % WINDOW_S] = 0
        self._second = second
