"""Whoever stops reading stops the handler, in whatever way they leave: at once, and nothing is left of it.

In virtual time, so that `at once` can be told from `a moment later`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from tests.fakes.aio import eventually
from tests.fakes.rpc import hold_up_the_loop
from tests.fakes.streaming import StreamHouse, Well, books_of_caller, quiet, told
from wrk_base import errors
from wrk_base.rpc.peers import Peers
from wrk_base.rpc.streams import Stream

Leave = Callable[[Stream, Peers], Awaitable[None]]


def now() -> float:
    return asyncio.get_running_loop().time()


async def next_of(items: AsyncIterator[Any]) -> Any:
    return await anext(items)


class Angry(Exception):
    """Of a reader."""


# --- ways to leave


async def by_break(stream: Stream, caller: Peers) -> None:
    async for _ in stream:
        break


async def by_exception(stream: Stream, caller: Peers) -> None:
    async def read() -> None:
        async for _ in stream:
            raise Angry

    with pytest.raises(Angry):
        await read()


async def by_cancelling(stream: Stream, caller: Peers) -> None:
    async def read() -> None:
        async for _ in stream:
            begun.set()

    begun = asyncio.Event()
    task = asyncio.create_task(read())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_closing_the_stream(stream: Stream, caller: Peers) -> None:
    items = aiter(stream)
    await anext(items)
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(items)


async def by_leaving_its_block(stream: Stream, caller: Peers) -> None:
    async with stream:
        items = aiter(stream)
        await anext(items)
    with pytest.raises(StopAsyncIteration):
        await anext(items)


async def by_dropping_it(stream: Stream, caller: Peers) -> None:
    items = aiter(stream)
    await anext(items)
    del items


async def by_closing_the_link(stream: Stream, caller: Peers) -> None:
    items = aiter(stream)
    await anext(items)
    caller.close()
    with pytest.raises(errors.Unavailable) as closed:
        [item async for item in items]
    assert closed.value.data["items"] >= 1


WAYS: list[Leave] = [
    by_break,
    by_exception,
    by_cancelling,
    by_closing_the_stream,
    by_leaving_its_block,
    by_dropping_it,
    by_closing_the_link,
]


@pytest.mark.parametrize("leave", WAYS)
@pytest.mark.parametrize(
    ("method", "end"),
    [
        pytest.param("drip", "CancelledError", id="while the handler waits for something of its own"),
        pytest.param("endless", "GeneratorExit", id="while the handler waits for its reader"),
    ],
)
def test_leaving_reaches_the_handler_at_once_and_frees_its_slot(leave: Leave, method: str, end: str) -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve()
        well = Well(server)
        caller = house.caller()
        await house.ask(caller)  # the link is up
        await leave(house.stream(caller, method, 3), caller)
        assert books_of_caller(caller) == {}, "the caller forgets it on the spot"
        left = now()
        await eventually(lambda: not house.leftovers())
        assert now() - left < 0.01, "nothing waits for a timer"
        assert well.ended == [end]
        assert server.handlers[method].stats.cancels == 1

    told(story)


@pytest.mark.parametrize("leave", [by_break, by_closing_the_stream, by_dropping_it])
def test_whoever_stays_gets_all_when_a_neighbour_leaves(leave: Leave) -> None:
    async def story(house: StreamHouse) -> None:
        Well(house.serve())
        caller = house.caller()
        staying = house.stream(caller, "count", 500)
        items = aiter(staying)
        first = await anext(items)
        await leave(house.stream(caller, "drip", 3), caller)
        rest = [item async for item in items]
        assert staying.value == {"counted": 500}
        assert len([first, *rest]) == 500

    told(story)


def test_a_stream_that_is_never_read_asks_for_nothing() -> None:
    async def story(house: StreamHouse) -> None:
        well = Well(house.serve())
        stream = house.stream(house.caller(), "endless")
        await stream.aclose()
        del stream
        await quiet()
        assert well.made == 0
        assert house.servers[0].callers == {}

    told(story)


def test_leaving_before_the_link_is_up_asks_for_nothing() -> None:
    async def story(house: StreamHouse) -> None:
        well = Well(house.serve())
        caller = house.caller()
        reading = asyncio.create_task(next_of(aiter(house.stream(caller, "endless"))))
        await asyncio.sleep(0)
        assert books_of_caller(caller)["waiting"] == [1]
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert books_of_caller(caller) == {}
        await quiet()
        assert well.made == 0

    told(story)


def test_leaving_after_the_end_tells_nobody_anything() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve()
        Well(server)
        stream = house.stream(house.caller(), "count", 3)
        assert [item async for item in stream] == [0, 1, 2]
        await stream.aclose()
        await quiet()
        assert server.counters["cancels"] == 0

    told(story)


def test_closing_a_stream_ends_the_loop_that_waits_for_its_next_item() -> None:
    async def story(house: StreamHouse) -> None:
        well = Well(house.serve())
        stream = house.stream(house.caller(), "drip", 1)

        async def read() -> list[Any]:
            return [item async for item in stream]

        reading = asyncio.create_task(read())
        await well.dry.wait()
        await quiet()
        await stream.aclose()
        async with asyncio.timeout(5):
            assert await reading == [0]

    told(story)


# --- time


def dripping(seconds: list[float]) -> Any:
    """A handler that makes an item after each of these pauses."""

    async def handler(body: Any) -> AsyncIterator[int]:
        for number, pause in enumerate(seconds):
            await asyncio.sleep(pause)
            yield number

    return handler


async def read_late(house: StreamHouse, seconds: list[float], **terms: float) -> tuple[int, float]:
    """How many items come before the deadline, and when it passes."""
    server = house.serve()
    server.respond("dripping", dripping(seconds))
    caller = house.caller()
    await house.ask(caller)
    begun = now()
    got = 0
    try:
        async for _ in house.stream(caller, "dripping", **terms):
            got += 1
    except errors.DeadlineExceeded as late:
        passed, told_items = now() - begun, late.data["items"]
        await eventually(lambda: not house.leftovers())
        assert now() - begun - passed < 0.01, "the handler hears of it at once"
        assert told_items == got
        return got, passed
    return got, -1.0


@pytest.mark.parametrize(
    ("pauses", "terms", "items", "at"),
    [
        pytest.param([3, 1], {"timeout": 2}, 0, 2.0, id="the first item is late"),
        pytest.param([1, 3, 1], {"timeout": 2, "idle": 4}, 3, -1.0, id="later ones have a time of their own"),
        pytest.param([1, 3, 5], {"timeout": 2, "idle": 4}, 2, 8.0, id="a later one is late"),
        pytest.param([1, 2, 2, 2, 2], {"timeout": 4, "total": 4}, 2, 4.0, id="all of it is late"),
        pytest.param([1, 50, 50], {"timeout": 200, "idle": 60, "total": 200}, 3, -1.0, id="all is in time"),
        pytest.param([100, 10_000], {"timeout": 200, "idle": 20_000}, 2, -1.0, id="no bound on the whole"),
    ],
)
def test_a_stream_ends_at_its_deadline(
    pauses: list[float], terms: dict[str, float], items: int, at: float
) -> None:
    async def story(house: StreamHouse) -> None:
        got, passed = await read_late(house, pauses, **terms)
        assert got == items
        assert passed == pytest.approx(at, abs=0.01)

    told(story, within=1e6)


def test_the_time_for_the_first_item_does_not_bound_the_whole() -> None:
    async def story(house: StreamHouse) -> None:
        got, _ = await read_late(house, [1, 3, 3, 3], timeout=5, total=60)
        assert got == 4

    told(story)


def test_the_handler_knows_the_time_for_all_of_it_even_if_its_caller_says_nothing() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve()
        well = Well(server)
        caller = house.caller()
        await house.ask(caller)
        items = aiter(house.stream(caller, "drip", 3, timeout=5.0, total=5.0))
        await anext(items)
        house.fake.pause(house.endpoint)  # nothing that the caller says arrives any more
        begun = now()
        await server.drained()
        assert now() - begun == pytest.approx(5.0, abs=0.01)
        assert well.ended == ["CancelledError"]
        house.fake.resume(house.endpoint)
        del items

    told(story)


def test_a_reader_that_takes_its_time_is_not_idle() -> None:
    async def story(house: StreamHouse) -> None:
        Well(house.serve())
        got = []
        async for item in house.stream(house.caller(), "count", 100, timeout=1.0, idle=1.0):
            got.append(item)
            await asyncio.sleep(3600)  # longer than the producer may take
        assert got == list(range(100))

    told(story, within=1e6)


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_no_time_is_no_request(timeout: float) -> None:
    async def story(house: StreamHouse) -> None:
        well = Well(house.serve())
        with pytest.raises(errors.DeadlineExceeded) as late:
            [item async for item in house.stream(house.caller(), "count", 3, timeout=timeout)]
        assert late.value.not_started
        assert well.made == 0

    told(story)


# --- handlers that tidy up


def tidying(ended: list[str]) -> Any:
    async def handler(body: Any) -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.5)
            ended.append("tidied")

    return handler


def test_a_handler_that_tidies_up_has_the_time_it_takes() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve()
        ended: list[str] = []
        server.respond("tidying", tidying(ended))
        async for _ in house.stream(house.caller(), "tidying"):
            break
        await quiet()
        assert (server.in_flight, ended) == (1, []), "its slot is taken until it has really stopped"
        await server.drained()
        assert ended == ["tidied"]

    told(story)


@pytest.mark.parametrize("stream", [False, True])
def test_a_deadline_that_both_sides_see_stops_a_handler_once(stream: bool) -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve()
        ended: list[str] = []

        async def task(body: Any) -> Any:
            return [item async for item in tidying(ended)(body)]

        server.respond("stream", tidying(ended))
        server.respond("task", task)
        caller = house.caller()

        async def call() -> None:
            if stream:
                [item async for item in house.stream(caller, "stream", timeout=2.0, total=2.0)]
            else:
                await house.ask(caller, "task", timeout=2.0)

        with pytest.raises(errors.DeadlineExceeded):
            await call()
        await server.drained()
        assert ended == ["tidied"]

    told(story)


def test_a_loop_that_stood_still_ends_what_is_late_when_it_goes_on() -> None:
    async def story(house: StreamHouse) -> None:
        well = Well(house.serve())
        items = aiter(house.stream(house.caller(), "drip", 1, idle=2.0))
        await anext(items)
        waiting = asyncio.create_task(next_of(items))
        await well.dry.wait()
        await quiet()
        hold_up_the_loop(60.0)
        with pytest.raises(errors.DeadlineExceeded):
            await waiting
        await house.over()
        assert well.ended == ["CancelledError"]

    told(story)
