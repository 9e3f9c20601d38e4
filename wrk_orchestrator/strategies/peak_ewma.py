"""Peak EWMA: of two workers drawn at random, the one that should answer first.

The estimate is the peak EWMA of its latency times the calls it would then have in flight, as in
Twitter's Finagle: quick to leave a worker that slows down, slow to return.
"""

from __future__ import annotations

from collections.abc import Collection
from math import log2

from ..candidate import Candidate
from .deck import Deck


class PeakEwma(Deck):
    learns = True

    def choose(self, exclude: Collection[str], now: float) -> Candidate | None:
        one = self._deal(exclude)
        other = self._rival(one, exclude) if one is not None else None
        if one is None or other is None:
            return one
        return other if self._cost(other, now) < self._cost(one, now) else one

    def _cost(self, candidate: Candidate, now: float) -> float:
        """Of peak times calls in flight, the logarithm."""
        return self._latencies.rank(candidate, now) + log2(candidate.load + 1)
