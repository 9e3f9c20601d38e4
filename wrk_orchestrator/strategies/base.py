"""What every strategy is: an order over the workers that meet one want.

A pool makes one strategy object and keeps it up to date; `choose` returns an open worker that is not
excluded, or None. An order may take a worker for freer than it is (see candidate.py): `choose` then
sets it aside and is told when it has room again. Each such correction is paid for by one change of
load before it, so that a choice stays O(1) or O(log n) on average, however many workers are full.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from operator import attrgetter
from typing import TYPE_CHECKING, ClassVar

from ..candidate import Candidate
from .latency import Latencies

if TYPE_CHECKING:
    from random import Random


longest_waiting_first = attrgetter("turn")
"""Sort key: in a pool that is new for every request, workers take turns all the same."""


class Strategy(ABC):
    """Base of all strategies; subclasses keep the open workers in whatever order they need."""

    learns: ClassVar[bool] = False
    """Whether it needs an estimate of each worker's latency."""

    def __init__(self, rng: Random, latencies: Latencies) -> None:
        self._random = rng.random
        self._latencies = latencies
        self._waiting: dict[Candidate, None] = {}  # those that will tell us

    @abstractmethod
    def choose(self, exclude: Collection[str], now: float) -> Candidate | None:
        """An open worker whose id is not in `exclude`."""

    @abstractmethod
    def _fill(self, candidates: list[Candidate]) -> None:
        """`_insert` for each, into an order that is still empty."""

    @abstractmethod
    def _insert(self, candidate: Candidate) -> None: ...

    @abstractmethod
    def _remove(self, candidate: Candidate) -> None:
        """Takes the candidate out of the order, if it is in."""

    def fill(self, candidates: list[Candidate]) -> None:
        """The first candidates, all at once, which takes a quarter of the time."""
        ready = [candidate for candidate in candidates if candidate.open]
        self._fill(ready)
        if len(ready) < len(candidates):
            for candidate in candidates:
                if not candidate.open:
                    self._wait_for(candidate)

    def add(self, candidate: Candidate) -> None:
        if candidate.open:
            self._insert(candidate)
        else:
            self._wait_for(candidate)

    def discard(self, candidate: Candidate) -> None:
        self._remove(candidate)
        self._stop_waiting(candidate)

    def relieved(self, candidate: Candidate) -> None:
        """Told by the candidate: it has room, or less load than before."""
        self._stop_waiting(candidate)
        self._insert(candidate)

    def close(self) -> None:
        """Nobody needs to tell us any more."""
        for candidate in tuple(self._waiting):
            self._stop_waiting(candidate)

    def _set_aside(self, candidate: Candidate) -> None:
        self._remove(candidate)
        self._wait_for(candidate)

    def _wait_for(self, candidate: Candidate) -> None:
        self._waiting[candidate] = candidate.behind[self] = None

    def _stop_waiting(self, candidate: Candidate) -> None:
        self._waiting.pop(candidate, None)
        candidate.behind.pop(self, None)
