"""Callers who ask a mesh as its users do, and say in one shape what they were told.

By RPC with the client of the library, which knows all orchestrators, and over HTTP by the ways that users
take: OpenAI's chat and the mesh's own endpoint. A caller judges nothing and tries nothing again by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol

import msgspec

from wrk_base import errors
from wrk_base.client import Client

from .history import OK
from .http_caller import Connections, Response

MODEL = "chaos"
A_MOMENT = 0.05  # seconds; so that the mesh's own word about a deadline comes first


@dataclass(frozen=True, slots=True)
class Question:
    """`words` of an answer to `prompt`, with a pause of `interval` ms between the items of a stream."""

    id: str
    prompt: str
    seconds: float
    repeatable: bool = True
    words: int = 8
    interval: float = 0.0

    @property
    def metadata(self) -> dict[str, Any]:
        """One without an id is not written down by racks."""
        return {"metadata": {"id": self.id}} if self.id else {}

    @property
    def sim(self) -> dict[str, Any]:
        return {"words": self.words, "interval": self.interval}

    @property
    def raw(self) -> dict[str, Any]:
        return {"prompt": self.prompt, "sim": self.sim, **self.metadata}

    def chat(self, *, stream: bool = False) -> dict[str, Any]:
        said = {"role": "user", "content": self.prompt}
        return {"model": MODEL, "messages": [said], "stream": stream, "sim": self.sim, **self.metadata}


@dataclass(frozen=True, slots=True)
class Told:
    """What a caller heard in the end. Fields are those of `Answered`."""

    outcome: str = OK
    worker: str = ""
    attempts: int = 0
    items: int | None = None
    numbers: list[int] | None = None
    text: str = ""

    @property
    def digest(self) -> str:
        return blake2b(self.text.encode(), digest_size=8).hexdigest() if self.outcome == OK else ""


class Caller(Protocol):
    """Asks one question to its end, whatever that is; may raise for what nobody should ever hear."""

    @property
    def streams(self) -> bool: ...

    async def ask(self, question: Question) -> Told: ...


class RpcCaller:
    streams = False

    def __init__(self, client: Client) -> None:
        self._client = client

    async def ask(self, question: Question) -> Told:
        options = {"repeatable": question.repeatable}
        body = {"modelId": MODEL, "inputData": question.raw, "options": options}
        try:
            answer = await self._client.request(
                "routeInferenceRequest", body, timeout=question.seconds, repeatable=question.repeatable
            )
        except errors.WrkError as error:
            return _refused(error)
        return Told(worker=answer["workerId"], attempts=answer["attempts"], text=answer["result"]["text"])


class RpcStreamCaller:
    """Its deadline is that of the whole stream."""

    streams = True

    def __init__(self, client: Client) -> None:
        self._client = client

    async def ask(self, question: Question) -> Told:
        numbers, texts = list[int](), list[str]()
        try:
            async for item in self._client.stream(
                MODEL, question.raw, total=question.seconds, repeatable=question.repeatable
            ):
                numbers.append(item["index"])
                texts.append(item["text"])
        except errors.WrkError as error:
            return _refused(error, numbers)
        return Told(numbers=numbers, text="".join(texts))


class HttpCaller:
    """OpenAI's chat where `chat`, whose deadline is the server's, else `/api/inference/route`."""

    streams = False

    def __init__(self, connections: Connections, *, chat: bool) -> None:
        self._connections, self._chat = connections, chat

    async def ask(self, question: Question) -> Told:
        if self._chat:
            path, body = "/v1/chat/completions", question.chat()
        else:
            options = {"timeoutMs": round(question.seconds * 1000), "repeatable": question.repeatable}
            path = "/api/inference/route"
            body = {"modelId": MODEL, "inputData": question.raw, "options": options}
        answer = await _post(self._connections, path, body, question.seconds)
        if isinstance(answer, Told):
            return answer
        said = msgspec.json.decode(answer.body)
        if answer.status != 200:
            return Told(outcome=_http_outcome(answer.status, said))
        if not self._chat:
            return Told(worker=said["workerId"], attempts=said["attempts"], text=said["result"]["text"])
        fields = answer.fields
        text = said["choices"][0]["message"]["content"]
        return Told(worker=fields["x-wrk-worker"], attempts=int(fields["x-wrk-attempts"]), text=text)


class HttpStreamCaller:
    """Chat with `stream`, event by event. Such items bear no numbers: the text is compared."""

    streams = True

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def ask(self, question: Question) -> Told:
        path = "/v1/chat/completions"
        answer = await _post(self._connections, path, question.chat(stream=True), question.seconds)
        if isinstance(answer, Told):
            return answer
        if answer.status != 200:
            return Told(outcome=_http_outcome(answer.status, msgspec.json.decode(answer.body)))
        return _events(answer.body)


async def _post(
    connections: Connections, path: str, body: Mapping[str, Any], seconds: float
) -> Response | Told:
    """HTTP has no deadlines: its clients have clocks of their own, and do not wait for ever."""
    try:
        async with asyncio.timeout(seconds + A_MOMENT):
            return await connections.post(path, msgspec.json.encode(body))
    except TimeoutError:
        return Told(outcome=errors.DeadlineExceeded.name)
    except (OSError, EOFError) as error:
        return Told(outcome=type(error).__name__)


def _events(body: bytes) -> Told:
    texts, done = list[str](), False
    for event in body.split(b"\n\n"):
        data = event.removeprefix(b"data: ")
        if data == b"[DONE]":
            done = True
        elif data and not data.startswith(b":"):
            said = msgspec.json.decode(data)
            if "error" in said:
                return Told(outcome=_http_outcome(0, said))
            texts += [choice["delta"].get("content") or "" for choice in said["choices"]]
    return Told(text="".join(texts)) if done else Told(outcome="EOFError")


def _refused(error: errors.WrkError, numbers: list[int] | None = None) -> Told:
    items = error.data.get("items")
    return Told(
        outcome=error.name,
        attempts=error.data.get("attempts") or 0,
        items=items if isinstance(items, int) else None,
        numbers=numbers,
    )


_CODES: Mapping[str, str] = {
    "model_unavailable": errors.NoWorkersAvailable.name,
    "model_not_found": errors.NoWorkersAvailable.name,
    "rate_limit_exceeded": errors.CapacityExceeded.name,
    "timeout": errors.DeadlineExceeded.name,
}


def _http_outcome(status: int, said: Any) -> str:
    """The name of the error that RPC would have told."""
    code = str(said["error"]["code"])
    named = code if code.startswith("ERR_") else _CODES.get(code, f"ERR_{code.upper()}")
    return named if named in errors.BY_NAME else f"HTTP {status} {code}"
