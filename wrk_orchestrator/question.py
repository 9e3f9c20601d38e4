"""What is to be routed, and who is told what became of it. Data, and the shape of whoever asks."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from wrk_base import contract
from wrk_base.rpc import wire
from wrk_base.rpc.call import Reply


@dataclass(slots=True)
class Question:
    """One request, to be forwarded as it is packed. `deadline` is in the loop's time.

    `flags` are those of its envelope: whether a stream is wanted, and whether the deadline is for all of it
    or for its first item. `caller` is whose share of the queue it takes, `prompt` what prefixes are compared
    of: the bytes that the model reads, as they came. `models` may answer it, in this order; None: those that
    the settings name. `hints` are capabilities that it seems to need: they bind where workers tell them.
    """

    head: contract.InferenceHead
    packed_head: bytes | None
    content_type: int
    payload: wire.Payload
    deadline: float
    flags: int = 0
    caller: str = ""
    prompt: wire.Payload = b""
    models: tuple[str, ...] | None = None
    hints: tuple[str, ...] = ()

    def sign(self, caller: str) -> None:
        """Tell racks whose request it is: to be done for each that has an idempotency key (callers.py)."""
        origin = contract.Origin(caller, self.head.model_id)
        self.packed_head = contract.with_origin(self.packed_head, origin)


class Asker(Protocol):
    """Who asked, and is told the one outcome; perhaps before `Router.start` has returned.

    Who does not read heads, and asks the route instead, spares it to make them.
    """

    @property
    def reads_heads(self) -> bool: ...

    def answer(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None: ...

    def send_items(self, content_type: int, payloads: tuple[bytes, ...]) -> None: ...

    def end_stream(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None: ...

    def fail(self, error: BaseException) -> None: ...


class Awaited(asyncio.Future[Reply]):
    """An asker that awaits one answer, and no stream."""

    reads_heads = True

    def send_items(self, content_type: int, payloads: tuple[bytes, ...]) -> None:
        raise AssertionError("no stream was asked for")

    def end_stream(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None:
        raise AssertionError("no stream was asked for")

    def answer(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None:
        if not self.done():
            self.set_result(Reply(head, content_type, payload))

    def fail(self, error: BaseException) -> None:
        if not self.done():
            self.set_exception(error)
