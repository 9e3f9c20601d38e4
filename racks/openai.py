"""A rack in front of any server that speaks the OpenAI protocol: Ollama, LM Studio, vLLM, llama.cpp.

Requests and answers pass through as the bytes that came; only the model's name is set where an alias was
asked for, and `stream` where caller and body disagree. The rack offers what the server lists, as long as
the server is there: one that does not answer makes this rack unhealthy and its offer empty, and one good
answer brings both back. What the server answers badly becomes a typed error; it never ends the rack.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

import msgspec

from wrk_base import contract, errors
from wrk_base.model_servers.addresses import candidates
from wrk_base.model_servers.search import look
from wrk_base.rack import SUCCESS, Rack
from wrk_base.rpc import wire
from wrk_base.rpc.request import Final, Packed, Request
from wrk_base.worker import WorkerContext

from .openai_body import error_in, is_json, prepare, status_in
from .openai_settings import OpenAISettings, secret_of
from .openai_stream import BadStream, ChunkStream, ErrorInStream, EventStream, ResponseStream
from .openai_watch import UpstreamWatch
from .origin import Origin, parse_origin
from .upstream import Answer, Limits, Upstream
from .upstream_choice import choose

PATHS = {
    "chat": "/v1/chat/completions",
    "completion": "/v1/completions",
    "embedding": "/v1/embeddings",
    "rerank": "/v1/rerank",
    "response": "/v1/responses",
}
STREAMED = frozenset({"chat", "completion", "response"})
ELSEWHERE = frozenset({429, 502, 503, 504})  # it did no work for this request: another server may
ERROR_BYTES = 65_536  # of the body of an error; it is for people and programs that read its first lines
ERROR_SECONDS = 2.0  # for that body to arrive: who may be asked instead is not kept waiting
SAID = 300  # characters of what the server says, in an error's message
DEFAULT_CONCURRENT = 32
MAX_RETRY_AFTER_S = 3600


class OpenAIRack(Rack):
    """Serves the models of one server."""

    section = "openai"
    section_type = OpenAISettings
    options: OpenAISettings

    def __init__(self, context: WorkerContext) -> None:
        super().__init__(context)
        o = self.options
        self._secret = secret_of(o, context.environ)
        self._description = contract.Description()
        self._upstream: Upstream  # from `_go_before`, which comes before anybody can call
        self._watch: UpstreamWatch
        self._cut: Callable[[], None] = lambda: None
        if o.upstream:
            self._go_before(parse_origin(o.upstream))

    def _go_before(self, origin: Origin) -> None:
        o = self.options
        limits = Limits(connect=o.connect_timeout / 1000, silence=o.silence_timeout / 1000)
        self._upstream = Upstream(origin, limits, secret=self._secret)
        self._cut = self._upstream.close
        self._watch = UpstreamWatch(
            self._upstream,
            wanted=o.models,
            every=o.refresh_interval / 1000,
            timeout=o.poll_timeout / 1000,
            failures=o.poll_failures,
            held=self.held,
            changed=self._on_change,
            log=self.log,
        )
        self._on_change()

    def describe(self) -> contract.Description:
        return self._description

    def health(self) -> dict[str, Any]:
        reason = self._watch.reason
        healthy = super().health()
        return {**healthy, "healthy": False, "reason": reason} if reason else healthy

    def absent(self, model_id: str, offer: contract.Description) -> errors.WrkError:
        if model_id in self._watch.lost:
            return errors.Unavailable(self._watch.reason, not_started=True)
        return super().absent(model_id, offer)

    async def open(self) -> None:
        if not self.options.upstream:
            self._go_before(await self._search())
        await self._watch.look()
        self.spawn(self._watch.run(), "upstream watch")

    async def close(self) -> None:
        self._cut()

    async def _search(self) -> Origin:
        """Where the only model server is that runs. Raises `StartError`."""
        if self._secret:  # whoever is found first shall not have it
            raise errors.StartError("openai.apiKeyEnv: whose key is that? Name the server by --upstream URL")
        entries = self.settings.model_servers.addresses
        found = choose(await look(candidates(entries, self.context.environ.get("OLLAMA_HOST", ""))))
        self.log.info("upstream.found", server=found.kind.title, upstream=found.url, models=len(found.models))
        return parse_origin(found.url)

    def _on_change(self) -> None:
        offer = self._watch.offer
        self._description = contract.Description(
            models=list(offer.models),
            max_concurrent=self.options.max_concurrent or offer.slots or DEFAULT_CONCURRENT,
            facts=offer.facts,
        )
        self.offer_changed()

    # --- one request

    async def serve(self, request: Request, head: contract.RackHead) -> None:
        task, streamed = head.options.task, request.wants_stream
        if task == "raw" and not streamed:
            await super().serve(request, head)
            return
        if task not in PATHS and task != "raw":
            text = f"task {task!r} is none of {', '.join(PATHS)}, raw"
            raise errors.BadRequest(text, data={"field": "options.task"}, not_started=True)
        self._log_body("rack.asked", head.model_id, request.payload)
        if task == "raw":
            await request.produce(self._words(head, request.data()), {"success": True})
        elif streamed and task in STREAMED:
            asked = prepare(_json_of(request), head.model_id, stream=True)
            await request.produce(self._events(task, asked, head.options.repeatable), {"success": True})
        else:
            asked = prepare(_json_of(request), head.model_id, stream=False if task in STREAMED else None)
            answer = await self._whole(task, asked, head.options.repeatable)
            self._log_body("rack.answered", head.model_id, answer)
            request.answer(SUCCESS, wire.JSON, answer)

    async def infer(self, model_id: str, input_data: Any, options: contract.Options) -> dict[str, Any]:
        """The task `raw`: a text, or a map with `prompt`, is what the user says in a chat."""
        answer = await self._whole("chat", _as_chat(model_id, input_data, stream=False), options.repeatable)
        response = wire.unpack_body(answer, wire.JSON)
        return {**self._raw_facts(model_id), "text": _text_in(response, "message"), "response": response}

    async def _words(self, head: contract.InferenceHead, input_data: Any) -> AsyncGenerator[Any]:
        """The same as a stream of `{index, text}`."""
        body = _as_chat(head.model_id, input_data, stream=True)
        texts: list[str] = []
        async with aclosing(self._events("chat", body, head.options.repeatable)) as items:
            async for item in items:
                if isinstance(item, Packed):
                    text = _text_in(wire.unpack_body(item.payload, wire.JSON), "delta")
                    if text:
                        yield {"index": len(texts), "text": text}
                        texts.append(text)
        yield Final({**self._raw_facts(head.model_id), "text": "".join(texts)})

    def _raw_facts(self, model_id: str) -> dict[str, Any]:
        return {"model": model_id, "worker": self.identity.worker_id}

    async def _whole(self, task: str, body: bytes | bytearray, repeatable: bool) -> bytes:
        with await self._ask(task, body, repeatable) as answer:
            whole = await answer.read(self.settings.rpc.max_body, self.held)
        if not is_json(whole):
            raise self._upstream.failed(f"its answer ({answer.content_type or 'no content type'}) is no JSON")
        error = error_in(whole)
        if error is not None:
            raise self._error_object(error, whole)
        return whole

    async def _events(
        self, task: str, body: bytes | bytearray, repeatable: bool
    ) -> AsyncGenerator[Packed | Final]:
        """The events of a stream: of `response` whole and as they came, else the data of each."""
        with await self._ask(task, body, repeatable) as answer:
            if not answer.content_type.startswith("text/event-stream"):
                raise await self._no_stream(answer)
            stream: EventStream = ResponseStream() if task == "response" else ChunkStream()
            left = self.settings.rpc.max_body  # a stream may be as long as an answer in one piece
            try:
                while not stream.finished and (piece := await answer.more()):
                    left -= len(piece)
                    if left < 0:
                        raise BadStream(f"its stream has more than {self.settings.rpc.max_body} bytes")
                    for item in stream.feed(piece):
                        yield Packed(stream.content_type, item)
                stream.end()
            except BadStream as error:
                raise self._upstream.failed(str(error)) from None
            except ErrorInStream as error:
                raise self._error_object(error.error, error.data) from None
            answer.finished = True
        yield Final()

    async def _ask(self, task: str, body: bytes | bytearray, repeatable: bool) -> Answer:
        """A good answer, not yet read; every other one is raised."""
        try:
            answer = await self._upstream.post(PATHS[task], body, again=repeatable)
        except errors.Unavailable:
            self._watch.doubt()
            raise
        if answer.status == 200:
            return answer
        with answer:
            raise await self._refusal(answer)

    # --- what went wrong there

    async def _refusal(self, answer: Answer) -> errors.UpstreamFailed:
        """The error that an answer of any status but 200 is."""
        status = answer.status
        if status < 400:
            what = "a redirect, and none is followed" if status >= 300 else "which is no result"
            return self._upstream.failed(f"it answers {status}, {what}")
        error = self._upstream.failed(f"it answers {status} {_phrase(status)}".rstrip(), status)
        error.data |= {"contentType": answer.content_type, "body": await self._shortened(answer)}
        error.not_started = status in ELSEWHERE
        retry_after = answer.headers.get(b"retry-after", b"").decode("latin-1")
        if retry_after.isdecimal():
            error.data["retryAfter"] = retry_after
            error.retry_after_ms = 1000 * min(int(retry_after[:10]), MAX_RETRY_AFTER_S)
        return error

    async def _no_stream(self, answer: Answer) -> errors.UpstreamFailed:
        error = self._upstream.failed(f"a stream was asked for, {answer.content_type or 'no type'} came")
        error.data |= {"contentType": answer.content_type, "body": await self._shortened(answer)}
        return error

    def _error_object(self, error: Any, body: bytes) -> errors.UpstreamFailed:
        failed = self._upstream.failed(f"it tells of an error{self._words_of(error)}", status_in(error))
        failed.data |= {"contentType": "application/json", "body": self._shown(body[:ERROR_BYTES])}
        return failed

    def _words_of(self, error: Any) -> str:
        """What an error object says to people, if it does: in a stream nobody sees its body."""
        said = error.get("message") if isinstance(error, dict) else error
        return f": {self._shown(said.encode(errors='replace'))[:SAID]}" if isinstance(said, str) else ""

    async def _shortened(self, answer: Answer) -> str:
        """The first bytes of a body that nobody needs whole; fewer where it breaks off or takes its time."""
        body = b""
        try:
            async with asyncio.timeout(ERROR_SECONDS):
                while len(body) < ERROR_BYTES and (piece := await answer.more()):
                    body += piece
        except (TimeoutError, errors.WrkError):
            pass
        return self._shown(body[:ERROR_BYTES])

    def _shown(self, body: bytes) -> str:
        """As text, without our key, which some servers repeat."""
        text = body.decode(errors="replace")
        return text.replace(self._secret, "***") if self._secret else text


def _json_of(request: Request) -> bytes | bytearray:
    """The body as JSON: the bytes that came, unless they came as msgpack."""
    if request.content_type != wire.MSGPACK:
        return request.payload
    try:
        return wire.pack_body(request.data(), wire.JSON)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise errors.BadRequest(f"the body cannot be put into JSON: {error}", not_started=True) from None


def _as_chat(model_id: str, input_data: Any, *, stream: bool) -> bytes:
    """A chat request from a text, or from a map with `prompt` and whatever else the request shall have."""
    fields = dict(input_data) if isinstance(input_data, dict) else {"prompt": input_data}
    prompt = fields.pop("prompt", "")
    text = prompt if isinstance(prompt, str) else msgspec.json.encode(prompt).decode()
    fields = {"messages": [{"role": "user", "content": text}], **fields, "model": model_id, "stream": stream}
    try:
        return msgspec.json.encode(fields)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise errors.BadRequest(f"inputData cannot be put into JSON: {error}", not_started=True) from None


def _text_in(response: Any, part: str) -> str:
    """The first choice's text, where there is one."""
    try:
        text = response["choices"][0][part]["content"]
    except (KeyError, IndexError, TypeError):
        return ""
    return text if isinstance(text, str) else ""


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
