"""The bounds on what comes before a request: its size, its time, and what the caller hears at them.

A connection is fed by hand in virtual time; the application behind it answers when the test says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from tests.fakes.virtual_time import run_virtual
from wrk_base import errors
from wrk_orchestrator.http.errors import body_of
from wrk_orchestrator.http.protocol import HEAD_BYTES, HEAD_S, LINGER_S, Protocol

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


class Transport(asyncio.Transport):
    """Remembers what was written, and that it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.eof = self.closed = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def write_eof(self) -> None:
        self.eof = True

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class App:
    """Answers 204 once it is let."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        await self.go_on.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def refusal(self, error: errors.WrkError) -> tuple[bytes, str]:
        return body_of(error, "id-1"), "id-1"


class Connection:
    """One caller's connection."""

    def __init__(self) -> None:
        self.app, self.transport, self.state = App(), Transport(), ServerState()
        config = uvicorn.Config(self.app, log_config=None, log_level="critical", lifespan="off", ws="none")
        self.protocol = Protocol(config, self.state, {}, asyncio.get_running_loop())
        self.protocol.connection_made(self.transport)

    def say(self, data: bytes) -> None:
        self.protocol.data_received(data)

    @property
    def heard(self) -> bytes:
        return self.transport.written

    @property
    def hung_up(self) -> bool:
        return self.transport.closed

    def gone(self) -> None:
        self.protocol.connection_lost(None)


async def answered(connection: Connection) -> None:
    connection.app.go_on.set()
    await asyncio.gather(*connection.state.tasks)


# --- time


def test_a_caller_who_never_says_anything_is_hung_up_on() -> None:
    async def story() -> None:
        caller = Connection()
        await asyncio.sleep(HEAD_S - 1)
        assert not caller.hung_up
        await asyncio.sleep(2)
        assert caller.hung_up

    run_virtual(story())


def test_a_head_that_trickles_is_hung_up_on_however_often_it_trickles() -> None:
    async def story() -> None:
        caller = Connection()
        for second in range(int(HEAD_S) + 1):
            caller.say(b"GET /" if second == 0 else b"x")
            await asyncio.sleep(1)
        assert caller.hung_up

    run_virtual(story())


def test_a_slow_second_head_is_hung_up_on_too_but_an_answer_that_is_owed_comes_first() -> None:
    async def story() -> None:
        caller = Connection()
        caller.say(GET)
        caller.say(GET[:10])
        await asyncio.sleep(5 * HEAD_S)
        assert not caller.hung_up
        await answered(caller)
        assert caller.heard.startswith(b"HTTP/1.1 204")
        await asyncio.sleep(2 * HEAD_S)
        assert caller.hung_up

    run_virtual(story())


def test_a_request_that_takes_long_to_answer_is_not_hung_up_on() -> None:
    async def story() -> None:
        caller = Connection()
        caller.say(GET)
        await asyncio.sleep(10 * HEAD_S)
        assert not caller.hung_up
        await answered(caller)
        assert caller.heard.startswith(b"HTTP/1.1 204")

    run_virtual(story())


def test_a_caller_who_left_leaves_no_timer() -> None:
    async def story() -> None:
        caller = Connection()
        caller.say(b"GET")
        caller.gone()
        caller.transport.closed = False
        await asyncio.sleep(10 * HEAD_S)
        assert not caller.hung_up

    run_virtual(story())


# --- size


@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\nx: "], ids=["request line", "header"])
def test_a_head_that_does_not_end_is_refused_read_on_for_a_while_and_closed(start: bytes) -> None:
    async def story() -> None:
        caller = Connection()
        caller.say(start)
        for _ in range(HEAD_BYTES // 1000):
            caller.say(b"x" * 1000)
        assert caller.heard == b""
        caller.say(b"x" * 1000)
        assert caller.heard.startswith(b"HTTP/1.1 431 ")
        assert b"x-request-id: id-1\r\n" in caller.heard
        assert caller.transport.eof
        said = caller.heard
        caller.say(b"x" * 1000 + b"\r\n\r\n" + GET)
        assert caller.heard == said
        assert not caller.hung_up
        await asyncio.sleep(LINGER_S + 0.1)
        assert caller.hung_up

    run_virtual(story())


def test_many_requests_in_a_row_do_not_add_up() -> None:
    async def story() -> None:
        caller = Connection()
        caller.app.go_on.set()
        head = b"GET / HTTP/1.1\r\nx: " + b"x" * (HEAD_BYTES // 2)
        for _ in range(5):
            caller.say(head[:100])
            caller.say(head[100:])
            caller.say(b"\r\n\r\n")
            await asyncio.gather(*caller.state.tasks)
        assert caller.heard.count(b"HTTP/1.1 204") == 5

    run_virtual(story())


def test_the_body_before_a_head_does_not_count_as_the_head() -> None:
    async def story() -> None:
        caller = Connection()
        caller.app.go_on.set()
        body = b"x" * (2 * HEAD_BYTES)
        caller.say(b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body))
        caller.say(body + GET[:10])
        caller.say(GET[10:])
        while caller.state.tasks:
            await asyncio.gather(*caller.state.tasks)
        assert caller.heard.count(b"HTTP/1.1 204") == 2

    run_virtual(story())


def test_bytes_that_are_no_http_are_refused_in_json() -> None:
    async def story() -> None:
        caller = Connection()
        caller.say(b"\x16\x03\x01")
        assert caller.heard.startswith(b"HTTP/1.1 400 ")
        assert caller.heard.endswith(body_of(errors.BadRequest("these bytes are no HTTP request"), "id-1"))

    run_virtual(story())
