"""Least connections: the lowest load; among equals, whoever has waited longest.

Workers stand in one row per load. A row may hold workers whose load has grown since: they move up when
they come to the front. It never holds one whose load has fallen: that is told (`relieved`). So the
front of the lowest row, once checked, is the least loaded of all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from heapq import heappop, heappush
from typing import TYPE_CHECKING, TypeAlias

from ..affinity import Affinity
from ..candidate import Candidate
from .base import Ordered, Ranking, longest_waiting_first
from .knowledge import Knowledge

if TYPE_CHECKING:
    from random import Random

SPARE_ROWS = 16  # empty rows kept beyond as many as there are loaded workers

Row: TypeAlias = OrderedDict[Candidate, None]


class LeastConnections(Ordered):
    def __init__(self, rng: Random, knowledge: Knowledge) -> None:
        super().__init__(rng, knowledge)
        self._rows: dict[int, Row] = {}
        self._loads: list[int] = []  # heap: the load of every row, once
        self._place: dict[Candidate, int] = {}  # of all that stand in another row than 0

    def choose(self, exclude: Collection[str], now: float, affinity: Affinity) -> Candidate | None:
        chosen = self.first(exclude)
        if chosen is not None:
            self.spend_turn(chosen)
        return chosen

    def spend_turn(self, candidate: Candidate) -> None:
        """What `first` offered was taken: the others of its load come first now."""
        self._rows[candidate.load].move_to_end(candidate)

    def first(self, exclude: Collection[str]) -> Candidate | None:
        """The least loaded whose turn it is; it stays in front."""
        self._sweep()
        chosen = None
        passed: list[int] = []
        while chosen is None and self._loads:
            load = self._loads[0]
            chosen = self._front(load, exclude)
            if chosen is None:
                passed.append(heappop(self._loads))
        for load in passed:
            if self._rows[load]:
                heappush(self._loads, load)
            else:
                del self._rows[load]
        return chosen

    def _front(self, load: int, exclude: Collection[str]) -> Candidate | None:
        row = self._rows[load]
        while row:
            for candidate in row:
                if candidate.load > load or not candidate.open:
                    break
                if candidate.worker_id not in exclude:
                    return candidate
            else:
                return None
            if candidate.open:
                self._insert(candidate)
            else:
                self._set_aside(candidate)
        return None

    def explain(self, candidates: list[Candidate], now: float, affinity: Affinity) -> Ranking:
        """By load; among equals, who stands further in front of the row."""
        place = {c: (load, at) for load in self._rows for at, c in enumerate(self._rows[load])}

        def order(candidate: Candidate) -> tuple[int, bool, int, int]:
            load, at = place.get(candidate, (candidate.load, candidate.turn))
            return candidate.load, load != candidate.load, load, at

        return [(candidate, candidate.load) for candidate in sorted(candidates, key=order)]

    def relieved(self, candidate: Candidate) -> None:
        if self._place.get(candidate, candidate.load + 1) > candidate.load:
            super().relieved(candidate)
            self._sweep()

    def _fill(self, candidates: list[Candidate]) -> None:
        line = sorted(candidates, key=longest_waiting_first)
        self._rows[0] = OrderedDict.fromkeys([candidate for candidate in line if not candidate.load])
        self._loads.append(0)
        if len(self._rows[0]) < len(line):
            for candidate in line:
                if candidate.load:
                    self._insert(candidate)

    def _insert(self, candidate: Candidate) -> None:
        self._remove(candidate)
        load = candidate.load
        if load not in self._rows:
            self._rows[load] = OrderedDict()
            heappush(self._loads, load)
        self._rows[load][candidate] = None
        if load:
            self._place[candidate] = load
            self._wait_for(candidate)  # it may fall below what this row says

    def _remove(self, candidate: Candidate) -> None:
        row = self._rows.get(self._place.pop(candidate, 0))
        if row is not None:
            row.pop(candidate, None)

    def _sweep(self) -> None:
        """Rows that ran empty leave when they come up as the lowest; at worst, all at once here."""
        if len(self._rows) > len(self._place) + SPARE_ROWS:
            self._rows = {load: row for load, row in self._rows.items() if row}
            self._loads = sorted(self._rows)
