"""The rack in front of an OpenAI-compatible server: what passes through it, and what it says of itself.

A whole rack and a small real server, HTTP over loopback between them, RPC in memory before them.
"""

from __future__ import annotations

import msgspec
import pytest

from tests.fakes.aio import LoopName, run
from tests.fakes.openai_house import HELLO, HELLO_STREAM, house
from wrk_base import errors
from wrk_base.rpc import wire

LOOPS: list[LoopName] = ["asyncio", "uvloop"]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_chat_is_answered_with_the_bytes_of_the_upstream(loop: LoopName) -> None:
    async def story() -> None:
        async with house(models=["m1", "m2"]) as h:
            assert h.models() == ["m1", "m2"]
            reply = await h.reply("chat", HELLO)
            assert reply.content_type == wire.JSON
            answer = msgspec.json.decode(reply.payload)
            assert answer["choices"][0]["message"]["content"] == "hello 0 hello 1 hello 2 "
            assert answer["usage"]["total_tokens"] == 4

    run(story(), loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_streamed_chat_is_its_chunks_without_comments_and_done(loop: LoopName) -> None:
    async def story() -> None:
        async with house() as h:
            got = await h.stream("chat", HELLO_STREAM)
            assert got.error is None
            assert got.content_type == wire.JSON
            deltas = [item["choices"][0]["delta"] for item in got.decoded]
            assert deltas == [*({"content": f"hello {n} "} for n in range(3)), {}]
            assert got.final is None

    run(story(), loop)


def test_the_body_reaches_the_upstream_byte_for_byte() -> None:
    async def story() -> None:
        async with house() as h:
            body = (
                b'{ "model" : "m1", "messages":[{"role":"user","content":"\\u0068i"}], "seed":1e400,"x":01 }'
            )
            body = body.replace(b"01", b"10000000000000000000000000000000000000001")
            await h.reply("chat", body)
            assert h.upstream.inferences[-1].body == body
            assert h.upstream.inferences[-1].headers["content-type"] == "application/json"

    run(story())


def test_an_alias_becomes_the_model_that_was_meant() -> None:
    async def story() -> None:
        async with house() as h:
            answer = await h.ask("chat", {**HELLO, "model": "alias", "seed": 5}, model="m1")
            assert answer["model"] == "m1"
            assert h.upstream.inferences[-1].json == {**HELLO, "seed": 5}

    run(story())


def test_who_asks_for_items_gets_a_stream_and_who_does_not_gets_none() -> None:
    async def story() -> None:
        async with house() as h:
            assert len((await h.stream("chat", HELLO)).items) == 4
            answer = await h.ask("chat", {**HELLO_STREAM, "stream_options": {"include_usage": True}})
            assert answer["object"] == "chat.completion"
            assert h.upstream.inferences[-1].json == {**HELLO, "stream": False}

    run(story())


@pytest.mark.parametrize(
    ("task", "body", "path"),
    [
        ("completion", {"model": "m1", "prompt": "hello"}, "/v1/completions"),
        ("embedding", {"model": "m1", "input": ["a", "bcd"]}, "/v1/embeddings"),
        ("rerank", {"model": "m1", "query": "q", "documents": ["a", "b"]}, "/v1/rerank"),
        ("response", {"model": "m1", "input": "hello"}, "/v1/responses"),
    ],
)
def test_each_task_has_its_path(task: str, body: dict[str, object], path: str) -> None:
    async def story() -> None:
        async with house() as h:
            answer = await h.ask(task, body)
            assert answer["model"] == "m1"
            assert h.upstream.inferences[-1].path == path

    run(story())


def test_a_response_streams_whole_events() -> None:
    async def story() -> None:
        async with house() as h:
            got = await h.stream("response", {"model": "m1", "input": "hello", "stream": True})
            assert (got.error, got.content_type) == (None, wire.OCTETS)
            assert got.items[0].startswith(b"event: response.created\ndata: {")
            assert got.items[-1].startswith(b"event: response.completed\n")
            assert all(item.endswith(b"\n\n") for item in got.items)
            assert len(got.items) == 5

    run(story())


def test_a_raw_prompt_is_a_chat() -> None:
    async def story() -> None:
        async with house() as h:
            answer = await h.ask("raw", b'"hello"')
            assert answer["text"] == "hello 0 hello 1 hello 2 "
            assert (answer["model"], answer["worker"]) == ("m1", "o1-1")
            assert answer["response"]["object"] == "chat.completion"
            await h.ask("raw", {"prompt": "hello", "temperature": 0.5})
            assert h.upstream.inferences[-1].json["temperature"] == 0.5
            got = await h.stream("raw", b'"hello"')
            assert got.decoded == [{"index": n, "text": f"hello {n} "} for n in range(3)]
            assert got.final["text"] == answer["text"]

    run(story())


def test_a_task_that_is_none_is_refused_with_those_that_are() -> None:
    async def story() -> None:
        async with house() as h:
            error = await h.fails("dance")
            assert isinstance(error, errors.BadRequest)
            assert "chat, completion, embedding, rerank, response, raw" in error.message

    run(story())
