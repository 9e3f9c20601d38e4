"""How long each worker takes for one model: the arithmetic behind learnt weights and peak-ewma.

Estimates are kept per model, because a rack that serves an embedding model and a chat model is not
slow for the first because of the second. Two averages, both weighted by time (an observation is half
forgotten after `half_life_s`): `mean`, and `peak`, which jumps up at once and only then decays
(peak EWMA, as in Twitter's Finagle). A failure never makes a worker look faster: a rack that refuses
everything within a millisecond would otherwise attract all the work.
"""

from __future__ import annotations

from math import log2

from ..candidate import Candidate

LEAST, MOST = 0.01, 100.0  # times typical speed: beyond that a worker would hardly be measured again
LEAST_S = 1e-6  # below what any call takes; keeps quotients finite


def kept(age_s: float, half_life_s: float) -> float:
    """The share of an old average that an observation made `age_s` later leaves in place."""
    return 0.5 ** (age_s / half_life_s) if age_s > 0 else 1.0


class Latency:
    """Two running averages of one worker, in seconds.

    `rank` is the peak in a form that needs no clock to be compared: log2(peak) plus the half-lives from
    time zero to the last observation. It stays, while all peaks decay alike.
    """

    __slots__ = ("at", "mean", "peak", "rank")

    def __init__(self, seconds: float, now: float, half_life_s: float) -> None:
        self._set(seconds, seconds, now, half_life_s)

    def observe(self, seconds: float, now: float, half_life_s: float) -> None:
        if now <= self.at and seconds <= self.peak:
            return  # nothing is forgotten within one tick of the clock, so nothing is learnt
        old = kept(now - self.at, half_life_s)
        mean = old * self.mean + (1 - old) * seconds
        peak = max(seconds, old * self.peak + (1 - old) * seconds)
        self._set(mean, peak, now, half_life_s)

    def _set(self, mean: float, peak: float, now: float, half_life_s: float) -> None:
        self.mean = mean
        self.peak = peak
        self.at = now
        self.rank = log2(peak) + now / half_life_s


class Latencies:
    """Everybody's latency for one model; only the typical one where no strategy asks for more."""

    __slots__ = ("_each", "_known", "half_life_s", "typical")

    def __init__(self, half_life_s: float, *, each: bool) -> None:
        self.half_life_s = half_life_s
        self.typical: Latency | None = None
        self._each = each
        self._known: dict[Candidate, Latency] = {}

    def observe(self, candidate: Candidate, ok: bool, seconds: float, now: float) -> None:
        seconds = max(seconds, LEAST_S)
        known = self._known.get(candidate)
        believed = known or self.typical
        if not ok and (believed is None or seconds <= believed.mean):
            return
        if known is not None:
            known.observe(seconds, now, self.half_life_s)
        elif self._each:
            self._known[candidate] = Latency(seconds, now, self.half_life_s)
        if self.typical is None:
            self.typical = Latency(seconds, now, self.half_life_s)
        else:
            self.typical.observe(seconds, now, self.half_life_s)

    def forget(self, candidate: Candidate) -> None:
        self._known.pop(candidate, None)

    def speed(self, candidate: Candidate) -> float:
        """How many times as fast as a typical worker; 1 while unknown."""
        known = self._known.get(candidate)
        if known is None or self.typical is None:
            return 1.0
        speed = self.typical.mean / known.mean
        return speed if LEAST < speed < MOST else LEAST if speed < 1 else MOST

    def rank(self, candidate: Candidate, now: float) -> float:
        """The worker's decayed peak as `Latency.rank`; one that nobody has tried is taken for typical.

        Peaks decay while nothing is observed, so that a slow worker is tried again.
        """
        known = self._known.get(candidate)
        if known is not None:
            return known.rank
        return now / self.half_life_s + (log2(self.typical.mean) if self.typical is not None else 0.0)

    def seconds(self, candidate: Candidate, now: float) -> float:
        """The decayed peak itself, for people."""
        return float(2 ** (self.rank(candidate, now) - now / self.half_life_s))
