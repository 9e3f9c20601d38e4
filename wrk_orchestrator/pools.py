"""Who may be picked: one cached, incrementally kept pool of candidates per want.

A pool is built from the registry's indexes at the first request that asks for its combination of
model, capabilities, labels, capacity and context; from then on every change reaches it, so that a pick
never searches. What a pool holds must at all times equal what a search from scratch would find: the
property tests hold it to that. The least recently used pools leave when there are too many.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from wrk_base.contract import Requirements

from .candidate import Candidate
from .records import Want, WorkerRecord
from .service_registry import ServiceRegistry
from .strategies import Knowledge, Latencies, Prefixes, Probes, Rendezvous, Strategy, Tuning

if TYPE_CHECKING:
    from random import Random

MAX_POOLS = 1024  # callers choose their filters freely; beyond this, the rarest are searched for anew
MAX_SEATS = 400_000  # candidates over all pools, about 250 bytes each: 40 filters that fit all of 10,000

Key: TypeAlias = str | tuple[str, frozenset[str], frozenset[tuple[str, str]], int, int, str]
"""A model alone, so that a request without requirements needs one look-up; or a whole want."""


class Pool:
    """The workers that meet one want: `matching` are registered, `routable` of them are in service.

    `by_key` is there once a request with an idempotency key has come.
    """

    __slots__ = ("by_key", "latencies", "matching", "routable", "strategy", "want")

    def __init__(self, want: Want, strategy: Strategy, latencies: Latencies) -> None:
        self.want = want
        self.strategy = strategy
        self.latencies = latencies
        self.by_key: Rendezvous | None = None
        self.matching = 0
        self.routable = 0

    def fill(self, candidates: list[Candidate]) -> None:
        self.matching = len(candidates)
        self.routable = sum([candidate.limit > 0 for candidate in candidates])
        self.strategy.fill(candidates)

    def add(self, candidate: Candidate) -> None:
        if self.want.met_by(candidate.record):
            self.matching += 1
            self.routable += candidate.limit > 0
            self.strategy.add(candidate)
            if self.by_key is not None:
                self.by_key.add(candidate)

    def discard(self, candidate: Candidate) -> None:
        if self.want.met_by(candidate.record):
            self.matching -= 1
            self.routable -= candidate.limit > 0
            self.strategy.discard(candidate)
            if self.by_key is not None:
                self.by_key.discard(candidate)


class Model:
    """What is kept per model that somebody serves and somebody has asked for."""

    __slots__ = ("knowledge", "pools")

    def __init__(self, knowledge: Knowledge) -> None:
        self.knowledge = knowledge
        self.pools: dict[Key, Pool] = {}


class Pools:
    """All candidates and the pools that they are in."""

    def __init__(self, registry: ServiceRegistry, kind: type[Strategy], rng: Random, tuning: Tuning) -> None:
        self.candidates: dict[str, Candidate] = {}
        self._registry = registry
        self._kind = kind
        self._rng = rng
        self._tuning = tuning
        self._prefixes = Prefixes()
        self._pools: OrderedDict[Key, Pool] = OrderedDict()  # least recently used first
        self._models: dict[str, Model] = {}

    def __len__(self) -> int:
        return len(self._pools)

    def __iter__(self) -> Iterator[Pool]:
        return iter(self._pools.values())

    def find(self, model: str, requirements: Requirements | None) -> Pool | None:
        """The pool for a request; None when no registered worker serves the model."""
        key = key_of(model, requirements)
        pool = self._pools.get(key)
        if pool is None:
            return self._build(key) if self._registry.serves(model) else None
        self._pools.move_to_end(key)
        return pool

    def by_key(self, pool: Pool) -> Rendezvous:
        """What chooses for requests with idempotency keys."""
        if pool.by_key is None:
            pool.by_key = self._rendezvous(pool.want)
        return pool.by_key

    def _rendezvous(self, want: Want) -> Rendezvous:
        return Rendezvous(want.model, [self.candidates[name] for name in self._registry.matching(want)])

    def join(self, worker: WorkerRecord, turn: int) -> None:
        candidate = self.candidates[worker.worker_id] = Candidate(worker, turn)
        for pool in self._pools_of(worker):
            pool.add(candidate)

    def update(self, worker: WorkerRecord) -> None:
        candidate = self.candidates[worker.worker_id]
        before = candidate.record
        for pool in self._pools_of(before):
            pool.discard(candidate)
        candidate.replace(worker)
        for pool in self._pools_of(worker):
            pool.add(candidate)
        self._forget(candidate, set(before.models) - set(worker.models))

    def leave(self, worker_id: str) -> None:
        candidate = self.candidates.pop(worker_id)
        for pool in self._pools_of(candidate.record):
            pool.discard(candidate)
        self._forget(candidate, set(candidate.record.models))
        candidate.replace(replace(candidate.record, models=()))  # what its last calls find when they end

    def set_limit(self, candidate: Candidate, limit: int) -> None:
        change = (limit > 0) - (candidate.limit > 0)
        candidate.limit = limit
        candidate.settle()
        if change:
            for pool in self._pools_of(candidate.record):
                if pool.want.met_by(candidate.record):
                    pool.routable += change

    def hear(self, candidate: Candidate, now: float) -> None:
        """The worker said how it is."""
        for name in candidate.record.models:
            model = self._models.get(name)
            if model is not None:
                model.knowledge.probes.hear(candidate, now)

    def look(
        self, model: str, requirements: Requirements | None, *, by_key: bool = False
    ) -> tuple[Want, Strategy | Rendezvous]:
        """What a request wants, and what would choose for it. Nothing changes."""
        key = key_of(model, requirements)
        if by_key:
            return _want(key), self._rendezvous(_want(key))
        pool = self._pools.get(key)
        if pool is not None:
            return pool.want, pool.strategy
        known = self._models.get(model)
        knowledge = self._nothing_known(model) if known is None else known.knowledge
        return _want(key), self._kind(self._rng, knowledge)

    def _nothing_known(self, model: str) -> Knowledge:
        latencies = Latencies(self._tuning.half_life_s, each=self._kind.learns)
        return Knowledge(model, self._tuning, latencies, self._prefixes, Probes())

    def _pools_of(self, worker: WorkerRecord) -> Iterator[Pool]:
        for name in dict.fromkeys(worker.models):
            model = self._models.get(name)
            if model is not None:
                yield from model.pools.values()

    def _build(self, key: Key) -> Pool:
        want = _want(key)
        model = self._models.get(want.model)
        if model is None:
            model = self._models[want.model] = Model(self._nothing_known(want.model))
        pool = Pool(want, self._kind(self._rng, model.knowledge), model.knowledge.latencies)
        pool.fill([self.candidates[worker_id] for worker_id in self._registry.matching(want)])
        self._pools[key] = model.pools[key] = pool
        self._evict()
        return pool

    def _evict(self) -> None:
        seats = sum(pool.matching for pool in self._pools.values())
        while len(self._pools) > 1 and (len(self._pools) > MAX_POOLS or seats > MAX_SEATS):
            key, pool = self._pools.popitem(last=False)
            pool.strategy.close()
            del self._models[pool.want.model].pools[key]
            seats -= pool.matching

    def _forget(self, candidate: Candidate, names: set[str]) -> None:
        """The candidate no longer serves these models; of those that nobody serves nothing stays."""
        for name in names:
            model = self._models.get(name)
            if model is None:
                continue
            model.knowledge.latencies.forget(candidate)
            model.knowledge.probes.forget(candidate)
            if not self._registry.serves(name):
                for key in model.pools:
                    del self._pools[key]
                del self._models[name]


def want_of(model: str, requirements: Requirements | None) -> Want:
    """What a request asks for, normalised."""
    return _want(key_of(model, requirements))


def _want(key: Key) -> Want:
    return Want(key) if isinstance(key, str) else Want(*key)


def key_of(model: str, requirements: Requirements | None) -> Key:
    if requirements is None:
        return model
    tags, labels, context = requirements.capabilities, requirements.labels, requirements.min_context
    capacity, resumes = requirements.min_capacity, requirements.resumes
    if not (tags or labels or context or capacity > 1 or resumes):  # everybody takes one
        return model
    return (model, frozenset(tags), frozenset(labels.items()), capacity, context, resumes)
