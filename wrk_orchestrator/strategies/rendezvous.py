"""The worker that an idempotency key belongs to, whatever the strategy: it keeps what came of the request.

Every orchestrator must name the same one, now and when the request comes again. So the order goes by key,
model and workers alone, by lots as in ring.py, and never by load. Where there are many workers, only those on
an arc of the circle draw lots; how long it is follows from their number.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator
from operator import attrgetter

from ..affinity import Affinity, mark_of
from ..candidate import Candidate
from .base import Ranking
from .ring import fitting, in_order

_place = attrgetter("place")


class Rendezvous:
    """The workers of one model that meet one want, open or not, in the order of their places."""

    def __init__(self, model: str, candidates: list[Candidate]) -> None:
        self._model = model
        self._workers = sorted(candidates, key=_place)
        self._places = [*map(_place, self._workers)]

    def add(self, candidate: Candidate) -> None:
        at = bisect_left(self._places, candidate.place)
        self._places.insert(at, candidate.place)
        self._workers.insert(at, candidate)

    def discard(self, candidate: Candidate) -> None:
        at = bisect_left(self._places, candidate.place)
        while self._workers[at] is not candidate:  # two may have the same place
            at += 1
        del self._places[at], self._workers[at]

    def choose(self, exclude: Collection[str], key: str) -> Candidate | None:
        """The first that is open and not excluded."""
        for candidate in self._order(key):
            if candidate.open and candidate.worker_id not in exclude:
                return candidate
        return None

    def owner(self, exclude: Collection[str], key: str) -> Candidate | None:
        """The first that is in service and not excluded, full or not."""
        for candidate in self._order(key):
            if candidate.limit and candidate.worker_id not in exclude:
                return candidate
        return None

    def explain(self, candidates: list[Candidate], now: float, affinity: Affinity) -> Ranking:
        among = set(candidates)
        ranked = [candidate for candidate in self._order(affinity.key) if candidate in among]
        return [(candidate, f"choice {number + 1} of its key") for number, candidate in enumerate(ranked)]

    def _order(self, key: str) -> Iterator[Candidate]:
        arc = fitting(1.0, len(self._workers))
        return in_order(self._places, self._workers, mark_of(f"{key}\0{self._model}"), arc)
