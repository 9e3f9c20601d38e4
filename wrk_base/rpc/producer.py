"""A streaming handler at work: its items go out as far as the caller grants them.

The first item leaves in the tick in which it was made. Those that follow coalesce: within a tick, and on
a fast link for up to a millisecond.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from .. import errors
from . import wire
from .request import Final, Request
from .stream import Credit

if TYPE_CHECKING:
    from .runner import Runner

TURN = 1024  # items after which the loop gets a turn, however much the caller grants
BATCH = 64  # items that leave without waiting for the end of the tick: the reader can begin


class Producer:
    """Items of one request. What it has made and not yet sent is at most one batch."""

    __slots__ = ("_batch", "_bytes", "_content_type", "_credit", "_request", "_room", "_runner")

    def __init__(self, runner: Runner, request: Request) -> None:
        self._runner, self._request = runner, request
        self._credit = Credit() if request.granted is None else Credit(*request.granted)
        if request.early is not None:
            self._credit.grant(*request.early)
        self._batch: list[bytes] = []
        self._bytes = 0
        self._content_type = wire.MSGPACK
        self._room: asyncio.Future[None] | None = None
        request.on_credit = self._granted

    async def run(self, source: AsyncIterator[Any]) -> Final | None:
        """Drive `source` to its end; returns what it declared as final."""
        credit, batch, packed = self._credit, self._batch, self._request.packed
        async with aclosing(source) as made:  # type: ignore[type-var]
            async for item in made:
                if type(item) is Final:
                    return item
                self._content_type, payload = packed(item)
                size = len(payload)
                if size > wire.CHUNK_BYTES:
                    raise errors.Internal(f"an item of {size} bytes: items have at most {wire.CHUNK_BYTES}")
                while not credit.open:
                    await self._wait_for_room()
                if self._bytes + size > wire.CHUNK_BYTES:
                    self.emit()  # more would not fit in a message, whatever was granted
                credit.spend(size)
                batch.append(payload)  # type: ignore[arg-type]  # bytes: only large ones are not
                self._bytes += size
                if len(batch) == 1:
                    await self._begin_batch()
                elif len(batch) >= BATCH:
                    self.emit()
                if not credit.sent_items % TURN:
                    await asyncio.sleep(0)
        return None

    async def run_unheard(self, source: AsyncIterator[Any]) -> Final | None:
        """Drive `source` for a caller who did not ask for its items."""
        async with aclosing(source) as made:  # type: ignore[type-var]
            unheard = 0
            async for item in made:
                if type(item) is Final:
                    return item
                unheard += 1
                if not unheard % TURN:
                    await asyncio.sleep(0)
        return None

    async def _begin_batch(self) -> None:
        if self._request.items:
            self._runner.plan_items(self._request, self.emit)
        else:
            self.emit()
            await asyncio.sleep(0)  # so that the first leaves before more are made

    def emit(self) -> None:
        if self._batch:
            payloads = tuple(self._batch)
            self._batch.clear()
            self._bytes = 0
            self._request.send_items(self._content_type, payloads)

    async def _wait_for_room(self) -> None:
        self._request.handler.stats.credit_stalls += 1
        self.emit()
        self._room = asyncio.get_running_loop().create_future()
        try:
            await self._room
        finally:
            self._room = None

    def _granted(self, items: int, size: int) -> None:
        self._credit.grant(items, size)
        if self._room is not None and self._credit.open and not self._room.done():
            self._room.set_result(None)
