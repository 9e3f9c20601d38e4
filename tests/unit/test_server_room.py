"""Slots and the room in front of them: so many handlers run, so many requests wait, in order and until their
deadline, and what finds no place is refused at once, as never started."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.fakes.rpc import hold_up_the_loop, request
from tests.fakes.streaming import StreamHouse, Well, quiet, told
from wrk_base import errors
from wrk_base.rpc import wire
from wrk_base.rpc.peers import Peers
from wrk_base.rpc.request import Request
from wrk_base.rpc.server import Server

Asked = asyncio.Task[Any]


class Desk:
    """A handler that runs until it is let go; `begun` says which requests have a slot, in order."""

    def __init__(self, server: Server, method: str = "desk", limit: int | None = None) -> None:
        self.begun: list[Any] = []
        self.doors: dict[Any, asyncio.Event] = {}
        server.respond(method, self.sit, limit=limit)

    async def sit(self, body: Any) -> Any:
        self.begun.append(body)
        await self.doors.setdefault(body, asyncio.Event()).wait()
        return body

    async def let_go(self, body: Any) -> None:
        self.doors.setdefault(body, asyncio.Event()).set()
        await quiet()


async def ask(house: StreamHouse, caller: Peers, *bodies: Any, method: str = "desk") -> list[Asked]:
    """Requests that are on their way, one task each; all have arrived."""
    asked = [asyncio.create_task(house.ask(caller, method, body, timeout=100.0)) for body in bodies]
    await quiet()
    return asked


async def refusal(asked: Asked) -> errors.WrkError:
    with pytest.raises(errors.WrkError) as refused:
        await asked
    return refused.value


def test_what_finds_no_slot_waits_in_order_and_what_finds_no_room_is_refused() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve(max_in_flight=2, max_waiting=3)
        desk = Desk(server)
        asked = await ask(house, house.caller(), *range(7))
        assert (server.in_flight, server.waiting) == (2, 3)
        assert desk.begun == [0, 1]
        for late in asked[5:]:
            error = await refusal(late)
            assert type(error) is errors.CapacityExceeded
            assert error.not_started
            assert error.retry_after_ms
        assert server.handlers["desk"].stats.refusals == 2
        await desk.let_go(1)
        assert (server.in_flight, server.waiting) == (2, 2)
        assert desk.begun == [0, 1, 2]
        await desk.let_go(0)
        await desk.let_go(2)
        assert (server.in_flight, server.waiting) == (2, 0)
        assert desk.begun == [0, 1, 2, 3, 4]
        await desk.let_go(3)
        await desk.let_go(4)
        assert await asyncio.gather(*asked[:5]) == [0, 1, 2, 3, 4]

    told(story)


def test_without_a_room_what_finds_no_slot_is_refused() -> None:
    async def story(house: StreamHouse) -> None:
        desk = Desk(house.serve(max_in_flight=1, max_waiting=0))
        one, other = await ask(house, house.caller(), 1, 2)
        assert type(await refusal(other)) is errors.CapacityExceeded
        await desk.let_go(1)
        assert await one == 1

    told(story)


def test_a_method_at_its_limit_waits_and_others_pass_it() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve(max_in_flight=4)
        costly, cheap = Desk(server, "costly", limit=1), Desk(server, "cheap")
        caller = house.caller()
        waiting = await ask(house, caller, "a", "b", "c", method="costly")
        assert costly.begun == ["a"]
        assert server.waiting == 2
        passing = await ask(house, caller, 1, 2, 3, method="cheap")
        assert cheap.begun == [1, 2, 3], "three slots were free all the time"
        await cheap.let_go(2)
        assert costly.begun == ["a"], "a free slot is of no use to it"
        await costly.let_go("a")
        assert costly.begun == ["a", "b"]
        for desk, body in ((cheap, 1), (cheap, 3), (costly, "b"), (costly, "c")):
            await desk.let_go(body)
        assert await asyncio.gather(*waiting, *passing) == ["a", "b", "c", 1, 2, 3]

    told(story)


def test_plain_handlers_need_no_slot() -> None:
    async def story(house: StreamHouse) -> None:
        desk = Desk(house.serve(max_in_flight=1, max_waiting=0))
        caller = house.caller()
        (asked,) = await ask(house, caller, 1)
        assert await house.ask(caller, "echo", "quick") == "quick"
        await desk.let_go(1)
        await asked

    told(story)


def test_what_waits_past_its_deadline_never_runs() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve(max_in_flight=1)
        desk = Desk(server)
        guest = await house.guest()
        await guest.say(request(1, "desk", "first"), request(2, "desk", "late", remaining=2000))
        (error,) = await guest.hears(wire.ERROR)
        assert asyncio.get_running_loop().time() == pytest.approx(2.0, abs=0.1)
        assert (error[2], error[4], error[9]) == (2, "ERR_DEADLINE_EXCEEDED", True)
        assert server.waiting == 0
        await desk.let_go("first")
        assert desk.begun == ["first"]
        assert len(guest.answers(2)) == 1

    told(story)


def test_what_waits_and_is_given_up_leaves_the_room() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve(max_in_flight=1, max_waiting=2)
        desk = Desk(server)
        caller = house.caller()
        first, second, third = await ask(house, caller, 1, 2, 3)
        second.cancel()
        await quiet()
        assert server.waiting == 1
        (fourth,) = await ask(house, caller, 4)
        for body in (1, 3, 4):
            await desk.let_go(body)
        assert desk.begun == [1, 3, 4]
        assert await asyncio.gather(*[first, third, fourth]) == [1, 3, 4]

    told(story)


def test_a_caller_that_leaves_takes_what_waits_with_it() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve(max_in_flight=1)
        desk = Desk(server)
        leaving, staying = house.caller(), house.caller()
        (running,) = await ask(house, staying, "stays")
        lost = await ask(house, leaving, 1, 2, 3)
        leaving.close()
        await quiet()
        assert [type(await refusal(call)) for call in lost] == [errors.Unavailable] * 3
        assert server.waiting == 0
        await desk.let_go("stays")
        assert await running == "stays"
        assert desk.begun == ["stays"]

    told(story)


def test_a_worker_that_stops_answers_what_waits() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve(max_in_flight=1)
        Desk(server)
        asked = await ask(house, house.caller(), 1, 2, 3)
        server.cancel_all()
        ends = [await refusal(call) for call in asked]
        assert [type(end) for end in ends] == [errors.Unavailable] * 3
        assert [end.not_started for end in ends] == [False, True, True]

    told(story)


def test_streams_wait_for_a_slot_like_everybody() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve(max_in_flight=1)
        desk, _ = Desk(server), Well(server)
        caller = house.caller()
        (first,) = await ask(house, caller, 1)
        stream = house.stream(caller, "count", 100)

        async def read() -> list[int]:
            return [item async for item in stream]

        reading = asyncio.create_task(read())
        await quiet()
        assert server.waiting == 1
        await desk.let_go(1)
        assert await reading == list(range(100))
        assert await first == 1

    told(story)


def test_forwarded_requests_that_are_answered_at_once_leave_the_room_in_order() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve(max_in_flight=1)
        desk = Desk(server)
        forwarded: list[int] = []

        def forward(request: Request) -> None:
            forwarded.append(request.data())
            request.answer(None, request.content_type, request.payload)

        server.respond("forward", forward, raw=True)
        caller = house.caller()
        (first,) = await ask(house, caller, 0)
        waiting = await ask(house, caller, 1, 2, 3, method="forward")
        assert server.waiting == 3
        await desk.let_go(0)
        assert await asyncio.gather(first, *waiting) == [0, 1, 2, 3]
        assert forwarded == [1, 2, 3]

    told(story)


def test_a_worker_is_drained_when_the_last_that_waited_was_too_late() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve(max_in_flight=1)
        go = asyncio.Event()

        async def slow(body: Any) -> None:
            await go.wait()
            hold_up_the_loop(5.0)

        server.respond("slow", slow)
        guest = await house.guest()
        await guest.say(request(1, "slow"), request(2, "slow", remaining=2000))
        await quiet()
        drained = asyncio.create_task(server.drained())
        await quiet()
        go.set()
        await guest.hears(wire.REPLY)
        await guest.hears(wire.ERROR)
        async with asyncio.timeout(60):
            await drained

    told(story)
