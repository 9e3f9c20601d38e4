"""The worker that a session belongs to, within bounded loads.

Workers have their places on a circle, and so have sessions. Those on the arc behind a session's place draw
lots, which depend on session and worker alone, and the highest wins (rendezvous hashing, Thaler and
Ravishankar, 1998, with weights by logarithm): a worker that comes or goes moves only sessions that it
gets or had. The arc is the whole circle while they are few, and holds a dozen to 32 of them where they are
many, so that a choice costs the same among 10,000. It halves and doubles late, since that moves half of all.

A worker at 1.25 times the mean load, by what each can do, is passed over for the next (Mirrokni, Thorup,
Zadimoghaddam, 2016; HAProxy and Envoy do so). What others send to idle workers is noticed when these are
asked, so that the mean may be taken for lower than it is.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator
from itertools import islice
from math import log
from operator import attrgetter
from typing import TYPE_CHECKING

from ..affinity import Affinity, Mark
from ..candidate import Candidate
from .base import Ordered, Ranking
from .knowledge import Knowledge

if TYPE_CHECKING:
    from random import Random

FEW, MANY = 12, 32  # workers on an arc
MOST_PASSED = 64  # busy ones that are asked; then the least busy of them has to do

_place, _size = attrgetter("place"), attrgetter("size")


class Ring(Ordered):
    def __init__(self, rng: Random, knowledge: Knowledge) -> None:
        super().__init__(rng, knowledge)
        self._bound = knowledge.tuning.session_load_bound
        self._arc = 1.0  # of the circle
        self._members = 0  # open or not, so that the arc does not depend on load
        self._places: list[float] = []  # of the open ones, sorted
        self._workers: list[Candidate] = []  # in the same order
        self._loads: dict[Candidate, int] = {}  # of the same, as last seen
        self._load = self._size = 0  # of all the same

    def choose(self, exclude: Collection[str], now: float, affinity: Affinity) -> Candidate | None:
        chosen = None
        busy: list[Candidate] = []
        closed: list[Candidate] = []
        for candidate in in_order(self._places, self._workers, affinity.mark, self._arc):
            if not candidate.open:
                closed.append(candidate)
            elif candidate.worker_id not in exclude:
                self._count(candidate, candidate.load)
                if candidate.load < candidate.size * self._fair(self._load, self._size):
                    chosen = candidate
                    break
                busy.append(candidate)
                if len(busy) == MOST_PASSED:
                    break
        for candidate in closed:
            self._set_aside(candidate)
        if chosen is None:
            chosen = min(busy, key=_burden, default=None)
        if chosen is not None:
            self.sent(chosen)
        return chosen

    def _fair(self, load: int, size: int) -> float:
        """The load from which on a worker of size 1 is too busy, with the next request counted in."""
        return self._bound * (load + 1) / size

    def sent(self, candidate: Candidate) -> None:
        """A request is on its way to it."""
        if candidate in self._loads:
            self._count(candidate, candidate.load + 1)

    def explain(self, candidates: list[Candidate], now: float, affinity: Affinity) -> Ranking:
        """In the order in which they are asked; behind them those that are too busy, the least busy first."""
        workers = self._workers or sorted(candidates, key=_place)
        arc = fitting(self._arc, self._members or len(workers))
        load, size = self._load, self._size or sum(map(_size, workers))
        there = set(candidates)
        line: Ranking = []
        busy: Ranking = []
        for worker in in_order([*map(_place, workers)], workers, affinity.mark, arc):
            if worker in there:
                load += worker.load - self._loads.get(worker, 0)
                most = worker.size * self._fair(load, size)
                score = f"choice {len(line) + len(busy) + 1}, load {worker.load}, busy from {most:.2f}"
                (line if worker.load < most else busy).append((worker, score))
        return line + sorted(busy, key=lambda item: _burden(item[0]))

    def fill(self, candidates: list[Candidate]) -> None:
        super().fill(candidates)
        self._resize(len(candidates))

    def add(self, candidate: Candidate) -> None:
        super().add(candidate)
        self._resize(self._members + 1)

    def discard(self, candidate: Candidate) -> None:
        super().discard(candidate)
        self._resize(self._members - 1)

    def _resize(self, members: int) -> None:
        self._members = members
        self._arc = fitting(self._arc, members)

    def relieved(self, candidate: Candidate) -> None:
        if candidate in self._loads:
            self._count(candidate, candidate.load)
        else:
            super().relieved(candidate)

    def _fill(self, candidates: list[Candidate]) -> None:
        candidates.sort(key=_place)
        self._workers = candidates
        self._places = [*map(_place, candidates)]
        self._loads = dict.fromkeys(candidates, 0)
        self._size = sum(map(_size, candidates))
        for candidate in candidates:
            if candidate.load:
                self._count(candidate, candidate.load)

    def _insert(self, candidate: Candidate) -> None:
        at = bisect_left(self._places, candidate.place)
        self._places.insert(at, candidate.place)
        self._workers.insert(at, candidate)
        self._size += candidate.size
        self._loads[candidate] = 0
        self._count(candidate, candidate.load)

    def _remove(self, candidate: Candidate) -> None:
        if candidate not in self._loads:
            return
        at = bisect_left(self._places, candidate.place)
        while self._workers[at] is not candidate:  # two may have the same place
            at += 1
        del self._places[at], self._workers[at]
        self._size -= candidate.size
        self._load -= self._loads.pop(candidate)

    def _count(self, candidate: Candidate, load: int) -> None:
        before = self._loads[candidate]
        if load != before:
            self._loads[candidate] = load
            self._load += load - before
            if not load:
                self._stop_waiting(candidate)
            elif not before:
                self._wait_for(candidate)  # to hear when it falls


def fitting(arc: float, members: int) -> float:
    """The arc as it is, while as many are on it as should be."""
    while members * arc > MANY:
        arc /= 2
    while members * arc < FEW and arc < 1:
        arc *= 2
    return arc


def _burden(candidate: Candidate) -> float:
    return candidate.load / candidate.size


def in_order(places: list[float], workers: list[Candidate], mark: Mark, arc: float) -> Iterator[Candidate]:
    """Those on the arc by their lots, the highest first; then the others along the circle."""
    place, number = mark
    start, end = bisect_left(places, place), bisect_left(places, place + arc)
    near = workers[start:end]
    beyond = 0
    if place + arc > 1:  # it goes on where the circle begins
        beyond = bisect_left(places, place + arc - 1)
        near += workers[: min(beyond, start)]
    if near:
        lots = [log(1 - number * worker.place % 1) / worker.size for worker in near]
        best = lots.index(max(lots))
        yield near[best]  # mostly nobody else is asked
        order = sorted(range(len(near)), key=lots.__getitem__, reverse=True)
        for at in order:
            if at != best:
                yield near[at]
    yield from islice(workers, end, None)
    yield from islice(workers, beyond, start)
