"""Prequal: of those heard of lately, a fast one that is not busy (Wydrowski and others, NSDI 2024).

A worker is hot if it is as busy as the busiest sixth of them, and cold otherwise. Of the cold ones the one
that answers fastest is taken; if all are hot, the least busy. News are old after a while and after a few
requests (probes.py); with none of two workers, the choice is that of two at random.

Departures from the paper, which sends probes: ours ride on answers and beats, so none are dropped in
favour of better ones, as those could not be had for the asking. Latencies are those of our own calls, which
fade while nothing is sent there, so that who was slow once is tried again. How busy a worker is, is the share
of its room that is taken, since racks say how much they can do at once. Where probes are few, the busiest
is hot.
"""

from __future__ import annotations

from collections.abc import Collection
from math import ceil
from typing import TYPE_CHECKING

from ..affinity import Affinity
from ..candidate import Candidate
from .base import Ranking
from .guided import Guided
from .knowledge import Knowledge
from .power_of_two import PowerOfTwo

if TYPE_CHECKING:
    from random import Random

HOT = 2**-0.25  # the quantile of the paper, 0.84
FEWEST = 2  # probes; one worker would be no choice


class Prequal(Guided):
    learns = hears = True
    otherwise = PowerOfTwo

    def __init__(self, rng: Random, knowledge: Knowledge) -> None:
        super().__init__(rng, knowledge)
        self._probes = knowledge.probes
        self._members: set[Candidate] = set()

    def choose(self, exclude: Collection[str], now: float, affinity: Affinity) -> Candidate | None:
        members = self._members
        known = [
            candidate
            for candidate in self._probes.fresh(now)
            if candidate.open and candidate in members and candidate.worker_id not in exclude
        ]
        if len(known) < FEWEST:
            return self._otherwise.choose(exclude, now, affinity)
        hot = _hot(known)
        cold = [candidate for candidate in known if _busy(candidate) < hot]
        rank = self._latencies.rank
        if cold:
            chosen = min(cold, key=lambda candidate: rank(candidate, now))
        else:
            chosen = min(known, key=lambda candidate: (_busy(candidate), rank(candidate, now)))
        self._probes.use(chosen)
        return chosen

    def explain(self, candidates: list[Candidate], now: float, affinity: Affinity) -> Ranking:
        """The cold by latency, then the hot by how busy they are, then those without news by load."""
        known = [candidate for candidate in self._probes.fresh(now) if candidate in candidates]
        if len(known) < FEWEST:
            return self._without_news(candidates, now, affinity)
        hot, rank = _hot(known), self._latencies.rank
        cold = sorted([c for c in known if _busy(c) < hot], key=lambda c: rank(c, now))
        others = sorted([c for c in known if c not in cold], key=lambda c: (_busy(c), rank(c, now)))
        line: Ranking = []
        for candidate in (*cold, *others):
            heat = "cold" if candidate in cold else "hot"
            took = 1000 * self._latencies.seconds(candidate, now)
            line.append((candidate, f"{heat}, {took:.0f} ms, load {candidate.load}"))
        return line + self._without_news([c for c in candidates if c not in known], now, affinity)

    def _without_news(self, candidates: list[Candidate], now: float, affinity: Affinity) -> Ranking:
        return [
            (c, f"no news, load {load}") for c, load in self._otherwise.explain(candidates, now, affinity)
        ]

    def fill(self, candidates: list[Candidate]) -> None:
        super().fill(candidates)
        self._members = set(candidates)

    def add(self, candidate: Candidate) -> None:
        super().add(candidate)
        self._members.add(candidate)

    def discard(self, candidate: Candidate) -> None:
        super().discard(candidate)
        self._members.discard(candidate)


def _busy(candidate: Candidate) -> float:
    return candidate.load / candidate.room


def _hot(known: list[Candidate]) -> float:
    """From how busy on a worker is hot: the quantile of those known."""
    return sorted(map(_busy, known))[ceil(HOT * len(known)) - 1]
