"""The streams of the OpenAI protocol: from bytes to items, and what is wrong with them. Pure.

A stream of chunks (chat, completion) is items of JSON, each the data of one event, and ends with [DONE],
which is no item. A stream of the Responses API is whole events as they came, and ends with one of those
that say so. Nothing is decoded; everything is checked for being JSON, and for errors where results belong.
The invariant: what was good before something bad came out before it is raised.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import msgspec

from wrk_base.rpc import wire

from .openai_body import error_in, is_json
from .sse import EventTooLong, SseSplitter, data_of, name_of

DONE = b"[DONE]"
LAST_EVENTS = frozenset({"response.completed", "response.failed", "response.incomplete", "error"})


class BadStream(Exception):
    """It is no such stream; the text continues a sentence about the server."""


class ErrorInStream(Exception):
    """The server told of an error in the middle: `error` is what it said, `data` where it stood."""

    def __init__(self, error: Any, data: bytes) -> None:
        super().__init__("an error in the stream")
        self.error, self.data = error, data


class EventStream(Protocol):
    """Fed in pieces, it yields items of one content type until it is finished."""

    content_type: int
    finished: bool

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Raises `BadStream` and `ErrorInStream`."""

    def end(self) -> None:
        """The transfer has ended; raises `BadStream` when it should not have."""


class ChunkStream:
    """Of `/v1/chat/completions` and `/v1/completions`."""

    content_type = wire.JSON

    def __init__(self) -> None:
        self._splitter = SseSplitter(wire.CHUNK_BYTES)
        self.finished = False

    def feed(self, piece: bytes) -> Iterator[bytes]:
        for _, data in _with_data(self._splitter, piece):
            if data == DONE:
                self.finished = True
                return
            error = error_in(data)
            if error is not None:
                raise ErrorInStream(error, data)
            yield data

    def end(self) -> None:
        if not self.finished:
            raise BadStream("its stream ended without [DONE]")


class ResponseStream:
    """Of `/v1/responses`, whose errors are events of its own and pass as they are."""

    content_type = wire.OCTETS

    def __init__(self) -> None:
        self._splitter = SseSplitter(wire.CHUNK_BYTES)
        self._last = b""
        self.finished = False

    def feed(self, piece: bytes) -> Iterator[bytes]:
        for event, data in _with_data(self._splitter, piece):
            if data == DONE:
                self.finished = True
                return
            self._last = event
            yield event

    def end(self) -> None:
        if _kind_of(self._last) not in LAST_EVENTS:
            raise BadStream("its stream ended before the response was complete")
        if self._splitter.rest:
            raise BadStream("its stream ended in the middle of an event")


def _with_data(splitter: SseSplitter, piece: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Events that carry data, each with what it is."""
    for event in _events(splitter, piece):
        data = _checked(event)
        if data is not None:
            yield event, data


class _Typed(msgspec.Struct):
    type: Any = None


_typed = msgspec.json.Decoder(_Typed)


def _events(splitter: SseSplitter, piece: bytes) -> list[bytes]:
    try:
        return splitter.feed(piece)
    except EventTooLong as error:
        raise BadStream(f"its stream has {error}") from None


def _checked(event: bytes) -> bytes | None:
    """The data of an event, if it has any."""
    data = data_of(event)
    if data is None or data == DONE or is_json(data):
        return data
    raise BadStream("an event of its stream is no JSON")


def _kind_of(event: bytes) -> Any:
    name = name_of(event)
    if name:
        return name.decode(errors="replace")
    try:
        return _typed.decode(data_of(event) or b"").type
    except (ValueError, RecursionError):
        return None
