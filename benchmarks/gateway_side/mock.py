"""An OpenAI-compatible server that costs next to nothing: fixed answers, written at once.

It stands behind every peer, so what it costs is taken from all of them: no HTTP library, one search for
the end of the head, answers that were made at the start. A stream's tokens follow at a fixed pace, the
first at once. It prints its port and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import re
from typing import cast

import uvloop

from benchmarks.gateway_side import answers
from benchmarks.side_by_side import cell

_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_STREAMED = re.compile(rb'"stream" *: *true')
_TOKENS = re.compile(rb'"max_(?:completion_)?tokens" *: *(\d+)')  # routers say it the newer way


def _whole(body: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % (status, len(body)) + body


def _framed(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(body), body)


def _event(data: bytes) -> bytes:
    return _framed(b"data: %s\n\n" % data)


COMPLETION = _whole(answers.encoded(answers.completion()))
TOKEN = _event(answers.encoded(answers.token()))
BEGIN = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n" + TOKEN
END = _event(answers.encoded(answers.last())) + _event(b"[DONE]") + _framed(b"")
NO_LENGTH = _whole(b'{"error":{"message":"this mock wants a content-length"}}', b"411 Length Required")
# What routers ask of a worker when they make its acquaintance.
FACTS = {
    b"/v1/models": answers.encoded(
        {
            "object": "list",
            "data": [{"id": answers.MODEL, "object": "model", "created": 0, "owned_by": "mock"}],
        }
    ),
}
GET_ANSWERS = {path: _whole(body) for path, body in FACTS.items()}
ALIVE = _whole(answers.encoded({"status": "ok", "model_path": answers.MODEL}))


class Connection(asyncio.Protocol):
    """One caller. A stream's connection answers nothing else until the stream has ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._rest, self._left, self._due = loop, b"", 0, 0.0
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._rest += data
        while not self._left and self._answered():
            pass

    def _answered(self) -> bool:
        """Whether there was a whole request, which was answered."""
        data = self._rest
        end = data.find(_HEAD_END)
        if end < 0:
            return False
        length = _LENGTH.search(data, 0, end)
        if length is None and _CHUNKED.search(data, 0, end):
            self._transport.write(NO_LENGTH)
            self._transport.close()
            return False
        body = end + len(_HEAD_END)
        whole = body + int(length[1]) if length else body
        if len(data) < whole:
            return False
        self._rest = data[whole:]
        if data.startswith(b"GET"):
            self._transport.write(GET_ANSWERS.get(data.split(b" ", 2)[1], ALIVE))
        elif _STREAMED.search(data, body, whole):
            self._begin(_TOKENS.search(data, body, whole))
        else:
            self._transport.write(COMPLETION)
        return True

    def _begin(self, tokens: re.Match[bytes] | None) -> None:
        self._left = int(tokens[1]) if tokens else answers.TOKENS
        self._due = self._loop.time()
        self._transport.write(BEGIN)
        self._wait()

    def _wait(self) -> None:
        """Until the next token's time, counted from the first: a late one makes no other late."""
        self._due += 1 / answers.PER_SECOND
        self._timer = self._loop.call_at(self._due, self._step)

    def _step(self) -> None:
        """One more token or, after the last one, the end."""
        self._left -= 1
        if self._left:
            self._transport.write(TOKEN)
            self._wait()
            return
        self._transport.write(END)
        self._timer = None
        while not self._left and self._answered():
            pass


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(loop), "127.0.0.1", 0, backlog=1024)
    cell.ready(str(server.sockets[0].getsockname()[1]))
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve())
