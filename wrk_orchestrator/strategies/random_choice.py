"""Random: every open worker equally likely."""

from __future__ import annotations

from collections.abc import Collection

from ..affinity import Affinity
from ..candidate import Candidate
from .base import Ranking
from .deck import Deck


class RandomChoice(Deck):
    def choose(self, exclude: Collection[str], now: float, affinity: Affinity) -> Candidate | None:
        return self._deal(exclude)

    def explain(self, candidates: list[Candidate], now: float, affinity: Affinity) -> Ranking:
        """All alike; the score is the chance of each."""
        return [(candidate, round(1 / len(candidates), 6)) for candidate in candidates]
