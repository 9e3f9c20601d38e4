"""Peak EWMA: of two workers drawn at random, the one that should answer first.

The estimate is the peak EWMA of its latency times the calls it would then have in flight, as in
Twitter's Finagle: quick to leave a worker that slows down, slow to return.
"""

from __future__ import annotations

from collections.abc import Collection
from math import log2

from ..affinity import Affinity
from ..candidate import Candidate
from .base import Ranking
from .deck import Deck


class PeakEwma(Deck):
    learns = True

    def choose(self, exclude: Collection[str], now: float, affinity: Affinity) -> Candidate | None:
        one = self._deal(exclude)
        other = self._rival(one, exclude) if one is not None else None
        if one is None or other is None:
            return one
        return other if self._cost(other, now) < self._cost(one, now) else one

    def explain(self, candidates: list[Candidate], now: float, affinity: Affinity) -> Ranking:
        """By cost: of any two, the cheaper is taken. The score is milliseconds times calls in flight."""
        costs = [(self._cost(candidate, now), at) for at, candidate in enumerate(candidates)]
        decayed = now / self._latencies.half_life_s
        return [(candidates[at], _ms(cost - decayed)) for cost, at in sorted(costs)]

    def _cost(self, candidate: Candidate, now: float) -> float:
        """Of peak times calls in flight, the logarithm."""
        return self._latencies.rank(candidate, now) + log2(candidate.load + 1)


def _ms(logarithm: float) -> float:
    return round(1000 * 2**logarithm, 3)
