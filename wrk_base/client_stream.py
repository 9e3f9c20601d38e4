"""A stream of a client: the items of one request, at whichever orchestrator began to send them.

`begin` finds that orchestrator when the loop asks for its first item. From then on this is the stream of
one peer, and its loss is the reader's to know.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

from .rpc.streams import Stream


class Begun(NamedTuple):
    """A stream whose first item is there; or which ended without one, and then `first` is empty."""

    items: AsyncIterator[Any]
    first: tuple[Any, ...]


class ClientStream:
    """The items of one request, which is sent when the loop begins, and read once.

    After the end, `value` is the final value that the rack declared (None without one) and `facts` what was
    said besides: `workerId`, `attempts`, and what the rack adds. `received` counts items.
    """

    def __init__(self, begin: Begin) -> None:
        self._begin: Begin | None = begin
        self._stream: Stream | None = None
        self._closed = False

    @property
    def value(self) -> Any:
        return None if self._stream is None else self._stream.value

    @property
    def facts(self) -> dict[str, Any]:
        return {} if self._stream is None else self._stream.facts

    @property
    def received(self) -> int:
        return 0 if self._stream is None else self._stream.received

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._begin is None:
            raise RuntimeError("a stream is read once: ask again for another")
        begin, self._begin = self._begin, None
        return _Items(self, begin)

    async def __aenter__(self) -> ClientStream:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop reading; the rack is told, and whoever waits for an item gets none. Harmless at the end."""
        self._closed = True
        if self._stream is not None:
            await self._stream.aclose()

    async def first_of(self, stream: Stream) -> Begun:
        """Try `stream`: send it and wait for its first item. Raises `WrkError`."""
        self._stream = stream
        items = aiter(stream)
        try:
            if self._closed:
                await stream.aclose()
            return Begun(items, (await anext(items),))
        except StopAsyncIteration:
            return Begun(items, ())


Begin = Callable[[ClientStream], Awaitable[Begun]]
"""Finds an orchestrator for a stream, by `first_of` at each."""


class _Items:
    """The iterator of one loop, and the only owner of the reader: when the loop lets go, reading is over."""

    __slots__ = ("_begin", "_items", "_stream")

    def __init__(self, stream: ClientStream, begin: Begin) -> None:
        self._stream = stream
        self._begin: Begin | None = begin
        self._items: AsyncIterator[Any] | None = None

    def __aiter__(self) -> _Items:
        return self

    async def __anext__(self) -> Any:
        if self._items is not None:
            return await anext(self._items)
        if self._begin is None:  # it did not even begin, and has said so
            raise StopAsyncIteration
        begin, self._begin = self._begin, None
        self._items, first = await begin(self._stream)
        if not first:
            raise StopAsyncIteration
        return first[0]
