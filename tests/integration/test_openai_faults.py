"""A hostile upstream: whatever it does, the caller gets a typed error in time, in bounded memory, and the
next request is as good as if nothing had happened.

RELIABILITY's G8, at one request a fault; `upstream_faults.py` has the faults.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.fakes.aio import eventually, run
from tests.fakes.openai_house import HELLO, HELLO_STREAM, OpenAIHouse, house
from tests.fakes.upstream import Fault
from tests.fakes.upstream_faults import DONE, SILENT, STREAMS, UNARY
from wrk_base import errors
from wrk_base.config import RpcSettings, Settings
from wrk_base.rpc.line import PeerLimits

MIB = 1_048_576
SMALL: dict[str, Any] = {
    "settings": Settings(rpc=RpcSettings(max_body=MIB)),
    "silence_timeout": 100,
}
BUFFERS = 64 * MIB  # what kernels take on both sides beside what was read, and a flood exceeds in no time
TYPED = (errors.UpstreamFailed, errors.Unavailable)
UNANSWERED = (UNARY["refuses_by_reset"], UNARY["closes_unanswered"])
"""Asked once more: the connection that was lost had rested, and may have been closed before."""


async def is_well(h: OpenAIHouse) -> None:
    """The next requests are answered, on connections of which none is left half used."""
    h.upstream.fault = None
    answer = await h.ask("chat", HELLO)
    assert answer["choices"][0]["message"]["content"] == "hello 0 hello 1 hello 2 "
    streamed = await h.stream("chat", HELLO_STREAM)
    assert (streamed.error, len(streamed.items)) == (None, 4)
    assert h.rack.health()["healthy"]
    await eventually(lambda: h.upstream.open <= 2)


@pytest.mark.parametrize("fault", UNARY.values(), ids=UNARY)
def test_an_answer_that_is_none_is_a_typed_error(fault: Fault) -> None:
    async def story() -> None:
        async with house(**SMALL) as h:
            h.upstream.fault = fault
            before = h.upstream.sent
            error = await h.fails()
            assert isinstance(error, TYPED), error
            assert "upstream http://127.0.0.1" in error.message
            if fault is UNARY["packs_a_bomb"]:
                assert "compressed" in error.message
            assert h.upstream.sent - before <= MIB + BUFFERS
            assert len(h.upstream.inferences) == (2 if fault in UNANSWERED else 1)
            await is_well(h)

    run(story())


@pytest.mark.parametrize("fault", STREAMS.values(), ids=STREAMS)
def test_a_stream_that_goes_wrong_is_a_typed_error_after_what_was_good(fault: Fault) -> None:
    async def story() -> None:
        async with house(**SMALL) as h:
            h.upstream.fault = fault
            before = h.upstream.sent
            got = await h.stream("chat", HELLO_STREAM)
            assert isinstance(got.failure, TYPED), got.failure
            assert got.failure.data["items"] == len(got.items)
            if fault is STREAMS["streams_an_error"]:
                assert got.failure.message.endswith("it tells of an error: out of memory")
                assert got.failure.data["status"] == 503
            assert all(item["id"] == "c1" for item in got.decoded)
            if "streams_a" in fault.__name__ or "without_done" in fault.__name__:
                assert len(got.items) >= 1, "what was good is lost"
            assert h.upstream.sent - before <= MIB + BUFFERS
            assert len(h.upstream.inferences) == (2 if fault in UNANSWERED else 1)
            await is_well(h)

    run(story())


@pytest.mark.parametrize("fault", SILENT.values(), ids=SILENT)
def test_too_little_ends_at_the_deadline(fault: Fault) -> None:
    async def story() -> None:
        async with house(**SMALL) as h:
            h.upstream.fault = fault
            assert isinstance(await h.fails(timeout=0.2), errors.DeadlineExceeded)
            got = await h.stream("chat", HELLO_STREAM, timeout=0.2)
            assert isinstance(got.failure, errors.DeadlineExceeded | errors.UpstreamFailed)
            await is_well(h)

    run(story())


def test_a_connection_is_used_again_though_the_end_of_a_stream_came_late() -> None:
    async def story() -> None:
        async with house(refresh_interval=3_600_000) as h:
            going_on = asyncio.Event()

            async def ends_late(visitor: Any) -> None:
                await visitor.begin()
                await visitor.chunk(DONE)
                await going_on.wait()
                await visitor.end()

            h.upstream.fault = ends_late
            assert (await h.stream("chat", HELLO_STREAM)).error is None
            assert h.upstream.open == 1
            going_on.set()
            await is_well(h)
            before = h.upstream.connections
            await h.ask("chat", HELLO)
            assert h.upstream.connections == before
            assert h.upstream.closed == 0

    run(story())


def test_a_reader_who_leaves_stops_a_stream_without_end() -> None:
    async def story() -> None:
        async with house() as h:
            h.upstream.fault = STREAMS["streams_without_end"]
            peer = h.peers.get(h.rack.endpoint)
            got = await h.stream("chat", HELLO_STREAM, leave_after=1, limits=PeerLimits(stream_items=32))
            assert len(got.items) == 1
            assert peer.idle
            await eventually(lambda: h.upstream.open <= 1)
            assert h.upstream.sent < BUFFERS
            await is_well(h)

    run(story())


def test_errors_keep_status_and_body() -> None:
    async def story() -> None:
        async with house() as h:
            body = msgspec.json.encode({"error": {"message": "max_tokens is too large", "code": None}})
            h.upstream.fault = lambda visitor: visitor.whole(body, "400 Bad Request")
            error = await h.fails()
            assert isinstance(error, errors.UpstreamFailed)
            assert not error.not_started
            assert error.data["status"] == 400
            assert error.data["body"].encode() == body
            assert error.data["contentType"] == "application/json"
            got = await h.stream("chat", HELLO_STREAM)
            assert got.failure.data["status"] == 400
            await is_well(h)

    run(story())


@pytest.mark.parametrize("status", ["429 Too Many Requests", "502 Bad Gateway", "503 Busy", "504 Late"])
def test_what_another_server_may_do_is_not_started(status: str) -> None:
    async def story() -> None:
        async with house() as h:
            h.upstream.fault = lambda visitor: visitor.whole(
                b'{"error":"busy"}', status, "application/json", "retry-after: 7"
            )
            for error in (await h.fails(), (await h.stream("chat", HELLO_STREAM)).failure):
                assert isinstance(error, errors.UpstreamFailed)
                assert error.not_started
                assert error.retry_after_ms == 7000
                assert error.data["status"] == int(status[:3])
                assert (error.data["retryAfter"], error.data["body"]) == ("7", '{"error":"busy"}')
            await is_well(h)

    run(story())


def test_the_body_of_an_error_is_bounded_in_bytes_and_in_time() -> None:
    async def story() -> None:
        async with house() as h:
            h.upstream.fault = lambda visitor: visitor.whole(b"x" * 1_000_000, "500 Oops", "text/plain")
            error = await h.fails()
            assert len(error.data["body"]) == 65_536
            await is_well(h)

    run(story())


def test_a_connection_that_was_closed_while_it_rested_is_not_the_callers_business() -> None:
    async def story() -> None:
        async with house(refresh_interval=3_600_000) as h:
            await h.ask("chat", HELLO)
            calls = 0

            async def closes_the_old_one(visitor: Any) -> None:
                nonlocal calls
                calls += 1
                h.upstream.fault = None
                visitor.reset()

            h.upstream.fault = closes_the_old_one
            before = h.upstream.connections
            assert (await h.ask("chat", HELLO))["object"] == "chat.completion"
            assert (calls, h.upstream.connections) == (1, before + 1)

    run(story())


def test_what_must_not_run_twice_is_asked_once_and_never_called_not_started() -> None:
    async def story() -> None:
        async with house() as h:
            await h.ask("chat", HELLO)
            h.upstream.fault = UNARY["refuses_by_reset"]
            error = await h.fails(repeatable=False)
            assert isinstance(error, errors.UpstreamFailed)
            assert not error.not_started
            assert len(h.upstream.inferences) == 2
            again = await h.fails()
            assert isinstance(again, errors.Unavailable)
            assert again.not_started

    run(story())


def test_a_second_answer_that_nobody_asked_for_is_nobodys() -> None:
    async def story() -> None:
        async with house() as h:

            async def answers_twice(visitor: Any) -> None:
                await visitor.whole(b'{"answer":1}')
                await visitor.whole(b'{"answer":"poison"}')

            h.upstream.fault = answers_twice
            assert await h.ask("chat", HELLO) == {"answer": 1}
            await is_well(h)

    run(story())


def test_good_ends_of_all_kinds() -> None:
    """What is no fault: closing to end a body, notes on chunks, odd but whole streams."""
    chunk = b'data: {"id":"c1","choices":[]}\r\n\r\n'

    async def until_it_closes(visitor: Any) -> None:
        await visitor.head("200 OK", "content-type: application/json")
        await visitor.say(b'{"answer":1}')
        visitor.writer.close()

    async def done_and_hangs(visitor: Any) -> None:
        await visitor.begin()
        await visitor.chunk(b"\xef\xbb\xbf: hi\n\n" + chunk + b"id: 7\ndata:{}\n\ndata: [DONE]\n\n")
        await visitor.hang()

    async def interim_first(visitor: Any) -> None:
        await visitor.head("102 Processing")
        await visitor.head("103 Early Hints")
        await visitor.whole(b'{"error":null,"half":"\\ud800"}')

    stories: list[tuple[Fault, Callable[[OpenAIHouse], Any]]] = [
        (until_it_closes, lambda h: h.ask("chat", HELLO)),
        (done_and_hangs, lambda h: h.stream("chat", HELLO_STREAM)),
        (interim_first, lambda h: h.reply("chat", HELLO)),
    ]

    async def story() -> None:
        async with house() as h:
            found = []
            for fault, ask in stories:
                h.upstream.fault = fault
                found.append(await ask(h))
                await is_well(h)
            assert found[0] == {"answer": 1}
            assert found[1].items == [chunk[6:-4], b"{}"]
            assert found[2].payload == b'{"error":null,"half":"\\ud800"}'

    run(story())
