"""A registry and a balancer that hears of every change, and callers who keep them busy in made-up time.

`ClosedLoop` is the smallest model of a mesh at work: callers ask again as soon as they are answered, wait
in one queue while every worker is full, and machines work on so many requests at once.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from wrk_base.errors import CapacityExceeded
from wrk_orchestrator.affinity import NO_AFFINITY, Affinity
from wrk_orchestrator.load_balancer import Lease, LoadBalancer
from wrk_orchestrator.records import WorkerRecord
from wrk_orchestrator.service_registry import ServiceRegistry
from wrk_orchestrator.strategies import DEFAULTS, Tuning

PLENTY = 1000
BEAT_S = 1.0


class BalancedMesh:
    """Workers w0, w1, ... that all serve the model "m"."""

    def __init__(
        self, strategy: str, workers: int = 0, seed: int = 1, room: int = PLENTY, tuning: Tuning = DEFAULTS
    ) -> None:
        self.registry = ServiceRegistry(lease_s=30)
        self.balancer = LoadBalancer(self.registry, strategy, Random(seed), tuning)
        self.now = 0.0
        for number in range(workers):
            self.join(f"w{number}", room)

    def join(self, worker_id: str, room: int = PLENTY, **facts: Any) -> None:
        offer: dict[str, Any] = {"address": "tcp://h:1", "models": ("m",)}
        worker = WorkerRecord(worker_id=worker_id, **(offer | facts))
        self.balancer.apply(self.registry.register(worker, self.now))
        self.balancer.set_limit(worker_id, room)

    def leave(self, worker_id: str) -> None:
        self.balancer.apply(self.registry.remove(worker_id))

    def lease(self, *exclude: str, affinity: Affinity = NO_AFFINITY) -> Lease:
        return self.balancer.pick("m", None, exclude, self.now, affinity)

    def pick(self, *exclude: str, affinity: Affinity = NO_AFFINITY) -> str:
        """One pick whose call ends at once."""
        with self.lease(*exclude, affinity=affinity) as lease:
            return lease.worker.worker_id

    def report(self, worker_id: str, in_flight: int | None = None) -> None:
        """What its beat tells; without a figure, what is true."""
        load = self.balancer.load(worker_id) if in_flight is None else in_flight
        self.balancer.report_load(worker_id, load, None, self.now)

    def explain(self, *exclude: str, affinity: Affinity = NO_AFFINITY) -> list[dict[str, Any]]:
        return self.balancer.explain("m", None, exclude, self.now, affinity)


@dataclass
class Machine:
    """Works on `lanes` requests at once, each for `seconds(prompt)`; further ones wait in it."""

    lanes: int
    seconds: Callable[[bytes], float]
    working: int = 0
    waiting: deque[Asked] = field(default_factory=deque)


@dataclass
class Asked:
    caller: int
    lease: Lease
    prompt: bytes
    since: float


class ClosedLoop:
    """`ask(caller)` is what a caller asks next; `machines` stand behind the workers of these names."""

    def __init__(
        self, mesh: BalancedMesh, machines: dict[str, Machine], ask: Callable[[int], Affinity]
    ) -> None:
        self.mesh, self.machines, self.ask = mesh, machines, ask
        self.answered: Counter[str] = Counter()
        self.load_seconds: Counter[str] = Counter()  # in flight, summed over time
        self._queue: deque[int] = deque()
        self._ends: list[tuple[float, int, str, Asked]] = []
        self._number = 0
        self._beat = 0.0

    def run(self, callers: int, calls: int) -> None:
        for caller in range(callers):
            self._call(caller)
        while self.answered.total() < calls:
            ends, _, worker_id, asked = heapq.heappop(self._ends)
            self._wait(ends)
            self._finish(worker_id, asked)
            self._call(asked.caller)

    def _wait(self, until: float) -> None:
        for worker_id in self.machines:
            self.load_seconds[worker_id] += self.mesh.balancer.load(worker_id) * (until - self.mesh.now)
        self.mesh.now = until
        if until - self._beat >= BEAT_S:
            self._beat = until
            for worker_id in self.machines:
                self.mesh.report(worker_id)

    def _call(self, caller: int) -> None:
        self._queue.append(caller)
        while self._queue:
            affinity = self.ask(self._queue[0])
            try:
                lease = self.mesh.lease(affinity=affinity)
            except CapacityExceeded:
                break
            asked = Asked(self._queue.popleft(), lease, bytes(affinity.prompt), self.mesh.now)
            self.machines[lease.worker.worker_id].waiting.append(asked)
            self._work(lease.worker.worker_id)

    def _work(self, worker_id: str) -> None:
        machine = self.machines[worker_id]
        while machine.waiting and machine.working < machine.lanes:
            asked = machine.waiting.popleft()
            machine.working += 1
            self._number += 1
            ends = self.mesh.now + machine.seconds(asked.prompt)
            heapq.heappush(self._ends, (ends, self._number, worker_id, asked))

    def _finish(self, worker_id: str, asked: Asked) -> None:
        asked.lease.done(ok=True, now=self.mesh.now, elapsed_s=self.mesh.now - asked.since)
        self.mesh.report(worker_id)
        self.answered[worker_id] += 1
        self.machines[worker_id].working -= 1
        self._work(worker_id)
