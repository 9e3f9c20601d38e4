"""A worker that stops while a large body is under way: what has begun is finished, and nobody is left without
an answer."""

from __future__ import annotations

import asyncio

import pytest

from tests.fakes.rpc import request
from tests.fakes.streaming import StreamHouse, quiet, told
from wrk_base import errors
from wrk_base.rpc import wire

MIB = 1024 * 1024
CHUNK = wire.CHUNK_BYTES


def announced(call_id: int, size: int) -> wire.Envelope:
    return request(call_id, flags=wire.MORE_CHUNKS, extras={"size": size})


def test_a_body_that_begins_after_the_word_of_the_stop_is_refused() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve()
        caller = house.caller()
        await house.ask(caller)
        server.drain("it stops")
        with pytest.raises(errors.Unavailable) as refusal:
            await house.ask(caller, "echo", bytes(4 * MIB))
        assert refusal.value.not_started

    told(story)


def test_a_body_that_was_under_way_at_the_word_of_the_stop_is_served() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve()
        guest = await house.guest()
        body = wire.pack_body(bytes(2 * CHUNK))
        await guest.say(announced(1, len(body)))
        await guest.say_chunk(1, body[:CHUNK], more=True)
        await quiet()
        server.drain("it stops")
        ((_, _, last_id, _),) = await guest.hears(wire.GOAWAY)
        assert last_id == 1, "it was promised"
        await guest.say_chunk(1, body[CHUNK:], more=False)
        (reply,) = await guest.hears(wire.REPLY)
        assert reply[2] == 1

    told(story)


def test_a_request_whose_body_still_arrives_at_the_end_is_answered() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve()
        guest = await house.guest()
        await guest.say(announced(1, 4 * CHUNK))
        await guest.say_chunk(1, bytes(CHUNK), more=True)
        await quiet()
        server.drain("it stops")
        drained = asyncio.create_task(server.drained())
        await quiet()
        server.cancel_all()
        await drained
        await quiet()
        answers = guest.answers(1)
        guest.link.close()
        await quiet()
        assert len(answers) == 1
        assert answers[0][9], "not_started: it may go elsewhere"

    told(story)


def test_a_large_answer_that_is_under_way_arrives_before_the_end() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve()
        given = asyncio.Event()

        def give(size: int) -> bytes:
            given.set()
            return bytes(size)

        server.respond("give", give)
        caller = house.caller()
        await house.ask(caller)
        asked = asyncio.create_task(house.ask(caller, "give", 20 * MIB))
        await given.wait()
        server.drain("it stops")
        await server.drained()
        await server.heard(60.0)
        server.close()
        assert len(await asked) == 20 * MIB

    told(story)
