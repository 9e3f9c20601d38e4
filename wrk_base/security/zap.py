"""The door: libzmq asks here whether the holder of a public key may finish its handshake (ZAP, RFC 27).

It fails closed. Listening sockets carry a domain and enforce it, so a handler that is missing, mute or
broken lets nobody in; a request that cannot be read, or a judgement that raises, is a refusal. And it
is looked after: a door that lost its socket or its reader is repaired within a quarter of a second. Who
was let in is no member yet, only somebody with a key to be named in the greeting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq

ENDPOINT = "inproc://zeromq.zap.01"
DOMAIN = b"wrk"
LOOK_AFTER_SECONDS = 0.25
DRAIN_REQUESTS = 256  # a flood of handshakes leaves the loop to others in between
_POLLIN = int(zmq.POLLIN)


class Door:
    """Answers for all listening sockets of one context. `lets_in` judges a CURVE public key, 32 bytes."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        loop: asyncio.AbstractEventLoop,
        lets_in: Callable[[bytes], bool],
    ) -> None:
        self._context, self._loop, self._lets_in = context, loop, lets_in
        self.counters = {"letIn": 0, "turnedAway": 0, "repaired": 0}
        self._fd = -1
        self._closed = False
        self._sock = self._open()
        self._timer = loop.call_later(LOOK_AFTER_SECONDS, self._look_after)

    def close(self) -> None:
        """From here on nobody comes in."""
        self._closed = True
        self._timer.cancel()
        self._leave_loop()
        self._sock.close(0)

    def _open(self) -> zmq.Socket[bytes]:
        sock = self._context.socket(zmq.ROUTER)
        sock.setsockopt(zmq.LINGER, 0)
        try:
            sock.bind(ENDPOINT)
        except zmq.ZMQError:
            sock.close(0)
            raise
        self._fd = int(sock.get(zmq.FD))
        self._loop.add_reader(self._fd, self._drain)
        self._loop.call_soon(self._drain)
        return sock

    def _leave_loop(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._fd = -1

    def _drain(self) -> None:
        for _ in range(DRAIN_REQUESTS):
            if self._closed or self._sock.closed or not int(self._sock.get(zmq.EVENTS)) & _POLLIN:
                return
            self._answer(self._sock.recv_multipart(zmq.DONTWAIT))
        self._loop.call_soon(self._drain)

    def _answer(self, request: list[bytes]) -> None:
        try:
            key = _key_of(request)
            welcome = key is not None and self._lets_in(key)
        except Exception:  # whatever is wrong in here, nobody comes in by it
            key, welcome = None, False
        self.counters["letIn" if welcome else "turnedAway"] += 1
        if len(request) < 4:
            return  # nobody to answer: libzmq gives the handshake up by itself
        verdict = (b"200", b"OK", key.hex().encode()) if welcome and key else (b"400", b"not welcome", b"")
        self._sock.send_multipart([*request[:2], b"1.0", request[3], *verdict, b""], zmq.DONTWAIT)

    def _look_after(self) -> None:
        """Put right what may have befallen socket or reader; what waits is answered now."""
        try:
            if self._sock.closed:
                self._leave_loop()
                self._sock = self._open()
                self.counters["repaired"] += 1
            self._loop.add_reader(self._fd, self._drain)  # the same again, or anew where it was lost
            self._drain()
        except zmq.ZMQError:
            pass  # the old socket is not gone yet: shut until the next look
        finally:
            if not self._closed:
                self._timer = self._loop.call_later(LOOK_AFTER_SECONDS, self._look_after)


def _key_of(request: list[bytes]) -> bytes | None:
    """The public key of a request: routing id, "", version, id, domain, address, identity, CURVE, key."""
    if len(request) != 9 or request[2] != b"1.0" or request[4] != DOMAIN or request[7] != b"CURVE":
        return None
    return request[8] if len(request[8]) == 32 else None
