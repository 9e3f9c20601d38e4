"""Peers that do not read: what they cost is bounded, by the window of the link and by what may wait for them,
and nobody else notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.fakes.rpc import Stranger, request
from tests.fakes.streaming import StreamHouse, Well, quiet, told
from wrk_base import errors
from wrk_base.rpc import wire
from wrk_base.rpc.identity import Identity
from wrk_base.rpc.request import Final

MIB = 1024 * 1024


def heard_bytes(guest: Stranger) -> int:
    return sum(len(envelope[5]) for envelope in guest.of(wire.REPLY)) + sum(len(c) for _, c in guest.chunks)


def test_a_caller_that_does_not_read_is_sent_no_more_than_the_window() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve(link_window=MIB)
        server.respond("give", lambda size: bytes(size))
        guest = await house.guest()
        for number in range(1, 101):
            await guest.say(request(number, "give", 50_000))
        await quiet()
        assert MIB // 2 < heard_bytes(guest) < MIB + 300_000
        while len(guest.of(wire.REPLY)) < 100:  # the rest was kept for it, and leaves as it reads
            before = heard_bytes(guest)
            await guest.say((wire.CREDIT, 0, 0, before, 0))
            await quiet()
            assert before < heard_bytes(guest) < before + MIB + 300_000

    told(story)


def test_a_caller_that_never_reads_is_expelled_and_nobody_else_notices() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve(link_window=MIB, peer_bytes=2 * MIB)
        server.respond("give", lambda size: bytes(size))
        well = Well(server)
        beside = aiter(house.stream(house.caller(), "drip", 3))
        await anext(beside)
        guest = await house.guest()
        await guest.say(request(1, "drip", 0))
        for number in range(2, 102):
            if guest.downs:
                break
            await guest.say(request(number, "give", 50_000))
            await quiet()
        assert guest.downs
        assert 3 * MIB - 200_000 < (number - 1) * 50_000 < 4 * MIB, "the window and what may wait"
        assert server.counters["expelled"] == 1
        assert "rpc.caller_expelled" in house.log.names()
        assert len(server.callers) == 1
        assert server.in_flight == 1
        assert well.ended == ["CancelledError"], "what it had asked for was stopped"
        assert [await anext(beside) for _ in range(2)] == [1, 2]
        del beside

    told(story)


def test_large_answers_that_wait_for_a_caller_are_bounded_too() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve(peer_bytes=4 * MIB)
        server.respond("give", lambda size: bytes(size))
        guest = await house.guest()
        await guest.say(*(request(number, "give", 2_000_000) for number in range(1, 21)))
        await quiet()
        ends = [guest.answers(number) for number in range(1, 21)]
        assert [len(end) for end in ends] == [1] * 20
        refusals = [error for (error,) in ends if error[0] == wire.ERROR]
        assert len(refusals) == 18
        assert {error[4] for error in refusals} == {"ERR_CAPACITY_EXCEEDED"}
        assert "rpc.peerBytes" in refusals[0][5]
        assert sum(len(chunk) for _, chunk in guest.chunks) <= 2 * MIB, "and of the rest no more is under way"
        guest.link.close()
        await quiet()

    told(story)


def test_a_stream_whose_final_value_finds_no_room_ends_with_the_reason() -> None:
    async def story(house: StreamHouse) -> None:
        async def large(body: Any) -> AsyncIterator[Any]:
            yield 1
            yield Final(bytes(2 * MIB))

        house.serve(peer_bytes=MIB).respond("large", large)
        items = aiter(house.stream(house.caller(), "large"))
        assert await anext(items) == 1
        with pytest.raises(errors.CapacityExceeded, match=r"rpc\.peerBytes") as refusal:
            await anext(items)
        assert refusal.value.data["items"] == 1

    told(story)


def test_an_orchestrator_that_does_not_read_is_told_the_load_once() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve(link_window=MIB)
        server.piggyback = lambda: {"load": {"free": 1}}
        server.respond("give", lambda size: bytes(size))
        guest = house.stranger()
        await guest.greet(Identity("orc", 1, "orchestrator"))
        for number in range(1, 31):
            await guest.say(request(number, "give", 50_000))
        await quiet()
        told_before = len(guest.of(wire.PONG))
        for number in range(31, 131):
            await guest.say(request(number, "echo"))
            await quiet()
        await guest.say((wire.CREDIT, 0, 0, MIB, 0))
        await quiet()
        assert len(guest.answers(130)) == 1
        assert len(guest.of(wire.PONG)) - told_before < 5

    told(story)


def test_a_server_that_does_not_read_is_sent_no_more_than_the_window_and_asked_no_more_than_fits() -> None:
    async def story(house: StreamHouse) -> None:
        impostor = house.impostor()
        caller = house.caller(link_window=MIB, peer_bytes=MIB)
        first = asyncio.create_task(house.ask(caller))
        await impostor.until(lambda: impostor.of(wire.REQUEST))  # the link is up
        calls = [asyncio.create_task(house.ask(caller, "echo", bytes(50_000))) for _ in range(100)]
        await quiet()
        sent = sum(len(envelope[8]) for envelope in impostor.of(wire.REQUEST))
        assert MIB // 2 < sent < MIB + 300_000
        ended = [call for call in calls if call.done()]
        assert 50 < len(ended) < 70, "one window is under way, as much again waits, the rest is refused"
        for call in ended:
            failure = call.exception()
            assert isinstance(failure, errors.CapacityExceeded)
            assert failure.not_started
            assert "does not read" in failure.message
        caller.close()
        await asyncio.gather(first, *calls, return_exceptions=True)

    told(story)
