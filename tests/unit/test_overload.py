"""More than a mesh can carry, and a mesh that carries nothing for a while: what callers meet.

Open loop and in virtual time, with the real router: requests come whether or not others were answered.
Without a look at deadlines a queue under twice its load makes everybody late and nobody happy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.fakes.aio import run
from tests.fakes.open_loop import Busy, Sent, ok, percentile

AT_ONCE = 0.05
WARM_UP = 20.0


def story(tell: Callable[[Busy], Awaitable[None]], **busy: Any) -> None:
    """Whatever happened, everybody is told and nothing is left."""

    async def told() -> None:
        made = Busy(**busy)
        await tell(made)
        await made.settle()
        assert made.admission.waiting == 0
        assert made.balancer.leases == 0

    run(told(), "virtual", within=1e6)


def refusals(sent: list[Sent]) -> list[float]:
    return [one.took for one in sent if one.outcome != "ok"]


async def carries(mesh: Busy, capacity: float) -> None:
    """A load that it can carry is carried."""
    sent = await mesh.load(0.5 * capacity, 10.0)
    await mesh.settle()
    assert ok(sent) == len(sent)


SHAPES: dict[str, tuple[float, dict[str, Any]]] = {
    # capacity in requests a second, and the mesh: the queue of 256 holds 1.6 s of the first and 16 s of
    # the second, so that in the one its length is the bound and in the others the deadline of 5 s is
    "eight quick racks": (160.0, {}),
    "eight slow racks": (16.0, {"seconds": lambda chance: chance.uniform(0.2, 0.8)}),
    "two racks of four slots": (
        8.0,
        {"racks": 2, "slots": 4, "seconds": lambda chance: chance.uniform(0.5, 1.5)},
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("times", [2, 10])
def test_overload_costs_no_goodput_and_refusals_come_at_once(shape: str, times: int) -> None:
    capacity, mesh = SHAPES[shape]
    seconds = 8000 / capacity / times

    async def told(busy: Busy) -> None:
        await carries(busy, capacity)
        over = await busy.load(times * capacity, seconds)
        assert busy.longest <= 256
        after = await busy.load(0.5 * capacity, 30.0)
        await busy.settle()
        assert ok(over) >= 0.9 * capacity * seconds
        assert percentile(refusals(over), 0.98 if times == 2 else 0.9) <= AT_ONCE
        assert all(one.retry_ms for one in over if one.outcome in ("CapacityExceeded", "QueueTimeout"))
        assert busy.hopeless <= 0.01 * len(over), "work that was lost twice"
        normal = [one for one in after if one.at > after[0].at + 5.0]
        assert ok(normal) == len(normal)

    story(told, **mesh)


def test_callers_have_their_shares_of_what_is_left() -> None:
    """One floods; the person beside waits behind its own requests and not behind all."""

    async def told(busy: Busy) -> None:
        await carries(busy, 16.0)
        flood = asyncio.create_task(busy.load(64.0, 60.0, caller="script"))
        person = []
        for _ in range(55):
            await asyncio.sleep(1.0)
            person.append(busy.ask(caller="person"))
        await flood
        await busy.settle()
        assert ok(person) == len(person)
        assert max(one.took for one in person) < 2.5

    story(told, **SHAPES["eight slow racks"][1])


def test_interactive_requests_are_not_refused_for_the_many_that_have_time() -> None:
    async def told(busy: Busy) -> None:
        await carries(busy, 16.0)
        flood = asyncio.create_task(busy.load(64.0, 60.0, caller="a", priority="bulk"))
        await asyncio.sleep(5.0)
        person = await busy.load(4.0, 50.0, caller="a", priority="interactive")
        await flood
        await busy.settle()
        assert ok(person) == len(person)

    story(told, **SHAPES["eight slow racks"][1])


def test_pace_of_a_bad_time_refuses_nobody_for_long() -> None:
    """All racks hang for 20 s; after that as many are answered as ever."""

    async def told(busy: Busy) -> None:
        await carries(busy, 160.0)
        quick = {name: rack.seconds for name, rack in busy.racks.items()}
        for rack in busy.racks.values():
            rack.seconds = lambda: 20.0
        await busy.load(200.0, 20.0)
        for name, rack in busy.racks.items():
            rack.seconds = quick[name]
        await busy.load(200.0, 3.0)
        after = await busy.load(320.0, 10.0)
        assert ok(after) >= 0.9 * 160 * 10
        await carries(busy, 160.0)

    story(told)


def test_quick_requests_beside_slow_ones_of_a_model_may_wait() -> None:
    """The estimate is of others: half of a request's time it may wait, whatever answers took so far."""

    async def told(busy: Busy) -> None:
        busy.racks["r0"].seconds = lambda: 10.0
        for _ in range(5):
            busy.ask(60.0)
            await asyncio.sleep(11.0)
        busy.racks["r0"].seconds = lambda: 1.0
        first, second = busy.ask(4.0), busy.ask(4.0)
        await busy.settle()
        assert (first.outcome, second.outcome) == ("ok", "ok")

    story(told, racks=1)


# --- nobody is there at all


def test_who_waits_is_told_soon_that_all_workers_are_gone() -> None:
    async def told(busy: Busy) -> None:
        sent = [busy.ask(60.0) for _ in range(50)]
        busy.out()
        for rack in busy.racks.values():
            rack.broken = True
        waiting = sent[8:]
        await asyncio.sleep(2.5)
        assert {one.outcome for one in waiting} == {"NoWorkersAvailable"}
        assert max(one.took for one in waiting) <= 2.0
        assert all(one.retry_ms for one in waiting)
        late = busy.ask(60.0)
        assert (late.outcome, late.took) == ("NoWorkersAvailable", 0.0)

    story(told, seconds=lambda _: 1000.0)


def test_worker_that_returns_in_time_serves_those_who_waited() -> None:
    async def told(busy: Busy) -> None:
        sent = [busy.ask(60.0) for _ in range(20)]
        busy.out()
        await asyncio.sleep(1.5)
        busy.back()
        await busy.settle()
        assert ok(sent) == len(sent)

    story(told)


def test_all_racks_fail_for_a_minute() -> None:
    """Attempts stay within the requests and the retry budget, and the first return is noticed at once."""

    async def told(busy: Busy) -> None:
        await carries(busy, 160.0)
        before, broken_from = busy.attempts, busy.loop.time()
        for rack in busy.racks.values():
            rack.broken = True
        sent = await busy.load(100.0, 60.0)
        for rack in busy.racks.values():
            rack.broken = False
        returned = busy.loop.time()
        after = await busy.load(100.0, 3.0)
        tried = [one for one in sent if one.outcome != "NoWorkersAvailable"]
        budget = max(0.2 * len(sent), 3.0 * (returned - broken_from))
        carried_over = max(0.2 * 80.0 * 10, 30.0)  # what ten seconds of calm had saved
        assert len(tried) < busy.attempts - before <= len(sent) + len(after) + budget + carried_over
        assert min(one.told_at for one in after if one.outcome == "ok") - returned < 0.5
        assert max(refusals(sent)) < 1.0

    story(told)
