"""The way in, told with a counter of free slots: who waits, in which order, and until when.

In virtual time. A slot that comes free is always offered to somebody who could use it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.aio import run
from wrk_base import errors
from wrk_orchestrator.admission import Admission

NEVER = 1e9


T = TypeVar("T")


async def admit(admission: Admission, model_id: str, want: str, pick: Callable[[], T], deadline: float) -> T:
    """Both steps of a request's way in, as the router takes them."""
    now = admission.admit(model_id, want, pick)
    return await admission.wait(model_id, want, pick, deadline) if now is None else now


class Door:
    """Slots by kind, and the requests that want them. `served` lists who got one, in order."""

    def __init__(self, limit: int = 10, timeout: float = 60.0, slots: int = 0) -> None:
        self.admission = Admission(limit, timeout)
        self.slots = {"any": slots, "gpu": 0}
        self.served: list[str] = []
        self.looks = 0
        self.tasks: dict[str, asyncio.Task[str]] = {}

    async def comes(self, name: str, want: str = "any", deadline: float = NEVER) -> asyncio.Task[str]:
        """A request arrives, and does all that it can at once."""
        task = asyncio.create_task(
            admit(self.admission, "m1", want, lambda: self._take(name, want), deadline)
        )
        self.tasks[name] = task
        await settled()
        return task

    async def come(self, *names: str, want: str = "any") -> None:
        for name in names:
            await self.comes(name, want)

    def _take(self, name: str, want: str) -> str:
        self.looks += 1
        if not self.slots[want]:
            raise errors.CapacityExceeded("full")
        self.slots[want] -= 1
        self.served.append(name)
        return name

    async def frees(self, slots: int = 1, want: str = "any") -> None:
        self.slots[want] += slots
        self.admission.wake(["m1"])
        await settled()

    def refusal(self, name: str) -> errors.WrkError:
        error = self.tasks[name].exception()
        assert isinstance(error, errors.WrkError)
        return error

    async def end(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        assert self.admission.waiting == 0
        assert self.admission._waiting == {}


async def settled() -> None:
    """Everything that can happen without time or wakes has happened."""
    for _ in range(60):
        await asyncio.sleep(0)


def story(tell: Callable[[Door], Awaitable[None]], **door: float) -> None:
    async def told() -> None:
        made = Door(**door)  # type: ignore[arg-type]
        await tell(made)
        await made.end()

    run(told(), "virtual", within=1e6)


# --- nobody waits


def test_free_slot_is_taken_at_once() -> None:
    async def told(door: Door) -> None:
        assert await admit(door.admission, "m1", "any", lambda: "a lease", NEVER) == "a lease"

    story(told)


def test_limit_zero_refuses_at_once_with_the_reason_as_it_was() -> None:
    async def told(door: Door) -> None:
        await door.comes("a")
        assert str(door.refusal("a")) == "full"
        assert door.admission.waiting == 0

    story(told, limit=0)


@pytest.mark.parametrize("kind", [errors.NoWorkersAvailable, errors.NoWorkersMatch])
def test_only_a_full_mesh_makes_anybody_wait(kind: type[errors.WrkError]) -> None:
    async def told(door: Door) -> None:
        def pick() -> str:
            raise kind

        with pytest.raises(kind):
            await admit(door.admission, "m1", "any", pick, NEVER)

    story(told)


# --- order and bounds


def test_waiters_are_served_in_the_order_of_their_arrival() -> None:
    async def told(door: Door) -> None:
        await door.come("a", "b", "c")
        assert door.admission.waiting == 3
        for _ in range(3):
            await door.frees()
        assert door.served == ["a", "b", "c"]

    story(told)


def test_one_wake_serves_as_many_as_there_are_slots() -> None:
    async def told(door: Door) -> None:
        await door.come("a", "b", "c", "d")
        await door.frees(3)
        assert door.served == ["a", "b", "c"]
        assert door.admission.waiting == 1

    story(told)


def test_each_of_several_wakes_in_one_tick_counts() -> None:
    async def told(door: Door) -> None:
        await door.come("a", "b", "c")
        door.slots["any"] = 2
        door.admission.wake(["m1"])
        door.admission.wake(["m1"])
        await settled()
        assert door.served == ["a", "b"]

    story(told)


def test_newcomer_does_not_overtake_one_who_was_just_woken() -> None:
    async def told(door: Door) -> None:
        await door.come("a")
        door.slots["any"] = 1
        door.admission.wake(["m1"])
        await door.come("b")
        assert door.served == ["a"]

    story(told)


def test_queue_is_bounded() -> None:
    async def told(door: Door) -> None:
        await door.come("a", "b", "c")
        refusal = door.refusal("c")
        assert isinstance(refusal, errors.CapacityExceeded)
        assert refusal.retry_after_ms == 60_000
        assert door.admission.waiting == 2
        await door.frees(2)
        assert door.served == ["a", "b"]

    story(told, limit=2)


def test_each_model_has_a_queue_of_its_own() -> None:
    async def told(door: Door) -> None:
        await door.come("a")
        other = asyncio.create_task(admit(door.admission, "m2", "any", lambda: door._take("x", "any"), NEVER))
        door.tasks["x"] = other
        await settled()
        assert door.admission.waiting == 2
        door.slots["any"] = 1
        door.admission.wake(["m2"])
        await settled()
        assert door.served == ["x"]

    story(told, limit=1)


# --- waiting ends


def test_nobody_waits_longer_than_the_queue_timeout() -> None:
    async def told(door: Door) -> None:
        task = await door.comes("a")
        await asyncio.wait((task,))
        assert asyncio.get_running_loop().time() == pytest.approx(2.0)
        refusal = door.refusal("a")
        assert isinstance(refusal, errors.CapacityExceeded)
        assert refusal.retry_after_ms == 2000

    story(told, timeout=2.0)


def test_nobody_waits_past_its_deadline() -> None:
    async def told(door: Door) -> None:
        task = await door.comes("a", deadline=0.5)
        await asyncio.wait((task,))
        assert asyncio.get_running_loop().time() == pytest.approx(0.5)
        assert isinstance(door.refusal("a"), errors.CapacityExceeded)

    story(told, timeout=2.0)


def test_deadline_that_has_passed_is_refused_and_leaves_nothing() -> None:
    async def told(door: Door) -> None:
        await asyncio.sleep(1.0)
        await door.comes("a", deadline=0.5)
        assert isinstance(door.refusal("a"), errors.CapacityExceeded)

    story(told)


def test_looking_in_vain_does_not_start_the_wait_anew() -> None:
    async def told(door: Door) -> None:
        task = await door.comes("a")
        for _ in range(3):
            await asyncio.sleep(0.5)
            door.admission.wake(["m1"])
        await asyncio.wait((task,))
        assert asyncio.get_running_loop().time() == pytest.approx(2.0)

    story(told, timeout=2.0)


def test_other_errors_end_the_wait() -> None:
    async def told(door: Door) -> None:
        answers = iter([errors.CapacityExceeded, errors.NoWorkersAvailable])

        def pick() -> str:
            raise next(answers)

        task = asyncio.create_task(admit(door.admission, "m1", "any", pick, NEVER))
        await settled()
        door.admission.wake(["m1"])
        with pytest.raises(errors.NoWorkersAvailable):
            await task

    story(told)


# --- no wake-up is lost


def test_waiter_that_leaves_is_passed_over() -> None:
    async def told(door: Door) -> None:
        await door.come("a", "b")
        door.tasks["a"].cancel()
        await settled()
        await door.frees()
        assert door.served == ["b"]

    story(told)


def test_waiter_that_is_woken_and_leaves_hands_on_the_slot() -> None:
    async def told(door: Door) -> None:
        await door.come("a", "b")
        door.slots["any"] = 1
        door.admission.wake(["m1"])
        door.tasks["a"].cancel()
        await settled()
        assert door.tasks["a"].cancelled()
        assert door.served == ["b"]

    story(told)


def test_waiter_that_is_woken_as_its_time_runs_out_hands_on_the_slot() -> None:
    async def told(door: Door) -> None:
        await door.comes("a", deadline=1.0)
        await door.comes("b")

        def free() -> None:
            door.slots["any"] = 1
            door.admission.wake(["m1"])

        asyncio.get_running_loop().call_at(1.0, free)
        await asyncio.sleep(2.0)
        assert len(door.served) == 1
        assert door.slots["any"] == 0

    story(told)


def test_cancellation_is_never_swallowed() -> None:
    """`asyncio.wait_for` of Python 3.11 does that when the wake comes in the same tick."""

    async def told(door: Door) -> None:
        await door.come("a")
        door.slots["any"] = 1
        door.admission.wake(["m1"])
        door.tasks["a"].cancel()
        await settled()
        assert door.tasks["a"].cancelled()
        assert door.served == []

    story(told)


def test_who_cannot_use_the_slot_does_not_stand_in_the_way() -> None:
    async def told(door: Door) -> None:
        await door.come("a", "b", want="gpu")
        await door.come("c", "d")
        await door.frees()
        assert door.served == ["c"]
        await door.frees(want="gpu")
        assert door.served == ["c", "a"]

    story(told)


def test_newcomer_that_wants_something_else_looks_for_itself() -> None:
    async def told(door: Door) -> None:
        await door.come("a", want="gpu")
        door.slots["any"] = 1
        await door.come("b")
        assert door.served == ["b"]

    story(told)


def test_waiters_that_want_the_same_do_not_all_look_in_vain() -> None:
    async def told(door: Door) -> None:
        await door.come(*"abcdefgh")
        before = door.looks
        door.admission.wake(["m1"])
        await settled()
        assert door.looks == before + 1

    story(told)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6))
def test_no_slot_stays_free_beside_a_waiter_that_could_use_it(seed: int, limit: int) -> None:
    chance = Random(seed)

    async def told(door: Door) -> None:
        wants: dict[str, str] = {}
        for number in range(40):
            act = chance.random()
            waiting = [name for name, task in door.tasks.items() if not task.done()]
            if act < 0.5:
                name = f"w{number}"
                wants[name] = chance.choice(["any", "gpu"])
                await door.comes(name, wants[name], asyncio.get_running_loop().time() + chance.choice((1, 5)))
            elif act < 0.8:
                await door.frees(chance.randint(1, 2), chance.choice(["any", "gpu"]))
            elif act < 0.9 and waiting:
                door.tasks[chance.choice(waiting)].cancel()
                await settled()
            else:
                await asyncio.sleep(chance.random() * 2)
                await settled()
            waiting = [name for name, task in door.tasks.items() if not task.done()]
            assert len(waiting) == door.admission.waiting <= limit
            assert not any(door.slots[wants[name]] for name in waiting)
            for want in ("any", "gpu"):
                served = [name for name in door.served if wants[name] == want]
                assert served == sorted(served, key=lambda name: int(name[1:]))

    story(told, limit=limit)
