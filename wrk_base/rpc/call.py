"""A call as the table of its peer holds it, and the future that most callers want.

Whoever starts a call hands in an `OpenCall` and is told its one outcome, inside the drain that brought
it. A router acts on that at once; everybody else awaits a `Call`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from .. import errors

if TYPE_CHECKING:
    from .client import Peer


Parts = tuple[str, bytes | None, int, bytes, dict[str, Any] | None]
"""Method, head, content type, payload and extras of a call."""


@dataclass(slots=True)
class Reply:
    """A peer's answer, head and payload still packed."""

    head: bytes | None
    content_type: int
    payload: bytes


class OpenCall(Protocol):
    """An open call: its deadline, and its envelope's parts until it is sent.

    Exactly one of `answered` and `failed` is called, once, unless the caller gives the call up.
    """

    id: int
    deadline: float
    sent: bool
    parts: Parts

    def answered(self, head: bytes | None, content_type: int, payload: bytes) -> None: ...

    def failed(self, error: errors.WrkError) -> None: ...


class Call(asyncio.Future[Reply]):
    """The answer as a future. Cancelling it, or the task that awaits it, tells the peer."""

    __slots__ = ("deadline", "id", "parts", "peer", "sent")

    deadline: float
    id: int
    parts: Parts
    peer: Peer
    sent: bool

    def answered(self, head: bytes | None, content_type: int, payload: bytes) -> None:
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
