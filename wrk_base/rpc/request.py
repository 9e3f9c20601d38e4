"""A caller and its requests, as the serving side keeps them. Data; the server and the runner act on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .. import contract, errors
from . import wire
from .calls import OneWayDelay
from .handlers import Handler
from .identity import PeerInfo
from .outbox import Outbox

if TYPE_CHECKING:
    from .runner import Runner

OnOversize = Callable[["Caller", wire.Envelope, str], None]


class Caller:
    """A peer that sends requests here, from its first message until its connection is gone."""

    __slots__ = (
        "delay",
        "info",
        "last_id",
        "malformed",
        "open",
        "outbox",
        "routing_id",
        "said_at",
        "wants_load",
    )

    def __init__(self, routing_id: bytes, max_message: int, on_oversize: OnOversize) -> None:
        self.routing_id = routing_id
        self.outbox = Outbox(max_message, lambda envelope, problem: on_oversize(self, envelope, problem))
        self.info: PeerInfo | None = None
        self.open: dict[int, Request] = {}
        self.delay = OneWayDelay()
        self.last_id = 0
        self.malformed = 0
        self.said_at = 0.0
        self.wants_load = False


class Request:
    """One request, from arrival to its terminal envelope; handlers that want it get it as `request`.

    A raw handler gets the request with head and payload still packed and ends it itself, by `answer` or
    `fail`; a plain one may do so later, and sets `on_cancel` to be told when to stop: it then ends the
    request with the error that it is given.
    """

    __slots__ = (
        "arrived",
        "begun",
        "caller",
        "content_type",
        "deadline",
        "extras",
        "handler",
        "head",
        "id",
        "on_cancel",
        "payload",
        "runner",
        "task",
        "verdict",
    )

    def __init__(
        self,
        runner: Runner,
        caller: Caller,
        request_id: int,
        handler: Handler,
        arrived: float,
        deadline: float,
        head: bytes | None,
        content_type: int,
        payload: bytes,
        extras: dict[str, Any] | None,
    ) -> None:
        self.runner, self.caller, self.id, self.handler = runner, caller, request_id, handler
        self.arrived, self.deadline = arrived, deadline
        self.head, self.content_type, self.payload, self.extras = head, content_type, payload, extras
        self.on_cancel: Callable[[errors.WrkError], None] | None = None
        self.task: asyncio.Task[None] | None = None
        self.begun = False
        self.verdict: errors.WrkError | None = None

    @property
    def peer(self) -> PeerInfo:
        """Who asks; its greeting was read before any request ran."""
        assert self.caller.info is not None
        return self.caller.info

    def answer(self, head: bytes | None, content_type: int, payload: bytes) -> None:
        """End a raw request with a result; a second end does nothing."""
        self.runner.end(self, (wire.REPLY, 0, self.id, head, content_type, payload, None))

    def answer_with(self, head: bytes | None, result: Any) -> None:
        """The same with a result that is still to be packed, as the request's payload was."""
        self.answer(head, self.content_type, self.packed(result))

    def fail(self, error: BaseException) -> None:
        """End a raw request with an error."""
        self.runner.end_badly(self, error)

    def packed(self, result: Any) -> bytes:
        """A result as payload; raises `Internal` for what cannot travel."""
        try:
            return wire.pack_body(result, self.content_type)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise errors.Internal(f"{self.handler.method} returned what cannot be encoded: {error}") from None

    def data(self) -> Any:
        """The decoded payload; raises `BadRequest`."""
        try:
            return wire.unpack_body(self.payload, self.content_type)
        except ValueError as error:
            raise errors.BadRequest(f"the body is malformed: {error}", not_started=True) from None

    def body(self) -> Any:
        """The decoded body: the head's fields with the payload in its place, or the payload alone."""
        payload = self.data()
        fields = contract.PAYLOAD_FIELDS.get(self.handler.method)
        if self.head is None or fields is None:
            return payload
        try:
            return {**wire.unpack_head(self.head), fields[0]: payload}
        except ValueError as error:
            raise errors.BadRequest(f"the head is malformed: {error}", not_started=True) from None
