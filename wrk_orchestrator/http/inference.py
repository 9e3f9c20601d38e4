"""`POST /api/inference/route` as a plain function, because it is the path that everybody waits for.

The input is cut out of the body and forwarded as the bytes that came, the result put into the answer
as the bytes that came back: neither is decoded here. Of the head only what routing needs is checked,
and all of it is forwarded. When the caller leaves, the work is cancelled all the way to the rack.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from msgspec.structs import replace

from wrk_base import contract, errors
from wrk_base.rpc import wire
from wrk_base.rpc.call import Reply

from ..orchestrator import OrchestratorWorker
from .errors import BodyTooLarge, idempotency_headers
from .exchange import Exchange, Headers, decode_json, idempotency_key, number

PATH = "/api/inference/route"


class Sent(msgspec.Struct, rename="camel"):
    """The body, taken apart and not yet judged."""

    input_data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    model_id: Any = msgspec.UNSET
    options: Any = msgspec.UNSET
    simulate: Any = msgspec.UNSET


class RouteInference(contract.InferenceHead, frozen=True, kw_only=True):
    """One inference request. `inputData` is any JSON; only the rack looks into it."""

    input_data: Any


class Routed(msgspec.Struct, rename="camel"):
    """The answer. `result` is what the rack said, `routedAt` Unix milliseconds, `modelId` the model that
    answered where it is not the one named, `idempotency` how the answer to a request with an idempotency key
    came about: `ran`, `attached` or `stored`."""

    success: bool
    result: Any
    worker_id: str
    routed_at: int
    attempts: int
    request_id: str
    model_id: str | msgspec.UnsetType = msgspec.UNSET
    idempotency: str | msgspec.UnsetType = msgspec.UNSET


_sent = msgspec.json.Decoder(Sent, float_hook=number)
_raw = msgspec.json.Decoder(msgspec.Raw)


def take_apart(
    body: bytes, key: str | None = None
) -> tuple[contract.InferenceHead, dict[str, Any], bytes]:
    """(the head as routing reads it, the head as it was sent, the input's bytes); raises `BadRequest`.

    `key` is the idempotency key of a header.
    """
    sent = decode_json(_sent, body)
    head = {"modelId": sent.model_id, "options": sent.options, "simulate": sent.simulate}
    head = {name: value for name, value in head.items() if value is not msgspec.UNSET}
    checked = contract.parse(contract.InferenceHead, head)
    if key is not None:
        checked = _with_key(checked, key)
        head["options"] = {**head.get("options", {}), "idempotencyKey": key}
    if isinstance(sent.input_data, msgspec.UnsetType):
        raise errors.BadRequest("request: inputData: it is required", data={"field": "inputData"})
    head.pop("simulate", None)  # a question to this orchestrator; it is never a rack's
    return checked, head, bytes(sent.input_data)


def _with_key(checked: contract.InferenceHead, key: str) -> contract.InferenceHead:
    if checked.options.idempotency_key not in (None, key):
        text = "the header idempotency-key and options.idempotencyKey say two things"
        raise errors.BadRequest(text, data={"field": "options.idempotencyKey"})
    return replace(checked, options=replace(checked.options, idempotency_key=key))


def put_together(reply: Reply, request_id: str) -> bytes:
    """The answer's body. A result in JSON goes in as it is, once it is known to be JSON."""
    try:
        if reply.content_type == wire.JSON:
            result = _raw.decode(reply.payload)
        else:
            result = wire.unpack_body(reply.payload, reply.content_type)
        return msgspec.json.encode(
            {"success": True, "result": result, **wire.unpack_head(reply.head), "requestId": request_id}
        )
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise errors.Internal(f"the worker's result cannot be put into JSON: {error}") from error


def _headers_of(reply: Reply) -> Headers | None:
    """Of a head that says nothing of idempotency nothing more is looked at."""
    if not reply.head or contract.IDEMPOTENCY.encode() not in reply.head:
        return None
    return idempotency_headers(wire.unpack_head(reply.head))


class Inference:
    """Routes for HTTP callers, and knows what is under way so that a stop can wait for it."""

    def __init__(self, service: OrchestratorWorker) -> None:
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._running: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    async def handle(self, exchange: Exchange, body: bytes, arrived: float) -> None:
        """Route one request whose body was read; `arrived` is when it came, in the loop's time."""
        reason = self._service.takes_nothing()
        if reason:
            raise errors.Unavailable(f"this orchestrator takes no requests: {reason}", not_started=True)
        exchange.check_media_type()
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        self._idle.clear()
        try:
            reply = await exchange.unless_gone(self._route(exchange, body, arrived))
            await exchange.answer(200, put_together(reply, exchange.request_id), _headers_of(reply))
        finally:
            self._running.discard(task)
            if not self._running:
                self._idle.set()

    async def _route(self, exchange: Exchange, body: bytes, arrived: float) -> Reply:
        head, wire_head, payload = take_apart(body, idempotency_key(exchange.headers))
        models = exchange.caller.models_for(head.model_id, self._service.names)
        packed_head = _packed(wire_head)
        if not (head.simulate or head.options.simulate):
            self._check_size(packed_head, payload)
        timeout = head.options.timeout_ms or self._service.settings.request_timeout
        deadline, caller = arrived + timeout / 1000, exchange.caller
        origin = "" if head.options.idempotency_key is None else caller.origin
        return await self._service.route(
            head, packed_head, wire.JSON, payload, deadline, models, caller.name, origin
        )

    def _check_size(self, head: bytes, payload: bytes) -> None:
        """Refuse what no link can carry before a worker is picked for it, and blamed."""
        rpc = self._service.settings.rpc
        for what, size, limit in (
            ("the input", len(payload), rpc.max_body),
            ("everything but the input", len(head) + wire.ENVELOPE_BYTES, rpc.max_message_size),
        ):
            if size > limit:
                text = f"{what} takes {size} bytes; a worker takes at most {limit}"
                raise BodyTooLarge(text, data={"limitBytes": limit})

    # --- the stop

    @property
    def in_flight(self) -> int:
        return len(self._running)

    async def drained(self) -> None:
        """Wait until no request is under way."""
        await self._idle.wait()

    def cancel_all(self) -> None:
        """Stop what is under way; its callers are told."""
        for task in tuple(self._running):
            task.cancel()


def _packed(head: dict[str, Any]) -> bytes:
    try:
        return wire.pack_head(head)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        text = f"options hold what cannot be sent to a worker: {error}"
        raise errors.BadRequest(text, data={"field": "options"}) from None
