"""A house of RPC ends on one fake network, for stories about servers and peers.

`House` makes servers and peers and closes them. A `Stranger` speaks to a server in hand-made envelopes,
an `Impostor` answers peers in hand-made ones: for what well-behaved ends never say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from tests.fakes.aio import Watch, run
from tests.fakes.network import FakeNetwork
from tests.fakes.virtual_time import VirtualLoop
from wrk_base.rpc import wire
from wrk_base.rpc.client import Peer, PeerEvents
from wrk_base.rpc.identity import Identity
from wrk_base.rpc.line import PeerLimits
from wrk_base.rpc.link import Network
from wrk_base.rpc.peers import Peers
from wrk_base.rpc.runner import RunLimits
from wrk_base.rpc.server import Server, ServerLimits

ANY_PORT = "tcp://127.0.0.1:0"
EPOCH = 7
CLIENT = Identity("client-1", epoch=1, role="client")


def caller_on(network: Network) -> Peers:
    """A client's links on this network."""
    return Peers(
        network=network,
        identity=Identity("caller", epoch=1, role="client"),
        rng=Random(0),
        limits=PeerLimits(),
        max_peers=8,
        linger=60.0,
    )


class RecordedLog:
    """A log that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Any:
        return lambda event, **facts: self.events.append((event, facts))

    def names(self) -> list[str]:
        return [event for event, _ in self.events]


class Happenings(Watch, PeerEvents):
    """What a peer's owner heard, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.story: list[str] = []
        self.loads: list[dict[str, Any] | None] = []

    def on_ready(self, peer: Peer) -> None:
        assert peer.info is not None
        self._note(f"ready: {peer.info.worker_id} {peer.info.epoch}")

    def on_down(self, peer: Peer, reason: str) -> None:
        self._note(f"down: {reason}")

    def on_goaway(self, peer: Peer, message: str) -> None:
        self._note(f"goaway: {message}")

    def on_traffic(self, peer: Peer, load: dict[str, Any] | None) -> None:
        self.loads.append(load)
        self.noted()

    def _note(self, event: str) -> None:
        self.story.append(event)
        self.noted()


class Stranger(Watch):
    """One link to a server; says what it is told to and writes down what it hears."""

    def __init__(self, network: Network, endpoint: str) -> None:
        super().__init__()
        self.heard: list[wire.Envelope] = []
        self.chunks: list[tuple[int, bytes]] = []
        self.up = False
        self.downs: list[str] = []
        self.clock_ms = 1_000_000  # its own: differs from everybody else's
        self.link = network.dial(endpoint, self)

    def on_up(self) -> None:
        self.up = True
        self.noted()

    def on_message(self, message: bytes, chunk: memoryview | None = None) -> None:
        envelopes = wire.decode(message)[1]
        self.heard.extend(envelopes)
        if chunk is not None:
            self.chunks.append((envelopes[0][2], bytes(chunk)))
        self.noted()

    def on_drained(self) -> None:
        """Nothing waits for the end of a batch."""

    def on_down(self, reason: str) -> None:
        self.downs.append(reason)
        self.noted()

    async def say(self, *envelopes: Any) -> None:
        """One message; `clock_ms` is when it claims to have left."""
        await self.until(lambda: self.up)
        assert self.link.send(wire.encode(list(envelopes), self.clock_ms))

    async def say_bytes(self, message: bytes) -> None:
        await self.until(lambda: self.up)
        assert self.link.send(message)

    async def say_chunk(self, call_id: int, chunk: bytes, *, more: bool) -> None:
        """The next bytes of a body that `request` announced."""
        envelope = (wire.CHUNK, wire.MORE_CHUNKS if more else 0, call_id)
        await self.until(lambda: self.up)
        assert self.link.send(wire.encode([envelope], self.clock_ms), memoryview(chunk))

    async def greet(self, identity: Identity = CLIENT, **facts: Any) -> None:
        await self.say((wire.HELLO, 0, 0, {**identity.greeting({}), **facts}))

    async def hears(self, kind: int, count: int = 1) -> list[wire.Envelope]:
        """The first `count` envelopes of this kind, once they are there."""
        await self.until(lambda: len(self.of(kind)) >= count)
        return self.of(kind)

    def of(self, kind: int) -> list[wire.Envelope]:
        return [envelope for envelope in self.heard if envelope[0] == kind]

    def answers(self, call_id: int) -> list[wire.Envelope]:
        """The terminal envelopes of one request; there should be exactly one."""
        terminal = (wire.REPLY, wire.END, wire.ERROR, wire.REJECT)
        return [envelope for envelope in self.heard if envelope[0] in terminal and envelope[2] == call_id]


def request(call_id: int, method: str = "echo", body: Any = None, **fields: Any) -> wire.Envelope:
    """A REQUEST as a client would send it; `fields` replace what is not to the taste of the story."""
    facts = {"flags": 0, "epoch": EPOCH, "remaining": 10_000, "head": None, "extras": None, **fields}
    return (
        wire.REQUEST,
        facts["flags"],
        call_id,
        facts["epoch"],
        method,
        facts["remaining"],
        facts["head"],
        wire.MSGPACK,
        wire.pack_body(body),
        facts["extras"],
    )


