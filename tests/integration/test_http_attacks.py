"""Slow callers, and bytes that can be read in two ways, over real sockets; at full size in `tests/long`.

The timeouts are short, so that everything ends soon; how soon exactly is not looked at here.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from tests.fakes.aio import LoopName, run
from tests.fakes.good_caller import GoodCaller
from tests.fakes.http_house import ROUTE, Raw, get, house, running
from tests.fakes.slow_callers import FIRST, Plan, attacking
from wrk_base.config import HttpSettings

CONNECTIONS = 50
LOOPS: tuple[LoopName, ...] = ("asyncio", "uvloop")
QUICK = HttpSettings(header_timeout=300, body_timeout=300, write_timeout=300)


@pytest.mark.skipif(sys.platform != "linux", reason="the callers use epoll")
@pytest.mark.parametrize("kind", FIRST)
def test_slow_callers_are_ended_and_a_good_one_is_answered(kind: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path, http=QUICK) as service:
            good = GoodCaller(service.http_endpoint)
            port = int(service.http_endpoint.rpartition(":")[2])
            with attacking(Plan(kind, port, CONNECTIONS, a_second=500, pause=0.1)) as attack:
                answers = await good.ask(2, a_second=20)
                figures = await asyncio.to_thread(attack.figures)
            await good.close()
            assert figures.opened > CONNECTIONS
            assert (figures.left, figures.refused, figures.most) == (0, 0, CONNECTIONS)
            assert answers.failures == []

    run(story(), "uvloop")


def test_a_body_that_comes_slowly_but_steadily_is_taken(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, http=HttpSettings(body_timeout=1000)) as h:
            raw, body = await h.connect(), b'{"modelId":"m1","inputData":"%s"}' % (b"x" * 393_216)
            raw.send(f"POST {ROUTE} HTTP/1.1\nhost: localhost\ncontent-length: {len(body)}")
            for start in range(0, len(body), 65_536):
                raw.writer.write(body[start : start + 65_536])
                await asyncio.sleep(0.3)
            assert (await raw.answer())[0] == 200
            await raw.close()

    run(story(), "uvloop")


@pytest.mark.parametrize("loop", LOOPS)
def test_a_reader_who_is_slow_but_steady_gets_all_of_its_answer(loop: LoopName, tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, http=HttpSettings(write_timeout=500)) as h:
            raw = await h.connect()
            raw.writer.transport.pause_reading()
            raw.post(b'{"modelId":"m1","inputData":"%s"}' % (b"x" * 2_000_000))
            got = b""
            while b'"requestId"' not in got:
                raw.writer.transport.resume_reading()
                got += await raw.reader.read(65_536)
                raw.writer.transport.pause_reading()
                await asyncio.sleep(0.03)
            assert len(got) > 2_000_000
            raw.reset()

    run(story(), loop)


def test_connections_beyond_the_most_take_the_place_of_idle_ones(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, http=HttpSettings(max_connections=3)) as h:
            held = h.hold()
            await h.held()
            idle = [await h.connect() for _ in range(2)]
            late = await h.connect()
            late.send("GET /health HTTP/1.1\nhost: localhost")
            assert (await late.answer())[0] == 200
            assert await idle[0].end() == b""
            idle[1].send("GET /health HTTP/1.1")  # has begun, and so has the next
            idle[1].writer.write(b"x: ")
            busy = await h.connect()
            busy.writer.write(b"GET /health HTTP/1.1\r\n")
            assert await late.end() == b""
            await asyncio.sleep(0.1)
            for raw in (*idle, late, busy):
                await raw.close()
            h.rack.go_on.set()
            assert (await held).status_code == 200

    run(story(), "uvloop")


def test_where_nobody_is_idle_a_new_one_is_told_to_come_again(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, http=HttpSettings(max_connections=1)) as h:
            held = h.hold()
            await h.held()
            late = await h.connect()
            status, headers, body = await late.answer()
            assert (status, headers["connection"], headers["retry-after"]) == (503, "close", "1")
            assert body["error"]["code"] == "ERR_UNAVAILABLE"
            assert await late.end() == b""
            await late.close()
            h.rack.go_on.set()
            assert (await held).status_code == 200

    run(story(), "uvloop")


HIDDEN = "GET /api/workers HTTP/1.1\r\nhost: localhost\r\n\r\n"
ROUTE_LINE = f"POST {ROUTE} HTTP/1.1\r\nhost: localhost\r\n"
TWO_WAYS = {
    "both lengths": f"{ROUTE_LINE}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}",
    "two lengths": f"{ROUTE_LINE}content-length: 0\r\ncontent-length: {len(HIDDEN)}\r\n\r\n{HIDDEN}",
    "bare line ends": f"GET /health HTTP/1.1\nhost: localhost\n\n{HIDDEN}",
    "NUL in a header": f"GET /health HTTP/1.1\r\nhost: localhost\r\nx: a\0b\r\n\r\n{HIDDEN}",
    "a whole address": f"GET http://evil.example/health HTTP/1.1\r\nhost: localhost\r\n\r\n{HIDDEN}",
    "200 headers": "GET /health HTTP/1.1\r\nhost: localhost\r\n" + "x: y\r\n" * 200 + f"\r\n{HIDDEN}",
    "two hosts": "GET /health HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\n"
    f"connection: close\r\n\r\n{HIDDEN}",
    "no host": f"GET /health HTTP/1.1\r\nconnection: close\r\n\r\n{HIDDEN}",
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("sent", TWO_WAYS.values(), ids=TWO_WAYS)
def test_what_can_be_read_in_two_ways_is_refused_and_nothing_after_it_answered(
    loop: LoopName, sent: str, tmp_path: Path
) -> None:
    async def story() -> None:
        async with running(tmp_path) as service:
            raw = await Raw.connect(service.http_endpoint)
            raw.writer.write(sent.encode())
            said = await raw.end()
            assert said.startswith(b"HTTP/1.1 4")
            assert said.count(b"HTTP/1.1 ") == 1
            await raw.close()
            assert (await get(service, "/health")).status_code == 200

    run(story(), loop)
