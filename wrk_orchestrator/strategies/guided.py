"""Base of the strategies that sometimes know a better worker, and leave the choice to another where not.

The other one is a whole strategy, with an order of its own. That keeps those who bring nothing to go by
(no session, no prompt, no news) as evenly spread as under that strategy alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ..candidate import Candidate
from .base import Strategy
from .knowledge import Knowledge

if TYPE_CHECKING:
    from random import Random


class Guided(Strategy):
    otherwise: ClassVar[type[Strategy]]

    def __init__(self, rng: Random, knowledge: Knowledge) -> None:
        super().__init__(rng, knowledge)
        self._otherwise = self.otherwise(rng, knowledge)

    def fill(self, candidates: list[Candidate]) -> None:
        self._otherwise.fill(candidates)

    def add(self, candidate: Candidate) -> None:
        self._otherwise.add(candidate)

    def discard(self, candidate: Candidate) -> None:
        self._otherwise.discard(candidate)

    def close(self) -> None:
        self._otherwise.close()
