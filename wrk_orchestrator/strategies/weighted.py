"""Weighted: picks in proportion to weight, evenly spread (earliest deadline first, as in Envoy).

Each pick puts a worker's next turn 1/weight later on the pool's own clock, and the earliest turn is
next. A weight set by hand holds; others are learnt as measured service rate: slots times speed, in
units of one slot of typical speed. Workers start at a random point of their wait, so that neither they
nor several orchestrators move in step.
"""

from __future__ import annotations

from collections.abc import Collection
from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING

from ..affinity import Affinity
from ..candidate import Candidate
from .base import Ordered, Ranking
from .knowledge import Knowledge

if TYPE_CHECKING:
    from random import Random

LEAST_WEIGHT = 1e-6  # keeps 1/weight far from infinity, which would stop the pool's clock for good
SPARE_TURNS = 64  # withdrawn turns kept beyond as many as there are workers
FIRST, MORE = 64, 4  # workers weighed at the start and with each pick after: all at once would take long
DIGITS = 6  # of a score
AT_ONCE = 1e-6  # share of a turn: no wait, but no two at the same moment


class Weighted(Ordered):
    learns = True

    def __init__(self, rng: Random, knowledge: Knowledge) -> None:
        super().__init__(rng, knowledge)
        self._clock = 0.0
        self._heap: list[float] = []  # bare moments, each of one worker: cheap to compare and to keep
        self._whose: dict[float, Candidate] = {}  # a moment that is not here was withdrawn
        self._turn: dict[Candidate, float | None] = {}  # None: not weighed yet
        self._fresh: list[Candidate] = []  # all that are not weighed yet, and some that have left

    def choose(self, exclude: Collection[str], now: float, affinity: Affinity) -> Candidate | None:
        heap = self._heap
        passing: list[Candidate] = []
        chosen = None
        self._weigh(MORE)
        while chosen is None and (heap or self._fresh):
            if not heap:
                self._weigh(FIRST)
                continue
            turn = heap[0]
            candidate = self._whose.get(turn)
            if candidate is None:
                heappop(heap)
            elif not candidate.open:
                self._set_aside(candidate)
            elif candidate.worker_id in exclude:
                passing.append(candidate)
                self._remove(candidate)
            else:
                chosen = candidate
                self._clock = turn
                del self._whose[turn]
                heapreplace(heap, self._next(chosen, 1.0))
        for candidate in passing:  # this request has tried it already: it misses a turn
            heappush(heap, self._next(candidate, 1.0))
        return chosen

    def explain(self, candidates: list[Candidate], now: float, affinity: Affinity) -> Ranking:
        """By turns; the score is how long the wait is, where one of weight 1 waits 1 from turn to turn."""
        waits = [(self._wait(candidate), at) for at, candidate in enumerate(candidates)]
        return [(candidates[at], round(wait, DIGITS)) for wait, at in sorted(waits)]

    def _wait(self, candidate: Candidate) -> float:
        turn = self._turn.get(candidate)
        return 1 / self._weight(candidate) if turn is None else turn - self._clock

    def relieved(self, candidate: Candidate) -> None:
        """Its turn came while it was full: it is due at once."""
        self._stop_waiting(candidate)
        heappush(self._heap, self._next(candidate, AT_ONCE * self._random()))

    def _fill(self, candidates: list[Candidate]) -> None:
        self._fresh = candidates
        self._turn = dict.fromkeys(candidates)
        self._weigh(FIRST)

    def _weigh(self, most: int) -> None:
        fresh = self._fresh
        while fresh and most:
            most -= 1
            at = int(self._random() * len(fresh))
            candidate, fresh[at] = fresh[at], fresh[-1]
            fresh.pop()
            if self._turn.get(candidate, 0.0) is not None:
                continue
            if candidate.open:
                self._insert(candidate)
            else:
                self._set_aside(candidate)

    def _insert(self, candidate: Candidate) -> None:
        heappush(self._heap, self._next(candidate, self._random()))

    def _remove(self, candidate: Candidate) -> None:
        turn = self._turn.pop(candidate, None)
        if turn is not None:
            del self._whose[turn]
            if len(self._heap) > 2 * len(self._whose) + SPARE_TURNS:
                self._heap[:] = self._whose
                heapify(self._heap)

    def _next(self, candidate: Candidate, share: float) -> float:
        """Enters the worker's next turn, after `share` of its usual wait."""
        wait = share / self._weight(candidate)
        turn = self._clock + wait
        while turn in self._whose:
            wait += (wait + AT_ONCE) * self._random()
            turn = self._clock + wait
        self._whose[turn] = candidate
        self._turn[candidate] = turn
        return turn

    def _weight(self, candidate: Candidate) -> float:
        by_hand = candidate.weight
        weight = candidate.room * self._latencies.speed(candidate) if by_hand is None else by_hand
        return weight if weight > LEAST_WEIGHT else LEAST_WEIGHT
