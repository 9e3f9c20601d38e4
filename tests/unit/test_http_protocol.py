"""The bounds around requests: the size and the time of heads, what is not taken, how many connections.

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
from wrk_orchestrator.http.protocol import (
    DEFAULT,
    HEAD_BYTES,
    LINGER_S,
    MAX_HEADERS,
    MAX_QUEUED,
    Bounds,
    Protocol,
    Resting,
)

HEAD_S = DEFAULT.head_s
WRITE_S = DEFAULT.write_s
IDLE_S = 75
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


class Transport(asyncio.Transport):
    """Remembers what was written, and that it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.untaken = 0
        self.eof = self.closed = self.aborted = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return self.untaken

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True
        self.lost()

    def lost(self) -> None:
        """To be set to what the protocol is told then."""

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
    """One caller's connection; `beside` another one to the same server."""

    def __init__(self, beside: Connection | None = None, bounds: Bounds = DEFAULT) -> None:
        self.app, self.transport = App(), Transport()
        self.state: ServerState = beside.state if beside else ServerState()
        self.resting: Resting = beside.resting if beside else Resting()
        config = uvicorn.Config(
            self.app,
            log_config=None,
            log_level="critical",
            lifespan="off",
            ws="none",
            timeout_keep_alive=IDLE_S,
        )
        loop = asyncio.get_running_loop()
        self.protocol = Protocol(config, self.state, {}, loop, bounds=bounds, resting=self.resting)
        self.transport.lost = self.gone  # type: ignore[method-assign]
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

    def takes_nothing(self, waiting: int = 100_000) -> None:
        """The kernel has taken what it takes; so many bytes wait."""
        self.transport.untaken = waiting
        self.protocol.pause_writing()


async def answered(connection: Connection) -> None:
    connection.app.go_on.set()
    while not connection.protocol.cycle.response_complete:  # noqa: ASYNC110 - there is no event
        await asyncio.sleep(0)


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


def test_more_headers_than_anybody_sends_are_refused() -> None:
    async def story() -> None:
        for count, status in ((MAX_HEADERS - 1, b"204"), (MAX_HEADERS, b"431")):
            caller = Connection()
            caller.app.go_on.set()
            caller.say(GET[:-2] + b"x: y\r\n" * count + b"\r\n")
            await asyncio.gather(*caller.state.tasks)
            assert caller.heard.startswith(b"HTTP/1.1 " + status)

    run_virtual(story())


# --- what can be read in two ways

POST = b"POST / HTTP/1.1\r\nhost: x\r\n"
TWO_WAYS = {
    "both lengths": POST + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + GET,
    "both, the other way round": POST
    + b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n"
    + GET,
    "two lengths": POST + b"content-length: 0\r\ncontent-length: 3\r\n\r\n" + GET,
    "one length twice": POST + b"content-length: 3\r\ncontent-length: 3\r\n\r\nabc" + GET,
    "a list of lengths": POST + b"content-length: 3, 3\r\n\r\nabc" + GET,
    "a signed length": POST + b"content-length: +3\r\n\r\nabc" + GET,
    "a negative length": POST + b"content-length: -1\r\n\r\n" + GET,
    "an unknown coding": POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + GET,
    "chunked and something after": POST + b"transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n" + GET,
    "line ends without return": GET.replace(b"\r\n", b"\n"),
    "one line end without return": b"GET / HTTP/1.1\nhost: x\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\nhost: x\r\na: b\r\n c\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nhost : x\r\n\r\n",
    "NUL in a header": b"GET / HTTP/1.1\r\nhost: x\r\na: b\0c\r\n\r\n",
    "a return in a header": b"GET / HTTP/1.1\r\nhost: x\r\na: b\rc\r\n\r\n",
    "a whole address": b"GET http://x/ HTTP/1.1\r\nhost: y\r\n\r\n",
    "a host and a port": b"CONNECT x:1 HTTP/1.1\r\nhost: x:1\r\n\r\n",
    "no such version": b"GET / HTTP/3.7\r\nhost: x\r\n\r\n",
    "a chunk's size in no digits": POST + b"transfer-encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n" + GET,
    "a chunk longer than it says": POST + b"transfer-encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n" + GET,
}


@pytest.mark.parametrize("sent", TWO_WAYS.values(), ids=TWO_WAYS)
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "byte by byte"])
def test_what_could_be_read_in_two_ways_is_refused_and_nothing_after_it_answered(
    sent: bytes, at_once: bool
) -> None:
    async def story() -> None:
        caller = Connection()
        caller.app.go_on.set()
        for part in (sent,) if at_once else (bytes([byte]) for byte in sent):
            caller.say(part)
            await asyncio.sleep(0)
        await asyncio.gather(*caller.state.tasks)
        await asyncio.sleep(LINGER_S + 1)
        assert caller.hung_up
        assert caller.heard.count(b"HTTP/1.1 400 ") == 1
        head_was_fine = sent.startswith(POST + b"transfer-encoding: chunked\r\n\r\n")
        assert caller.heard.count(b"HTTP/1.1 ") <= 1 + head_was_fine  # 204: before its body went wrong

    run_virtual(story())


