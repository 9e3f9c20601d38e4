"""Server-sent events: a stream of bytes cut into events, and the data of one. Pure.

Events are bytes as they came, with the blank line that ends them; nothing is decoded. Lines end as the
standard allows (LF, CRLF, CR), in any mixture and wherever reads are cut. The invariant: whatever arrives,
no more than `limit` bytes are kept, and the work is proportional to what was fed.

https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from __future__ import annotations

import re

BOM = b"\xef\xbb\xbf"
_BLANK_LINE = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")
_OVERLAP = 3  # bytes of a blank line that may have come before: all of CR LF CR LF but the last


class EventTooLong(ValueError):
    """An event has more bytes than are kept."""


class SseSplitter:
    """Feed it bytes, get whole events. `limit` bounds one event."""

    __slots__ = ("_limit", "_rest", "_searched", "_started")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = bytearray()
        self._searched = 0
        self._started = False

    def feed(self, data: bytes) -> list[bytes]:
        """The events that these bytes complete; raises `EventTooLong`, after which it is of no more use."""
        source: bytes | bytearray = data
        if self._rest:
            self._rest += data
            source = self._rest
        events = []
        begin = 0
        for found in _BLANK_LINE.finditer(source, self._searched):
            events.append(bytes(source[begin : found.end()]))
            begin = found.end()
        self._keep(source, begin)
        if len(self._rest) > self._limit or any(len(event) > self._limit for event in events):
            raise EventTooLong(f"an event of more than {self._limit} bytes")
        if events and not self._started:
            self._started = True
            events[0] = events[0].removeprefix(BOM)
        return events

    @property
    def rest(self) -> bytes:
        """What has come of an event that is not complete; line ends alone are none."""
        return bytes(self._rest).strip(b"\r\n")

    def _keep(self, source: bytes | bytearray, begin: int) -> None:
        if source is self._rest:
            del self._rest[:begin]
        else:
            self._rest += source[begin:]
        self._searched = max(0, len(self._rest) - _OVERLAP)


def data_of(event: bytes) -> bytes | None:
    """The data of an event, its lines joined; None for one without data (comments alone)."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and b"\r" not in event:
        return event[6:-2]
    found = [_value(line) for line in event.splitlines() if line == b"data" or line.startswith(b"data:")]
    return b"\n".join(found) if found else None


def name_of(event: bytes) -> bytes:
    """The value of its last `event:` line, empty where there is none."""
    if b"event" not in event:
        return b""
    names = [line[6:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"event:")]
    return names[-1] if names else b""


def _value(line: bytes) -> bytes:
    return line[5:].removeprefix(b" ")
