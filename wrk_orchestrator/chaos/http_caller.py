"""Enough of HTTP/1.1 to ask one server many things: kept connections, and bodies with a length or in chunks.

It tries nothing again: what becomes of a request is what a run is to show. Connections that have rested for
a while are not used any more, as the server may be closing them at this very moment.
"""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import Mapping
from dataclasses import dataclass

RESTED_SECONDS = 1.0
MAX_LINE = 1 << 20


@dataclass(frozen=True, slots=True)
class Response:
    """Names of `fields` are in small letters; `body` is without its framing."""

    status: int
    fields: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class _Connection:
    reader: StreamReader
    writer: StreamWriter
    used_at: float


class Connections:
    """To one server."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._idle: list[_Connection] = []
        self._loop = asyncio.get_running_loop()

    async def post(self, path: str, body: bytes) -> Response:
        """Raises `OSError` or `EOFError` (`IncompleteReadError`) where the answer does not come whole."""
        connection = await self._connection()
        try:
            head = (
                f"POST {path} HTTP/1.1\r\nhost: {self._host}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\n\r\n"
            )
            connection.writer.write(head.encode("latin-1") + body)
            response = await _read(connection.reader)
        except BaseException:
            connection.writer.transport.abort()
            raise
        if response.fields.get("connection", "").lower() == "close":
            connection.writer.close()
        else:
            connection.used_at = self._loop.time()
            self._idle.append(connection)
        return response

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            fresh = self._loop.time() - connection.used_at < RESTED_SECONDS
            if fresh and not connection.reader.at_eof() and not connection.writer.is_closing():
                return connection
            connection.writer.close()
        reader, writer = await asyncio.open_connection(self._host, self._port, limit=MAX_LINE)
        return _Connection(reader, writer, 0.0)

    def close(self) -> None:
        for connection in self._idle:
            connection.writer.close()
        self._idle.clear()


async def _read(reader: StreamReader) -> Response:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if fields.get("transfer-encoding", "").lower() == "chunked":
        body = await _unchunked(reader)
    else:
        body = await reader.readexactly(int(fields.get("content-length", "0")))
    return Response(int(first.split(" ", 2)[1]), fields, body)


async def _unchunked(reader: StreamReader) -> bytes:
    parts = list[bytes]()
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readexactly(2)
    return b"".join(parts)
