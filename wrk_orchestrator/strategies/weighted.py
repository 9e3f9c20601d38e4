"""Weighted: picks in proportion to weight, evenly spread (earliest deadline first, as in Envoy).

Each pick puts a worker's next turn 1/weight later on the pool's own clock, and the earliest turn is
next. A weight set by hand holds; others are learnt as measured service rate: slots times speed, in
units of one slot of typical speed. First turns are random, so that orchestrators do not move in step
and even a pool that serves one request only keeps the proportions.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from math import log
from typing import TYPE_CHECKING

from ..candidate import Candidate
from .base import Strategy
from .latency import Latencies

if TYPE_CHECKING:
    from random import Random

LEAST_WEIGHT = 1e-6  # keeps 1/weight far from infinity, which would stop the pool's clock for good
SPARE_TURNS = 64  # withdrawn turns kept beyond as many as there are workers
AT_ONCE = 1e-6  # share of a turn: no wait, but no two at the same moment


class Weighted(Strategy):
    learns = True

    def __init__(self, rng: Random, latencies: Latencies) -> None:
        super().__init__(rng, latencies)
        self._clock = 0.0
        self._heap: list[float] = []  # bare moments, each of one worker: cheap to compare and to keep
        self._whose: dict[float, Candidate] = {}  # a moment that is not here was withdrawn
        self._turn: dict[Candidate, float] = {}

    def choose(self, exclude: Collection[str], now: float) -> Candidate | None:
        heap = self._heap
        passing: list[Candidate] = []
        chosen = None
        while heap and chosen is None:
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

    def relieved(self, candidate: Candidate) -> None:
        """Its turn came while it was full: it is due at once."""
        self._stop_waiting(candidate)
        heappush(self._heap, self._next(candidate, AT_ONCE * self._random()))

    def _fill(self, candidates: list[Candidate]) -> None:
        random, weights = self._random, self._weights(candidates)
        turns = [-log(1.0 - random()) / weight for weight in weights]
        self._whose = dict(zip(turns, candidates, strict=True))
        self._turn = dict(zip(candidates, turns, strict=True))
        self._heap = turns
        heapify(turns)

    def _insert(self, candidate: Candidate) -> None:
        heappush(self._heap, self._next(candidate, -log(1.0 - self._random())))

    def _remove(self, candidate: Candidate) -> None:
        turn = self._turn.pop(candidate, None)
        if turn is not None:
            del self._whose[turn]
            if len(self._heap) > 2 * len(self._whose) + SPARE_TURNS:
                self._heap[:] = self._whose
                heapify(self._heap)

    def _next(self, candidate: Candidate, share: float) -> float:
        wait = share / self._weights((candidate,))[0]
        turn = self._clock + wait
        while turn in self._whose:
            wait += (wait + AT_ONCE) * self._random()
            turn = self._clock + wait
        self._whose[turn] = candidate
        self._turn[candidate] = turn
        return turn

    def _weights(self, candidates: Sequence[Candidate]) -> list[float]:
        return [
            candidate.room * speed if candidate.weight is None else max(candidate.weight, LEAST_WEIGHT)
            for candidate, speed in zip(candidates, self._latencies.speeds(candidates), strict=True)
        ]
