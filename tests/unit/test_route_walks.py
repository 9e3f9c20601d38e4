"""Any interleaving of what can happen to a request: one outcome, attempts within bounds, no lease left over,
and the items of a stream in order, without a gap, a repeat or one that nobody granted.

The racks are played by the test: they give what hypothesis draws, at the attempt that it draws, and go on
with a stream from exactly the items that they were handed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.aio import run
from tests.fakes.no_loads import NoLoads
from wrk_base import contract, errors
from wrk_base.rpc import wire
from wrk_base.rpc.call import OpenCall, Parts
from wrk_base.rpc.stream import FIRST_ITEMS
from wrk_orchestrator.admission import Admission, Limits
from wrk_orchestrator.attempt import Attempt
from wrk_orchestrator.load_balancer import LoadBalancer
from wrk_orchestrator.question import Question
from wrk_orchestrator.records import WorkerRecord
from wrk_orchestrator.route import Route
from wrk_orchestrator.routing import Router
from wrk_orchestrator.service_registry import ServiceRegistry

RACKS = ("r1", "r2", "r3", "r4")
MAX_RETRIES = 2
DEADLINE = 10.0
ERRORS: tuple[Callable[[], errors.WrkError], ...] = (
    lambda: errors.Unavailable("lost it"),
    lambda: errors.Unavailable("it drains", not_started=True),
    lambda: errors.CapacityExceeded("full", not_started=True),
    lambda: errors.ModelNotAvailable("put out", not_started=True),
    lambda: errors.Internal("it failed", origin="rack"),
    lambda: errors.DeadlineExceeded("late"),
    lambda: errors.BadRequest("no", not_started=True),
)


class Rack:
    """A link to a rack, and what runs there."""

    ready = True

    def __init__(self) -> None:
        self.calls: dict[int, tuple[Attempt, int]] = {}  # with the item that each gives next
        self.executions = 0

    @property
    def under_way(self) -> tuple[OpenCall, ...]:
        return tuple(call for call, _ in self.calls.values())

    def start(self, call: Any, deadline: float, parts: Parts) -> None:
        call.deadline, call.sent, call.parts = deadline, True, parts
        options = contract.read_rack_head(parts[2]).options
        had = []
        if options.resume_from:
            had = contract.parse(contract.Progress, options.resume_from).items
        assert had == [b"%d" % number for number in range(len(had))]
        self.calls[id(call)] = (call, len(had))
        self.executions += 1

    def give_up(self, call: OpenCall) -> None:
        del self.calls[id(call)]

    def expect(self, call: OpenCall, deadline: float) -> None:
        call.deadline = deadline

    def grant(self, call: Any, items: int, size: int) -> None:
        assert id(call) in self.calls


class Caller:
    """Who asked. Takes note, and counts what it granted."""

    reads_heads = True

    def __init__(self) -> None:
        self.items: list[bytes] = []
        self.outcomes: list[Any] = []
        self.granted = FIRST_ITEMS

    def answer(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None:
        self.outcomes.append(wire.unpack_head(head))

    def send_items(self, content_type: int, payloads: tuple[bytes, ...]) -> None:
        assert not self.outcomes, "items after the end"
        self.items += payloads
        assert len(self.items) <= self.granted, "more than was granted"

    def end_stream(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None:
        self.outcomes.append(wire.unpack_head(head))

    def fail(self, error: BaseException) -> None:
        self.outcomes.append(error)


class World:
    def __init__(self, stream: bool, repeatable: bool, resumable: bool, resume_bytes: int) -> None:
        self.registry = ServiceRegistry(lease_s=1e9)
        self.balancer = LoadBalancer(self.registry, "round-robin", Random(1))
        self.racks = {name: Rack() for name in RACKS}
        for name in RACKS:
            record = WorkerRecord(
                worker_id=name,
                address=f"tcp://{name}:1",
                models=("m1",),
                max_concurrent=2,
                type="kind",
                resumable=resumable and name != "r4",
            )
            self.balancer.apply(self.registry.register(record, 0.0))
            self.balancer.set_limit(name, 2)
        limits = Limits(8, 8, 2.0)
        self.router = Router(
            self.balancer,
            self,  # type: ignore[arg-type]
            Admission(limits, self.balancer, NoLoads()),
            max_retries=MAX_RETRIES,
            enable_failover=True,
            budget_share=0.2,
            budget_floor=3.0,
            stream_idle=5.0,
            hedge_share=0.5,
            resume_bytes=resume_bytes,
            resume_total=10_000,
        )
        self.stream, self.repeatable = stream, repeatable
        packed = wire.pack_head({"modelId": "m1", "options": {"repeatable": repeatable}})
        flags = wire.STREAM_WANTED if stream else 0
        head = contract.read_head(packed)
        question = Question(head, packed, wire.OCTETS, b"x", DEADLINE, flags)
        for _ in range(4):  # so that there is something saved for a hedge
            self.router.book("m1").watch(flags).patience.save()
        self.caller = Caller()
        self.route: Route = self.router.start(question, self.caller)

    # what the router sees of the fleet

    def peer(self, worker_id: str) -> Any:
        return self.racks.get(worker_id)

    def note_cold(self, worker_id: str, model_id: str) -> None: ...

    def note_outcome(self, worker_id: str, error: errors.WrkError | None, elapsed: float) -> None: ...

    # what happens

    @property
    def open(self) -> list[tuple[Rack, Attempt, int]]:
        return [(rack, *call) for rack in self.racks.values() for call in rack.calls.values()]

    def answer(self, which: int, _: int) -> None:
        rack, call, _at = self.open[which % len(self.open)]
        if self.stream and call.received:
            self.end(which, _)
            return
        del rack.calls[id(call)]
        call.answered(None, wire.OCTETS, b"whole")

    def items(self, which: int, count: int) -> None:
        rack, call, at = self.open[which % len(self.open)]
        count = min(3 * count, call.granted - call.received)
        if not self.stream or count < 1:
            return
        rack.calls[id(call)] = (call, at + count)
        given = tuple(b"%d" % number for number in range(at, at + count))
        assert call.items(call.received, wire.OCTETS, given)

    def mistype(self, which: int, _: int) -> None:
        _rack, call, at = self.open[which % len(self.open)]
        if self.stream and call.base and not call.received and call.granted:
            assert not call.items(0, wire.JSON, (b"%d" % at,)), "they do not go with those before"
            self.fail(which, 4)

    def end(self, which: int, _: int) -> None:
        rack, call, _ = self.open[which % len(self.open)]
        if self.stream:
            del rack.calls[id(call)]
            call.ended(None, wire.OCTETS, b"whole")

    def fail(self, which: int, kind: int) -> None:
        rack, call, _ = self.open[which % len(self.open)]
        error = ERRORS[kind % len(ERRORS)]()
        if error.not_started:
            rack.executions -= 1
        del rack.calls[id(call)]
        call.failed(error)

    def lose(self, which: int, _: int) -> None:
        name = RACKS[which % len(RACKS)]
        self.balancer.set_limit(name, 0)
        lost, self.racks[name].calls = list(self.racks[name].calls.values()), {}
        for call, _at in lost:
            call.failed(errors.Unavailable("the link was lost"))

    def suspect(self, which: int, _: int) -> None:
        name = RACKS[which % len(RACKS)]
        self.balancer.set_limit(name, 0)
        self.router.leave(name)

    def recover(self, which: int, _: int) -> None:
        name = RACKS[which % len(RACKS)]
        self.balancer.set_limit(name, 2)
        self.router.admission.wake(name)

    def hedge(self, *_: int) -> None:
        self.route.hedge()

    def grant(self, _: int, count: int) -> None:
        self.caller.granted += count
        self.route.grant(self.caller.granted, 10**9)

    def cancel(self, *_: int) -> None:
        self.route.cancel(errors.Cancelled("its caller left"))


NEEDS_A_CALL = {"answer", "items", "end", "fail", "mistype"}
STEPS = [
    *NEEDS_A_CALL,
    "items",
    "items",
    "items",
    "lose",
    "suspect",
    "recover",
    "hedge",
    "grant",
    "cancel",
    "pass",
]
step = st.tuples(st.sampled_from(STEPS), st.integers(0, 7), st.integers(1, 12))


@settings(max_examples=400, deadline=None)
@given(
    steps=st.lists(step, max_size=25),
    stream=st.booleans(),
    repeatable=st.booleans(),
    resumable=st.booleans(),
    resume_bytes=st.sampled_from((0, 600, 10_000)),
)
def test_whatever_happens_there_is_one_outcome_and_nothing_is_left(
    steps: list[tuple[str, int, int]], stream: bool, repeatable: bool, resumable: bool, resume_bytes: int
) -> None:
    async def walk() -> None:
        world = World(stream, repeatable, resumable, resume_bytes)
        for name, which, count in steps:
            if name == "pass":
                await asyncio.sleep(count / 4)
            elif world.open or name not in NEEDS_A_CALL:
                getattr(world, name)(which, count)
            check_underway(world)
        world.cancel()
        check_end(world)

    run(walk(), "virtual")


@pytest.mark.parametrize("violation", ["answer", "mistype"])
def test_what_does_not_follow_the_items_that_came_ends_the_stream(violation: str) -> None:
    async def walk() -> None:
        world = World(stream=True, repeatable=True, resumable=True, resume_bytes=10_000)
        world.items(0, 2)
        world.fail(0, 0)
        getattr(world, violation)(0, 0)
        (outcome,) = world.caller.outcomes
        assert type(outcome) is errors.Internal
        assert outcome.data["items"] == 6
        check_end(world)

    run(walk(), "virtual")


def check_underway(world: World) -> None:
    items = world.caller.items
    assert items == [b"%d" % number for number in range(len(items))]
    assert world.balancer.leases == len(world.open) <= 2
    assert len(world.route.tried) <= 1 + MAX_RETRIES
    assert len(world.caller.outcomes) <= 1
    if not world.repeatable:
        assert sum(rack.executions for rack in world.racks.values()) <= 1


def check_end(world: World) -> None:
    (outcome,) = world.caller.outcomes
    assert not world.open
    assert world.balancer.leases == 0
    assert world.router.kept.used == 0
    assert not world.router.admission.waiting
    tried = world.route.tried
    told = outcome.data if isinstance(outcome, errors.WrkError) else outcome
    if "attempts" in told:
        assert told["attempts"] == len(tried)
    if isinstance(outcome, errors.WrkError):
        assert (
            world.caller.items == []
            or type(outcome) is errors.Cancelled
            or told["items"] == len(world.caller.items)
        )
        assert not (outcome.not_started and any(rack.executions for rack in world.racks.values()))
    else:
        assert outcome["workerId"] in tried
