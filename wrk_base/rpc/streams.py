"""A stream as its reader sees it: `async for item in stream`.

The reader's end of a stream lives as long as its loop: leaving the loop, cancelling the task or dropping
the stream tells the peer to stop. What has arrived and was not read is bounded by what was granted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from .. import errors
from . import wire
from .call import Parts, StreamCall
from .calls import INFINITY
from .client import Peer
from .line import PeerLimits
from .stream import Window

Fields = tuple[str, str] | None


class Terms:
    """Until when a stream may take what: seconds. `first` bounds the wait for the first item, `idle` that
    for each later one, `total` all of it (None: no bound)."""

    __slots__ = ("first", "idle", "total")

    def __init__(self, first: float, idle: float, total: float | None) -> None:
        self.first, self.idle, self.total = first, idle, total


class _Inbox(StreamCall):
    """What has arrived of one stream, and who waits for more."""

    __slots__ = (
        "_loop",
        "_waiter",
        "content_type",
        "error",
        "idle",
        "over",
        "payloads",
        "peer",
        "result",
        "window",
    )

    def __init__(self, peer: Peer, limits: PeerLimits, idle: float, until: float) -> None:
        super().__init__()
        self.peer, self.idle, self.until = peer, idle, until
        self.window = Window(limits.stream_items, limits.stream_bytes)
        self.payloads: deque[bytes] = deque()
        self.content_type = wire.MSGPACK
        self.over = False
        self.error: errors.WrkError | None = None
        self.result: tuple[bytes | None, int, wire.Payload] | None = None
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None

    # --- what the peer tells

    def items(self, first: int, content_type: int, payloads: tuple[bytes, ...]) -> bool:
        if not self.window.received(first, sum(map(len, payloads)), len(payloads)):
            return False
        if self.received and content_type != self.content_type:
            return False
        self.received = self.window.received_items
        self.content_type = content_type
        self.payloads.extend(payloads)
        self.deadline = self.until
        self._wake()
        return True

    def ended(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None:
        self.result = (head, content_type, payload)
        self._close()

    def answered(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None:
        self.failed(errors.Internal("the peer answered a stream with one result"))

    def failed(self, error: errors.WrkError) -> None:
        error.data = {**error.data, "items": self.received}
        self.error = error
        self._close()

    def _close(self) -> None:
        self.over = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- what the reader does

    async def more(self) -> None:
        """Wait for the next items, or the end."""
        if self.received:
            self.peer.expect(self, min(self._loop.time() + self.idle, self.until))
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def leave(self) -> None:
        """Nobody reads any more."""
        if not self.over:
            self.over = True
            self.payloads.clear()
            self.peer.give_up(self)
            self._wake()


class Stream:
    """The items of one call; it is sent when the loop begins, and read once.

    After the end, `value` is the final value that the handler declared (None without one) and `facts` what
    it said besides. `received` counts items. An error arrives after the items that came before it and
    carries their number in `data["items"]`.
    """

    def __init__(self, open_: Callable[[], _Inbox], fields: Fields) -> None:
        self.value: Any = None
        self.facts: dict[str, Any] = {}
        self.received = 0
        self._open, self._fields = open_, fields
        self._inbox: _Inbox | None = None

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._inbox is not None:
            raise RuntimeError("a stream is read once: ask again for another")
        self._inbox = self._open()
        return _Reader(self, self._inbox)

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop reading; the peer is told. Harmless when it is over."""
        if self._inbox is not None:
            self._inbox.leave()

    def _conclude(self, inbox: _Inbox) -> None:
        if inbox.error is not None:
            raise inbox.error
        if inbox.result is not None:
            head, content_type, payload = inbox.result
            inbox.result = None
            try:
                self.value = wire.unpack_body(payload, content_type)
                self.facts = wire.unpack_head(head)
            except ValueError as error:
                raise errors.Internal(f"the end of the stream is malformed: {error}") from None


class _Reader:
    """The iterator of one loop: when the loop lets go of it, reading is over."""

    __slots__ = ("_inbox", "_payloads", "_stream", "_window")

    def __init__(self, stream: Stream, inbox: _Inbox) -> None:
        self._stream, self._inbox = stream, inbox
        self._payloads, self._window = inbox.payloads, inbox.window

    def __aiter__(self) -> _Reader:
        return self

    async def __anext__(self) -> Any:
        inbox, payloads = self._inbox, self._payloads
        while not payloads:
            if inbox.over:
                self._stream._conclude(inbox)
                raise StopAsyncIteration
            try:
                await inbox.more()
            except asyncio.CancelledError:
                inbox.leave()
                raise
        payload = payloads.popleft()
        self._stream.received += 1
        grant = self._window.consumed(len(payload))
        if grant is not None:
            inbox.peer.grant(inbox, *grant)
        try:
            return wire.unpack_body(payload, inbox.content_type)
        except ValueError as error:
            inbox.leave()
            raise errors.Internal(f"an item is malformed: {error}") from None

    def __del__(self) -> None:
        self._inbox.leave()


def open_stream(peer: Peer, limits: PeerLimits, parts: Parts, terms: Terms) -> _Inbox:
    """Send the request of a stream; raises `WrkError` when it cannot be taken at all."""
    now = asyncio.get_running_loop().time()
    until = INFINITY if terms.total is None else now + terms.total
    inbox = _Inbox(peer, limits, terms.idle, until)
    method, flags, head, content_type, payload = parts
    flags |= wire.STREAM_WANTED | (0 if terms.total is None else wire.WHOLE)
    deadline = min(now + min(terms.first, wire.MAX_REMAINING_MS / 1000), until)
    peer.start(inbox, deadline, (method, flags, head, content_type, payload))
    return inbox
