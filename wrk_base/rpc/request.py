"""A caller and its requests, as the serving side keeps them. Data; the server and the runner act on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from .. import contract, errors
from . import wire
from .calls import OneWayDelay
from .handlers import Handler
from .identity import PeerInfo
from .outbox import Outbox

OnOversize = Callable[["Caller", wire.Envelope, str], None]


class Caller:
    """A peer that sends requests here, from its first message until its connection is gone."""

    __slots__ = ("delay", "info", "last_id", "malformed", "open", "outbox", "routing_id", "said_at")

    def __init__(self, routing_id: bytes, max_message: int, on_oversize: OnOversize) -> None:
        self.routing_id = routing_id
        self.outbox = Outbox(max_message, lambda envelope, problem: on_oversize(self, envelope, problem))
        self.info: PeerInfo | None = None
        self.open: dict[int, Request] = {}
        self.delay = OneWayDelay()
        self.last_id = 0
        self.malformed = 0
        self.said_at = 0.0


class Request:
    """One request, from arrival to its terminal envelope; handlers that want it get it as `request`."""

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
        "payload",
        "reply_extras",
        "task",
        "verdict",
    )

    def __init__(
        self,
        caller: Caller,
        request_id: int,
        handler: Handler,
        arrived: float,
        deadline: float,
        head: dict[str, Any] | None,
        content_type: int,
        payload: bytes,
        extras: dict[str, Any] | None,
    ) -> None:
        self.caller, self.id, self.handler = caller, request_id, handler
        self.arrived, self.deadline = arrived, deadline
        self.head, self.content_type, self.payload, self.extras = head, content_type, payload, extras
        self.reply_extras: dict[str, Any] | None = None
        self.task: asyncio.Task[None] | None = None
        self.begun = False
        self.verdict: errors.WrkError | None = None

    @property
    def peer(self) -> PeerInfo:
        """Who asks; its greeting was read before any request ran."""
        assert self.caller.info is not None
        return self.caller.info

    def body(self) -> Any:
        """The decoded body: the head's fields with the payload in its place, or the payload alone."""
        try:
            payload = wire.unpack_body(self.payload, self.content_type)
        except ValueError as error:
            raise errors.BadRequest(f"the body is malformed: {error}", not_started=True) from None
        if self.head is None:
            return payload
        fields = contract.PAYLOAD_FIELDS.get(self.handler.method)
        return {**self.head, fields[0]: payload} if fields else payload
