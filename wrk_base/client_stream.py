"""A stream of a client: the items of one request, at whichever orchestrator began to send them.

`begin` finds that orchestrator when the loop asks for its first item. From then on this is the stream of
one peer, and its loss is the reader's to know.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

from .rpc.streams import Stream


class Begun(NamedTuple):
    """A stream whose first item is there, or which ended without one."""

    stream: Stream
    items: AsyncIterator[Any]
    first: tuple[Any, ...]


async def begin_stream(stream: Stream) -> Begun:
    """Send it and wait for its first item; raises `WrkError`."""
    items = aiter(stream)
    try:
        return Begun(stream, items, (await anext(items),))
    except StopAsyncIteration:
        return Begun(stream, items, ())
    except BaseException:  # cancelled, say: what is raised keeps this frame alive, and with it the reader
        await stream.aclose()
        raise


class ClientStream:
    """The items of one request, which is sent when the loop begins, and read once.

    After the end, `value` is the final value that the rack declared (None without one) and `facts` what was
    said besides: `workerId`, `attempts`, and what the rack adds. `received` counts items.
    """

    def __init__(self, begin: Callable[[], Awaitable[Begun]]) -> None:
        self._begin: Callable[[], Awaitable[Begun]] | None = begin
        self._stream: Stream | None = None

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
        """Stop reading; the rack is told. Harmless when it is over."""
        self._begin = None
        if self._stream is not None:
            await self._stream.aclose()

    def _settle(self, stream: Stream) -> None:
        self._stream = stream


class _Items:
    """The iterator of one loop, and the only owner of the reader: when the loop lets go, reading is over."""

    __slots__ = ("_begin", "_items", "_stream")

    def __init__(self, stream: ClientStream, begin: Callable[[], Awaitable[Begun]]) -> None:
        self._stream = stream
        self._begin: Callable[[], Awaitable[Begun]] | None = begin
        self._items: AsyncIterator[Any] | None = None

    def __aiter__(self) -> _Items:
        return self

    async def __anext__(self) -> Any:
        if self._items is not None:
            return await anext(self._items)
        if self._begin is None:  # it did not even begin, and has said so
            raise StopAsyncIteration
        begin, self._begin = self._begin, None
        begun = await begin()
        self._items = begun.items
        self._stream._settle(begun.stream)
        if not begun.first:
            raise StopAsyncIteration
        return begun.first[0]
