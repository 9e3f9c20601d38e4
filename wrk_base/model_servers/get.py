"""One HTTP GET to a stranger: all that a search needs of HTTP, and nothing that a stranger could use.

A connection of its own, no redirect, no proxy, no compression, no cookie, no key. What is read is bounded;
how long it may take is the caller's to bound. The invariant: an `Answer` is whole.
"""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from .addresses import USUAL_PORTS
from .recognition import Answer

MAX_BYTES = 1 << 20  # of an answer with its head: a thousand models with all that vLLM tells of each
READ_BYTES = 65_536


class Unreachable(Exception):
    """Nobody takes the connection."""


class Unreadable(Exception):
    """Whoever took the connection gave no whole HTTP answer of a bearable length."""


async def get(url: str) -> Answer:
    """The answer to `GET url`, whatever its status. Raises `Unreachable`, `Unreadable`."""
    try:
        parts = urlsplit(url)
        port = parts.port or USUAL_PORTS[parts.scheme]
        tls = parts.scheme == "https" or None
        reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=tls)
    except (OSError, ValueError) as error:  # a name that cannot be one is a ValueError
        raise Unreachable(str(error)) from error
    try:
        request = (
            f"GET {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\naccept: application/json\r\n"
            "accept-encoding: identity\r\nconnection: close\r\n\r\n"
        )
        writer.write(request.encode())
        return await _read(reader)
    except (OSError, HttpParserError, HttpParserUpgrade) as error:
        raise Unreadable(str(error)) from error
    finally:
        writer.transport.abort()


async def _read(reader: asyncio.StreamReader) -> Answer:
    collected = _Collected()
    parser = HttpResponseParser(collected)
    read = 0
    while not collected.whole:
        data = await reader.read(READ_BYTES)
        read += len(data)
        if read > MAX_BYTES:
            raise Unreadable(f"longer than {MAX_BYTES} bytes")
        if not data:
            collected.on_end()
        parser.feed_data(data)
    return Answer(parser.get_status_code(), frozenset(collected.names), bytes(collected.body))


class _Collected:
    """What the parser found so far. An answer without a length ends with its connection."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.body = bytearray()
        self.whole = self._has_length = self._has_head = False

    def on_header(self, name: bytes, value: bytes) -> None:
        lower = name.decode("latin-1").lower()
        self.names.add(lower)
        self._has_length |= lower in ("content-length", "transfer-encoding")

    def on_headers_complete(self) -> None:
        self._has_head = True

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.whole = True

    def on_end(self) -> None:
        """The connection ended. Raises `Unreadable` where something is missing."""
        if not self._has_head or self._has_length:
            raise Unreadable("it hung up in the middle")
        self.whole = True
