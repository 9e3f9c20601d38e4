"""Round robin: whoever has waited longest in this pool.

The line is kept in order of the last pick instead of by a counter modulo the number of workers, so
workers may come, go and fill up at any time, and an empty line is nothing special.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import TYPE_CHECKING

from ..affinity import Affinity
from ..candidate import Candidate
from .base import Ordered, Ranking, longest_waiting_first
from .knowledge import Knowledge

if TYPE_CHECKING:
    from random import Random


class RoundRobin(Ordered):
    def __init__(self, rng: Random, knowledge: Knowledge) -> None:
        super().__init__(rng, knowledge)
        self._line: OrderedDict[Candidate, None] = OrderedDict()

    def choose(self, exclude: Collection[str], now: float, affinity: Affinity) -> Candidate | None:
        line = self._line
        while line:
            for candidate in line:
                if not candidate.open:
                    break
                if candidate.worker_id not in exclude:
                    line.move_to_end(candidate)
                    return candidate
            else:
                return None
            self._set_aside(candidate)
        return None

    def explain(self, candidates: list[Candidate], now: float, affinity: Affinity) -> Ranking:
        """By turns; the score is the place in the line, 0 is next."""
        place = {candidate: at for at, candidate in enumerate(self._line)}
        line = sorted(candidates, key=lambda c: (place.get(c, len(place)), c.turn))
        return [(candidate, at) for at, candidate in enumerate(line)]

    def _fill(self, candidates: list[Candidate]) -> None:
        self._line = OrderedDict.fromkeys(sorted(candidates, key=longest_waiting_first))

    def _insert(self, candidate: Candidate) -> None:
        self._line[candidate] = None

    def _remove(self, candidate: Candidate) -> None:
        self._line.pop(candidate, None)
