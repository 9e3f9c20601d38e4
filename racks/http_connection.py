"""One connection to an upstream server: it rests, or carries one request. The shell around `http_reader`.

What waits to be read is bounded by `HIGH_WATER`: beyond it nothing more is taken from the socket. Whoever
asks takes what came; what went wrong is raised only after that. A connection that is cut is closed at
once, whatever is under way, and the server sees it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from .http_reader import BadResponse, ResponseReader

HIGH_WATER = 262_144  # bytes that wait for a slow reader; one read of the socket may come on top
IDLE_SECONDS = 4.0  # servers (uvicorn, Node, llama.cpp) close theirs after 5: who closes first loses nothing
LINGER_SECONDS = 1.0  # for the end of a transfer whose last event was there already


class LostUnanswered(Exception):
    """The connection ended before a byte of an answer had come."""


class Connection(asyncio.Protocol):
    """One connection: rests, or carries one request."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_lost: Callable[[Connection], None]) -> None:
        self._loop, self._on_lost = loop, on_lost
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._fault: Exception | None = None
        self._paused = False
        self._waiting_bytes = 0
        self._lingers_since = 0.0
        self._on_whole: Callable[[Connection], None] | None = None
        self.reader: ResponseReader | None = None
        self.heard_at = 0.0
        self.lost = False

    # --- for those who ask

    async def ask(self, head: bytes, body: bytes | bytearray) -> ResponseReader:
        """Send a request; returns when the head of its answer is there."""
        assert self._transport is not None
        reader = self.reader = ResponseReader()
        self._transport.writelines((head, body) if body else (head,))
        while not reader.status:
            await self.news()
        return reader

    async def news(self) -> None:
        """Returns when something happened; raises what went wrong before."""
        if self._fault is not None:
            raise self._fault
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def take(self) -> bytes:
        """What came of the body since the last time."""
        assert self.reader is not None
        if self._paused and self._transport is not None:
            self._paused = False
            self.heard_at = self._loop.time()  # the silence was ours
            self._transport.resume_reading()
        self._waiting_bytes = 0
        return self.reader.take()

    @property
    def whole(self) -> bool:
        """Whether its answer has come to its end and it can be used again."""
        return self.reader is not None and self.reader.done and self.reader.reusable and not self.lost

    def rest(self, now: float) -> bool:
        """Wait for the next request; False if it has to be closed instead."""
        if not self.whole:
            return False
        self.take()  # reads on, if a slow reader had stopped it
        self.reader = None
        self.heard_at = now
        return True

    def linger(self, on_whole: Callable[[Connection], None]) -> None:
        """Drop the rest of the answer, and tell when it is whole."""
        self.take()
        self._lingers_since, self._on_whole = self._loop.time(), on_whole

    def cut(self) -> None:
        """Close it now. The server sees it at once, whatever is under way."""
        if self._transport is not None and not self.lost:
            self.lost = True
            self._transport.abort()

    def check(self, now: float, silence: float) -> None:
        """Look at the clock: resting too long, lingering too long, silent in the middle of an answer."""
        if self.reader is None:
            if now - self.heard_at > IDLE_SECONDS:
                self.cut()
        elif self._on_whole is not None:
            if now - self._lingers_since > LINGER_SECONDS:
                self.cut()
        elif self.reader.begun and not self._paused and now - self.heard_at > silence:
            self._fail(BadResponse(f"nothing came for {silence:g} s in the middle of an answer"))
            self.cut()

    # --- what the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        reader = self.reader
        if reader is None:
            self.cut()  # nobody asked
            return
        self.heard_at = self._loop.time()
        try:
            reader.feed(data)
        except BadResponse as error:
            self._fail(error)
            self.cut()
            return
        if self._on_whole is not None:
            reader.pieces.clear()
            if reader.done:
                on_whole, self._on_whole = self._on_whole, None
                on_whole(self)
            return
        self._waiting_bytes += len(data)
        if self._waiting_bytes > HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        reader = self.reader
        if reader is not None and self._fault is None and not reader.end():
            self._fail(
                BadResponse("the connection was lost in the middle of an answer")
                if reader.begun
                else LostUnanswered()
            )
        self._on_lost(self)
        self._wake()

    def _fail(self, fault: Exception) -> None:
        self._fault = self._fault or fault
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
