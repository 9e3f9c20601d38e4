"""Links in memory: a small real implementation of `wrk_base.rpc.link`, for tests without sockets.

One `FakeNetwork` is the wire between all workers of a test. Everything is delivered by `call_soon`, in
order, so a virtual-time loop can run it too. It passes the same contract suite as the ZeroMQ links.
Faults are named after what happens to the process behind an endpoint: `cut` breaks its connections,
`refuse` turns new ones away, `pause` stops it (what is sent to it and by it waits) until `resume`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import count
from typing import Any

from wrk_base.errors import StartError
from wrk_base.rpc.link import LinkEvents, ListenerEvents
from wrk_base.rpc.membership import Membership
from wrk_base.rpc.tick import Tick

FIRST_PORT = 20_000
MAX_MESSAGE = 1_048_576


class FakeNetwork:
    """Makes links; an endpoint is any `tcp://host:port`, and port 0 is chosen here."""

    def __init__(self, max_message: int = MAX_MESSAGE) -> None:
        self.max_message = max_message
        self.dials: list[str] = []
        self.listeners: dict[str, FakeListener] = {}
        self._ports = count(FIRST_PORT)
        self._refusing: set[str] = set()
        self._paused: set[str] = set()
        self._tick: Tick | None = None

    rescued = 0  # nothing is ever forgotten in memory
    membership: Membership | None = None

    @property
    def tick(self) -> Tick:
        if self._tick is None:
            self._tick = Tick(asyncio.get_running_loop())
        return self._tick

    # --- what the RPC layer asks for

    def listen(self, endpoint: str, events: ListenerEvents) -> FakeListener:
        host, _, port = endpoint.rpartition(":")
        if not host.startswith("tcp://") or not port.isdigit():
            raise StartError(f"cannot listen on {endpoint}: no such address")
        if port == "0":
            endpoint = f"{host}:{next(self._ports)}"
        if endpoint in self.listeners:
            raise StartError(f"cannot listen on {endpoint}: the port is in use")
        self.listeners[endpoint] = FakeListener(self, endpoint, events)
        return self.listeners[endpoint]

    def dial(self, endpoint: str, events: LinkEvents, *, heartbeat: bool = True) -> FakeLink:
        self.dials.append(endpoint)
        return FakeLink(self, endpoint, events)

    async def diagnose(self, endpoint: str) -> str:
        if endpoint in self._refusing or endpoint not in self.listeners:
            return "connection refused: nothing listens on that port"
        return "the port accepts connections, but no worker answered the greeting in time"

    async def host_answers(self, endpoint: str) -> bool:
        return endpoint in self.listeners and endpoint not in self._paused | self._refusing

    def close(self) -> None:
        """Every link and listener must be closed already, as a ZeroMQ context wants it."""
        assert not self.listeners, f"still listening: {list(self.listeners)}"

    # --- faults

    def cut(self, endpoint: str) -> None:
        """Break every connection to `endpoint`; both sides learn of it, and may dial again."""
        for link in list(self.listeners[endpoint].links.values()):
            link.lose("the connection was lost")

    def refuse(self, endpoint: str) -> None:
        """Turn new connections away until `allow`; those that stand are left alone."""
        self._refusing.add(endpoint)

    def allow(self, endpoint: str) -> None:
        self._refusing.discard(endpoint)

    def pause(self, endpoint: str) -> None:
        """Stop the process behind `endpoint`: nothing comes up, arrives or leaves there until `resume`."""
        self._paused.add(endpoint)

    def resume(self, endpoint: str) -> None:
        self._paused.discard(endpoint)
        listener = self.listeners.get(endpoint)
        if listener is not None:
            listener.wake()
            for link in [*listener.dialling, *listener.links.values()]:
                link.wake()

    def is_paused(self, endpoint: str) -> bool:
        return endpoint in self._paused

    def is_too_long(self, message: bytes, chunk: memoryview | None) -> bool:
        """The limit is for each frame."""
        return max(len(message), 0 if chunk is None else len(chunk)) > self.max_message

    def accepting(self, endpoint: str) -> FakeListener | None:
        return None if endpoint in self._refusing else self.listeners.get(endpoint)


class _End:
    """One end of a wire: what has arrived is handed over in one batch, in a turn of its own."""

    def __init__(self, network: FakeNetwork, endpoint: str) -> None:
        self.network, self.endpoint = network, endpoint
        self.is_open = True
        self.inbox: deque[Any] = deque()
        self._loop = asyncio.get_running_loop()
        self._due = False

    def wake(self) -> None:
        if not self._due and self.is_open:
            self._due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._due = False
        if not self.is_open or self.network.is_paused(self.endpoint):
            return
        try:
            with self.network.tick:
                self._deliver()
        finally:
            if self.inbox:  # an owner's exception must not leave the rest lying
                self.wake()

    def _deliver(self) -> None:
        raise NotImplementedError


class FakeListener(_End):
    def __init__(self, network: FakeNetwork, endpoint: str, events: ListenerEvents) -> None:
        super().__init__(network, endpoint)
        self.links: dict[bytes, FakeLink] = {}
        self.dialling: list[FakeLink] = []
        self._events = events
        self._ids = count(1)

    def send(self, routing_id: bytes, message: bytes, chunk: memoryview | None = None) -> bool:
        link = self.links.get(routing_id)
        if link is None or not self.is_open:
            return False
        link.arrive(message, chunk)
        return True

    def key_of(self, routing_id: bytes) -> bytes:
        return b""

    def settled(self, routing_id: bytes) -> None:
        """Nobody is thrown out here for saying nothing."""

    def expel(self, routing_id: bytes) -> None:
        link = self.links.get(routing_id)
        if link is not None:
            link.lose("the connection was lost")

    def forget(self, routing_id: bytes) -> None:
        """Nothing is kept of a peer that is gone."""

    def close(self, linger_ms: int = 0) -> None:
        if self.is_open:
            self.is_open = False
            del self.network.listeners[self.endpoint]
            for link in [*self.dialling, *self.links.values()]:
                link.lose("the connection was lost")

    def accept(self, link: FakeLink) -> bytes:
        self.dialling.remove(link)
        routing_id = b"\0" + next(self._ids).to_bytes(4, "big")
        self.links[routing_id] = link
        return routing_id

    def arrive(self, routing_id: bytes, message: bytes | None, chunk: memoryview | None = None) -> None:
        """None stands for the end of the connection: it comes after all that was sent before it."""
        self.inbox.append((routing_id, message, chunk))
        self.wake()

    def _deliver(self) -> None:
        lost = []
        for _ in range(len(self.inbox)):
            routing_id, message, chunk = self.inbox.popleft()
            if message is None:
                lost.append(routing_id)
            elif self.is_open:
                self._events.on_message(routing_id, message, chunk)
        if self.is_open:
            self._events.on_drained()
        for routing_id in lost:
            if self.is_open:
                self._events.on_doubt(routing_id)


class FakeLink(_End):
    key = b""

    def __init__(self, network: FakeNetwork, endpoint: str, events: LinkEvents) -> None:
        super().__init__(network, endpoint)
        self._events = events
        self._routing_id = b""
        self._lost = ""
        self._listener = network.accepting(endpoint)
        if self._listener is None:
            self._lost = "nothing accepts connections there"
        else:
            self._listener.dialling.append(self)
        self.wake()

    def send(self, message: bytes, chunk: memoryview | None = None) -> bool:
        if not self.is_open or not self._routing_id or self._lost:
            return False
        assert self._listener is not None
        if self.network.is_too_long(message, chunk):
            self.lose("the connection was lost")
        else:
            self._listener.arrive(self._routing_id, message, chunk)
        return True

    def close(self, linger_ms: int = 0) -> None:
        if self.is_open:
            self.is_open = False
            self._leave()

    def lose(self, reason: str) -> None:
        """The connection broke: what had arrived is still read, then the owner is told."""
        self._lost = self._lost or reason
        self._leave()
        self.wake()

    def arrive(self, message: bytes, chunk: memoryview | None = None) -> None:
        if self.network.is_too_long(message, chunk):
            self.lose("the connection was lost")
            return
        self.inbox.append((message, chunk))
        self.wake()

    def _turn(self) -> None:
        # The dialling process is not the one that was paused: it learns of a loss at any time.
        if self._lost and self.network.is_paused(self.endpoint):
            self._due = False
            self._end()
            return
        super()._turn()

    def _deliver(self) -> None:
        if not self._routing_id and not self._lost:
            assert self._listener is not None
            self._routing_id = self._listener.accept(self)
            self._events.on_up()
        arrived = len(self.inbox)
        for _ in range(arrived):
            if self.is_open:
                self._events.on_message(*self.inbox.popleft())
        if arrived and self.is_open:
            self._events.on_drained()
        self._end()

    def _end(self) -> None:
        if self._lost and self.is_open:
            self.is_open = False
            self._events.on_down(self._lost)

    def _leave(self) -> None:
        """Take this end off the listener's books, which then doubts it."""
        listener = self._listener
        if listener is None:
            return
        if self in listener.dialling:
            listener.dialling.remove(self)
        if listener.links.pop(self._routing_id, None) is not None and listener.is_open:
            listener.arrive(self._routing_id, None)
