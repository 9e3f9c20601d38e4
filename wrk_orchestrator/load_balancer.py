"""Which worker gets a request: `pick` takes a lease on one, and the lease gives back what it took.

The strategy chooses (strategies/), pools say among whom (pools.py), health says how much each may
carry (`set_limit`; 0 = none), racks say what they carry for others (`report_load`). A worker is open
while its load is below its limit, and none but open ones are picked.

Invariants: a worker's own load equals the leases on it that are not yet released; every change that
the registry returns is applied before the next pick.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from wrk_base.contract import Requirements
from wrk_base.errors import WrkError

from .affinity import NO_AFFINITY, Affinity, Prompt
from .candidate import Candidate
from .explanation import explanation
from .pools import Key, Pool, Pools, key_of, want_of
from .records import Changes, Joined, Updated, Want, WorkerRecord
from .refusals import refusal
from .service_registry import ServiceRegistry
from .strategies import DEFAULTS, STRATEGIES, Latencies, Tuning

if TYPE_CHECKING:
    from random import Random
    from types import TracebackType

MOST_LOOKED_AT = 64  # of thousands of workers, to see whether two slots are free: some 10 us
MOST_NARROWED = 1024  # callers make up models and requirements; beyond it all are worked out anew (0.5 MB)


class Lease:
    """One call on one worker. Leaving the `with` block, `done` or `release` gives it back, once."""

    __slots__ = ("_balancer", "_candidate", "_latencies", "worker")

    def __init__(self, balancer: LoadBalancer, candidate: Candidate, latencies: Latencies) -> None:
        self._balancer = balancer
        self._candidate: Candidate | None = candidate
        self._latencies = latencies
        self.worker: WorkerRecord = candidate.record

    def done(self, ok: bool, now: float, elapsed_s: float) -> None:
        """The outcome, for statistics and estimates; gives the lease back."""
        candidate = self._candidate
        if candidate is not None:
            candidate.count(ok, elapsed_s)
            if candidate.record is self.worker:  # else it left, or may not serve the model any more
                self._latencies.observe(candidate, ok, elapsed_s, now)
            self.release()

    def release(self) -> None:
        """Gives the lease back without an outcome (cancelled, never sent); harmless when repeated."""
        candidate, self._candidate = self._candidate, None
        if candidate is not None:
            self._balancer.leases -= 1
            candidate.give_back()

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class LoadBalancer:
    """`strategy` is a name from `STRATEGIES`."""

    def __init__(
        self, registry: ServiceRegistry, strategy: str, rng: Random, tuning: Tuning = DEFAULTS
    ) -> None:
        self.strategy = strategy
        self.leases = 0
        self._registry = registry
        self._kind = STRATEGIES[strategy]
        self._pools = Pools(registry, self._kind, rng, tuning)
        self._candidates = self._pools.candidates
        self._turn = 0
        self._narrowed: dict[tuple[Key, tuple[str, ...]], Requirements] = {}

    def affinity(self, session: str, prompt: Prompt, key: str | None = None) -> Affinity:
        """What `pick` takes, made once for all attempts of a request; empty where nobody looks at it."""
        if key is not None:
            return Affinity(session, prompt, key)
        if self._kind.by_session or self._kind.by_prompt:
            return Affinity(session, prompt)
        return NO_AFFINITY

    def pick(
        self,
        model_id: str,
        requirements: Requirements | None,
        exclude: Collection[str],
        now: float,
        affinity: Affinity = NO_AFFINITY,
    ) -> Lease:
        """A lease on an open worker that meets `requirements` and whose id is not in `exclude`.

        Raises at once `NoWorkersAvailable`, `NoWorkersMatch` or `CapacityExceeded`; their `data` names
        what exists.
        """
        pool = self._pools.find(model_id, requirements)
        if pool is not None:
            if affinity.key:
                candidate = self._pools.by_key(pool).choose(exclude, affinity.key)
            else:
                candidate = pool.strategy.choose(exclude, now, affinity)
            if candidate is not None:
                return self._lease(pool, candidate, now)
        raise self._refusal(pool, model_id, exclude)

    def pick_full(
        self,
        model_id: str,
        requirements: Requirements | None,
        exclude: Collection[str],
        now: float,
        affinity: Affinity,
    ) -> Lease | None:
        """A lease on the worker that the idempotency key belongs to, if that is full; else None.

        Full or not, it may have the request's result, or be running it.
        """
        pool = self._pools.find(model_id, requirements)
        owner = self._pools.by_key(pool).owner(exclude, affinity.key) if pool is not None else None
        if pool is None or owner is None or owner.open:
            return None
        return self._lease(pool, owner, now)

    def _lease(self, pool: Pool, candidate: Candidate, now: float) -> Lease:
        self._turn += 1
        self.leases += 1
        candidate.take(now, self._turn)
        return Lease(self, candidate, pool.latencies)

    def narrowed(self, model_id: str, requirements: Requirements, hints: tuple[str, ...]) -> Requirements:
        """`requirements`, with each of `hints` that some worker has which meets all that was there before.

        Most workers do not tell what their models can do, and a guess must not cut them off.
        """
        key = (key_of(model_id, requirements), hints)
        known = self._narrowed.get(key)
        if known is None:
            if len(self._narrowed) >= MOST_NARROWED:
                self._narrowed.clear()
            known = self._narrowed[key] = self._narrow(model_id, requirements, hints)
        return known

    def _narrow(self, model_id: str, requirements: Requirements, hints: tuple[str, ...]) -> Requirements:
        for hint in hints:
            more = replace(requirements, capabilities=[*requirements.capabilities, hint])
            if self._registry.anybody(want_of(model_id, more)):
                requirements = more
        return requirements

    def _refusal(self, pool: Pool | None, model_id: str, exclude: Collection[str]) -> WrkError:
        tried = [self._candidates[worker_id] for worker_id in self._candidates.keys() & set(exclude)]
        return refusal(self._registry, pool, self._pools.find(model_id, None), model_id, tried)

    # What others tell: the registry's changes, health's limits, the racks' own figures.

    def apply(self, changes: Changes) -> None:
        """Takes in what `ServiceRegistry` returned, in order; a new worker starts with limit 0."""
        if changes:
            self._narrowed.clear()
        for change in changes:
            if isinstance(change, Joined):
                self._pools.join(change.worker, self._turn)
            elif isinstance(change, Updated):
                self._pools.update(change.worker)
            else:
                self._pools.leave(change.worker.worker_id)

    def set_limit(self, worker_id: str, limit: int) -> None:
        """How many calls the worker may have at once; 0 = not routable. Unknown ids are ignored."""
        candidate = self._candidates.get(worker_id)
        if candidate is not None and candidate.limit != limit:
            self._pools.set_limit(candidate, limit)

    def report_load(self, worker_id: str, in_flight: int, capacity: int | None, now: float) -> None:
        """The rack's own count of calls in flight, ours included, and its capacity if it says one.

        Give back the leases that the same message ends first; else they pass for foreign load.
        """
        candidate = self._candidates.get(worker_id)
        if candidate is not None:
            candidate.hear_load(in_flight, capacity)
            if self._kind.hears:
                self._pools.hear(candidate, now)

    # Figures.

    def explain(
        self,
        model_id: str,
        requirements: Requirements | None,
        exclude: Collection[str],
        now: float,
        affinity: Affinity = NO_AFFINITY,
    ) -> list[dict[str, Any]]:
        """Who would be picked, likeliest first, and who would not and why; see explanation.py.

        Changes nothing, and may take milliseconds with thousands of workers.
        """
        want, strategy = self._pools.look(model_id, requirements, by_key=bool(affinity.key))
        ids = dict.fromkeys([*self._registry.matching(want), *self._registry.matching(Want(model_id))])
        everybody = [self._candidates[worker_id] for worker_id in ids]
        return explanation(strategy, want, everybody, exclude, now, affinity)

    def with_room(self, worker_id: str) -> WorkerRecord | None:
        """The worker, if it takes one more call now."""
        candidate = self._candidates.get(worker_id)
        return candidate.record if candidate is not None and candidate.open else None

    def has_spare(self, want: Want) -> bool:
        """Whether a slot stays free when one more call goes out, as far as a short look tells."""
        free = 0
        for worker_id in islice(self._registry.matching(want), MOST_LOOKED_AT):
            candidate = self._candidates[worker_id]
            free += max(0, candidate.room - candidate.load)
            if free > 1:
                return True
        return False

    def in_service(self, want: Want, tried: Collection[str] = ()) -> bool:
        """Whether any worker that meets `want`, besides those, may be picked, full or not."""
        return any(self.limit(name) and name not in tried for name in self._registry.matching(want))

    def offered(self, want: Want, tried: Collection[str] = ()) -> bool:
        """Whether any worker besides those meets `want`, in service or not."""
        return any(name not in tried for name in self._registry.matching(want))

    def limit(self, worker_id: str) -> int:
        candidate = self._candidates.get(worker_id)
        return 0 if candidate is None else candidate.limit

    def load(self, worker_id: str) -> int:
        """Calls in flight there: our leases and what others have running."""
        candidate = self._candidates.get(worker_id)
        return 0 if candidate is None else candidate.load

    def stats(self, now: float, wall_ms: int) -> dict[str, dict[str, float | int | None]]:
        """Per worker, as `getLoadBalancingStats` gives it; times in ms, `lastRequestTime` Unix ms."""
        zero = wall_ms - now * 1000
        return {worker_id: candidate.stats(zero) for worker_id, candidate in self._candidates.items()}
