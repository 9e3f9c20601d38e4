"""Random: every open worker equally likely."""

from __future__ import annotations

from collections.abc import Collection

from ..candidate import Candidate
from .deck import Deck


class RandomChoice(Deck):
    def choose(self, exclude: Collection[str], now: float) -> Candidate | None:
        return self._deal(exclude)
