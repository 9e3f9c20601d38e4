"""Callers over HTTP say in one shape what they were told, and hide nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from wrk_orchestrator.chaos.callers import HttpCaller, HttpStreamCaller, Question, Told
from wrk_orchestrator.chaos.http_caller import Connections

CHAT = b'{"choices": [{"message": {"content": "four words"}}]}'
FIELDS = b"x-wrk-worker: r1\r\nx-wrk-attempts: 2\r\n"


def response(body: bytes, status: bytes = b"200 OK", fields: bytes = b"") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\n%b\r\n%b" % (status, len(body), fields, body)


def chunked(*events: bytes) -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


def told(answer: bytes, tell: Callable[[Connections], Coroutine[Any, Any, Any]]) -> Any:
    """The result of `tell`, with a server that gives this answer to whatever it is asked, and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length"))
        await reader.readexactly(int(length.partition(b":")[2]))
        writer.write(answer)
        writer.close()

    async def story() -> Any:
        async with asyncio.timeout(10), await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            connections = Connections("127.0.0.1", server.sockets[0].getsockname()[1])
            try:
                return await tell(connections)
            finally:
                connections.close()

    return asyncio.run(story())


def asked(answer: bytes, *, chat: bool = True, seconds: float = 5.0) -> Told:
    question = Question("q1", "hello", seconds)
    return told(answer, lambda connections: HttpCaller(connections, chat=chat).ask(question))  # type: ignore[no-any-return]


def test_a_chat_names_its_rack_and_its_attempts() -> None:
    assert asked(response(CHAT, fields=FIELDS)) == Told(worker="r1", attempts=2, text="four words")


def test_the_mesh_s_own_endpoint_says_it_in_its_body() -> None:
    body = b'{"workerId": "r1", "attempts": 1, "result": {"text": "four words"}}'
    assert asked(response(body), chat=False) == Told(worker="r1", attempts=1, text="four words")


@pytest.mark.parametrize(
    ("status", "code", "outcome"),
    [
        (b"429 Too Many Requests", b"rate_limit_exceeded", "ERR_CAPACITY_EXCEEDED"),
        (b"504 Gateway Timeout", b"timeout", "ERR_DEADLINE_EXCEEDED"),
        (b"503 Service Unavailable", b"queue_timeout", "ERR_QUEUE_TIMEOUT"),
        (b"503 Service Unavailable", b"ERR_UNAVAILABLE", "ERR_UNAVAILABLE"),
        (b"418 Teapot", b"short", "HTTP 418 short"),
    ],
)
def test_an_error_is_told_by_the_name_that_rpc_has_for_it(status: bytes, code: bytes, outcome: str) -> None:
    assert asked(response(b'{"error": {"code": "%b"}}' % code, status)).outcome == outcome


def test_an_answer_that_does_not_come_whole_is_no_answer() -> None:
    assert asked(response(CHAT, fields=FIELDS)[:-5]).outcome == "IncompleteReadError"
    assert asked(b"").outcome == "IncompleteReadError"


def test_a_server_that_says_nothing_is_not_waited_for() -> None:
    async def ask(connections: Connections) -> Told:
        silent = await asyncio.start_server(lambda *_: asyncio.sleep(60), "127.0.0.1", 0)
        async with silent:
            port = silent.sockets[0].getsockname()[1]
            caller = HttpCaller(Connections("127.0.0.1", port), chat=True)
            answer = await caller.ask(Question("q1", "hello", 0.1))
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                if "sleep" in repr(task):
                    task.cancel()
            return answer

    assert told(b"", ask).outcome == "ERR_DEADLINE_EXCEEDED"


def streamed(answer: bytes) -> Told:
    question = Question("q1", "hello", 5.0)
    return told(answer, lambda connections: HttpStreamCaller(connections).ask(question))  # type: ignore[no-any-return]


def test_a_stream_is_its_text_if_it_came_to_its_end() -> None:
    one, two = (
        b'data: {"choices": [{"delta": {"content": "%b"}}]}\n\n' % text for text in (b"four ", b"words")
    )
    assert streamed(chunked(one, two, b"data: [DONE]\n\n")).text == "four words"
    assert streamed(chunked(one, two)).outcome == "EOFError"
    broken = b'data: {"error": {"code": "ERR_UNAVAILABLE"}}\n\n'
    assert streamed(chunked(one, broken)).outcome == "ERR_UNAVAILABLE"
