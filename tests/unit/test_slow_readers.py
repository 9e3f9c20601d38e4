"""A reader that is slow, or stops: its producer waits for it, what lies between them is bounded in items and
in bytes, and nobody else on the same link notices."""

from __future__ import annotations

import pytest

from tests.fakes.streaming import PLACES, Place, StreamHouse, Well, quiet, told
from wrk_base.rpc import wire
from wrk_base.rpc.stream import FIRST_BYTES

everywhere = pytest.mark.parametrize("place", PLACES)
KIB = 1024


@everywhere
@pytest.mark.parametrize("reads", [0, 1, 100, 3000])
def test_a_reader_that_stops_stops_its_producer_within_the_window(place: Place, reads: int) -> None:
    async def story(house: StreamHouse) -> None:
        well = Well(house.serve())
        stream = house.stream(house.caller(stream_items=256), "endless")
        items = aiter(stream)
        for number in range(reads):
            assert await anext(items) == number
        await well.stalls()
        assert well.made - reads <= 256 + 1, "the window, and the one that the handler was about to send"
        assert await anext(items) == reads
        for number in range(reads + 1, reads + 600):
            assert await anext(items) == number, "it goes on with its reader"
        del items

    told(story, place)


@everywhere
def test_a_reader_that_stops_costs_a_bounded_number_of_bytes(place: Place) -> None:
    async def story(house: StreamHouse) -> None:
        well = Well(house.serve(), size=10 * KIB)
        stream = house.stream(house.caller(), "endless")
        items = aiter(stream)
        for _ in range(500):
            await anext(items)
        await well.stalls()
        assert (well.made - 500) * 10 * KIB <= KIB * KIB + 2 * 10 * KIB
        del items

    told(story, place)


@everywhere
def test_neighbours_of_a_reader_that_stops_go_on(place: Place) -> None:
    async def story(house: StreamHouse) -> None:
        well = Well(house.serve(), size=5 * KIB)
        caller = house.caller()
        stuck = aiter(house.stream(caller, "endless"))
        await anext(stuck)
        await well.stalls()
        made = well.made
        beside = [item[0] async for item in house.stream(caller, "count", 1000)]
        assert beside == list(range(made, made + 1000))
        for number in range(100):
            assert await house.ask(caller, "echo", number) == number
        assert well.made == made + 1000, "the one that waits is where it was"
        del stuck

    told(story, place)


@pytest.mark.parametrize("pause_every", [1, 10, 60])
@pytest.mark.parametrize(
    ("size", "window"),
    [
        (1000, 1024 * KIB),
        (100_000, 1024 * KIB),
        (262_000, 1024 * KIB),
        (wire.CHUNK_BYTES - 50, FIRST_BYTES),
    ],
)
def test_large_items_travel_whatever_the_reader_does(size: int, window: int, pause_every: int) -> None:
    async def story(house: StreamHouse) -> None:
        Well(house.serve(), size=size)
        got = []
        async for number, _ in house.stream(house.caller(stream_bytes=window), "count", 200):
            got.append(number)
            if len(got) % pause_every == 0:
                await quiet()
        assert got == list(range(200))

    told(story)


@pytest.mark.parametrize(("size", "window"), [(200_000, 1024 * KIB), (100_000, 4096 * KIB)])
def test_items_that_leave_together_fit_into_one_message(size: int, window: int) -> None:
    async def story(house: StreamHouse) -> None:
        Well(house.serve(), size=size)
        got = []
        async for number, _ in house.stream(house.caller(stream_bytes=window), "count", 200):
            got.append(number)
            if len(got) % 10 == 0:
                await quiet()
        assert got == list(range(200))

    told(story)
