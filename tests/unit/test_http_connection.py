"""One connection to an upstream, by hand: what it reads ahead, when it may be used again, when it is cut.

The transport is the test's own, so that every byte comes when the story says so; time is virtual.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from racks.http_connection import (
    HIGH_WATER,
    IDLE_SECONDS,
    LINGER_SECONDS,
    Connection,
    LostUnanswered,
)
from racks.http_reader import BadResponse, ResponseReader
from tests.fakes.aio import run

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n"
SILENCE = 5.0


class Wire(asyncio.Transport):
    """A transport that writes down what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.reading = True
        self.cut = False

    def writelines(self, list_of_data: Any) -> None:
        self.sent += b"".join(list_of_data)

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def abort(self) -> None:
        self.cut = True


class Stage:
    """A connection that was asked something."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.wire = Wire()
        self.left: list[Connection] = []
        self.connection = Connection(self.loop, self.left.append)
        self.connection.connection_made(self.wire)

    async def ask(self, *came: bytes) -> ResponseReader:
        asking = asyncio.create_task(self.connection.ask(b"GET", b""))
        await asyncio.sleep(0)
        for data in came:
            self.connection.data_received(data)
        return await asking

    def check(self, after: float) -> bool:
        """Whether a look at the clock so much later cuts it."""
        self.connection.check(self.loop.time() + after, SILENCE)
        return self.wire.cut


def test_an_answer_is_taken_as_it_comes() -> None:
    async def story() -> None:
        s = Stage()
        await s.ask(HEAD % 5 + b"he")
        assert (s.wire.sent, s.connection.take()) == (b"GET", b"he")
        more = asyncio.create_task(s.connection.news())
        await asyncio.sleep(0)
        s.connection.data_received(b"llo")
        await more
        assert (s.connection.take(), s.connection.whole) == (b"llo", True)

    run(story(), "virtual")


def test_nothing_is_read_ahead_of_a_slow_reader_beyond_the_bound() -> None:
    async def story() -> None:
        s = Stage()
        await s.ask(HEAD % 10_000_000, bytes(HIGH_WATER - 100))
        assert s.wire.reading
        s.connection.data_received(bytes(1000))
        assert not s.wire.reading
        await asyncio.sleep(2 * SILENCE)
        assert not s.check(0), "the silence is ours"
        assert len(s.connection.take()) == HIGH_WATER + 900
        assert s.wire.reading
        assert not s.check(SILENCE), "and ends only now"
        assert s.check(SILENCE + 0.1)

    run(story(), "virtual")


def test_a_whole_answer_that_nobody_read_leaves_a_connection_that_reads_on() -> None:
    async def story() -> None:
        s = Stage()
        await s.ask(HEAD % (2 * HIGH_WATER) + bytes(2 * HIGH_WATER))
        assert not s.wire.reading
        assert s.connection.rest(s.loop.time())
        assert s.wire.reading
        await s.ask(HEAD % 2 + b"ok")
        assert s.connection.take() == b"ok"

    run(story(), "virtual")


@pytest.mark.parametrize("came", [b"HTTP/1.1 200 OK\r\n\r\n", b"\x00", HEAD % 6 + b"poison"])
def test_a_word_that_nobody_asked_for_ends_it(came: bytes) -> None:
    async def story() -> None:
        s = Stage()
        await s.ask(HEAD % 2 + b"ok")
        assert s.connection.rest(s.loop.time())
        s.connection.data_received(came)
        assert s.wire.cut
        assert s.connection.lost

    run(story(), "virtual")


def test_what_was_asked_for_once_and_came_twice_is_not_kept() -> None:
    async def story() -> None:
        s = Stage()
        await s.ask(HEAD % 2 + b"ok" + HEAD % 6 + b"poison")
        assert (s.connection.take(), s.connection.rest(s.loop.time())) == (b"ok", False)

    run(story(), "virtual")


def test_an_answer_whose_last_word_was_read_lingers_for_its_end() -> None:
    async def story() -> None:
        s = Stage()
        whole: list[Connection] = []
        await s.ask(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nDONE\r\n")
        s.connection.linger(whole.append)
        s.connection.data_received(b"3\r\nfoo\r\n")
        assert whole == []
        s.connection.data_received(b"0\r\n\r\n")
        assert whole == [s.connection]
        assert s.connection.rest(s.loop.time())
        await s.ask(HEAD % 2 + b"ok")
        assert s.connection.take() == b"ok"

    run(story(), "virtual")


def test_clocks_end_what_rests_lingers_or_is_silent_too_long() -> None:
    async def story() -> None:
        rests = Stage()
        await rests.ask(HEAD % 0)
        rests.connection.rest(rests.loop.time())
        assert not rests.check(IDLE_SECONDS)
        assert rests.check(IDLE_SECONDS + 0.1)
        lingers = Stage()
        await lingers.ask(HEAD % 10)
        lingers.connection.linger(lambda _: None)
        assert not lingers.check(LINGER_SECONDS)
        assert lingers.check(LINGER_SECONDS + 0.1)
        silent = Stage()
        await silent.ask(HEAD % 10 + b"some")
        assert not silent.check(SILENCE)
        assert silent.check(SILENCE + 0.1)
        assert silent.connection.take() == b"some", "what came is not lost"
        with pytest.raises(BadResponse, match="nothing came for 5 s"):
            await silent.connection.news()

    run(story(), "virtual")


def test_before_its_first_byte_a_server_may_think_as_long_as_the_caller_waits() -> None:
    async def story() -> None:
        s = Stage()
        asking = asyncio.create_task(s.connection.ask(b"GET", b""))
        await asyncio.sleep(0)
        assert not s.check(1000 * SILENCE)
        s.connection.data_received(HEAD % 0)
        await asking

    run(story(), "virtual")


def test_a_loss_says_whether_anything_had_come() -> None:
    async def story() -> None:
        for came, kind in ((b"", LostUnanswered), (b"HTTP/1.1", BadResponse)):
            s = Stage()
            asking = asyncio.create_task(s.connection.ask(b"GET", b""))
            await asyncio.sleep(0)
            if came:
                s.connection.data_received(came)
            s.connection.connection_lost(None)
            with pytest.raises(kind):
                await asking
            assert s.left == [s.connection]

    run(story(), "virtual")
