"""A circle of workers, on which a session finds the one that it belongs to, within bounded loads.

Every worker is one point on the circle, and a session is sought from 16 points: it belongs to the worker
that is soonest met after any of them (multi-probe consistent hashing, Appleton and O'Reilly, 2015). That
shares sessions about as evenly as hundreds of points a worker would, and takes one. Distances are divided by
what a worker can do, so that larger ones get more sessions. A worker that comes or goes moves only sessions
that it has then, or had.

A worker that is at 1.25 times the mean load, by what each can do, is passed over (Mirrokni, Thorup,
Zadimoghaddam, 2016; HAProxy and Envoy do so). What other pools of the model send to it is noticed when it is
asked and when its load falls, so that the mean may be taken for lower than it is.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, TypeAlias

from ..affinity import CIRCLE, Affinity
from ..candidate import Candidate
from .base import Ordered, Ranking
from .knowledge import Knowledge

if TYPE_CHECKING:
    from random import Random

MOST_PASSED = 64  # busy ones that are asked; then the least busy of them has to do

Near: TypeAlias = tuple[float, int]
"""The distance of a worker from a probe, and its place on the circle."""

_point, _size = attrgetter("point"), attrgetter("size")


class Ring(Ordered):
    def __init__(self, rng: Random, knowledge: Knowledge) -> None:
        super().__init__(rng, knowledge)
        self._bound = knowledge.tuning.session_load_bound
        self._points: list[int] = []
        self._workers: list[Candidate] = []  # in the order of their points
        self._loads: dict[Candidate, int] = {}  # of all on the circle, as last seen
        self._load = self._size = 0  # of all on the circle

    def choose(self, exclude: Collection[str], now: float, affinity: Affinity) -> Candidate | None:
        while self._points:
            candidate = self._ask(affinity.probes, exclude)
            if candidate is None or candidate.open:
                if candidate is not None:
                    self.sent(candidate)
                return candidate
            self._set_aside(candidate)  # without it on the circle, another is the nearest
        return None

    def sent(self, candidate: Candidate) -> None:
        """A request is on its way to it."""
        if candidate in self._loads:
            self._count(candidate, candidate.load + 1)

    def _ask(self, probes: tuple[int, ...], exclude: Collection[str]) -> Candidate | None:
        """The first that is not too busy, or that turns out to be closed; else the least busy."""
        busy: list[Candidate] = []
        for candidate in _in_order(self._workers, _nearest(self._points, self._workers, probes)):
            if not candidate.open:
                return candidate
            if candidate.worker_id in exclude:
                continue
            if candidate.load * self._size < self._bound * (self._load + 1) * candidate.size:
                return candidate
            self._count(candidate, candidate.load)
            busy.append(candidate)
            if len(busy) == MOST_PASSED:
                break
        return min(busy, key=_burden, default=None)

    def explain(self, candidates: list[Candidate], now: float, affinity: Affinity) -> Ranking:
        """In the order in which they are asked; behind them those that are too busy, the least busy first."""
        there = set(candidates)
        workers = [worker for worker in self._workers if worker.open] or sorted(candidates, key=_point)
        size, load = sum(worker.size for worker in workers), sum(worker.load for worker in workers)
        line: Ranking = []
        busy: Ranking = []
        if not workers:
            return line
        for worker in _in_order(workers, _nearest([*map(_point, workers)], workers, affinity.probes)):
            if worker in there:
                most = self._bound * (load + 1) * worker.size / size
                score = f"choice {len(line) + len(busy) + 1}, load {worker.load}, busy from {most:.1f}"
                (line if worker.load < most else busy).append((worker, score))
        return line + sorted(busy, key=lambda item: _burden(item[0]))

    def relieved(self, candidate: Candidate) -> None:
        if candidate in self._loads:
            self._count(candidate, candidate.load)
        else:
            super().relieved(candidate)

    def _fill(self, candidates: list[Candidate]) -> None:
        candidates.sort(key=_point)
        self._workers = candidates
        self._points = [*map(_point, candidates)]
        self._loads = dict.fromkeys(candidates, 0)
        self._size = sum(map(_size, candidates))
        for candidate in candidates:
            if candidate.load:
                self._count(candidate, candidate.load)

    def _insert(self, candidate: Candidate) -> None:
        at = bisect_left(self._points, candidate.point)
        self._points.insert(at, candidate.point)
        self._workers.insert(at, candidate)
        self._size += candidate.size
        self._loads[candidate] = 0
        self._count(candidate, candidate.load)

    def _remove(self, candidate: Candidate) -> None:
        if candidate not in self._loads:
            return
        at = bisect_left(self._points, candidate.point)
        while self._workers[at] is not candidate:  # two may have the same point
            at += 1
        del self._points[at], self._workers[at]
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


def _burden(candidate: Candidate) -> float:
    return candidate.load / candidate.size


def _nearest(points: list[int], workers: list[Candidate], probes: tuple[int, ...]) -> list[Near]:
    """The next worker after each probe, some perhaps more than once."""
    near: list[Near] = []
    last = len(points)
    for probe in probes:
        at = bisect_left(points, probe)
        if at < last:
            near.append(((points[at] - probe) / workers[at].size, at))
        else:
            near.append(((points[0] + CIRCLE - probe) / workers[0].size, 0))
    return near


def _in_order(workers: list[Candidate], near: list[Near]) -> Iterator[Candidate]:
    """Each once: first those next to a probe, by distance, then the others along the circle."""
    nearest = min(near)[1]
    yield workers[nearest]  # mostly it is asked for no more
    near.sort()
    asked = {nearest}
    for at in chain([at for _, at in near], range(nearest, len(workers)), range(nearest)):
        if at not in asked:
            asked.add(at)
            yield workers[at]
