"""Every limit of a link, reached: what it refuses, in which words, that it is given back, and that nobody
else pays for it. Slots have a page of their own (test_server_room.py)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.fakes.rpc import CLIENT, request
from tests.fakes.streaming import StreamHouse, Well, quiet, told
from wrk_base import errors
from wrk_base.rpc import wire
from wrk_base.rpc.body import Budget
from wrk_base.rpc.peers import Peers
from wrk_base.rpc.server import Server

MIB = 1024 * 1024
STREAM = wire.STREAM_WANTED


class Hold:
    """A handler that keeps its requests until they are let go."""

    def __init__(self, server: Server) -> None:
        self.free = asyncio.Event()
        server.respond("hold", self.hold)

    async def hold(self, body: Any) -> int:
        await self.free.wait()
        return len(body or b"")


async def held(house: StreamHouse, caller: Peers, *bodies: Any) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(house.ask(caller, "hold", body)) for body in bodies]
    await quiet()
    return tasks


async def refused(call: Any, kind: type[errors.WrkError], setting: str) -> errors.WrkError:
    with pytest.raises(kind, match=setting) as refusal:
        await call
    return refusal.value


# --- counts


@pytest.mark.parametrize("side", ["caller", "server"])
def test_streams_of_one_link_are_counted(side: str) -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve(max_streams=2 if side == "server" else 100)
        Well(server)
        caller = house.caller(max_streams=2 if side == "caller" else 100)
        open_ = [aiter(house.stream(caller, "endless")) for _ in range(2)]
        for items in open_:
            await anext(items)

        async def third() -> list[int]:
            return [item async for item in house.stream(caller, "count", 3)]

        error = await refused(third(), errors.CapacityExceeded, "rpc.maxStreams")
        assert error.not_started
        assert await house.ask(caller, "count", 5) == {"counted": 5}, "a call without items is none"
        beside = house.caller()
        assert len([item async for item in house.stream(beside, "count", 5)]) == 5, "nor is another link"
        del items
        open_.pop()
        await quiet()
        assert len(await third()) == 3
        open_.clear()

    told(story)


def test_calls_that_wait_on_one_link_are_counted() -> None:
    async def story(house: StreamHouse) -> None:
        hold = Hold(house.serve())
        caller = house.caller(max_pending=3)
        asked = await held(house, caller, b"1", b"2", b"3")
        error = await refused(house.ask(caller), errors.CapacityExceeded, "rpc.maxPending")
        assert error.not_started
        hold.free.set()
        assert await asyncio.gather(*asked) == [1, 1, 1]
        assert await house.ask(caller, "echo", "again") == "again"

    told(story)


def test_calls_that_wait_for_the_link_are_counted_too() -> None:
    async def story(house: StreamHouse) -> None:
        house.serve()
        caller = house.caller(max_pending=3)
        asked = [asyncio.create_task(house.ask(caller, "echo", number)) for number in range(4)]
        assert type(await _failure(asked.pop())) is errors.CapacityExceeded
        assert await asyncio.gather(*asked) == [0, 1, 2]

    told(story)


async def _failure(asked: asyncio.Task[Any]) -> BaseException | None:
    await asyncio.wait((asked,))
    return asked.exception()


# --- bodies


def test_a_body_that_is_too_long_is_not_sent() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve()
        caller = house.caller(max_body=MIB)
        assert await house.ask(caller, "echo", bytes(MIB)) == bytes(MIB)
        before = server.counters.copy()
        error = await refused(house.ask(caller, "echo", bytes(MIB + 1)), errors.BadRequest, "rpc.maxBody")
        assert error.not_started
        assert server.counters == before

    told(story)


def test_a_body_that_is_too_long_for_the_server_is_refused_before_it_has_arrived() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve(max_body=MIB)
        guest = await house.guest()
        await guest.say(request(1, "echo", flags=wire.MORE_CHUNKS, extras={"size": MIB + 1}))
        (error,) = await guest.hears(wire.ERROR)
        assert (error[4], error[9]) == ("ERR_BAD_REQUEST", True)
        assert "rpc.maxBody" in error[5]
        await guest.say_chunk(1, bytes(1000), more=True)  # what was on its way already
        await quiet()
        assert server.counters["malformed"] == 0
        caller = house.caller()
        error_ = await refused(house.ask(caller, "echo", bytes(2 * MIB)), errors.BadRequest, "rpc.maxBody")
        assert error_.not_started

    told(story)


def test_an_answer_that_is_too_long_for_its_caller_fails_that_call_alone() -> None:
    async def story(house: StreamHouse) -> None:
        house.serve().respond("give", lambda size: bytes(size))
        caller = house.caller(max_body=MIB)
        error = await refused(house.ask(caller, "give", MIB + 1), errors.CapacityExceeded, "rpc.maxBody")
        assert not error.not_started, "the handler did run"
        assert await house.ask(caller, "give", MIB) == bytes(MIB)

    told(story)


@pytest.mark.parametrize("announced", [None, {}, {"size": 0}, {"size": -5}, {"size": "10"}, {"size": 1.5}])
def test_a_body_of_no_size_is_refused(announced: Any) -> None:
    async def story(house: StreamHouse) -> None:
        house.serve()
        guest = await house.guest()
        await guest.say(request(1, "echo", flags=wire.MORE_CHUNKS, extras=announced))
        assert (await guest.hears(wire.ERROR))[0][4] == "ERR_BAD_REQUEST"

    told(story)


# --- bytes that are held


def test_bytes_of_requests_that_are_open_are_counted_for_each_caller() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve(peer_bytes=MIB)
        hold = Hold(server)
        caller, other = house.caller(), house.caller()
        asked = await held(house, caller, bytes(200_000), bytes(600_000))
        error = await refused(
            house.ask(caller, "hold", bytes(400_000)), errors.CapacityExceeded, "rpc.peerBytes"
        )
        assert error.not_started
        assert server.handlers["hold"].stats.refusals == 1
        asked += await held(house, other, bytes(900_000))
        hold.free.set()
        assert await asyncio.gather(*asked) == [200_000, 600_000, 900_000]
        assert await house.ask(caller, "hold", bytes(1_000_000)) == 1_000_000, "all was given back"

    told(story)


def test_bytes_of_all_callers_are_counted_for_the_process() -> None:
    async def story(house: StreamHouse) -> None:
        hold = Hold(house.serve(process_bytes=MIB))
        asked = [
            *await held(house, house.caller(), bytes(500_000)),
            *await held(house, house.caller(), bytes(500_000)),
        ]
        third = house.caller()
        error = await refused(
            house.ask(third, "hold", bytes(100_000)), errors.CapacityExceeded, "rpc.processBytes"
        )
        assert error.not_started
        hold.free.set()
        await asyncio.gather(*asked)
        assert await house.ask(third, "hold", bytes(1_000_000)) == 1_000_000

    told(story)


def test_bytes_of_heads_are_counted_too() -> None:
    async def story(house: StreamHouse) -> None:
        hold = Hold(house.serve(peer_bytes=MIB))
        guest = await house.guest()
        head = wire.pack_head({"more": "x" * 500_000})
        for number in range(1, 6):
            await guest.say(request(number, "hold", head=head))
        await quiet()
        refusals = guest.of(wire.ERROR)
        hold.free.set()
        await quiet()
        assert len(refusals) == 3

    told(story)


@pytest.mark.parametrize("setting", ["rpc.peerBytes", "rpc.processBytes"])
def test_bytes_of_answers_that_arrive_are_counted(setting: str) -> None:
    async def story(house: StreamHouse) -> None:
        house.serve().respond("give", lambda size: bytes(size))
        whole = Budget(MIB, "rpc.processBytes")
        caller = house.caller(peer_bytes=MIB) if setting == "rpc.peerBytes" else house.caller(held=whole)
        calls = [asyncio.create_task(house.ask(caller, "give", 600_000)) for _ in range(2)]
        await asyncio.wait(calls)
        assert calls[0].result() == bytes(600_000)
        failure = calls[1].exception()
        assert isinstance(failure, errors.CapacityExceeded)
        assert setting in failure.message
        assert not failure.not_started
        assert await house.ask(caller, "give", 1_000_000) == bytes(1_000_000), "all was given back"

    told(story)


# --- messages


def test_what_is_too_long_for_a_message_fails_alone() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve()
        server.respond("runInference", lambda body: {"result": 1, "said": "x" * body["size"]})
        caller = house.caller()
        head = {"size": 5, "inputData": None}
        request_ = house.ask(caller, "runInference", {**head, "more": "x" * MIB})
        error = await refused(request_, errors.BadRequest, "cannot be sent")
        assert error.not_started
        await refused(
            house.ask(caller, "runInference", {**head, "size": MIB}), errors.Internal, "cannot be sent"
        )
        assert (await house.ask(caller, "runInference", head))["said"] == "xxxxx"

    told(story)


def test_the_body_of_an_answer_that_cannot_travel_stays_here() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve()
        server.respond("runInference", lambda body: {"result": bytes(500_000), "said": "x" * MIB})
        guest = await house.guest()
        await guest.say(request(1, "runInference"))
        await guest.hears(wire.ERROR)
        await quiet()
        assert guest.chunks == []

    told(story)


def test_a_peer_that_takes_less_gets_less() -> None:
    async def story(house: StreamHouse) -> None:
        house.serve().respond("give", lambda size: bytes(size))
        guest = house.stranger()
        await guest.greet(CLIENT, limits={"maxMessage": 10_000})
        await guest.say(request(1, "give", 9_000), request(2, "give", 11_000))
        (reply,) = await guest.hears(wire.REPLY)
        (error,) = await guest.hears(wire.ERROR)
        assert (reply[2], error[2], error[4]) == (1, 2, "ERR_INTERNAL")
        assert "10000 bytes" in error[5]

    told(story)
