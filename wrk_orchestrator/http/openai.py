"""`POST /v1/...`: OpenAI's endpoints, routed by the fields that routing needs; all else passes through.

The body is forwarded as the bytes that came. A rack that has to ask for another name than the caller used
rewrites `model`, and nothing else. Who asks is let in and answered by `app.py`'s rules, in the shape of
errors that clients of OpenAI read.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from wrk_base import contract, errors
from wrk_base.rpc import wire

from ..orchestrator import OrchestratorWorker
from ..question import Question
from . import needs
from .direct import Direct
from .exchange import IDEMPOTENCY_KEY, check_media_type, decode_json, idempotency_key, number
from .gate import Caller
from .openai_answer import Answer, Answers

TASKS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completion",
    "/v1/embeddings": "embedding",
    "/v1/rerank": "rerank",
    "/v1/responses": "response",
}
"""Path -> task; these take POST."""
STREAMED = frozenset(("chat", "completion", "response"))  # the others have nothing to come bit by bit

SESSION = b"x-wrk-session"
PRIORITY = b"x-wrk-priority"
EXPLAIN = b"x-wrk-explain"
READ = (SESSION, PRIORITY, EXPLAIN, IDEMPOTENCY_KEY, needs.REQUIRES)
NO = (b"", b"0", b"false")
MOST_HEADS = 1024  # packed heads that are kept: there are a few models, and callers make up names
MOST_SESSION = 256  # characters; `user` may hold anything


class Ask(NamedTuple):
    """A request that was let in.

    `arrived` is when it came, in the loop's time; `held` how many bytes of it are still to be counted.
    """

    path: str
    headers: dict[bytes, bytes]
    body: bytes
    held: int
    caller: Caller
    request_id: str
    arrived: float


class OpenAiRequest(msgspec.Struct, frozen=True):
    """A request, of which these two fields are read here; the rack reads the rest."""

    model: contract.Name
    stream: bool | None = None


class Sent(msgspec.Struct, rename="camel", gc=False):
    """What routing reads of a body."""

    model: str | msgspec.UnsetType = msgspec.UNSET
    stream: bool | None = None
    user: Any = None
    session_id: Any = None
    messages: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()
    tools: msgspec.Raw = msgspec.Raw()


_sent = msgspec.json.Decoder(Sent, float_hook=number)


class OpenAi:
    """Routes for callers of OpenAI's API."""

    def __init__(self, service: OrchestratorWorker) -> None:
        self._service = service
        settings = service.settings
        self.answers = Answers(
            service.held,
            settings.rpc.stream_items,
            settings.rpc.stream_bytes,
            settings.http.stream_keep_alive / 1000,
        )
        self._patience = settings.http.inference_timeout / 1000
        self._heads: dict[tuple[str, str], tuple[contract.InferenceHead, bytes]] = {}

    def start(self, ask: Ask, direct: Direct) -> None:
        """Route one request, whose answer goes to `direct` when it comes. Raises what refuses it at once."""
        reason = self._service.takes_nothing()
        if reason:
            raise errors.Unavailable(f"this orchestrator takes no requests: {reason}", not_started=True)
        check_media_type(ask.headers)
        sent = decode_json(_sent, ask.body)
        if not isinstance(sent.model, str) or not sent.model:
            raise errors.BadRequest("model: say which one, as a text", data={"field": "model"})
        models = ask.caller.models_for(sent.model, self._service.names)
        task = TASKS[ask.path]
        streams = sent.stream is True and task in STREAMED
        head, packed_head = self._head(sent, task, ask.headers)
        said = sent.messages or sent.prompt or sent.input
        question = Question(
            head,
            packed_head,
            wire.JSON,
            ask.body,
            ask.arrived + self._patience,
            wire.STREAM_WANTED if streams else 0,
            caller=ask.caller.name,
            prompt=said,
            models=models,
            hints=needs.hints(task, said, sent.tools),
        )
        if head.options.idempotency_key is not None:
            question.sign(ask.caller.origin)
        answer = Answer(self.answers, direct, ask.request_id.encode(), task, streams, ask.held)
        self.answers.begin(answer)
        direct.listener = answer
        answer.route = route = self._service.router.open(question, answer)
        route.advance()

    def _head(
        self, sent: Sent, task: str, headers: dict[bytes, bytes]
    ) -> tuple[contract.InferenceHead, bytes]:
        """The head that routing reads, and that the rack gets; the same for most requests of a model."""
        assert isinstance(sent.model, str)
        plain = sent.user is None and sent.session_id is None and headers.keys().isdisjoint(READ)
        known = self._heads.get((sent.model, task)) if plain else None
        if known is not None:
            return known
        session, priority = _session(sent, headers), headers.get(PRIORITY, b"default").decode("latin-1")
        requires, explain = headers.get(needs.REQUIRES), headers.get(EXPLAIN, b"0") not in NO
        options: dict[str, Any] = {"task": task, "priority": priority}
        if explain:
            options["explain"] = True
        if session is not None:
            options["sessionId"] = session
        if requires is not None:
            options["requirements"] = contract.as_body(needs.required(requires))
        key = idempotency_key(headers)
        if key is not None:
            options["idempotencyKey"] = key
        told = {"modelId": sent.model, "options": options}
        made = contract.parse(contract.InferenceHead, told), wire.pack_head(told)
        if plain:
            if len(self._heads) >= MOST_HEADS:
                self._heads.clear()
            self._heads[sent.model, task] = made
        return made


def _session(sent: Sent, headers: dict[bytes, bytes]) -> str | None:
    """Whose conversation it is: told by the header, by us or by OpenAI's own field."""
    for told in (headers.get(SESSION, b"").decode("latin-1"), sent.session_id, sent.user):
        if isinstance(told, str) and told:
            return told[:MOST_SESSION]
    return None
