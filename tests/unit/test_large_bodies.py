"""Bodies that travel in chunks: they come back equal, hold up nobody, take turns, and leave nothing behind
when they end half way, whoever ended them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from tests.fakes.rpc import Stranger, request, timers
from tests.fakes.streaming import (
    PLACES,
    Place,
    StreamHouse,
    books_of,
    books_of_caller,
    quiet,
    told,
)
from wrk_base import errors
from wrk_base.rpc import wire
from wrk_base.rpc.server import Server

MIB = 1024 * 1024
CHUNK = wire.CHUNK_BYTES
BYE = wire.encode([(wire.BYE, 0, 0)], 0)


def noise(size: int, seed: int = 1) -> bytes:
    return Random(seed).randbytes(size)


def announced(call_id: int, size: int, **fields: Any) -> wire.Envelope:
    return request(call_id, flags=wire.MORE_CHUNKS, extras={"size": size}, **fields)


# --- whole bodies


@pytest.mark.parametrize("place", ["asyncio", "uvloop"])
def test_64_mib_come_back_equal_and_small_calls_beside_them_are_answered_first(place: Place) -> None:
    async def story(house: StreamHouse) -> None:
        house.serve()
        caller = house.caller()
        body = noise(MIB) * 64
        await house.ask(caller)
        large = asyncio.create_task(house.ask(caller, "echo", body, timeout=60.0))
        beside = 0
        while not large.done():
            assert await house.ask(caller, "echo", beside) == beside
            beside += 1
        assert await large == body
        assert beside >= 32, "they pass a body that takes 256 chunks each way"
        print("BESIDE", beside)

    told(story, place)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("size", [CHUNK - 10, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK - 1, 5 * MIB])
def test_bodies_of_every_length_come_back_equal(place: Place, size: int) -> None:
    async def story(house: StreamHouse) -> None:
        house.serve()
        body = noise(size)
        caller = house.caller()
        assert await house.ask(caller, "echo", body) == body
        assert await house.ask(caller, "echo", bytearray(body)) == body

    told(story, place)


def test_a_large_body_that_is_no_bytes_comes_back_equal() -> None:
    async def story(house: StreamHouse) -> None:
        house.serve()
        body = {"words": ["word"] * 200_000, "blob": noise(MIB)}
        assert await house.ask(house.caller(), "echo", body) == body

    told(story)


@pytest.mark.parametrize("place", PLACES)
def test_many_large_bodies_at_once_do_not_mix(place: Place) -> None:
    async def story(house: StreamHouse) -> None:
        house.serve()
        caller = house.caller()
        bodies = [noise(MIB + seed, seed) for seed in range(12)]
        back = await asyncio.gather(*(house.ask(caller, "echo", body) for body in bodies))
        assert back == bodies

    told(story, place)


def test_a_body_that_has_arrived_leaves_no_timer() -> None:
    async def story(house: StreamHouse) -> None:
        house.serve()
        caller = house.caller()
        await house.ask(caller, "echo", b"small")
        before = timers()
        for _ in range(10):
            await house.ask(caller, "echo", bytes(2 * CHUNK))
        assert timers() == before

    told(story)


def test_two_answers_take_turns() -> None:
    async def story(house: StreamHouse) -> None:
        house.serve().respond("give", lambda size: bytes(size))
        guest = await house.guest()
        await guest.say(request(1, "give", 8 * CHUNK), request(2, "give", 2 * CHUNK))
        await _read_all(guest, 10)
        assert [number for number, _ in guest.chunks] == [1, 2, 1, 2, 1, 1, 1, 1, 1, 1]

    told(story)


async def _read_all(guest: Stranger, chunks: int) -> None:
    """Say that everything was read until so many chunks are there."""
    while len(guest.chunks) < chunks:
        read = sum(len(chunk) for _, chunk in guest.chunks)
        await guest.say((wire.CREDIT, 0, 0, read, 0))
        await quiet()


def test_a_small_answer_overtakes_a_large_one() -> None:
    async def story(house: StreamHouse) -> None:
        house.serve().respond("give", lambda size: bytes(size))
        guest = await house.guest()
        await guest.say(request(1, "give", 100 * CHUNK))
        await quiet()
        under_way = len(guest.chunks)
        await guest.say(request(2, "echo", "small"))
        replies = await guest.hears(wire.REPLY, 2)
        assert replies[1][2] == 2
        assert len(guest.chunks) == under_way < 10
        guest.link.close()
        await quiet()

    told(story)


# --- bodies that end half way


async def half_sent(house: StreamHouse, server: Server) -> Stranger:
    """A guest whose request 1 has announced four chunks and sent two."""
    guest = await house.guest()
    await guest.say(announced(1, 4 * CHUNK))
    for _ in range(2):
        await guest.say_chunk(1, bytes(CHUNK), more=True)
    await quiet()
    assert books_of(server)["bytes of the process"] == 4 * CHUNK
    assert books_of(server)["bytes of 0"] == 4 * CHUNK
    return guest


End = Callable[[Stranger], Any]


@pytest.mark.parametrize(
    ("end", "error"),
    [
        pytest.param(lambda g: g.say((wire.CANCEL, 0, 1)), "ERR_CANCELLED", id="it is given up"),
        pytest.param(lambda g: asyncio.sleep(20), "ERR_DEADLINE_EXCEEDED", id="its deadline passes"),
        pytest.param(
            lambda g: g.say_chunk(1, bytes(3 * CHUNK), more=False), "ERR_BAD_REQUEST", id="too much"
        ),
        pytest.param(lambda g: g.say_chunk(1, bytes(3), more=False), "ERR_BAD_REQUEST", id="too little"),
        pytest.param(
            lambda g: g.say_chunk(1, bytes(2 * CHUNK), more=True), "ERR_BAD_REQUEST", id="whole, with more"
        ),
    ],
)
def test_a_request_that_ends_while_its_body_arrives_is_answered_once_and_leaves_nothing(
    end: End, error: str
) -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve()
        guest = await half_sent(house, server)
        await end(guest)
        guest.clock_ms += round(asyncio.get_running_loop().time() * 1000)
        (answer,) = await guest.hears(wire.ERROR)
        assert (answer[2], answer[4], answer[9]) == (1, error, True)
        assert books_of(server) == {}
        await guest.say_chunk(1, bytes(CHUNK), more=True)  # was under way
        await guest.say_chunk(1, bytes(CHUNK), more=False)
        await guest.say(request(2, "echo", "after it"))
        await guest.hears(wire.REPLY)
        assert guest.answers(1) == [answer]
        assert server.handlers["echo"].stats.requests == 1

    told(story)


@pytest.mark.parametrize("leave", [lambda g: g.link.close(), lambda g: g.link.send(BYE)])
def test_a_caller_that_is_lost_while_its_body_arrives_leaves_nothing(
    leave: Callable[[Stranger], Any],
) -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve()
        guest = await half_sent(house, server)
        leave(guest)
        await quiet()
        assert server.callers == {}
        assert books_of(server) == {}

    told(story)


def test_chunks_for_nobody_are_ignored() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve()
        guest = await house.guest()
        await guest.say_chunk(5, bytes(CHUNK), more=False)
        await guest.say(request(6, "echo", "whole"))
        await guest.hears(wire.REPLY)
        await guest.say_chunk(6, bytes(CHUNK), more=True)
        await quiet()
        assert books_of(server) == {}

    told(story)


def test_a_caller_that_gives_up_sends_no_more_of_its_body() -> None:
    async def story(house: StreamHouse) -> None:
        impostor = house.impostor()
        caller = house.caller()
        asking = asyncio.create_task(house.ask(caller, "echo", bytes(20 * MIB)))
        await impostor.until(lambda: impostor.chunks)
        await quiet()
        sent = sum(len(chunk) for _, chunk in impostor.chunks)
        assert MIB <= sent <= MIB + CHUNK
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert books_of_caller(caller) == {}
        impostor.say((wire.CREDIT, 0, 0, sent, 0))
        await impostor.until(lambda: impostor.of(wire.CANCEL))
        await quiet()
        assert sum(len(chunk) for _, chunk in impostor.chunks) == sent

    told(story)


def test_a_server_sends_no_more_of_an_answer_that_was_given_up() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve()
        server.respond("give", lambda size: bytes(size))
        guest = await house.guest()
        await guest.say(request(1, "give", 20 * CHUNK))
        await quiet()
        sent = len(guest.chunks)
        await guest.say((wire.CANCEL, 0, 1))
        await quiet()
        left = books_of(server)
        guest.link.close()
        await quiet()
        assert 4 <= sent <= 5
        assert left == {}

    told(story)


# --- answers that break off


async def gathering(house: StreamHouse, kind: int) -> tuple[Any, Any, asyncio.Task[Any]]:
    """An impostor that has announced four chunks and sent two, and the call that waits for them."""
    impostor = house.impostor()
    caller = house.caller()

    async def stream() -> Any:
        return [item async for item in house.stream(caller, "any")]

    ask = asyncio.create_task(stream() if kind == wire.END else house.ask(caller))
    await impostor.until(lambda: impostor.of(wire.REQUEST))
    middle = (0,) if kind == wire.END else ()
    impostor.say((kind, wire.MORE_CHUNKS, 1, *middle, None, wire.OCTETS, b"", {"size": 4 * CHUNK}))
    for _ in range(2):
        impostor.say_chunk(1, bytes(CHUNK), more=True)
    await quiet()
    assert books_of_caller(caller)["bytes"] == 4 * CHUNK
    return impostor, caller, ask


@pytest.mark.parametrize("kind", [wire.REPLY, wire.END])
@pytest.mark.parametrize(
    ("end", "error"),
    [
        pytest.param(lambda i: i.say_chunk(1, bytes(CHUNK), more=False), errors.Internal, id="too little"),
        pytest.param(lambda i: i.say_chunk(1, bytes(3 * CHUNK), more=True), errors.Internal, id="too much"),
        pytest.param(lambda i: None, errors.DeadlineExceeded, id="nothing more"),
        pytest.param(
            lambda i: i.say((wire.REPLY, wire.MORE_CHUNKS, 1, None, 2, b"", {"size": CHUNK})),
            errors.Internal,
            id="another announcement",
        ),
        pytest.param(lambda i: i.listener.close(), errors.Unavailable, id="its link is lost"),
    ],
)
def test_an_answer_that_breaks_off_fails_its_call_and_leaves_nothing(
    kind: int, end: Callable[[Any], Any], error: type[errors.WrkError]
) -> None:
    async def story(house: StreamHouse) -> None:
        impostor, caller, asked = await gathering(house, kind)
        end(impostor)
        with pytest.raises(error) as failure:
            await asked
        assert not failure.value.not_started
        assert books_of_caller(caller) == {}

    told(story)


@pytest.mark.parametrize("kind", [wire.REPLY, wire.END])
def test_an_answer_that_is_given_up_leaves_nothing(kind: int) -> None:
    async def story(house: StreamHouse) -> None:
        impostor, caller, asked = await gathering(house, kind)
        asked.cancel()
        await asyncio.wait((asked,))
        assert asked.cancelled()
        assert books_of_caller(caller) == {}
        impostor.say_chunk(1, bytes(CHUNK), more=True)  # was under way
        await impostor.until(lambda: impostor.of(wire.CANCEL))
        assert books_of_caller(caller) == {}

    told(story)


def test_a_body_arrives_though_its_caller_was_doubted() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve()
        server.respond("give", lambda size: bytes(size))
        caller = house.caller()
        await house.ask(caller)
        for routing_id in tuple(server.callers):
            server.on_doubt(routing_id)  # an older connection with the same number was lost
        await asyncio.sleep(1)
        assert await house.ask(caller, "give", 20 * MIB) == bytes(20 * MIB)

    told(story)
