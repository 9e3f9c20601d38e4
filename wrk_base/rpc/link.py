"""What the RPC layer asks of a transport. ZeroMQ implements it, and so does the fake network of the tests.

A link moves whole messages (bytes, perhaps with a chunk beside them), and tells when it is up, when it is
lost and when a batch of arrivals has been handed over. It knows nothing of what the bytes mean. All
callbacks run in the event loop, never inside a call of the link's own methods, except `on_message` and
`on_drained` inside a drain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .membership import Membership
from .tick import Tick

# The reason of a link's end begins so where nobody need look any further for the cause.
REFUSED = "it refused us: "
UNTRUSTED = "it is not trusted: "
NO_KEY = "its public key is not known here"


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """Milliseconds and bytes; the reasons stand at the settings of the same names."""

    max_message: int = 1_048_576
    handshake_timeout: int = 3000
    heartbeat: int = 2000
    heartbeat_timeout: int = 6000
    max_frames: int = 10_000


class Listener(Protocol):
    """The serving side: many peers, each under a routing id that the transport made up."""

    @property
    def endpoint(self) -> str: ...

    def send(self, routing_id: bytes, message: bytes, chunk: memoryview | None = None) -> bool:
        """Send a message, and a second frame with it. False when the peer is gone."""

    def key_of(self, routing_id: bytes) -> bytes:
        """The public key that the peer proved to hold; empty on open networks."""

    def settled(self, routing_id: bytes) -> None:
        """The peer has said who it is. One that does not is thrown out after a while."""

    def expel(self, routing_id: bytes) -> None:
        """Break the peer's connection; `on_doubt` tells of it like of any other loss."""

    def forget(self, routing_id: bytes) -> None:
        """The peer is known to be gone."""

    def close(self, linger_ms: int = 0) -> None: ...


class Link(Protocol):
    """The calling side: one connection to one process; it never comes back by itself."""

    @property
    def key(self) -> bytes:
        """The public key that the process there has proved to hold; empty on open networks."""

    def send(self, message: bytes, chunk: memoryview | None = None) -> bool:
        """Send a message, and a second frame with it. False when the link is not up."""

    def close(self, linger_ms: int = 0) -> None: ...


class ListenerEvents(Protocol):
    def on_message(self, routing_id: bytes, message: bytes, chunk: memoryview | None = None) -> None: ...

    def on_drained(self) -> None:
        """All that had arrived was handed over: the time to run and to answer."""

    def on_lost(self, routing_id: bytes) -> None:
        """The peer's connection is gone."""

    def on_doubt(self, routing_id: bytes) -> None:
        """The peer's connection may be gone: send to it to find out."""

    def on_malformed(self) -> None:
        """A peer sent something other than one or two frames; it was discarded."""

    def on_crowded(self) -> None:
        """A connection was ended at once, as there are hardly any file descriptors left."""


class LinkEvents(Protocol):
    def on_up(self) -> None: ...

    def on_message(self, message: bytes, chunk: memoryview | None = None) -> None: ...

    def on_drained(self) -> None: ...

    def on_down(self, reason: str) -> None:
        """Once: the connection failed or was lost. The link is closed already."""


class Network(Protocol):
    """Makes links. One per process. Drains run inside `with tick`: what they cause leaves with them."""

    @property
    def tick(self) -> Tick: ...

    @property
    def membership(self) -> Membership | None:
        """None: links are neither encrypted nor is it asked who is there."""

    @property
    def rescued(self) -> int:
        """Messages that nobody was told of and that were found by looking: a defect each."""

    def listen(self, endpoint: str, events: ListenerEvents) -> Listener:
        """Raises `StartError` when the endpoint cannot be had."""

    def dial(self, endpoint: str, events: LinkEvents, *, heartbeat: bool = True) -> Link:
        """`heartbeat` False: the owner watches the peer by beats of its own."""

    async def diagnose(self, endpoint: str) -> str:
        """The likely cause why `endpoint` cannot be reached, for people."""

    async def host_answers(self, endpoint: str) -> bool:
        """Whether the process there still begins a handshake: it runs then, whatever its loop does."""

    def close(self) -> None: ...
