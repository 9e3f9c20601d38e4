"""Callers who ask at a fixed rate whatever becomes of them, and racks that take time, in virtual time.

The real registry, balancer, admission and router; a rack is a timer. Each request is known by when it was
sent, so that goodput, the time to a refusal and the way back to normal can be counted afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.fakes.no_loads import NoLoads
from wrk_base import contract, errors
from wrk_base.rpc import wire
from wrk_base.rpc.call import OpenCall, Parts
from wrk_orchestrator.admission import Admission, Limits
from wrk_orchestrator.load_balancer import Lease, LoadBalancer
from wrk_orchestrator.records import WorkerRecord
from wrk_orchestrator.routing import Question, Router
from wrk_orchestrator.service_registry import ServiceRegistry

MODEL = "m1"
HEADS = {
    name: contract.read_head(wire.pack_head({"modelId": MODEL, "options": {"priority": name}}))
    for name in ("interactive", "default", "bulk")
}


@dataclass(slots=True)
class Sent:
    """One request and what became of it; times in virtual seconds."""

    at: float
    deadline: float
    caller: str
    outcome: str = ""
    told_at: float = 0.0
    retry_ms: int | None = None

    reads_heads = False

    @property
    def took(self) -> float:
        return self.told_at - self.at

    def answer(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None:
        self._told("ok")

    def send_items(self, content_type: int, payloads: tuple[bytes, ...]) -> None: ...

    def end_stream(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None: ...

    def fail(self, error: BaseException) -> None:
        self.retry_ms = getattr(error, "retry_after_ms", None)
        self._told(type(error).__name__)

    def _told(self, outcome: str) -> None:
        assert not self.outcome, "nobody is told twice"
        self.outcome, self.told_at = outcome, asyncio.get_running_loop().time()


@dataclass
class TimedRack:
    """A rack that answers after `seconds()`, gives up at the deadline, and fails while it is `broken`."""

    seconds: Callable[[], float]
    ready: bool = True
    broken: bool = False
    attempts: int = 0
    hopeless: int = 0  # calls that could not be answered in time
    open: dict[OpenCall, asyncio.TimerHandle] = field(default_factory=dict)

    def start(self, call: OpenCall, deadline: float, parts: Parts) -> None:
        self.attempts += 1
        loop = asyncio.get_running_loop()
        took = self.seconds()
        if self.broken:
            self.open[call] = loop.call_later(0.001, self._fail, call, errors.Unavailable("it is broken"))
        elif loop.time() + took > deadline:
            self.hopeless += 1
            late = errors.DeadlineExceeded()
            self.open[call] = loop.call_at(deadline, self._fail, call, late)
        else:
            self.open[call] = loop.call_later(took, self._answer, call)

    def give_up(self, call: OpenCall) -> None:
        self.open.pop(call).cancel()

    def _answer(self, call: OpenCall) -> None:
        del self.open[call]
        call.answered(None, wire.OCTETS, b"")

    def _fail(self, call: OpenCall, error: errors.WrkError) -> None:
        del self.open[call]
        call.failed(error)


class Busy:
    """`racks` racks with `slots` slots each, which answer after `seconds(rng)`."""

    def __init__(
        self,
        racks: int = 8,
        slots: int = 1,
        seconds: Callable[[Random], float] = lambda rng: rng.uniform(0.02, 0.08),
        queue: int = 256,
        timeout: float = 30.0,
        seed: int = 1,
    ) -> None:
        self.rng = Random(seed)
        self.loop = asyncio.get_running_loop()
        self.registry = ServiceRegistry(lease_s=1e9)
        self.balancer = LoadBalancer(self.registry, "round-robin", self.rng)
        self.racks: dict[str, TimedRack] = {}
        self.slots = slots
        self.sent: list[Sent] = []
        self.longest = 0
        for number in range(racks):
            name = f"r{number}"
            record = WorkerRecord(
                worker_id=name, address=f"tcp://{name}:1", models=(MODEL,), max_concurrent=slots
            )
            self.balancer.apply(self.registry.register(record, 0.0))
            self.racks[name] = TimedRack(lambda: seconds(self.rng))
            self.balancer.set_limit(name, slots)
        self.admission: Admission[Lease] = Admission(Limits(queue, 4096, timeout), self.balancer, NoLoads())
        self.router = Router(
            self.balancer,
            self,  # type: ignore[arg-type]
            self.admission,
            max_retries=3,
            enable_failover=True,
            budget_share=0.2,
            budget_floor=3.0,
            stream_idle=60.0,
        )

    def ask(self, patience: float = 5.0, caller: str = "", priority: str = "default") -> Sent:
        now = self.loop.time()
        sent = Sent(now, now + patience, caller)
        self.sent.append(sent)
        question = Question(HEADS[priority], None, wire.OCTETS, b"", sent.deadline, caller=caller)
        self.router.start(question, sent)
        self.longest = max(self.longest, self.admission.waiting)
        return sent

    async def load(self, rate: float, seconds: float, **how: Any) -> list[Sent]:
        """Ask at exponential gaps, `rate` a second on average; those sent."""
        sent: list[Sent] = []
        due = self.loop.time()
        until = due + seconds
        while (due := due + self.rng.expovariate(rate)) < until:
            await asyncio.sleep(due - self.loop.time())
            sent.append(self.ask(**how))
        await asyncio.sleep(until - self.loop.time())
        return sent

    async def settle(self) -> None:
        """Everybody was told."""
        while any(not sent.outcome for sent in self.sent):  # noqa: ASYNC110 - in virtual time
            await asyncio.sleep(0.1)

    def out(self, *names: str) -> None:
        """Health takes these out of service."""
        for name in names or tuple(self.racks):
            self.balancer.set_limit(name, 0)
        self.admission.review([MODEL])

    def back(self, *names: str) -> None:
        for name in names or tuple(self.racks):
            self.balancer.set_limit(name, self.slots)
            self.admission.wake(name)

    @property
    def attempts(self) -> int:
        return sum(rack.attempts for rack in self.racks.values())

    @property
    def hopeless(self) -> int:
        return sum(rack.hopeless for rack in self.racks.values())

    # what the router sees of the fleet

    def peer(self, worker_id: str) -> Any:
        return self.racks[worker_id]

    def note_cold(self, worker_id: str, model_id: str) -> None: ...

    def note_outcome(self, worker_id: str, error: errors.WrkError | None, elapsed: float) -> None: ...


def ok(sent: list[Sent]) -> int:
    return sum(one.outcome == "ok" for one in sent)


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
