"""A handler that makes its items without ever waiting: the event loop gets its turns all the same, so that
everybody else is answered and the handler itself can be stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from tests.fakes.aio import eventually
from tests.fakes.rpc import request
from tests.fakes.streaming import StreamHouse, told
from wrk_base.rpc import wire
from wrk_base.rpc.request import Final
from wrk_base.rpc.server import Server

ITEM = "an item of some length " * 4
MANY = 100_000  # items; a handler that is never stopped ends here, and the test goes on to fail
OFTEN = 20  # turns in that time: one for 5,000 items, which is about a millisecond


class Busy:
    """A handler that never waits, and a clock of the event loop beside it."""

    def __init__(self, server: Server) -> None:
        self.made = 0
        self.turns = 0
        self._ended = False
        self._loop = asyncio.get_running_loop()
        server.respond("busy", self.busy)

    async def busy(self, body: Any) -> AsyncIterator[Any]:
        self._turn()
        try:
            while self.made < MANY:
                self.made += 1
                yield ITEM
        finally:
            self._ended = True
        yield Final("done")

    def _turn(self) -> None:
        self.turns += 1
        if not self._ended:
            self._loop.call_soon(self._turn)


def test_a_reader_that_keeps_up_leaves_everybody_their_turn() -> None:
    async def story(house: StreamHouse) -> None:
        busy = Busy(house.serve())
        stream = house.stream(house.caller(), "busy")
        assert [item async for item in stream] == [ITEM] * MANY
        assert busy.turns >= OFTEN

    told(story)


def test_a_caller_that_does_not_stream_leaves_everybody_their_turn() -> None:
    async def story(house: StreamHouse) -> None:
        busy = Busy(house.serve())
        assert await house.ask(house.caller(), "busy") == "done"
        assert busy.turns >= OFTEN

    told(story)


def test_a_caller_that_grants_without_end_leaves_everybody_their_turn() -> None:
    async def story(house: StreamHouse) -> None:
        busy = Busy(house.serve())
        guest = await house.guest()
        await guest.say(request(1, "busy", flags=wire.STREAM_WANTED))
        await guest.hears(wire.ITEM)
        turns = busy.turns
        await guest.say((wire.CREDIT, 0, 1, 2**62, 2**62))
        await eventually(lambda: busy.made == MANY)
        assert busy.turns - turns >= OFTEN

    told(story)


def test_a_caller_that_grants_without_end_and_reads_nothing_is_expelled_and_its_handler_stopped() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve(link_window=1024 * 1024, peer_bytes=1024 * 1024)
        busy = Busy(server)
        guest = await house.guest()
        await guest.say(request(1, "busy", flags=wire.STREAM_WANTED))
        await guest.hears(wire.ITEM)
        await guest.say((wire.CREDIT, 0, 1, 2**62, 2**62))
        await eventually(lambda: guest.downs or busy.made == MANY)
        await server.drained()
        assert guest.downs
        assert busy.made < MANY

    told(story)
