"""What every strategy is: a choice among the workers that meet one want.

A pool makes one strategy object and keeps it up to date; `choose` returns an open worker that is not
excluded, or None. Most strategies keep an order of the open ones (`Ordered`). An order may take a worker
for freer than it is (see candidate.py): `choose` then sets it aside and is told when it has room again.
Each such correction is paid for by one change of load before it, so that a choice stays O(1) or O(log n)
on average, however many workers are full.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from operator import attrgetter
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from ..affinity import Affinity
from ..candidate import Candidate
from .knowledge import Knowledge

if TYPE_CHECKING:
    from random import Random


longest_waiting_first = attrgetter("turn")
"""Sort key: in a pool that is new for every request, workers take turns all the same."""

Score: TypeAlias = int | float | str
"""What a strategy goes by, for people: a number of its own kind, or a few words."""

Ranking: TypeAlias = list[tuple[Candidate, Score]]


class Strategy(ABC):
    """Base of all strategies. What one needs it says in its class, and who does not pays nothing for it."""

    learns: ClassVar[bool] = False  # an estimate of each worker's latency
    hears: ClassVar[bool] = False  # of every report that a worker makes of its load
    by_session: ClassVar[bool] = False
    by_prompt: ClassVar[bool] = False

    def __init__(self, rng: Random, knowledge: Knowledge) -> None:
        self._random = rng.random
        self._latencies = knowledge.latencies

    @abstractmethod
    def choose(self, exclude: Collection[str], now: float, affinity: Affinity) -> Candidate | None:
        """An open worker whose id is not in `exclude`."""

    @abstractmethod
    def explain(self, candidates: list[Candidate], now: float, affinity: Affinity) -> Ranking:
        """These open workers, likeliest first, each with what it is judged by. Changes nothing."""

    @abstractmethod
    def fill(self, candidates: list[Candidate]) -> None:
        """The first candidates, all at once, which takes a quarter of the time."""

    @abstractmethod
    def add(self, candidate: Candidate) -> None: ...

    @abstractmethod
    def discard(self, candidate: Candidate) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Nobody needs to tell us any more."""


class Ordered(Strategy):
    """Subclasses keep the open workers in whatever order they need."""

    def __init__(self, rng: Random, knowledge: Knowledge) -> None:
        super().__init__(rng, knowledge)
        self._waiting: dict[Candidate, None] = {}  # those that will tell us

    @abstractmethod
    def _fill(self, candidates: list[Candidate]) -> None:
        """`_insert` for each, into an order that is still empty."""

    @abstractmethod
    def _insert(self, candidate: Candidate) -> None: ...

    @abstractmethod
    def _remove(self, candidate: Candidate) -> None:
        """Takes the candidate out of the order, if it is in."""

    def fill(self, candidates: list[Candidate]) -> None:
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
