"""The way in, told with workers that are counters of free slots: who waits, who is next, and until when.

In virtual time. A slot that comes free is always offered to somebody who could use it. The order itself is
that of test_fair_queue.py; here is what becomes of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.aio import run
from tests.fakes.no_loads import NoLoads
from wrk_base import errors
from wrk_orchestrator.admission import Admission, Limits
from wrk_orchestrator.fair_queue import CLASSES, MAX_LINES, Wish
from wrk_orchestrator.model_queue import Waiter
from wrk_orchestrator.prospect import A_MOMENT
from wrk_orchestrator.records import Want, WorkerRecord

NEVER = 1e9


class Visitor:
    """A request at the door, which remembers what it was told."""

    def __init__(
        self, door: Door, name: str, want: Want, caller: str, priority: str, deadline: float
    ) -> None:
        self.door, self.name, self.want = door, name, want
        self.caller, self.priority, self.deadline = caller, priority, deadline
        self.tried: frozenset[str] = frozenset()
        self.place: Waiter[str] | None = None
        self.worker = ""
        self.refusal: errors.WrkError | None = None
        self.told_at = self.waited = 0.0
        self.looks = 0

    @property
    def waits(self) -> bool:
        return self.place is not None and not self.worker and self.refusal is None

    def pick(self) -> str:
        self.looks += 1
        return self.door.take(self)

    def wish(self) -> Wish:
        return Wish(self.want, self.tried)

    def queued(self, waiter: Waiter[str]) -> None:
        self.place = waiter

    def granted(self, lease: str, waited: float) -> None:
        self._told(waited)
        self.worker = lease
        self.door.served.append(self.name)
        self.door.on_granted(self)

    def refused(self, error: errors.WrkError, waited: float) -> None:
        self._told(waited)
        self.refusal = error

    def _told(self, waited: float) -> None:
        assert not self.worker
        assert self.refusal is None, "nobody is told twice"
        self.told_at, self.waited = asyncio.get_running_loop().time(), waited

    def leave(self) -> None:
        assert self.place is not None
        self.door.admission.leave(self.place)
        self.place = None


class Door:
    """Workers with free slots, and the requests that want them. `served` lists who got one, in order."""

    def __init__(self, limit: int = 10, timeout: float = 60.0, total: int = 1000) -> None:
        self.workers: dict[str, WorkerRecord] = {}
        self.free: dict[str, int] = {}
        self.out: set[str] = set()  # those that are out of service
        self.visitors: list[Visitor] = []
        self.served: list[str] = []
        self.admission: Admission[str] = Admission(Limits(limit, total, timeout), self, NoLoads())
        self.on_granted: Callable[[Visitor], None] = lambda _: None
        self.stands("w1")
        self.stands("gpu", tags=("gpu",))

    def stands(self, name: str, models: tuple[str, ...] = ("m1",), tags: tuple[str, ...] = ()) -> None:
        """A worker, with no slot free."""
        self.workers[name] = WorkerRecord(
            worker_id=name, address="", models=models, tags=frozenset({*tags, name})
        )
        self.free[name] = 0

    def comes(
        self,
        name: str,
        *tags: str,
        model: str = "m1",
        caller: str = "",
        priority: str = "default",
        deadline: float = NEVER,
    ) -> Visitor:
        """A request arrives, and is let in, waits, or is refused."""
        visitor = Visitor(self, name, Want(model, frozenset(tags)), caller, priority, deadline)
        self.visitors.append(visitor)
        self.apply(visitor)
        return visitor

    def apply(self, visitor: Visitor) -> None:
        try:
            lease = self.admission.admit(visitor.want.model, visitor)
        except errors.WrkError as error:
            visitor.refusal = error
            return
        if lease is not None:
            visitor.worker = lease
            self.served.append(visitor.name)

    def come(self, *names: str, tags: tuple[str, ...] = ("w1",), caller: str = "") -> list[Visitor]:
        return [self.comes(name, *tags, caller=caller) for name in names]

    def frees(self, slots: int = 1, worker: str = "w1") -> None:
        self.free[worker] += slots
        self.admission.wake(worker)

    @property
    def waiting(self) -> list[Visitor]:
        return [visitor for visitor in self.visitors if visitor.waits]

    # what a balancer would say

    def take(self, visitor: Visitor) -> str:
        fitting = [name for name, worker in self.workers.items() if self._fits(visitor, worker)]
        fitting = [name for name in fitting if name not in self.out]
        if not fitting:
            raise errors.NoWorkersAvailable(f"nobody for {visitor.want.model}")
        for name in fitting:
            if self.free[name]:
                self.free[name] -= 1
                return name
        raise errors.CapacityExceeded("full", retry_after_ms=1000, data={"workers": len(fitting)})

    def _fits(self, visitor: Visitor, worker: WorkerRecord) -> bool:
        return visitor.want.model in worker.models and visitor.wish().fits(worker)

    def with_room(self, worker_id: str) -> WorkerRecord | None:
        return self.workers[worker_id] if self.free.get(worker_id) else None

    def offered(self, want: Want, tried: Collection[str] = ()) -> bool:
        wish = Wish(want, frozenset(tried))
        return any(want.model in worker.models and wish.fits(worker) for worker in self.workers.values())

    def in_service(self, want: Want, tried: Collection[str] = ()) -> bool:
        return self.offered(want, {*tried, *self.out})

    def ends(self) -> None:
        for visitor in self.waiting:
            visitor.leave()
        assert self.admission.waiting == 0
        assert self.admission._queues == {}
        timers = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
        assert not [timer for timer in timers if not timer.cancelled() and "_late" in repr(timer)]


def story(tell: Callable[[Door], Awaitable[None]], **door: float) -> None:
    async def told() -> None:
        made = Door(**door)  # type: ignore[arg-type]
        await tell(made)
        made.ends()

    run(told(), "virtual", within=1e6)


# --- nobody waits


def test_free_slot_is_taken_at_once() -> None:
    async def told(door: Door) -> None:
        door.frees()
        visitor = door.comes("a")
        assert visitor.worker == "w1"
        assert visitor.place is None

    story(told)


def test_limit_zero_refuses_at_once_with_the_reason_as_it_was() -> None:
    async def told(door: Door) -> None:
        assert str(door.comes("a").refusal) == "full"
        assert door.admission.waiting == 0

    story(told, limit=0)


def test_only_a_full_mesh_makes_anybody_wait() -> None:
    async def told(door: Door) -> None:
        assert isinstance(door.comes("a", model="m9").refusal, errors.NoWorkersAvailable)

    story(told)


# --- order and bounds


def test_waiters_of_one_caller_are_served_in_the_order_of_their_arrival() -> None:
    async def told(door: Door) -> None:
        door.come("a", "b", "c")
        assert door.admission.waiting == 3
        for _ in range(3):
            door.frees()
        assert door.served == ["a", "b", "c"]

    story(told)


def test_slot_is_handed_on_in_the_same_call() -> None:
    async def told(door: Door) -> None:
        (a,) = door.come("a")
        door.frees()
        assert a.worker == "w1"

    story(told)


def test_one_wake_serves_as_many_as_there_are_slots() -> None:
    async def told(door: Door) -> None:
        door.come("a", "b", "c", "d")
        door.frees(3)
        assert door.served == ["a", "b", "c"]
        assert door.admission.waiting == 1

    story(told)


def test_newcomer_does_not_overtake() -> None:
    """Not even while the slot is being handed on."""

    async def told(door: Door) -> None:
        door.come("a", "b")
        door.on_granted = lambda visitor: door.come("c") and None if visitor.name == "a" else None
        door.frees(2)
        assert door.served == ["a", "b"]

    story(told)


def test_how_long_it_waited_is_told() -> None:
    async def told(door: Door) -> None:
        (a,) = door.come("a")
        await asyncio.sleep(1.5)
        door.frees()
        assert a.waited == 1.5

    story(told)


def test_queue_is_bounded_and_says_when_to_come_again() -> None:
    async def told(door: Door) -> None:
        *_, c = door.come("a", "b", "c")
        assert isinstance(c.refusal, errors.CapacityExceeded)
        assert "routing.queueLimit" in c.refusal.message
        assert c.refusal.retry_after_ms == 3000  # it would be the third, and one answer takes a second
        assert door.admission.waiting == 2
        door.frees(2)
        assert door.served == ["a", "b"]

    story(told, limit=2)


def test_all_queues_together_are_bounded() -> None:
    async def told(door: Door) -> None:
        for number in range(4):
            door.stands(f"of m{number}", (f"m{number}",))
        for number in range(3):
            assert door.comes("x", model=f"m{number}").waits
        refusal = door.comes("y", model="m3").refusal
        assert isinstance(refusal, errors.CapacityExceeded)
        assert "routing.queueTotal" in refusal.message
        assert refusal.retry_after_ms == 1000

    story(told, total=3)


def test_full_queue_has_room_for_who_has_fewer_waiting() -> None:
    """Whoever fills it gives up the newest of its own."""

    async def told(door: Door) -> None:
        *_, newest = many = door.come(*(f"a{number}" for number in range(10)), caller="script")
        (b,) = door.come("b", caller="person")
        assert b.waits
        assert isinstance(newest.refusal, errors.CapacityExceeded)
        assert "others" in newest.refusal.message
        assert all(visitor.waits for visitor in many[:-1])
        (c,) = door.come("c", caller="script")
        assert isinstance(c.refusal, errors.CapacityExceeded)
        assert door.admission.waiting == 10

    story(told)


def test_a_queue_of_one_place_changes_hands() -> None:
    async def told(door: Door) -> None:
        a = door.comes("a", priority="bulk", caller="x")
        b = door.comes("b", priority="interactive", caller="y")
        assert a.refusal is not None
        assert b.waits
        door.frees()
        assert door.served == ["b"]

    story(told, limit=1)


def test_different_requirements_in_one_queue_are_bounded() -> None:
    async def told(door: Door) -> None:
        for number in range(MAX_LINES):
            door.stands(f"t{number}")
            assert door.comes("x", f"t{number}").waits
        door.stands("one more")
        refusal = door.comes("y", "one more").refusal
        assert isinstance(refusal, errors.CapacityExceeded)
        assert str(MAX_LINES) in refusal.message
        assert door.comes("z", "t0").waits

    story(told, limit=1000)


def test_each_model_has_a_queue_of_its_own() -> None:
    async def told(door: Door) -> None:
        door.stands("w2", ("m2",))
        door.come("a")
        x = door.comes("x", model="m2")
        assert door.admission.waiting == 2
        door.frees(worker="w2")
        assert x.worker == "w2"
        assert door.served == ["x"]

    story(told, limit=1)


def test_models_on_one_worker_take_turns() -> None:
    async def told(door: Door) -> None:
        door.stands("both", ("m1", "m2"))
        for number in range(5):
            door.comes(f"a{number}", "both", model="m1", caller="x")
            door.comes(f"b{number}", "both", model="m2", caller="y")
        for _ in range(10):
            door.frees(worker="both")
        assert [name[0] for name in door.served] == ["a", "b"] * 5

    story(told)


def test_interactive_requests_go_before_bulk_of_another_model_on_the_same_worker() -> None:
    async def told(door: Door) -> None:
        door.stands("both", ("m1", "m2"))
        for number in range(20):
            door.comes(f"b{number}", "both", model="m1", priority="bulk")
        for number in range(20):
            door.comes(f"i{number}", "both", model="m2", priority="interactive")
        for _ in range(20):
            door.frees(worker="both")
        assert [name[0] for name in door.served].count("b") == 1

    story(told, limit=100)


@pytest.mark.parametrize("name", ["urgent", "", "Interactive"])
def test_class_that_nobody_knows_counts_as_default(name: str) -> None:
    async def told(door: Door) -> None:
        door.comes("b", priority="bulk")
        door.comes("x", priority=name)
        (queue,) = door.admission.queues()
        assert queue["byClass"] == {"interactive": 0, "default": 1, "bulk": 1}

    story(told)


# --- waiting ends


def test_nobody_waits_longer_than_the_queue_timeout() -> None:
    async def told(door: Door) -> None:
        a, b = door.come("a", "b")
        await asyncio.sleep(10.0)
        assert a.told_at == a.waited == 2.0
        assert isinstance(a.refusal, errors.QueueTimeout)
        assert "2 s" in a.refusal.message
        assert a.refusal.data == {"model": "m1", "waiting": 1}
        assert isinstance(b.refusal, errors.QueueTimeout)

    story(told, timeout=2.0)


def test_nobody_waits_past_its_deadline() -> None:
    """The refusal leaves a moment before it, so that it arrives."""

    async def told(door: Door) -> None:
        a = door.comes("a", deadline=0.5)
        await asyncio.sleep(10.0)
        assert a.told_at == pytest.approx(0.5 - A_MOMENT)
        assert isinstance(a.refusal, errors.QueueTimeout)

    story(told, timeout=2.0)


def test_deadline_that_has_passed_is_refused_and_leaves_nothing() -> None:
    async def told(door: Door) -> None:
        await asyncio.sleep(1.0)
        a = door.comes("a", deadline=0.5)
        await asyncio.sleep(0.01)
        assert isinstance(a.refusal, errors.QueueTimeout)

    story(told)


def test_looking_in_vain_does_not_start_the_wait_anew() -> None:
    async def told(door: Door) -> None:
        (a,) = door.come("a")
        for _ in range(3):
            await asyncio.sleep(0.5)
            door.admission.wake("w1")
        await asyncio.sleep(10.0)
        assert a.told_at == 2.0

    story(told, timeout=2.0)


def test_who_is_late_is_told_how_fast_the_queue_moves() -> None:
    async def told(door: Door) -> None:
        *served, late, last = door.come(*"abcdef")
        for _ in served:
            await asyncio.sleep(3.0)
            door.frees()
        await asyncio.sleep(10.0)
        assert [visitor.refusal is None for visitor in (*served, late, last)] == [True] * 4 + [False] * 2
        assert late.refusal is not None
        assert late.refusal.retry_after_ms == pytest.approx(6000, rel=0.1)  # one waits, and itself

    story(told, timeout=13.0)


def test_who_is_left_without_any_worker_is_told() -> None:
    async def told(door: Door) -> None:
        (a,) = door.come("a")
        (b,) = door.come("b", tags=("gpu",))
        del door.workers["w1"]
        door.admission.review(["m1"])
        assert isinstance(a.refusal, errors.NoWorkersAvailable)
        assert b.waits

    story(told)


def test_who_waits_for_a_worker_that_is_out_of_service_goes_on_waiting() -> None:
    async def told(door: Door) -> None:
        (a,) = door.come("a")
        door.out.add("w1")
        door.admission.review(["m1"])
        assert a.waits
        door.out.clear()
        door.frees()
        assert a.worker == "w1"

    story(told)


# --- no slot is lost


def test_waiter_that_leaves_is_passed_over() -> None:
    async def told(door: Door) -> None:
        a, _ = door.come("a", "b")
        a.leave()
        door.frees()
        assert door.served == ["b"]
        assert a.refusal is None

    story(told)


def test_slot_that_is_free_again_at_once_is_handed_on_without_going_deeper() -> None:
    """As with a worker whose link is down: who got it fails, and frees it within the same call."""

    async def told(door: Door) -> None:
        door.on_granted = lambda _: door.frees()
        door.come(*(f"a{number}" for number in range(5000)))
        door.frees()
        assert len(door.served) == 5000
        assert door.free["w1"] == 1

    story(told, limit=5000, total=5000)


def test_who_fails_at_once_and_asks_again_waits_for_another_worker() -> None:
    async def told(door: Door) -> None:
        def fail(visitor: Visitor) -> None:
            if visitor.name == "a" and visitor.worker == "w1":
                visitor.worker, visitor.place, visitor.tried = "", None, frozenset({"w1"})
                door.apply(visitor)
                door.frees(worker="w1")

        door.on_granted = fail
        a, b = door.comes("a"), door.comes("b")
        door.frees()
        assert (a.waits, b.worker) == (True, "w1")
        door.frees(worker="gpu")
        assert a.worker == "gpu"

    story(told)


def test_who_cannot_use_the_slot_does_not_stand_in_the_way() -> None:
    async def told(door: Door) -> None:
        door.come("a", "b", tags=("gpu",))
        door.come("c", "d")
        door.frees()
        assert door.served == ["c"]
        door.frees(worker="gpu")
        assert door.served == ["c", "a"]

    story(told)


def test_newcomer_that_wants_something_else_looks_for_itself() -> None:
    async def told(door: Door) -> None:
        door.come("a", tags=("gpu",))
        door.frees()
        door.come("b")
        assert door.served == ["b"]

    story(told)


def test_wake_costs_one_look_however_many_wait() -> None:
    async def told(door: Door) -> None:
        visitors = door.come(*(f"a{number}" for number in range(1000)), tags=("gpu",))
        visitors += door.come(*(f"b{number}" for number in range(1000)))
        before = sum(visitor.looks for visitor in visitors)
        door.frees()
        assert sum(visitor.looks for visitor in visitors) == before + 1
        door.admission.wake("w1")  # it has no room
        assert sum(visitor.looks for visitor in visitors) == before + 1

    story(told, limit=2000, total=2000)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6))
def test_no_slot_stays_free_beside_a_waiter_that_could_use_it(seed: int, limit: int) -> None:
    chance = Random(seed)

    async def told(door: Door) -> None:
        door.stands("both", ("m1", "m2"))
        loop = asyncio.get_running_loop()
        for number in range(60):
            act = chance.random()
            if act < 0.5:
                door.comes(
                    f"v{number}",
                    *chance.choice([(), ("gpu",), ("w1",)]),
                    model=chance.choice(["m1", "m1", "m2"]),
                    caller=chance.choice("xyz"),
                    priority=chance.choice(CLASSES),
                    deadline=loop.time() + chance.choice((1, 5)),
                )
            elif act < 0.8:
                door.frees(chance.randint(1, 2), chance.choice(["w1", "gpu", "both"]))
            elif act < 0.9 and door.waiting:
                chance.choice(door.waiting).leave()
            else:
                await asyncio.sleep(chance.random() * 2)
            check(door, limit)

    def check(door: Door, limit: int) -> None:
        waiting = door.waiting
        assert len(waiting) == door.admission.waiting <= 8
        for model in ("m1", "m2"):
            assert sum(visitor.want.model == model for visitor in waiting) <= limit
        for visitor in waiting:
            assert visitor.place is not None
            assert not any(
                door.free[name] and door._fits(visitor, worker) for name, worker in door.workers.items()
            )
        assert len(door.served) == len(set(door.served))
        for one in ("x", "y", "z"):
            for rank in CLASSES:
                mine = [v for v in door.visitors if v.caller == one and v.priority == rank and v.worker]
                for want in {v.want for v in mine}:
                    names = [v.name for v in mine if v.want == want]
                    assert [name for name in door.served if name in names] == names

    story(told, limit=limit, total=8)


# --- what is shown


def test_longest_queues_are_shown() -> None:
    async def told(door: Door) -> None:
        for number in range(60):
            door.stands(f"of q{number}", (f"q{number}",))
            door.comes("x", model=f"q{number}")
        door.comes("y", model="q7")
        await asyncio.sleep(0.25)
        first, *rest = door.admission.queues()
        assert first == {
            "model": "q7",
            "waiting": 2,
            "byClass": {"interactive": 0, "default": 2, "bulk": 0},
            "oldestMs": 250,
            "estimateMs": 3000,
        }
        assert len(rest) == 49

    story(told)
