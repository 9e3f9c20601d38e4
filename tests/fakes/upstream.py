"""An OpenAI-compatible server, small and real: a raw asyncio server on a port of the kernel's choice.

    async with FakeUpstream(models=["m1"]) as upstream:
        ...  # upstream.url, upstream.asked, upstream.connections, upstream.open

It behaves well: models, chat, completions, embeddings, rerank and responses, with and without `stream`; what
it says is made from what it was asked, and `asked` keeps each request byte for byte. `pages` are further
pages, as Ollama and LM Studio have them. `pause()` lets requests wait until `go_on()`. With `fault` set,
every inference meets that instead; `upstream_faults.py` has them. `down()` and `up()` are an outage; the
port stays the same.

`with in_thread(models=["m1"]) as upstream:` runs one for tests that have no loop of their own.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import msgspec

from tests.fakes.aio import Watch

Fault = Callable[["Visitor"], Awaitable[None]]
JSON = "application/json"
SSE = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)  # takes numbers that no float holds


class Visitor:
    """A connection, and how to answer on it."""

    def __init__(self, upstream: FakeUpstream, writer: asyncio.StreamWriter) -> None:
        self.upstream, self.writer = upstream, writer

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        self.upstream.sent += len(data)
        await self.writer.drain()

    async def head(self, status: str, *headers: str) -> None:
        await self.say("\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode())

    async def whole(self, body: bytes, status: str = "200 OK", kind: str = JSON, *headers: str) -> None:
        lines = [f"HTTP/1.1 {status}", f"content-type: {kind}", f"content-length: {len(body)}", *headers]
        await self.say("\r\n".join([*lines, "", ""]).encode() + body)

    async def begin(self, kind: str = SSE) -> None:
        await self.head("200 OK", f"content-type: {kind}", "transfer-encoding: chunked")

    async def chunk(self, data: bytes) -> None:
        await self.say(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        await self.say(b"0\r\n\r\n")

    def reset(self) -> None:
        """Leave without a goodbye."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def hang(self) -> None:
        """Say nothing more; it ends when the other side leaves, or the server stops."""
        await asyncio.Event().wait()


class _Door(asyncio.StreamReaderProtocol):
    """Tells when the other side has left."""

    def __init__(self, visit: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]) -> None:
        super().__init__(asyncio.StreamReader(), visit)
        self.left = asyncio.Event()

    def eof_received(self) -> bool | None:
        self.left.set()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.left.set()
        super().connection_lost(exc)


