"""Base of the strategies that draw at random: a deck of cards, one per open worker.

Cards are dealt in random order, and nobody is dealt twice before everybody was dealt once. That is as
unpredictable as independent draws where it matters, and keeps every share equal: independent draws
let shares of 32 equal workers differ by 5 % after 100,000 picks.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from ..candidate import Candidate
from .base import Strategy
from .latency import Latencies

if TYPE_CHECKING:
    from random import Random

TRIES = 8  # draws of a rival that hit excluded workers before there is none


class Deck(Strategy):
    def __init__(self, rng: Random, latencies: Latencies) -> None:
        super().__init__(rng, latencies)
        self._cards: list[Candidate] = []  # the first `_undealt` are still to be dealt in this round
        self._at: dict[Candidate, int] = {}
        self._undealt = 0

    def _deal(self, exclude: Collection[str]) -> Candidate | None:
        """The next open worker that is not excluded; an excluded one that comes up misses a turn."""
        misses = 0
        while self._cards and misses <= 2 * len(exclude):  # more: two rounds held nobody else
            if not self._undealt:
                self._undealt = len(self._cards)
            at = int(self._random() * self._undealt)
            candidate = self._cards[at]
            if not candidate.open:
                self._set_aside(candidate)
                continue
            self._undealt -= 1
            self._swap(at, self._undealt)
            if candidate.worker_id not in exclude:
                return candidate
            misses += 1
        return None

    def _rival(self, candidate: Candidate, exclude: Collection[str]) -> Candidate | None:
        """Another open worker that is not excluded, at random; None when there seems to be none."""
        misses = 0
        while len(self._cards) > 1 and misses < TRIES:
            at = int(self._random() * (len(self._cards) - 1))
            rival = self._cards[at + (at >= self._at[candidate])]
            if not rival.open:
                self._set_aside(rival)
            elif rival.worker_id in exclude:
                misses += 1
            else:
                return rival
        return None

    def _fill(self, candidates: list[Candidate]) -> None:
        self._cards = candidates
        self._at = {candidate: at for at, candidate in enumerate(candidates)}

    def _insert(self, candidate: Candidate) -> None:
        self._at[candidate] = len(self._cards)
        self._cards.append(candidate)

    def _remove(self, candidate: Candidate) -> None:
        at = self._at.get(candidate)
        if at is None:
            return
        if at < self._undealt:  # keep the two parts apart: first to the border, then to the end
            self._undealt -= 1
            self._swap(at, self._undealt)
            at = self._undealt
        self._swap(at, len(self._cards) - 1)
        del self._at[self._cards.pop()]

    def _swap(self, one: int, other: int) -> None:
        cards, at = self._cards, self._at
        first, second = cards[one], cards[other]
        cards[one], cards[other] = second, first
        at[first], at[second] = other, one
