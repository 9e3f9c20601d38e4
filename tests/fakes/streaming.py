"""A house for stories about streams and bodies: callers that read streams, a well that makes items, and
a look at every book of both sides, which has to be empty when a call is over, however it ended.

A story runs in virtual time on the fake network, or on real sockets, where the same things have to hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from random import Random
from typing import Any, Literal

from tests.fakes.aio import closed, eventually, run
from tests.fakes.rpc import CLIENT, House
from wrk_base.rpc.body import Budget
from wrk_base.rpc.line import PeerLimits
from wrk_base.rpc.link import Network
from wrk_base.rpc.peers import Peers
from wrk_base.rpc.request import Final
from wrk_base.rpc.server import Server
from wrk_base.rpc.streams import Stream
from wrk_base.rpc.zmq_link import ZmqNetwork

Place = Literal["virtual", "asyncio", "uvloop"]
PLACES: tuple[Place, ...] = ("virtual", "asyncio", "uvloop")


class StreamHouse(House):
    """A house with callers that read streams."""

    def __init__(self, network: Network | None = None) -> None:
        super().__init__(network)
        self.callers: list[Peers] = []

    async def __aenter__(self) -> StreamHouse:
        return self

    async def __aexit__(self, *trouble: object) -> None:
        for caller in self.callers:
            caller.close()
        await super().__aexit__(*trouble)

    def caller(self, *, held: Budget | None = None, **limits: Any) -> Peers:
        caller = Peers(
            network=self.network,
            identity=CLIENT,
            rng=Random(1),
            limits=PeerLimits(**limits),
            max_peers=64,
            linger=600.0,
            held=held,
        )
        self.callers.append(caller)
        return caller

    def stream(self, caller: Peers, method: str, body: Any = None, **terms: Any) -> Stream:
        return caller.stream(self.endpoint, method, body, **{"timeout": 10.0, **terms})

    async def ask(self, caller: Peers, method: str = "echo", body: Any = None, timeout: float = 10.0) -> Any:
        return await caller.request(self.endpoint, method, body, timeout=timeout)

    async def over(self) -> None:
        """Returns when no handler runs; then nothing may be left of any call, on either side."""
        for server in self.servers:
            await server.drained()
        await eventually(lambda: not self.leftovers())

    def leftovers(self) -> dict[str, Any]:
        """What the books of both sides still hold, by name."""
        held: dict[str, Any] = {}
        for server in self.servers:
            held.update(books_of(server))
        for number, caller in enumerate(self.callers):
            for name, value in books_of_caller(caller).items():
                held[f"caller {number} {name}"] = value
        return held


def books_of(server: Server) -> dict[str, Any]:
    """Every book of a server that is not empty."""
    runner = server._runner
    books: dict[str, Any] = {
        "in flight": runner.in_flight,
        "waiting": runner.waiting,
        "watched": len(runner._table.entries),
        "forwarded": len(runner._forwarded),
        "bytes of the process": server._held.used,
        "arrived": len(server._arrived),
    }
    for name, handler in server.handlers.items():
        books[f"{name} in flight"] = handler.stats.in_flight
        books[f"{name} waiting"] = handler.stats.waiting
    for number, caller in enumerate(server.callers.values()):
        books[f"open of {number}"] = sorted(caller.open)
        books[f"streams of {number}"] = caller.streams
        books[f"bytes of {number}"] = caller.held.used
        books[f"bodies for {number}"] = len(caller.outbox._bodies)
    return {name: value for name, value in books.items() if value}


def books_of_caller(caller: Peers) -> dict[str, Any]:
    """Every book of a calling side that is not empty."""
    books: dict[str, Any] = {"bytes": caller._process_bytes.used}
    for peer in [*caller._held.values(), *caller._borrowed.values()]:
        books["open calls"] = sorted(peer._table.entries)
        books["waiting"] = sorted(peer._waiting)
        books["gathering"] = sorted(peer._gathering)
        books["streams"] = peer._streams
        books["bytes of the peer"] = peer._held[0].used
        books["bodies"] = len(peer._outbox._bodies)
    return {name: value for name, value in books.items() if value}


class Well:
    """Streaming handlers that count what they make and write down how they end.

    `count` makes `body` items and a final value; `endless` makes items for ever; `drip` makes `body` items
    and then waits for ever.
    """

    def __init__(self, server: Server, size: int = 0) -> None:
        self.server, self._padding = server, b"x" * size
        self.made = 0
        self.ended: list[str] = []
        self.dry = asyncio.Event()
        server.respond("count", self.count)
        server.respond("endless", self.endless)
        server.respond("drip", self.drip)

    def _item(self) -> Any:
        number, self.made = self.made, self.made + 1
        return [number, self._padding] if self._padding else number

    async def count(self, body: int) -> AsyncIterator[Any]:
        for _ in range(body):
            yield self._item()
        self.ended.append("whole")
        yield Final({"counted": body}, made=body)

    async def endless(self, body: Any) -> AsyncIterator[Any]:
        try:
            while True:
                yield self._item()
        except BaseException as end:
            self.ended.append(type(end).__name__)
            raise

    async def drip(self, body: int) -> AsyncIterator[Any]:
        try:
            for _ in range(body):
                yield self._item()
            self.dry.set()
            await asyncio.Event().wait()
        except BaseException as end:
            self.ended.append(type(end).__name__)
            raise

    async def stalls(self, method: str = "endless") -> None:
        """Returns when the handler waits for its reader and nothing is on its way that lets it go on."""
        stats, seen = self.server.handlers[method].stats, -1
        while stats.credit_stalls != seen:
            await eventually(lambda: stats.credit_stalls)
            seen = stats.credit_stalls
            await quiet()


async def quiet() -> None:
    """Let everything happen that can happen by itself: a virtual clock moves only after that."""
    await asyncio.sleep(0.02)


Story = Callable[[StreamHouse], Coroutine[Any, Any, None]]


def told(story: Story, place: Place = "virtual", within: float = 1000.0) -> None:
    """Run a story in a house of its own; at its end no book may hold anything."""

    async def tell() -> None:
        if place == "virtual":
            async with StreamHouse() as house:
                await story(house)
                await house.over()
            return
        network = ZmqNetwork(asyncio.get_running_loop())
        try:
            async with StreamHouse(network) as house:
                await story(house)
                await house.over()
        finally:
            await closed(network)

    run(tell(), place, within if place == "virtual" else 30.0)
