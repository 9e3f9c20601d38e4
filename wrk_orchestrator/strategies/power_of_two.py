"""Power of two choices: of two workers drawn at random, the less loaded (Mitzenmacher, 2001).

Nearly as even as comparing all, without all orchestrators running to the same least loaded worker.
"""

from __future__ import annotations

from collections.abc import Collection

from ..affinity import Affinity
from ..candidate import Candidate
from .base import Ranking
from .deck import Deck


class PowerOfTwo(Deck):
    def choose(self, exclude: Collection[str], now: float, affinity: Affinity) -> Candidate | None:
        one = self._deal(exclude)
        other = self._rival(one, exclude) if one is not None else None
        return other if one is not None and other is not None and other.load < one.load else one

    def explain(self, candidates: list[Candidate], now: float, affinity: Affinity) -> Ranking:
        """By load: of any two, the less loaded is taken."""
        return [(candidate, candidate.load) for candidate in sorted(candidates, key=lambda c: c.load)]
