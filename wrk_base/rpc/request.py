"""A caller and its requests, as the serving side keeps them. Data; the server and the runner act on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import contract, errors
from . import wire
from .body import Assembly, Budget
from .calls import OneWayDelay
from .flow import Flow
from .handlers import Handler
from .identity import PeerInfo
from .outbox import Outbox
from .pace import Pace

if TYPE_CHECKING:
    from .runner import Runner

OnOversize = Callable[["Caller", wire.Envelope, str], None]


class Caller:
    """A peer that sends requests here, from its first message until its connection is gone."""

    __slots__ = (
        "delay",
        "farewell",
        "held",
        "info",
        "last_id",
        "load_due",
        "lost",
        "malformed",
        "open",
        "outbox",
        "pace",
        "routing_id",
        "said_at",
        "streams",
        "wants_load",
    )

    def __init__(
        self, routing_id: bytes, max_message: int, on_oversize: OnOversize, flow: Flow, held: Budget
    ) -> None:
        self.routing_id = routing_id
        self.outbox = Outbox(
            max_message, lambda envelope, problem: on_oversize(self, envelope, problem), flow
        )
        self.info: PeerInfo | None = None
        self.open: dict[int, Request] = {}
        self.delay = OneWayDelay()
        self.last_id = 0
        self.lost = False
        self.farewell = False
        self.malformed = 0
        self.said_at = 0.0
        self.wants_load = False
        self.load_due = 0.0
        self.streams = 0
        self.held = held
        self.pace = Pace()


class Final:
    """What a streaming handler yields last: the final value, and trailing facts (a map of plain data).

    The final value is what a call that did not ask for a stream gets.
    """

    __slots__ = ("facts", "value")

    def __init__(self, value: Any = None, **facts: Any) -> None:
        self.value, self.facts = value, facts


class Packed(NamedTuple):
    """A result or an item that a handler has in packed form: it travels as it is.

    All items of one stream have one content type.
    """

    content_type: int
    payload: wire.Payload


class Request:
    """One request, from arrival to its terminal envelope; handlers that want it get it as `request`.

    `cancelled` is for blocking handlers, which nobody can interrupt: they look at it from time to time.
    A raw handler gets the request with head and payload still packed and ends it itself, by `answer`,
    `produce`, `end_stream` or `fail`; a plain one may do so later, and sets `on_cancel` to be told when to
    stop: it then ends the request with the error that it is given. `granted` is how many items and bytes its
    stream may send before it has heard of its reader, None for the usual ones; `early` what it heard of its
    reader before its handler began.
    """

    reads_heads = True

    __slots__ = (
        "arrived",
        "assembly",
        "begun",
        "caller",
        "cancelled",
        "content_type",
        "deadline",
        "early",
        "extras",
        "flags",
        "granted",
        "handler",
        "head",
        "id",
        "items",
        "late",
        "on_cancel",
        "on_credit",
        "payload",
        "runner",
        "size",
        "task",
        "verdict",
    )

    def __init__(
        self,
        runner: Runner,
        caller: Caller,
        request_id: int,
        flags: int,
        handler: Handler,
        arrived: float,
        deadline: float,
        head: bytes | None,
        content_type: int,
        payload: wire.Payload,
        extras: dict[str, Any] | None,
        size: int,
    ) -> None:
        self.size = size  # bytes that it holds of its caller's budgets
        self.runner, self.caller, self.id, self.handler = runner, caller, request_id, handler
        self.flags, self.arrived, self.deadline = flags, arrived, deadline
        self.head, self.content_type, self.payload, self.extras = head, content_type, payload, extras
        self.on_cancel: Callable[[errors.WrkError], None] | None = None
        self.on_credit: Callable[[int, int], None] | None = None
        self.task: asyncio.Future[Any] | None = None
        self.assembly: Assembly | None = None
        self.late: asyncio.TimerHandle | None = None
        self.begun = False
        self.cancelled = False
        self.granted: tuple[int, int] | None = None
        self.early: tuple[int, int] | None = None
        self.items = 0
        self.verdict: errors.WrkError | None = None

    @property
    def peer(self) -> PeerInfo:
        """Who asks; its greeting was read before any request ran."""
        assert self.caller.info is not None
        return self.caller.info

    @property
    def wants_stream(self) -> bool:
        return bool(self.flags & wire.STREAM_WANTED)

    # --- what was asked

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

    # --- how a raw handler ends it

    def answer(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None:
        """End it with a result; a second end does nothing."""
        self.runner.end(self, (wire.REPLY, 0, self.id, head, content_type, payload, None))

    def answer_with(self, head: bytes | None, result: Any) -> None:
        """The same with a result that is still to be packed, as the request's payload was."""
        content_type, payload = self.packed(result)
        self.answer(head, content_type, payload)

    def fail(self, error: BaseException) -> None:
        """End it with an error."""
        self.runner.end_badly(self, error)

    async def produce(self, source: AsyncIterator[Any], facts: dict[str, Any] | None = None) -> None:
        """Send what an async generator yields, as far as the caller grants it, and end with its `Final`."""
        await self.runner.produce(self, source, facts)

    def send_items(self, content_type: int, payloads: tuple[bytes, ...]) -> None:
        """Send packed items. `on_credit` tells how many the caller takes; the first ones are free."""
        self.runner.say_items(self, content_type, payloads)

    def end_stream(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None:
        """End a stream with its final value."""
        self.runner.end(self, (wire.END, 0, self.id, self.items, head, content_type, payload, None))

    def packed(self, result: Any) -> tuple[int, wire.Payload]:
        """A result as (content type, payload); raises `Internal` for what cannot travel.

        Large bytes go as they are: packing would copy them.
        """
        kind = type(result)
        if kind is Packed:
            packed: Packed = result
            return packed
        if (kind is bytes or kind is bytearray) and len(result) > wire.CHUNK_BYTES:
            return wire.OCTETS, result
        content_type = wire.JSON if self.content_type == wire.JSON else wire.MSGPACK
        try:
            return content_type, wire.pack_body(result, content_type)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise errors.Internal(f"{self.handler.method} returned what cannot be encoded: {error}") from None
