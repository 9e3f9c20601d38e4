"""Consistent hash: requests of one session go to one worker, while it is not too busy (ring.py).

A request without a session goes to the less loaded of two.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from ..affinity import Affinity
from ..candidate import Candidate
from .base import Ranking
from .guided import Guided
from .knowledge import Knowledge
from .power_of_two import PowerOfTwo
from .ring import Ring

if TYPE_CHECKING:
    from random import Random


class ConsistentHash(Guided):
    by_session = True
    otherwise = PowerOfTwo

    def __init__(self, rng: Random, knowledge: Knowledge) -> None:
        super().__init__(rng, knowledge)
        self._ring = Ring(rng, knowledge)

    def choose(self, exclude: Collection[str], now: float, affinity: Affinity) -> Candidate | None:
        if affinity.session:
            return self._ring.choose(exclude, now, affinity)
        chosen = self._otherwise.choose(exclude, now, affinity)
        if chosen is not None:
            self._ring.sent(chosen)
        return chosen

    def explain(self, candidates: list[Candidate], now: float, affinity: Affinity) -> Ranking:
        """With a session, in the order in which they are asked; without, by load."""
        strategy = self._ring if affinity.session else self._otherwise
        return strategy.explain(candidates, now, affinity)

    def fill(self, candidates: list[Candidate]) -> None:
        super().fill(candidates)
        self._ring.fill(candidates)

    def add(self, candidate: Candidate) -> None:
        super().add(candidate)
        self._ring.add(candidate)

    def discard(self, candidate: Candidate) -> None:
        super().discard(candidate)
        self._ring.discard(candidate)

    def close(self) -> None:
        super().close()
        self._ring.close()