class FakeUpstream(Watch):
    """The server. `models` may change at any time."""

    def __init__(
        self,
        models: list[str] | None = None,
        *,
        key: str = "",
        words: int = 3,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__()
        self._tls = tls
        self.models = ["m1"] if models is None else models
        self.key, self.words = key, words
        self.pages: dict[str, Any] = {}
        self.entries: dict[str, dict[str, Any]] = {}  # what else the list says of a model
        self.fault: Fault | None = None
        self.models_fault: Fault | None = None
        self.asked: list[Asked] = []
        self.connections = 0  # so far
        self.closed = 0
        self.sent = 0  # bytes, some of which may be on their way for ever
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._going_on = asyncio.Event()
        self._going_on.set()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def open(self) -> int:
        return self.connections - self.closed

    @property
    def inferences(self) -> list[Asked]:
        """The requests that a model was to answer."""
        return [asked for asked in self.asked if asked.method == "POST" and asked.path.startswith("/v1/")]

    def pause(self) -> None:
        """Answers wait, and streams stop after their first event, until `go_on`."""
        self._going_on.clear()

    def go_on(self) -> None:
        self._going_on.set()

    async def up(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Door(self._visit), "127.0.0.1", self.port, ssl=self._tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Nobody listens any more, and every connection is cut."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task, writer in tuple(self._tasks.items()):
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aenter__(self) -> FakeUpstream:
        await self.up()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.down()

    # --- one connection

    async def _visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks[task] = writer
        self.connections += 1
        self.noted()
        try:
            while asked := await _read_request(reader):
                await self._answer(asked, Visitor(self, writer))
        except (ConnectionError, asyncio.CancelledError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()
            del self._tasks[task]
            self.closed += 1
            self.noted()

    async def _answer(self, asked: Asked, visitor: Visitor) -> None:
        """Answer, and stop as soon as the other side leaves."""
        self.asked.append(asked)
        self.noted()
        answering = asyncio.ensure_future(self._dispatch(asked, visitor))
        door = visitor.writer.transport.get_protocol()
        assert isinstance(door, _Door)
        leaving = asyncio.ensure_future(door.left.wait())
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                raise ConnectionResetError
            answering.result()
        finally:
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)

    async def _dispatch(self, asked: Asked, visitor: Visitor) -> None:
        if self.key and asked.headers.get("authorization") != f"Bearer {self.key}":
            error = {"error": {"message": f"wrong key: {asked.headers.get('authorization')}"}}
            await visitor.whole(msgspec.json.encode(error), "401 Unauthorized")
        elif asked.path == "/v1/models":
            await (self.models_fault or self._list)(visitor)
        elif asked.path in self.pages:
            page = self.pages[asked.path]
            page = page(asked.json) if callable(page) else page
            await visitor.whole(msgspec.json.encode(page))
        elif asked.method == "POST" and asked.path in ANSWERS:
            await (self.fault(visitor) if self.fault is not None else self._infer(asked, visitor))
        else:
            await visitor.whole(b'{"error":{"message":"not found"}}', "404 Not Found")

    async def _list(self, visitor: Visitor) -> None:
        rows = [{"id": name, "object": "model", **self.entries.get(name, {})} for name in self.models]
        await visitor.whole(msgspec.json.encode({"object": "list", "data": rows}))

    async def _infer(self, asked: Asked, visitor: Visitor) -> None:
        try:
            whole, events = ANSWERS[asked.path](asked, self.words)
        except (ValueError, LookupError, TypeError) as error:
            refusal = {"error": {"message": f"bad request: {error}", "type": "invalid_request_error"}}
            await visitor.whole(msgspec.json.encode(refusal), "400 Bad Request")
            return
        if asked.json.get("stream") is not True or not events:
            await self._going_on.wait()
            await visitor.whole(msgspec.json.encode(whole))
            return
        await visitor.begin()
        for event in events:
            await visitor.chunk(event)
            await self._going_on.wait()
        await visitor.end()


async def _read_request(reader: asyncio.StreamReader) -> Asked | None:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines if line)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(method, path, headers, body)


# --- what it answers

Spoken = tuple[dict[str, Any], list[bytes]]


def _event(data: Any, name: str = "") -> bytes:
    return (f"event: {name}\n" if name else "").encode() + b"data: " + msgspec.json.encode(data) + b"\n\n"


def _words(prompt: str, words: int) -> list[str]:
    return [f"{prompt} {number} " for number in range(words)]


def _chat(asked: Asked, words: int) -> Spoken:
    body = asked.json
    said = _words(str(body["messages"][-1]["content"]), words)
    facts = {"id": "chatcmpl-1", "created": 1_800_000_000, "model": body["model"]}
    message = {"role": "assistant", "content": "".join(said)}
    whole = {
        **facts,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": words, "total_tokens": words + 1},
    }
    chunk = {**facts, "object": "chat.completion.chunk"}
    parts = [{"index": 0, "delta": {"content": word}, "finish_reason": None} for word in said]
    parts.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    events = [_event({**chunk, "choices": [part]}) for part in parts]
    if (body.get("stream_options") or {}).get("include_usage"):
        events.append(_event({**chunk, "choices": [], "usage": whole["usage"]}))
    return whole, [*events, b": a comment\n\n", b"data: [DONE]\n\n"]


def _completion(asked: Asked, words: int) -> Spoken:
    body = asked.json
    said = _words(str(body["prompt"]), words)
    facts = {"id": "cmpl-1", "object": "text_completion", "model": body["model"]}
    whole = {**facts, "choices": [{"index": 0, "text": "".join(said), "finish_reason": "stop"}]}
    events = [_event({**facts, "choices": [{"index": 0, "text": word}]}) for word in said]
    return whole, [*events, b"data: [DONE]\n\n"]


def _embedding(asked: Asked, words: int) -> Spoken:
    body = asked.json
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    rows = [
        {"object": "embedding", "index": i, "embedding": [float(len(text)), 0.5]}
        for i, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
    return {"object": "list", "data": rows, "model": body["model"], "usage": usage}, []


def _rerank(asked: Asked, words: int) -> Spoken:
    rows = [
        {"index": i, "relevance_score": 1 / (i + 1)} for i, _ in enumerate(asked.json.get("documents", []))
    ]
    return {"model": asked.json["model"], "results": rows}, []


def _response(asked: Asked, words: int) -> Spoken:
    body = asked.json
    said = _words(str(body["input"]), words)
    whole = {
        "id": "resp_1",
        "object": "response",
        "status": "completed",
        "error": None,
        "model": body["model"],
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "".join(said)}]}],
    }
    names = ["response.created", *["response.output_text.delta"] * words, "response.completed"]
    details: list[dict[str, Any]] = [{"response": whole}, *({"delta": word} for word in said)]
    events = [
        _event({"type": name, "sequence_number": number, **detail}, name)
        for number, (name, detail) in enumerate(zip(names, [*details, {"response": whole}], strict=True))
    ]
    return whole, events


ANSWERS: dict[str, Callable[[Asked, int], Spoken]] = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completion,
    "/v1/embeddings": _embedding,
    "/v1/rerank": _rerank,
    "/v1/responses": _response,
}


# --- in a thread


@contextmanager
def in_thread(models: list[str] | None = None, **facts: Any) -> Iterator[FakeUpstream]:
    """One that runs beside a test without a loop. Only its plain attributes may be touched from outside."""
    ready = threading.Event()
    stop: list[Callable[[], object]] = []
    made: list[FakeUpstream] = []

    async def live() -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        async with FakeUpstream(models, **facts) as upstream:
            made.append(upstream)
            stop.append(lambda: loop.call_soon_threadsafe(ended.set))
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: asyncio.run(live()), name="upstream", daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield made[0]
    finally:
        stop[0]()
        thread.join(10)
