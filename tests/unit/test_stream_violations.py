"""Streams spoken by hand: whatever crosses on the way, a request has one terminal envelope, and whoever says
what may not follow ends one call and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.fakes.rpc import Impostor, Stranger, request
from tests.fakes.streaming import StreamHouse, Well, books_of_caller, quiet, told
from wrk_base import errors
from wrk_base.rpc import wire
from wrk_base.rpc.call import StreamCall
from wrk_base.rpc.peers import Peers
from wrk_base.rpc.stream import FIRST_BYTES, FIRST_ITEMS

STREAM = wire.STREAM_WANTED


def items_of(guest: Stranger, call_id: int) -> list[Any]:
    """The items that it heard, after a look at their numbers."""
    got: list[Any] = []
    for envelope in guest.of(wire.ITEM):
        if envelope[2] == call_id:
            assert envelope[3] == len(got), "numbered from 0, without a gap"
            got += [wire.unpack_body(payload) for payload in envelope[5]]
    return got


def an_item(call_id: int, first: int, *items: Any, content_type: int = wire.MSGPACK) -> wire.Envelope:
    payloads = [wire.pack_body(item, content_type) for item in items]
    return (wire.ITEM, 0, call_id, first, content_type, payloads)


def an_end(call_id: int, items: int, value: Any = None) -> wire.Envelope:
    return (wire.END, 0, call_id, items, None, wire.MSGPACK, wire.pack_body(value), None)


def a_reply(call_id: int, value: Any = None) -> wire.Envelope:
    return (wire.REPLY, 0, call_id, None, wire.MSGPACK, wire.pack_body(value), None)


# --- a caller that speaks by hand


def test_a_handler_makes_what_was_granted_and_waits() -> None:
    async def story(house: StreamHouse) -> None:
        well = Well(house.serve())
        guest = await house.guest()
        await guest.say(request(1, "endless", flags=STREAM))
        await well.stalls()
        assert items_of(guest, 1) == list(range(FIRST_ITEMS))
        await guest.say((wire.CREDIT, 0, 1, FIRST_ITEMS + 5, FIRST_BYTES))
        await well.stalls()
        assert items_of(guest, 1) == list(range(FIRST_ITEMS + 5))
        await guest.say((wire.CANCEL, 0, 1))
        await guest.hears(wire.ERROR)

    told(story)


@pytest.mark.parametrize(
    "grant",
    [
        pytest.param((wire.CREDIT, 0, 1, 3, 100), id="it shrinks"),
        pytest.param((wire.CREDIT, 0, 1, -5, -5), id="it is negative"),
        pytest.param((wire.CREDIT, 0, 1, FIRST_ITEMS, FIRST_BYTES), id="it says what was said"),
        pytest.param((wire.CREDIT, 0, 1, 1000, FIRST_BYTES // 10), id="items and no bytes"),
        pytest.param((wire.CREDIT, 0, 77, 1000, FIRST_BYTES * 2), id="a stream that nobody asked for"),
        pytest.param((wire.CREDIT, 0, 2, 1000, FIRST_BYTES * 2), id="a call that does not stream"),
    ],
)
def test_a_grant_that_grants_nothing_moves_nothing_and_harms_nobody(grant: wire.Envelope) -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve()
        well = Well(server, size=FIRST_BYTES // FIRST_ITEMS)  # so that both ends of the credit are reached
        guest = await house.guest()
        await guest.say(request(1, "endless", flags=STREAM), request(2, "drip", 0))
        await well.stalls()
        made = len(items_of(guest, 1))
        assert 0 < made <= FIRST_ITEMS
        await guest.say(grant)
        await quiet()
        assert len(items_of(guest, 1)) == made
        await guest.say((wire.CREDIT, 0, 1, made + 3, 10 * FIRST_BYTES))
        await quiet()
        assert len(items_of(guest, 1)) >= made + 3, "what is granted after it counts"
        await guest.say((wire.CANCEL, 0, 1), (wire.CANCEL, 0, 2), request(3))
        await guest.hears(wire.ERROR, 2)
        assert len(guest.answers(3)) == 1

    told(story)


def test_a_cancel_that_crosses_the_end_changes_nothing() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve()
        Well(server)
        guest = await house.guest()
        await guest.say(request(1, "count", 3, flags=STREAM))
        (end,) = await guest.hears(wire.END)
        await guest.say((wire.CANCEL, 0, 1), (wire.CREDIT, 0, 1, 1000, 2 * FIRST_BYTES))
        await quiet()
        assert guest.answers(1) == [end]
        assert (end[3], wire.unpack_head(end[4])) == (3, {"made": 3})
        assert server.counters["cancels"] == 0

    told(story)


@pytest.mark.parametrize("method", ["endless", "drip"])
@pytest.mark.parametrize("apart", [False, True])
def test_two_cancels_are_one(method: str, apart: bool) -> None:
    async def story(house: StreamHouse) -> None:
        well = Well(house.serve())
        guest = await house.guest()
        await guest.say(request(1, method, 3, flags=STREAM))
        await quiet()
        await guest.say((wire.CANCEL, 0, 1), *([] if apart else [(wire.CANCEL, 0, 1)]))
        if apart:
            await guest.say((wire.CANCEL, 0, 1))
        (error,) = await guest.hears(wire.ERROR)
        await quiet()
        assert guest.answers(1) == [error]
        assert error[4] == "ERR_CANCELLED"
        assert error[10]["items"] == len(items_of(guest, 1))
        assert len(well.ended) == 1

    told(story)


def test_a_second_cancel_does_not_disturb_a_handler_that_tidies_up() -> None:
    async def story(house: StreamHouse) -> None:
        tidied = []

        async def tidying(body: Any) -> AsyncIterator[int]:
            try:
                yield 1
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(1)
                tidied.append(True)

        house.serve().respond("tidying", tidying)
        guest = await house.guest()
        await guest.say(request(1, "tidying", flags=STREAM))
        await guest.hears(wire.ITEM)
        await guest.say((wire.CANCEL, 0, 1))
        await quiet()
        await guest.say((wire.CANCEL, 0, 1))
        await guest.hears(wire.ERROR)
        assert tidied == [True]

    told(story)


def test_a_cancel_right_behind_a_stream_wins() -> None:
    async def story(house: StreamHouse) -> None:
        well = Well(house.serve())
        guest = await house.guest()
        await guest.say(request(1, "endless", flags=STREAM), (wire.CANCEL, 0, 1))
        (error,) = await guest.hears(wire.ERROR)
        assert (error[4], error[9]) == ("ERR_CANCELLED", True)
        await quiet()
        assert well.made == 0
        assert guest.answers(1) == [error]

    told(story)


def test_a_caller_that_is_gone_stops_all_its_streams() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve()
        well = Well(server)
        guest = await house.guest()
        await guest.say(*(request(number, "endless", flags=STREAM) for number in range(1, 20)))
        await guest.until(lambda: len({e[2] for e in guest.of(wire.ITEM)}) == 19)
        guest.link.close()
        await quiet()
        assert server.in_flight == 0
        assert len(well.ended) == 19

    told(story)


def test_a_caller_that_leaves_in_the_middle_of_an_item_that_is_held_leaves_nothing() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve()
        Well(server)
        guest = await house.guest()
        await guest.say(request(1, "endless", flags=STREAM))
        await guest.hears(wire.ITEM)
        (caller,) = server.callers.values()
        caller.pace.fast = True  # from now on items wait a moment for each other
        await guest.say((wire.CREDIT, 0, 1, 1000, FIRST_BYTES), (wire.BYE, 0, 0))
        await quiet()
        assert server.in_flight == 0
        assert server.callers == {}

    told(story)


# --- a server that speaks by hand


async def asked(house: StreamHouse) -> tuple[Impostor, Peers]:
    """An impostor, and a caller that has its link to it."""
    impostor = house.impostor()
    caller = house.caller()
    asking = asyncio.create_task(house.ask(caller))
    await impostor.until(lambda: impostor.of(wire.REQUEST))
    impostor.say(a_reply(1))
    await asking
    return impostor, caller


BROKEN = {
    "an item out of order": [an_item(2, 1, "late")],
    "an item twice": [an_item(2, 0, "a"), an_item(2, 0, "a")],
    "an item with a negative number": [an_item(2, -1, "a")],
    "one item beyond the credit": [an_item(2, 0, *range(FIRST_ITEMS)), an_item(2, FIRST_ITEMS, "more")],
    "many items beyond the credit": [an_item(2, 0, *range(FIRST_ITEMS + 1))],
    "bytes beyond the credit": [
        an_item(2, 0, bytes(FIRST_BYTES), content_type=wire.OCTETS),
        an_item(2, 1, "more"),
    ],
    "an end with too many items": [an_item(2, 0, "a", "b"), an_end(2, 3)],
    "an end with too few items": [an_item(2, 0, "a", "b"), an_end(2, 1)],
    "an end with items that never came": [an_end(2, 1)],
    "one result": [a_reply(2, "all")],
    "one result after items": [an_item(2, 0, "a"), a_reply(2, "all")],
    "a body of no size": [(wire.END, wire.MORE_CHUNKS, 2, 0, None, wire.OCTETS, b"", None)],
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_stream_that_breaks_the_rules_ends_and_nothing_else_does(what: str) -> None:
    async def story(house: StreamHouse) -> None:
        impostor, caller = await asked(house)

        async def read() -> list[Any]:
            return [item async for item in house.stream(caller, "any")]

        broken = asyncio.create_task(read())
        await impostor.until(lambda: len(impostor.of(wire.REQUEST)) == 2)
        beside = asyncio.create_task(read())
        await impostor.until(lambda: len(impostor.of(wire.REQUEST)) == 3)
        impostor.say(*BROKEN[what])
        with pytest.raises(errors.Internal) as failure:
            await broken
        assert "items" in failure.value.data
        assert books_of_caller(caller)["open calls"] == [3]
        impostor.say(an_item(2, 0, "of a call that has ended"), an_item(3, 0, "fine"), an_end(3, 1))
        assert await beside == ["fine"]
        await quiet()
        cancelled = [envelope[2] for envelope in impostor.of(wire.CANCEL)]
        assert cancelled == ([] if what.startswith("one result") else [2]), "an end needs no CANCEL"

    told(story)


@pytest.mark.parametrize(
    "said",
    [
        pytest.param([an_item(2, 0, "a")], id="an item"),
        pytest.param([an_end(2, 0, "all")], id="an end"),
        pytest.param([an_item(2, 0, "a"), an_end(2, 1)], id="a stream"),
    ],
)
def test_a_stream_to_a_call_that_wants_none_ends_that_call(said: list[wire.Envelope]) -> None:
    async def story(house: StreamHouse) -> None:
        impostor, caller = await asked(house)
        broken = asyncio.create_task(house.ask(caller))
        await impostor.until(lambda: len(impostor.of(wire.REQUEST)) == 2)
        impostor.say(*said)
        with pytest.raises(errors.Internal, match="broke the protocol"):
            await broken
        assert books_of_caller(caller) == {}

    told(story)


def test_what_comes_for_nobody_is_counted_and_ignored() -> None:
    async def story(house: StreamHouse) -> None:
        impostor, caller = await asked(house)
        peer = caller.get(house.endpoint)
        late = peer.late_answers
        impostor.say(an_item(99, 0, "a"), an_end(99, 1), a_reply(99), (wire.CREDIT, 0, 99, 5, 5))
        await quiet()
        assert peer.late_answers == late + 3
        assert peer.malformed == 1, "nobody grants a caller anything"

    told(story)


def test_items_right_before_the_end_are_read_though_the_call_is_over() -> None:
    async def story(house: StreamHouse) -> None:
        impostor, caller = await asked(house)
        stream = house.stream(caller, "any")
        items = aiter(stream)
        impostor.silent = True
        await impostor.until(lambda: len(impostor.of(wire.REQUEST)) == 2)
        impostor.say(an_item(2, 0, "a", "b"), an_item(2, 2, "c"), an_end(2, 3, "all"))
        await quiet()
        assert books_of_caller(caller) == {}
        assert [item async for item in items] == ["a", "b", "c"]
        assert stream.value == "all"

    told(story)


def test_the_items_of_a_stream_are_of_one_kind() -> None:
    async def story(house: StreamHouse) -> None:
        impostor, caller = await asked(house)
        items = aiter(house.stream(caller, "any"))
        await impostor.until(lambda: len(impostor.of(wire.REQUEST)) == 2)
        impostor.say(an_item(2, 0, [1, 2]), an_item(2, 1, [3], content_type=wire.JSON), an_end(2, 2))
        assert await anext(items) == [1, 2]
        with pytest.raises(errors.Internal, match="broke the protocol"):
            await anext(items)

    told(story)


def test_an_item_that_is_malformed_ends_its_stream() -> None:
    async def story(house: StreamHouse) -> None:
        impostor, caller = await asked(house)
        items = aiter(house.stream(caller, "any"))
        await impostor.until(lambda: len(impostor.of(wire.REQUEST)) == 2)
        impostor.say((wire.ITEM, 0, 2, 0, wire.MSGPACK, [b"\xc1"]))
        with pytest.raises(errors.Internal, match="malformed"):
            await anext(items)
        await impostor.until(lambda: impostor.of(wire.CANCEL))
        assert books_of_caller(caller) == {}

    told(story)


class Forwarder(StreamCall):
    """A call such as a router makes: it takes what comes and writes down how it ends."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[str] = []

    def items(self, first: int, content_type: int, payloads: tuple[bytes, ...]) -> bool:
        self.received += len(payloads)
        return True

    def ended(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None:
        self.ends.append("ended")

    def answered(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None:
        self.ends.append("answered")

    def failed(self, error: errors.WrkError) -> None:
        self.ends.append(f"failed: {error.name}")


@pytest.mark.parametrize(
    ("said", "end"),
    [
        pytest.param([an_item(2, 0, "a"), an_end(2, 1), an_end(2, 1)], "ended", id="two ends"),
        pytest.param([a_reply(2), an_item(2, 0, "a")], "answered", id="one result, then an item"),
        pytest.param(
            [an_item(2, 0, "a"), a_reply(2)],
            "failed: ERR_INTERNAL",
            id="one result after items",
        ),
        pytest.param(
            [an_item(2, 0, "a"), (wire.REJECT, 0, 2, "no")],
            "failed: ERR_INTERNAL",
            id="never begun, after items",
        ),
    ],
)
def test_a_call_ends_once_and_as_the_table_says(said: list[wire.Envelope], end: str) -> None:
    async def story(house: StreamHouse) -> None:
        impostor, caller = await asked(house)
        call = Forwarder()
        deadline = asyncio.get_running_loop().time() + 10.0
        caller.get(house.endpoint).start(call, deadline, ("any", STREAM, None, wire.MSGPACK, b"\xc0"))
        await impostor.until(lambda: len(impostor.of(wire.REQUEST)) == 2)
        impostor.say(*said)
        await quiet()
        assert call.ends == [end]

    told(story)