def test_what_follows_an_upgrade_is_no_request() -> None:
    async def story() -> None:
        caller = Connection()
        caller.app.go_on.set()
        caller.say(POST + b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: 3\r\n\r\nabc" + GET)
        caller.say(GET)
        await asyncio.gather(*caller.state.tasks)
        assert caller.heard.count(b"HTTP/1.1 ") == 1
        assert caller.hung_up

    run_virtual(story())


def test_an_answer_that_is_owed_is_given_before_what_follows_is_refused() -> None:
    async def story() -> None:
        caller = Connection()
        caller.say(GET)
        caller.say(b"nonsense\r\n\r\n")
        await asyncio.sleep(HEAD_S)
        assert caller.heard == b""
        await answered(caller)
        assert caller.heard.count(b"HTTP/1.1 ") == 1
        assert caller.heard.startswith(b"HTTP/1.1 204")
        assert caller.hung_up

    run_virtual(story())


def test_a_caller_who_asks_on_and_on_before_it_is_answered_has_so_many_answered() -> None:
    async def story() -> None:
        caller = Connection()
        caller.say(GET * 10_000)
        assert len(caller.protocol.pipeline) == MAX_QUEUED
        caller.app.go_on.set()
        while caller.state.tasks:
            await asyncio.gather(*caller.state.tasks)
        assert caller.heard.count(b"HTTP/1.1 204") == 1 + MAX_QUEUED
        assert caller.hung_up

    run_virtual(story())


@pytest.mark.parametrize(
    ("first", "again"),
    [(b"", b"1;" + b"n" * 1000 + b"\r\nx\r\n"), (b"0\r\nt: ", b"n" * 1000)],
    ids=["notes on chunks", "a trailer"],
)
def test_a_body_with_more_around_it_than_in_it_is_refused(first: bytes, again: bytes) -> None:
    async def story() -> None:
        caller = Connection()
        caller.say(POST + b"transfer-encoding: chunked\r\n\r\n" + first)
        for _ in range(100):
            caller.say(again)
        assert caller.heard.startswith(b"HTTP/1.1 400 ")

    run_virtual(story())


def test_what_is_read_at_once_may_be_the_end_of_one_body_and_the_begin_of_another() -> None:
    async def story() -> None:
        caller = Connection()
        caller.app.go_on.set()
        size = 1_000_000
        sent = (POST + b"content-length: %d\r\n\r\n" % size + b"x" * size) * 5
        for start in range(0, len(sent), 262_144):
            caller.say(sent[start : start + 262_144])
            await asyncio.sleep(0.01)
        assert caller.heard.count(b"HTTP/1.1 204") == 5
        assert not caller.hung_up

    run_virtual(story())


def test_chunks_of_one_byte_are_a_body_like_any_other() -> None:
    async def story() -> None:
        caller = Connection()
        caller.say(POST + b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(100):
            caller.say(b"1\r\nx\r\n" * 1000)
        caller.say(b"0\r\n\r\n")
        await answered(caller)
        assert caller.heard.startswith(b"HTTP/1.1 204")

    run_virtual(story())


# --- what is not taken


def test_a_caller_who_takes_nothing_is_cut_off() -> None:
    async def story() -> None:
        caller = Connection()
        caller.say(GET)
        caller.takes_nothing()
        await asyncio.sleep(WRITE_S - 1)
        assert not caller.hung_up
        await asyncio.sleep(1 + WRITE_S / 8)
        assert caller.transport.aborted

    run_virtual(story())


def test_a_caller_who_takes_a_little_now_and_then_is_not_cut_off_until_it_stops() -> None:
    async def story() -> None:
        caller = Connection()
        caller.say(GET)
        caller.takes_nothing()
        for _ in range(20):
            await asyncio.sleep(WRITE_S - 2)
            caller.transport.untaken -= 1
        assert not caller.hung_up
        await asyncio.sleep(WRITE_S + 2)
        assert caller.transport.aborted

    run_virtual(story())


def test_a_caller_who_has_taken_all_is_not_cut_off() -> None:
    async def story() -> None:
        caller = Connection()
        caller.say(GET)
        caller.takes_nothing()
        await asyncio.sleep(WRITE_S - 1)
        caller.transport.untaken = 0
        caller.protocol.resume_writing()
        await asyncio.sleep(5 * WRITE_S)
        assert not caller.hung_up

    run_virtual(story())


# --- how many


def test_the_one_that_rests_longest_makes_room() -> None:
    async def story() -> None:
        bounds = Bounds(connections=3)
        first = Connection(bounds=bounds)
        busy, second = Connection(first, bounds), Connection(first, bounds)
        busy.say(GET)
        first.say(GET)
        await answered(first)
        assert [one.hung_up for one in (first, busy, second)] == [False, False, False]
        fourth = Connection(first, bounds)  # `second` has not said a word, and `first` has just rested
        assert [one.hung_up for one in (first, busy, second, fourth)] == [False, False, True, False]
        second.gone()
        Connection(first, bounds)
        assert [one.hung_up for one in (first, busy, fourth)] == [True, False, False]

    run_virtual(story())


def test_where_none_rests_the_new_one_is_told_to_come_again() -> None:
    async def story() -> None:
        bounds = Bounds(connections=2)
        slow = Connection(bounds=bounds)
        busy = Connection(slow, bounds)
        busy.say(GET)
        slow.say(GET[:5])
        late = Connection(slow, bounds)
        assert late.heard.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1\r\n" in late.heard
        assert [one.hung_up for one in (slow, busy, late)] == [False, False, True]
        late.gone()
        await answered(busy)
        assert busy.heard.startswith(b"HTTP/1.1 204")

    run_virtual(story())


def test_a_connection_rests_from_the_end_of_its_last_answer() -> None:
    async def story() -> None:
        caller = Connection()
        for _ in range(3):
            caller.say(GET)
            await answered(caller)
            await asyncio.sleep(IDLE_S - 1)
            assert not caller.hung_up
        await asyncio.sleep(2)
        assert caller.hung_up

    run_virtual(story())


def test_line_ends_between_two_requests_do_not_keep_a_connection() -> None:
    async def story() -> None:
        caller = Connection()
        caller.say(GET)
        await answered(caller)
        for _ in range(IDLE_S):
            assert not caller.hung_up
            caller.say(b"\r\n")
            await asyncio.sleep(1)
        assert caller.hung_up

    run_virtual(story())
