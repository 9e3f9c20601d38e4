"""Prefix-aware: the worker that has read the longest beginning of this prompt, unless it is too loaded.

A model server that still has the beginning in its cache need not read it again, which of a long prompt
saves most of the time to the first token. What is known is who was sent what (prefixes.py). Others learn a
beginning when those who know it are too loaded, so a popular one spreads as far as its load asks for.

The thresholds suit a LAN, few racks with some dozens of requests in flight: two more requests than the least
loaded has are worth a saved prompt, or a quarter more where there are many. (sglang's router, made for
hundreds a worker, allows 64, and half as many again.) A new prompt goes to the least loaded.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from ..affinity import Affinity
from ..candidate import Candidate
from .base import Ranking
from .guided import Guided
from .knowledge import Knowledge
from .least_connections import LeastConnections
from .prefixes import Life

if TYPE_CHECKING:
    from random import Random

LEAST_BYTES = 256  # some 64 tokens; reading fewer anew takes no time
LEAST_SHARE = 0.3  # of the prompt: who has to read most of it anew may as well be the least loaded
WIDER = 4  # the gap is at least a quarter of the least load: with many in flight, two are nothing


class PrefixAware(Guided):
    by_prompt = True
    otherwise = LeastConnections
    _otherwise: LeastConnections

    def __init__(self, rng: Random, knowledge: Knowledge) -> None:
        super().__init__(rng, knowledge)
        self._prefixes = knowledge.prefixes
        self._salt = hash(knowledge.model)
        self._gap = knowledge.tuning.prefix_load_gap
        self._members: dict[Life, Candidate] = {}

    def choose(self, exclude: Collection[str], now: float, affinity: Affinity) -> Candidate | None:
        least = self._otherwise.first(exclude)
        if least is None:
            return None
        chosen = self._warm(affinity, exclude, self._most(least.load)) if affinity.beginnings else None
        if chosen is None:
            chosen = least
            self._otherwise.spend_turn(least)  # only so do new prompts spread evenly while nobody is busy
        self._prefixes.note(affinity.beginnings, self._salt, chosen.life)
        return chosen

    def _most(self, least: int) -> int:
        """The load up to which a worker is not too loaded, where the least loaded has `least`."""
        return least + max(self._gap, least // WIDER)

    def _warm(self, affinity: Affinity, exclude: Collection[str], most: int) -> Candidate | None:
        """Who has the longest beginning; of several, who read it last has it most likely still."""
        worth = _worth(affinity)
        for length, beginning in reversed(affinity.beginnings):
            if length < worth:
                break
            for life in reversed(self._prefixes.holders(beginning, self._salt)):
                candidate = self._members.get(life)
                if candidate is None or not candidate.open or candidate.load > most:
                    continue
                if candidate.worker_id not in exclude:
                    return candidate
        return None

    def explain(self, candidates: list[Candidate], now: float, affinity: Affinity) -> Ranking:
        """By the bytes that each has read, where these are enough and it is not too loaded; then by load."""
        ranked = self._otherwise.explain(candidates, now, affinity)
        if not ranked or not affinity.beginnings:
            return [(candidate, f"load {load}") for candidate, load in ranked]
        read = self._read(affinity)
        worth, most = _worth(affinity), self._most(ranked[0][0].load)

        def order(candidate: Candidate) -> tuple[int, int]:
            length, place = read.get(candidate.life, (0, 0))
            return (-length, place) if length >= worth and candidate.load <= most else (0, 0)

        line = sorted((candidate for candidate, _ in ranked), key=order)
        return [(c, f"{read.get(c.life, (0, 0))[0]} bytes known, load {c.load}") for c in line]

    def _read(self, affinity: Affinity) -> dict[Life, tuple[int, int]]:
        """Who has read how much of the prompt, and how many have read as much since."""
        read: dict[Life, tuple[int, int]] = {}
        for length, beginning in reversed(affinity.beginnings):
            for place, life in enumerate(reversed(self._prefixes.holders(beginning, self._salt))):
                read.setdefault(life, (length, place))
        return read

    def fill(self, candidates: list[Candidate]) -> None:
        super().fill(candidates)
        self._members = {candidate.life: candidate for candidate in candidates}

    def add(self, candidate: Candidate) -> None:
        super().add(candidate)
        self._members[candidate.life] = candidate

    def discard(self, candidate: Candidate) -> None:
        super().discard(candidate)
        self._members.pop(candidate.life, None)


def _worth(affinity: Affinity) -> float:
    """The least length that is worth more than an even load."""
    return max(LEAST_BYTES, LEAST_SHARE * affinity.beginnings[-1][0])
