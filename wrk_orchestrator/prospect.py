"""Whether a request that has to wait can still be answered in time. Pure.

Work that is handed over too late is lost twice: its caller is gone when the answer comes, and another one,
for whom there was time, had to wait for it. Under twice the load that a mesh carries everybody would be late
so, and nobody answered. Hence a moment until which a request may be handed over at all, and a refusal at
once for whoever would, at the pace of its line, come later than that.

The estimates are of a model and may be wrong for one request, so they never decide alone: of its time a
request gives up no more than half for the answer, and whoever nobody stands before is let in. A pace that was
measured in bad times is so measured anew by the next who waits.
"""

from __future__ import annotations

A_MOMENT = 0.05  # seconds; a refusal leaves that much before the request's deadline, so that it arrives
SLACK = 1.25  # times the estimate: it is 18 % off as often as not, and who is told at once can go elsewhere
KEPT = 31 / 32  # of an estimate at each new answer
DEVIATIONS = 2.0  # above the mean: all of what is spread evenly, nine of ten where it is exponential


class AnswerTime:
    """How long one model's answers take: those that came, as others tell nothing of the work.

    Mean and mean deviation, as in TCP's estimate of a round trip (V. Jacobson, 1988).
    """

    __slots__ = ("_deviation", "_mean")

    def __init__(self) -> None:
        self._mean = self._deviation = 0.0

    def observe(self, seconds: float) -> None:
        if not self._mean:
            self._mean = seconds
            return
        error = seconds - self._mean
        self._mean += (1 - KEPT) * error
        self._deviation = KEPT * self._deviation + (1 - KEPT) * abs(error)

    @property
    def likely(self) -> float:
        """Seconds within which most answers come; 0 while nothing is known."""
        return self._mean + DEVIATIONS * self._deviation


def latest(now: float, deadline: float, likely: float) -> float:
    """Until when a worker has to be found, for an answer that takes `likely` seconds."""
    return deadline - max(A_MOMENT, min(likely, (deadline - now) / 2))


def too_late(now: float, wait: float, until: float) -> bool:
    """Whether a wait of so many seconds would hardly end before `until`."""
    return now + SLACK * wait > until