class Impostor(Watch):
    """A listener that writes down what it hears and says only what it is told to."""

    def __init__(self, network: Network, endpoint: str = ANY_PORT) -> None:
        super().__init__()
        self.heard: list[wire.Envelope] = []
        self.chunks: list[tuple[int, bytes]] = []
        self.callers: list[bytes] = []
        self.silent = False
        self.listener = network.listen(endpoint, self)
        self.endpoint = self.listener.endpoint

    def on_message(self, routing_id: bytes, message: bytes, chunk: memoryview | None = None) -> None:
        if routing_id not in self.callers:
            self.callers.append(routing_id)
        envelopes = wire.decode(message)[1]
        self.heard.extend(envelopes)
        if chunk is not None:
            self.chunks.append((envelopes[0][2], bytes(chunk)))
        if envelopes[0][0] == wire.HELLO and not self.silent:
            self.say((wire.HELLO_OK, 0, 0, Identity("impostor", EPOCH, "rack").greeting({})))
        self.noted()

    def on_drained(self) -> None:
        """Nothing waits for the end of a batch."""

    def on_lost(self, routing_id: bytes) -> None:
        """It does not care."""

    def on_doubt(self, routing_id: bytes) -> None:
        """It does not care."""

    def on_crowded(self) -> None: ...

    def on_malformed(self) -> None:
        """It does not care."""

    def say(self, *envelopes: Any) -> None:
        """To the latest caller."""
        self.listener.send(self.callers[-1], wire.encode(list(envelopes), 0))

    def say_chunk(self, call_id: int, chunk: bytes, *, more: bool) -> None:
        """The next bytes of a body that it announced."""
        envelope = (wire.CHUNK, wire.MORE_CHUNKS if more else 0, call_id)
        self.listener.send(self.callers[-1], wire.encode([envelope], 0), memoryview(chunk))

    def of(self, kind: int) -> list[wire.Envelope]:
        return [envelope for envelope in self.heard if envelope[0] == kind]


class House:
    """Servers and peers on one network: the fake one, or one that is given."""

    def __init__(self, network: Network | None = None) -> None:
        self.fake = FakeNetwork()
        self.network: Network = network or self.fake
        self.log = RecordedLog()
        self.servers: list[Server] = []
        self.peers: list[Peer] = []
        self.strangers: list[Stranger] = []
        self.impostors: list[Impostor] = []
        self.endpoint = ""

    async def __aenter__(self) -> House:
        return self

    async def __aexit__(self, *trouble: object) -> None:
        for peer in self.peers:
            peer.close()
        for stranger in self.strangers:
            stranger.link.close()
        for server in self.servers:
            server.cancel_all()
            async with asyncio.timeout(5.0):
                await server.drained()
            server.close()
        for impostor in self.impostors:
            impostor.listener.close()
        self.fake.close()

    def serve(self, endpoint: str = ANY_PORT, *, epoch: int = EPOCH, **limits: int) -> Server:
        """A server with an `echo`; its endpoint becomes the house's. Limits are those of server or runner."""
        run = {name: limits.pop(name) for name in RunLimits.__slots__ if name in limits}
        told = ServerLimits(run=RunLimits(**run), **limits)
        server = Server(Identity("server-1", epoch, "rack"), log=self.log, limits=told)  # type: ignore[arg-type]
        server.respond("echo", lambda body: body)
        self.endpoint = server.listen(self.network, endpoint)
        self.servers.append(server)
        return server

    def peer(
        self, endpoint: str = "", *, events: PeerEvents | None = None, keep: bool = False, **limits: Any
    ) -> Peer:
        peer = Peer(
            endpoint or self.endpoint,
            network=self.network,
            identity=CLIENT,
            rng=Random(1),
            limits=PeerLimits(**limits),
            events=events,
            keep=keep,
        )
        self.peers.append(peer)
        return peer

    def stranger(self) -> Stranger:
        self.strangers.append(Stranger(self.network, self.endpoint))
        return self.strangers[-1]

    async def guest(self) -> Stranger:
        """A stranger that has greeted."""
        stranger = self.stranger()
        await stranger.greet()
        await stranger.hears(wire.HELLO_OK)
        return stranger

    def impostor(self) -> Impostor:
        self.impostors.append(Impostor(self.network))
        self.endpoint = self.impostors[-1].endpoint
        return self.impostors[-1]


class Diary:
    """Handlers that write down what happens to them."""

    def __init__(self, server: Server) -> None:
        self.begun: list[Any] = []
        self.ended: list[str] = []
        self.release = asyncio.Event()
        self.arrived = asyncio.Event()
        server.respond("note", self.note)
        server.respond("wait", self.wait)

    def note(self, body: Any) -> Any:
        self.begun.append(body)
        return body

    async def wait(self, body: Any) -> Any:
        self.begun.append(body)
        self.arrived.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        self.ended.append("done")
        return body


def told(story: Callable[[House], Coroutine[Any, Any, None]], within: float = 1000.0) -> None:
    """Run a story in virtual time, in a house of its own; `within` are virtual seconds."""

    async def tell() -> None:
        async with House() as house:
            await story(house)

    run(tell(), "virtual", within)


async def ask(peer: Peer, method: str = "echo", body: Any = None, seconds: float = 10.0) -> Any:
    """One call with a plain body and a plain result."""
    now = asyncio.get_running_loop().time()
    reply = await peer.call(method, wire.pack_body(body), deadline=now + seconds)
    return wire.unpack_body(reply.payload, reply.content_type)


def hold_up_the_loop(seconds: float) -> None:
    """What a slow handler does to everybody, in virtual time."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop._now += seconds


def timers() -> int:
    """What is still planned on the running virtual loop, the guard of the test itself left out."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return sum(not timer.cancelled() for timer in loop._scheduled) - 1
