"""Base of the strategies that draw at random: a deck of cards, one per open worker.

Cards are dealt in random order, and nobody is dealt twice before everybody was dealt once. That is as
unpredictable as independent draws where it matters, and keeps every share equal: independent draws
let shares of 32 equal workers differ by 5 % after 100,000 picks.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from ..candidate import Candidate
from .base import Ordered
from .knowledge import Knowledge

if TYPE_CHECKING:
    from random import Random

TRIES = 8  # draws of a rival that hit excluded workers before there is none
SPARE_CARDS = 64  # cards of workers that left, kept beyond as many as there are others


class Deck(Ordered):
    def __init__(self, rng: Random, knowledge: Knowledge) -> None:
        super().__init__(rng, knowledge)
        self._cards: list[Candidate] = []  # the first `_undealt` are still to be dealt in this round
        self._undealt = 0
        self._left: set[Candidate] = set()  # have a card still, which goes when it comes up

    def _deal(self, exclude: Collection[str]) -> Candidate | None:
        """The next open worker that is not excluded; an excluded one that comes up misses a turn."""
        cards = self._cards
        misses = 0
        while cards and misses <= 2 * len(exclude):  # more: two rounds held nobody else
            if not self._undealt:
                self._undealt = len(cards)
            at = int(self._random() * self._undealt)
            candidate = cards[at]
            if not candidate.open or candidate in self._left:
                self._drop(at)
                continue
            self._undealt -= 1
            cards[at], cards[self._undealt] = cards[self._undealt], candidate
            if candidate.worker_id not in exclude:
                return candidate
            misses += 1
        return None

    def _rival(self, candidate: Candidate, exclude: Collection[str]) -> Candidate | None:
        """Another open worker that is not excluded, at random; None when there seems to be none."""
        cards = self._cards
        misses = 0
        while len(cards) > 1 and misses < TRIES:
            at = int(self._random() * len(cards))
            rival = cards[at]
            if rival is candidate:
                continue
            if not rival.open or rival in self._left:
                self._drop(at)
            elif rival.worker_id in exclude:
                misses += 1
            else:
                return rival
        return None

    def _fill(self, candidates: list[Candidate]) -> None:
        self._cards = candidates

    def _insert(self, candidate: Candidate) -> None:
        if candidate in self._left:
            self._left.remove(candidate)
        else:
            self._cards.append(candidate)

    def _remove(self, candidate: Candidate) -> None:
        if candidate not in self._waiting:  # those have no card
            self._left.add(candidate)
            self._sweep()

    def _drop(self, at: int) -> None:
        """Takes a card out, because its worker has left or is full."""
        cards = self._cards
        candidate = cards[at]
        if at < self._undealt:  # keep the two parts apart: first to the border, then to the end
            self._undealt -= 1
            cards[at] = cards[self._undealt]
            at = self._undealt
        last = cards.pop()
        if at < len(cards):
            cards[at] = last
        if candidate in self._left:
            self._left.remove(candidate)
        else:
            self._wait_for(candidate)

    def _sweep(self) -> None:
        """Workers come and go without a pick: their cards must not pile up."""
        if 2 * len(self._left) > len(self._cards) + SPARE_CARDS:
            self._cards = [candidate for candidate in self._cards if candidate not in self._left]
            self._left.clear()
            self._undealt = 0
