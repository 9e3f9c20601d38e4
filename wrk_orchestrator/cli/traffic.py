"""How many bytes a client says and hears, counted at its links: messages as ZeroMQ is given them.

What goes over the cable is a little more: frames of ZeroMQ, segments of TCP.
"""

from __future__ import annotations

import asyncio

from wrk_base.rpc.link import Link, LinkEvents, LinkOptions
from wrk_base.rpc.membership import Membership
from wrk_base.rpc.zmq_link import ZmqNetwork


class Traffic:
    """Bytes so far."""

    __slots__ = ("into", "out")

    def __init__(self, out: int = 0, into: int = 0) -> None:
        self.out, self.into = out, into

    def since(self, before: Traffic) -> Traffic:
        return Traffic(self.out - before.out, self.into - before.into)

    def copy(self) -> Traffic:
        return self.since(Traffic())


class MeteredNetwork(ZmqNetwork):
    """Links that are dialled here are counted in `traffic`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, options: LinkOptions, membership: Membership) -> None:
        super().__init__(loop, options, membership)
        self.traffic = Traffic()

    def dial(self, endpoint: str, events: LinkEvents, *, heartbeat: bool = True) -> Link:
        link = super().dial(endpoint, MeteredEvents(events, self.traffic), heartbeat=heartbeat)
        return MeteredLink(link, self.traffic)


class MeteredLink:
    """A link that counts what is sent."""

    def __init__(self, link: Link, traffic: Traffic) -> None:
        self._link, self._traffic = link, traffic

    @property
    def key(self) -> bytes:
        return self._link.key

    def send(self, message: bytes, chunk: memoryview | None = None) -> bool:
        sent = self._link.send(message, chunk)
        if sent:
            self._traffic.out += _size(message, chunk)
        return sent

    def close(self, linger_ms: int = 0) -> None:
        self._link.close(linger_ms)


class MeteredEvents:
    """The owner's events, with what arrives counted."""

    def __init__(self, events: LinkEvents, traffic: Traffic) -> None:
        self._events, self._traffic = events, traffic

    def on_up(self) -> None:
        self._events.on_up()

    def on_message(self, message: bytes, chunk: memoryview | None = None) -> None:
        self._traffic.into += _size(message, chunk)
        self._events.on_message(message, chunk)

    def on_drained(self) -> None:
        self._events.on_drained()

    def on_down(self, reason: str) -> None:
        self._events.on_down(reason)


def _size(message: bytes, chunk: memoryview | None) -> int:
    return len(message) + (0 if chunk is None else len(chunk))
