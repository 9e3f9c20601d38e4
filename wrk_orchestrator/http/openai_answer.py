"""What a caller of OpenAI's API gets: the answer of a rack, or its stream as server-sent events.

The bytes of the rack go on as they came. The head of a stream leaves with its first item, so that until
then the request can move to another rack and an error has its status; only a long silence is broken by a
comment before. A caller who does not take what is written stops the rack by its credit.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import msgspec

from wrk_base import errors
from wrk_base.rpc import wire
from wrk_base.rpc.body import Budget
from wrk_base.rpc.stream import Window

from . import openai_errors
from .direct import Direct
from .errors import headers_of, status_of
from .whole_as_stream import chunk_of

if TYPE_CHECKING:
    from ..route import Route

EVENTS = (
    b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\n"
)
JSON = b"content-type: application/json\r\n"
DONE = b"data: [DONE]\n\n"
MOST_NAMED = 16  # workers in a header: clients take some 8 kB of them
STILL_HERE = b": waiting\n\n"
HOW_IT_CAME = b": x-wrk-idempotency: %b\n\n"  # of a stream that is known at its end: no header


class Answers:
    """All that are under way, so that a stop can wait for them and silences are broken."""

    def __init__(self, budget: Budget, max_items: int, max_bytes: int, keep_alive: float) -> None:
        self.window = (max_items, max_bytes)
        self.running: set[Answer] = set()
        self.loop = asyncio.get_running_loop()
        self._budget = budget
        self._keep_alive = keep_alive
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    def begin(self, answer: Answer) -> None:
        self._budget.used += answer.held
        self.running.add(answer)
        self._idle.clear()
        if self._timer is None:
            self._look_again()

    def end(self, answer: Answer) -> None:
        self._budget.used -= answer.held
        self.running.discard(answer)
        if not self.running:
            self._idle.set()

    async def drained(self) -> None:
        """Wait until none is under way."""
        await self._idle.wait()

    def cancel_all(self) -> None:
        """Stop what is under way; its callers are told."""
        for answer in tuple(self.running):
            answer.cut(errors.Unavailable("the orchestrator stopped before the answer was complete"))

    def _look_again(self) -> None:
        self._timer = self.loop.call_later(self._keep_alive / 4, self._break_silences)

    def _break_silences(self) -> None:
        """One look at all of them costs less than a timer for each, which every item would move."""
        self._timer = None
        if not self.running:
            return
        since = self.loop.time() - self._keep_alive
        for answer in tuple(self.running):
            if answer.streams and answer.wrote_at <= since:
                answer.say_that_it_goes_on()
        self._look_again()


class Answer:
    """One answer: the router's asker, and the connection's listener. `held` are the bytes of its request."""

    reads_heads = False

    __slots__ = (
        "_answers",
        "_begun",
        "_direct",
        "_over",
        "_request_id",
        "_task",
        "_unread",
        "_window",
        "held",
        "route",
        "streams",
        "wrote_at",
    )

    def __init__(
        self,
        answers: Answers,
        direct: Direct,
        request_id: bytes,
        task: str,
        streams: bool,
        held: int,
    ) -> None:
        self._answers, self._direct, self._request_id = answers, direct, request_id
        self._task, self.streams, self.held = task, streams, held
        self.wrote_at = answers.loop.time() if streams else 0.0
        self._begun = self._over = False
        self._window = Window(*answers.window) if streams else None
        self._unread: list[int] = []
        self.route: Route | None = None

    # --- what the router tells

    def answer(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None:
        if self._over:
            return
        if self.streams:
            self.end_stream(head, content_type, payload)
            return
        try:
            body = _as_json(content_type, payload)
        except errors.WrkError as error:
            self.fail(error)
            return
        headers = JSON + self._facts()
        self._finish()
        self._direct.answer(200, headers, body)

    def send_items(self, content_type: int, payloads: tuple[bytes, ...]) -> None:
        if self._over:
            return
        window = self._window
        assert window is not None
        sizes = [len(payload) for payload in payloads]
        window.received(window.received_items, sum(sizes), len(sizes))
        if not self._begun:
            payloads = (chunk_of(payloads[0]), *payloads[1:])
        try:
            events = _events(content_type, payloads)
        except errors.WrkError as error:
            self.cut(error)
            return
        self._write(events)
        self._unread += sizes
        if not self._direct.blocked:
            self.room()

    def end_stream(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None:
        if self._over:
            return
        if not self._begun and content_type == wire.JSON and payload != b"null":
            # A whole answer, which was too long for an item.
            self._write(_events(content_type, (chunk_of(bytes(payload)),)))
        self._end_stream()

    def fail(self, error: BaseException) -> None:
        if self._over:
            return
        assert isinstance(error, errors.WrkError)
        if self._begun:
            self._write(b"data: %b\n\n" % openai_errors.body_of(error))
            self._finish()
            self._direct.end()
            return
        facts = self._facts()
        self._finish()
        refuse(self._direct, error, facts)

    # --- what the connection tells

    def gone(self) -> None:
        route = self.route
        if not self._over:
            self._finish()
            if route is not None:
                route.cancel(errors.Cancelled("its caller left"))

    def room(self) -> None:
        window, route = self._window, self.route
        if window is None or route is None:
            return
        grant = None
        for size in self._unread:
            grant = window.consumed(size) or grant
        self._unread.clear()
        if grant is not None:
            route.grant(*grant)

    # --- what the service tells

    def cut(self, verdict: errors.WrkError) -> None:
        """Stop it, all the way to the rack."""
        if self.route is not None:
            self.route.cancel(verdict)
        self.fail(verdict)

    def say_that_it_goes_on(self) -> None:
        """A comment: proxies and clients give up what is silent."""
        if not self._direct.blocked:
            self._write(STILL_HERE)

    # --- writing

    def _write(self, data: bytes) -> None:
        if not self._begun:
            self._begun = True
            self._direct.begin(200, EVENTS + self._facts())
        self._direct.write(data)
        self.wrote_at = self._answers.loop.time()

    def _end_stream(self) -> None:
        if self.route is not None and self.route.idempotency:
            self._write(HOW_IT_CAME % self.route.idempotency.encode())
        if self._task != "response":
            self._write(DONE)
        elif not self._begun:
            self._write(STILL_HERE)
        self._finish()
        self._direct.end()

    def _finish(self) -> None:
        """Let go of all that knows this one: a ring would wait for the collector."""
        self._over = True
        self._answers.end(self)
        self.route = self._direct.listener = None

    def _facts(self) -> bytes:
        """Which request it was, and who answered."""
        facts, route = b"x-request-id: %b\r\n" % self._request_id, self.route
        if route is None:
            return facts
        if route.explained is not None:
            facts += _explained(route.explained)
        if route.idempotency:
            facts += b"x-wrk-idempotency: %b\r\n" % route.idempotency.encode()
        if not route.tried:
            return facts
        if _fits_a_header(route.other_model):
            facts += b"x-wrk-model: %b\r\n" % route.other_model.encode()
        worker = route.worker.encode()
        return b"%bx-wrk-worker: %b\r\nx-wrk-attempts: %d\r\n" % (facts, worker, len(route.tried))


def _fits_a_header(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable()


def _explained(told: dict[str, Any]) -> bytes:
    """The account of a request as the line of a header."""
    looks = [{**look, "candidates": look["candidates"][:MOST_NAMED]} for look in told["looks"]]
    return b"x-wrk-explain: %b\r\n" % json.dumps({**told, "looks": looks}).encode()  # plain ASCII, one line


def refuse(direct: Direct, error: errors.WrkError, facts: bytes) -> None:
    """Answer with an error: that of the server behind the rack as it is, ours in the shape of theirs."""
    kind, body = openai_errors.said_upstream(error) or (b"application/json", openai_errors.body_of(error))
    lines = b"content-type: %b\r\n" % kind
    for name, value in headers_of(error):
        lines += b"%b: %b\r\n" % (name, value)
    direct.answer(status_of(error), lines + facts, body)


def _as_json(content_type: int, payload: wire.Payload) -> Any:
    if content_type == wire.JSON:
        return payload
    try:
        return msgspec.json.encode(wire.unpack_body(payload, content_type))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise errors.Internal(f"the worker's result cannot be put into JSON: {error}") from error


def _events(content_type: int, payloads: tuple[bytes, ...]) -> bytes:
    if content_type == wire.OCTETS:  # whole events, as the rack got them
        return b"".join(payloads)
    if content_type != wire.JSON:
        payloads = tuple(bytes(_as_json(content_type, payload)) for payload in payloads)
    data = b"\n\ndata: ".join(payloads)
    if b"\r" in data or data.count(b"\n") != 2 * (len(payloads) - 1):
        data = b"\n\ndata: ".join(b"".join(payload.splitlines()) for payload in payloads)
    return b"data: %b\n\n" % data
