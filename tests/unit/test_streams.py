"""Streams from end to end, in virtual time and on real sockets: what the reader gets, in which order, and how
it hears of the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.fakes.streaming import PLACES, Place, StreamHouse, Well, told
from wrk_base import errors
from wrk_base.rpc import wire
from wrk_base.rpc.request import Final, Packed
from wrk_base.rpc.stream import FIRST_ITEMS

everywhere = pytest.mark.parametrize("place", PLACES)


# --- items and the end


@everywhere
@pytest.mark.parametrize("count", [0, 1, 2, FIRST_ITEMS, FIRST_ITEMS + 1, 3000])
def test_items_come_in_order_and_the_end_tells_the_final_value(place: Place, count: int) -> None:
    async def story(house: StreamHouse) -> None:
        Well(house.serve())
        stream = house.stream(house.caller(), "count", count)
        assert [item async for item in stream] == list(range(count))
        assert stream.value == {"counted": count}
        assert stream.facts == {"made": count}
        assert stream.received == count

    told(story, place)


@everywhere
def test_what_a_handler_has_in_packed_form_travels_as_it_is(place: Place) -> None:
    async def story(house: StreamHouse) -> None:
        async def packed(body: Any) -> AsyncIterator[Any]:
            for number in range(3):
                yield Packed(wire.JSON, b'{"n":  %d}' % number)
            yield Final(Packed(wire.OCTETS, b"whole"))

        house.serve().respond("packed", packed)
        stream = house.stream(house.caller(), "packed")
        assert [item async for item in stream] == [{"n": 0}, {"n": 1}, {"n": 2}]
        assert stream.value == b"whole"

    told(story, place)


@everywhere
def test_each_item_is_read_before_the_next_is_made(place: Place) -> None:
    async def story(house: StreamHouse) -> None:
        read = asyncio.Event()

        async def polite(body: Any) -> AsyncIterator[int]:
            for number in range(10):
                yield number
                await read.wait()
                read.clear()

        house.serve().respond("polite", polite)
        got = []
        async for item in house.stream(house.caller(), "polite"):
            got.append(item)
            read.set()
        assert got == list(range(10))

    told(story, place)


@everywhere
def test_the_first_item_has_left_before_the_second_is_made(place: Place) -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve()
        held_back: list[bool] = []

        async def eager(body: Any) -> AsyncIterator[int]:
            yield 0
            held_back.extend(bool(caller.outbox) for caller in server.callers.values())
            assert server.handlers["eager"].stats.items == 1
            yield 1

        server.respond("eager", eager)
        assert [item async for item in house.stream(house.caller(), "eager")] == [0, 1]
        assert held_back == [False]

    told(story, place)


@everywhere
def test_a_stream_without_a_final_value_ends_with_none(place: Place) -> None:
    async def story(house: StreamHouse) -> None:
        async def plain(body: Any) -> AsyncIterator[str]:
            yield body

        house.serve().respond("plain", plain)
        stream = house.stream(house.caller(), "plain", "word")
        assert [item async for item in stream] == ["word"]
        assert (stream.value, stream.facts) == (None, {})

    told(story, place)


@everywhere
def test_many_streams_on_one_link_do_not_mix(place: Place) -> None:
    async def story(house: StreamHouse) -> None:
        async def times(body: int) -> AsyncIterator[int]:
            for number in range(200):
                yield body * number
                if number % 7 == body % 7:
                    await asyncio.sleep(0)

        house.serve().respond("times", times)
        caller = house.caller()

        async def read(factor: int) -> list[int]:
            return [item async for item in house.stream(caller, "times", factor)]

        read_all = await asyncio.gather(*(read(factor) for factor in range(50)))
        assert read_all == [[factor * number for number in range(200)] for factor in range(50)]

    told(story, place)


def test_a_stream_is_read_once() -> None:
    async def story(house: StreamHouse) -> None:
        Well(house.serve())
        stream = house.stream(house.caller(), "count", 3)
        assert [item async for item in stream] == [0, 1, 2]
        with pytest.raises(RuntimeError, match="read once"):
            [item async for item in stream]

    told(story)


# --- who asks for what


@everywhere
def test_a_call_that_does_not_stream_gets_the_final_value(place: Place) -> None:
    async def story(house: StreamHouse) -> None:
        well = Well(house.serve())
        assert await house.ask(house.caller(), "count", 1000) == {"counted": 1000}
        assert well.made == 1000

    told(story, place)


def test_a_stream_without_a_final_value_says_that_it_must_be_asked_for_as_one() -> None:
    async def story(house: StreamHouse) -> None:
        async def plain(body: Any) -> AsyncIterator[int]:
            yield 1

        house.serve().respond("plain", plain)
        with pytest.raises(errors.BadRequest, match="plain answers as a stream: ask for one"):
            await house.ask(house.caller(), "plain")

    told(story)


@pytest.mark.parametrize(
    ("place", "method"),
    [("virtual", "inline"), ("virtual", "task"), ("asyncio", "task"), ("asyncio", "thread")],
)
def test_a_method_with_one_result_gives_it_as_one_item_and_as_the_value(place: Place, method: str) -> None:
    async def story(house: StreamHouse) -> None:
        async def task(body: Any) -> Any:
            await asyncio.sleep(0)
            return body

        server = house.serve()
        server.respond("inline", lambda body: body)
        server.respond("task", task)
        server.respond("thread", lambda body: body, blocking="thread")
        stream = house.stream(house.caller(), method, {"a": 1})
        assert [item async for item in stream] == [{"a": 1}]
        assert stream.value == {"a": 1}

    told(story, place)


def test_a_large_single_result_is_the_value_of_a_stream() -> None:
    async def story(house: StreamHouse) -> None:
        house.serve().respond("large", lambda body: bytes(body))
        stream = house.stream(house.caller(), "large", 3 * wire.CHUNK_BYTES)
        assert [item async for item in stream] in ([], [bytes(3 * wire.CHUNK_BYTES)])
        assert stream.value == bytes(3 * wire.CHUNK_BYTES)

    told(story)


def test_a_large_single_result_is_the_final_value_alone() -> None:
    async def story(house: StreamHouse) -> None:
        house.serve().respond("large", lambda body: bytes(body))
        stream = house.stream(house.caller(), "large", 3 * wire.CHUNK_BYTES)
        assert [item async for item in stream] == []
        assert stream.value == bytes(3 * wire.CHUNK_BYTES)

    told(story)


@everywhere
def test_a_large_final_value_follows_the_items(place: Place) -> None:
    async def story(house: StreamHouse) -> None:
        whole = bytes(range(256)) * 12_000  # 3 MB

        async def large(body: Any) -> AsyncIterator[Any]:
            yield 1
            yield Final(whole, length=len(whole))

        house.serve().respond("large", large)
        caller = house.caller()
        stream = house.stream(caller, "large")
        assert [item async for item in stream] == [1]
        assert stream.value == whole
        assert stream.facts == {"length": len(whole)}
        assert await house.ask(caller, "large") == whole

    told(story, place)


# --- errors


def failing(after: int, error: Exception, pause: bool) -> Any:
    async def handler(body: Any) -> AsyncIterator[int]:
        for number in range(after):
            yield number
            if pause:
                await asyncio.sleep(0.001)
        raise error

    return handler


async def read_until_error(house: StreamHouse, method: str) -> tuple[list[Any], errors.WrkError]:
    got: list[Any] = []
    try:
        async for item in house.stream(house.caller(), method):
            got.append(item)
    except errors.WrkError as error:
        return got, error
    raise AssertionError(f"it ended well, after {got}")


@everywhere
@pytest.mark.parametrize("after", [0, 1, 2, 70])
def test_an_error_comes_after_the_items_before_it_and_counts_them(place: Place, after: int) -> None:
    async def story(house: StreamHouse) -> None:
        refusal = errors.BadRequest("enough", data={"field": "x"})
        house.serve().respond("bad", failing(after, refusal, pause=True))
        got, error = await read_until_error(house, "bad")
        assert got == list(range(after))
        assert type(error) is errors.BadRequest
        assert error.data == {"field": "x", "items": after}

    told(story, place)


def test_an_error_right_behind_its_items_loses_none_of_them() -> None:
    async def story(house: StreamHouse) -> None:
        house.serve().respond("bad", failing(5, errors.BadRequest("enough"), pause=False))
        got, error = await read_until_error(house, "bad")
        assert got == list(range(5))
        assert error.data["items"] == 5

    told(story)


def test_what_fails_by_surprise_is_told_as_internal_and_says_nothing_of_it() -> None:
    async def story(house: StreamHouse) -> None:
        house.serve().respond("bad", failing(3, ZeroDivisionError("secret"), pause=True))
        got, error = await read_until_error(house, "bad")
        assert got == [0, 1, 2]
        assert type(error) is errors.Internal
        assert "secret" not in error.message
        assert "rpc.handler_failed" in house.log.names()

    told(story)


@pytest.mark.parametrize(("item", "what"), [(bytes(wire.CHUNK_BYTES + 1), "262144"), (object(), "encoded")])
def test_an_item_that_cannot_travel_ends_its_stream_with_the_reason(item: Any, what: str) -> None:
    async def story(house: StreamHouse) -> None:
        async def odd(body: Any) -> AsyncIterator[Any]:
            yield "fine"
            await asyncio.sleep(1)
            yield item

        house.serve().respond("odd", odd)
        got, error = await read_until_error(house, "odd")
        assert got == ["fine"]
        assert type(error) is errors.Internal
        assert what in error.message
        assert error.data["items"] == 1

    told(story)


def test_an_end_that_cannot_travel_is_replaced_by_an_error() -> None:
    async def story(house: StreamHouse) -> None:
        async def wordy(body: Any) -> AsyncIterator[Any]:
            yield 1
            yield Final(None, facts="x" * 2_000_000)

        house.serve().respond("wordy", wordy)
        got, error = await read_until_error(house, "wordy")
        assert got == [1]
        assert type(error) is errors.Internal

    told(story)
