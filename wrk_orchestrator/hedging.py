"""When a request has waited long enough to be sent to a second worker too. Pure.

How long that is follows one figure of each model: the time that 95 % of its requests take to their answer or
first item. The estimate goes up by a step for a request above it and down by a nineteenth of that for one
below, so it rests where one in twenty lies above, forgets what was, and costs a comparison a request
(Robbins and Monro, 1951, on a logarithmic scale). By how much a request is above says nothing, so one that
is hedged, and whose own time nobody will learn, is counted like any other.

Hedges are saved up, a share of one with each request, so that there are never more than that share.
"""

from __future__ import annotations

from math import exp, inf

SHARE_ABOVE = 0.05
STEP = 0.08  # of the estimate: ten slow requests in a row double it, 170 fast ones halve it
UP, DOWN = exp(STEP * (1 - SHARE_ABOVE)), exp(-STEP * SHARE_ABOVE)
FIRST_LOOK = (
    20  # requests that the first estimate is made of: the second slowest, as the first loads the model
)
KNOWN_AFTER = 100  # requests; before, nothing is hedged
LEAST_S = 0.005  # sooner is no gain: a second call costs a fifth of a millisecond, looking out for it a timer
MOST_S = 3600.0
MOST_SAVED = 10.0  # hedges that may go out at once after a quiet time


class Patience:
    """Of one model's requests. `seconds` is how long to wait for a first sign; infinite while unknown."""

    __slots__ = ("_estimate", "_first", "_noted", "_saved", "_share", "seconds")

    def __init__(self, share: float) -> None:
        self._share = share
        self._saved = 0.0
        self._noted = 0
        self._first: list[float] = []
        self._estimate = self.seconds = inf

    def save(self) -> None:
        """A request was sent."""
        saved = self._saved + self._share
        self._saved = saved if saved < MOST_SAVED else MOST_SAVED

    def spend(self) -> bool:
        """True, and counted, when one more hedge is allowed."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True

    def note(self, waited: float) -> None:
        """The first sign of a request came after so many seconds, or has not come for so long."""
        if self._noted < KNOWN_AFTER:
            self._begin(waited)
            return
        estimate = self._estimate * (UP if waited > self._estimate else DOWN)
        self._estimate = self.seconds = min(MOST_S, max(LEAST_S, estimate))

    def _begin(self, waited: float) -> None:
        self._noted += 1
        if self._noted <= FIRST_LOOK:
            self._first.append(waited)
            if self._noted == FIRST_LOOK:
                self._estimate = min(MOST_S, max(LEAST_S, sorted(self._first)[-2]))
                self._first.clear()
            return
        self._estimate = min(MOST_S, max(LEAST_S, self._estimate * (UP if waited > self._estimate else DOWN)))
        if self._noted == KNOWN_AFTER:
            self.seconds = self._estimate
