"""A call as the table of its peer holds it, and the future that most callers want.

Whoever starts a call hands in an `OpenCall` and is told its one outcome, inside the drain that brought
it. A router acts on that at once; everybody else awaits a `Call`, or reads a `streams.Stream`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from .. import errors
from . import wire
from .calls import INFINITY
from .stream import NEXT, Phase

if TYPE_CHECKING:
    from .client import Peer

Parts = tuple[str, int, bytes | None, int, wire.Payload]
"""Method, flags, head, content type and payload of a call."""


@dataclass(slots=True)
class Reply:
    """A peer's answer, head and payload still packed."""

    head: bytes | None
    content_type: int
    payload: wire.Payload


class OpenCall(Protocol):
    """An open call: its deadline, and its envelope's parts.

    Exactly one of `answered` and `failed` is called, once, unless the caller gives the call up.
    """

    id: int
    deadline: float
    sent: bool
    parts: Parts

    def answered(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None: ...

    def failed(self, error: errors.WrkError) -> None: ...


class StreamCall(ABC):
    """An `OpenCall` that takes items. `received` counts them; it ends by `ended` or `failed`.

    With WHOLE, `until` is when all of it must be over; `deadline` is for what is waited for now.
    """

    __slots__ = ("deadline", "id", "parts", "phase", "received", "sent", "until")

    id: int
    deadline: float
    sent: bool
    parts: Parts

    def __init__(self) -> None:
        self.until = INFINITY
        self.phase = Phase.WAITING
        self.received = 0

    def may_take(self, kind: int) -> bool:
        """Whether an envelope of this kind may follow what has come."""
        return (self.phase, kind) in NEXT

    @abstractmethod
    def items(self, first: int, content_type: int, payloads: tuple[bytes, ...]) -> bool:
        """Items from number `first` on; False when they are out of order or were never granted."""

    @abstractmethod
    def ended(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None: ...

    @abstractmethod
    def answered(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None: ...

    @abstractmethod
    def failed(self, error: errors.WrkError) -> None: ...


class Call(asyncio.Future[Reply]):
    """The answer as a future. Cancelling it, or the task that awaits it, tells the peer."""

    __slots__ = ("deadline", "id", "parts", "peer", "sent")

    deadline: float
    id: int
    parts: Parts
    peer: Peer
    sent: bool

    def answered(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None:
        if not self.done():
            self.set_result(Reply(head, content_type, payload))

    def failed(self, error: errors.WrkError) -> None:
        if not self.done():
            self.set_exception(error)
            # A caller that was cancelled in the same tick never looks; that is no lost error.
            self.exception()

    def cancel(self, msg: Any | None = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled:
            self.peer.give_up(self)
        return cancelled
