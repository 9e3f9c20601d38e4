"""The serving side: greet callers, run handlers, answer each request exactly once.

A drain hands over everything that has arrived before anything runs (`on_drained`), so that a CANCEL
right behind its REQUEST wins. The try/except is inside, per message and per request: nothing that a
peer sends ends the loop. No request runs for a caller that has not said HELLO, that addresses another
epoch, or whose deadline passed while it lay in buffers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import structlog

from .. import errors
from . import wire
from .handlers import Handler, make_handler
from .identity import BadGreeting, Identity, read_greeting
from .link import Listener, Network
from .request import Caller, Request
from .runner import Runner
from .tick import Tick

DOUBT_CHECKS = (0.0, 0.005, 0.05, 0.5)  # seconds after a lost connection until ROUTER surely knows of it
MALFORMED_LOGGED = 100  # malformed messages of one caller until the log names it, once: a log is no counter
FAREWELL = 1  # id of the PING whose PONG says that a caller has read everything before it


class Server:
    """Serves methods on one listener. `respond` may be called at any time."""

    def __init__(
        self,
        identity: Identity,
        *,
        max_in_flight: int = 10_000,
        max_message: int = 1_048_576,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self.identity = identity
        self.handlers: dict[str, Handler] = {}
        self.callers: dict[bytes, Caller] = {}
        self.counters = {"malformed": 0, "rejected": 0, "deadlineDrops": 0, "cancels": 0, "lostCallers": 0}
        self.piggyback: Callable[[], dict[str, Any]] | None = None
        self.draining = ""
        self._max_in_flight, self._max_message, self._log = max_in_flight, max_message, log
        self._loop = asyncio.get_running_loop()
        self._listener: Listener | None = None
        self._runner = Runner(
            identity.worker_id, self._say, self.counters, max_in_flight=max_in_flight, log=log
        )
        self._arrived: list[Request] = []
        self._dirty: dict[bytes, Caller] = {}
        self._tick: Tick | None = None
        self._unheard: set[bytes] = set()
        self._heard = asyncio.Event()

    # --- what the owner does

    def listen(self, network: Network, endpoint: str) -> str:
        """Bind; returns the real endpoint."""
        self._tick = network.tick
        self._listener = network.listen(endpoint, self)
        return self._listener.endpoint

    def respond(self, method: str, function: Callable[..., Any], *, raw: bool = False) -> None:
        self.handlers[method] = make_handler(method, function, raw=raw)

    @property
    def in_flight(self) -> int:
        return self._runner.in_flight

    def tell(self, envelope: wire.Envelope, roles: Iterable[str], quiet_for: float) -> None:
        """Send a beat to every caller of these roles that heard nothing for `quiet_for` seconds."""
        before = self._loop.time() - quiet_for
        for caller in list(self.callers.values()):
            if caller.info is not None and caller.info.role in roles and caller.said_at <= before:
                self._say(caller, envelope)

    def drain(self, reason: str) -> None:
        """Refuse new requests as not-started and tell every caller which of its own still run."""
        self.draining = reason
        for caller in list(self.callers.values()):
            self._say(caller, (wire.GOAWAY, 0, caller.last_id, reason))

    async def drained(self) -> None:
        """Returns when no handler runs."""
        await self._runner.drained()

    async def heard(self, within: float) -> None:
        """Returns when every caller has read all that was said to it, after `within` seconds at the latest.

        To be awaited before `close`: ZeroMQ throws away what has arrived but was not read yet when its
        connection ends, whatever the linger.
        """
        self._unheard = {caller.routing_id for caller in self.callers.values() if caller.info is not None}
        for routing_id in tuple(self._unheard):
            self._say(self.callers[routing_id], (wire.PING, 0, FAREWELL, None))
        if self._unheard:
            self._heard.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within):
                    await self._heard.wait()

    def cancel_all(self) -> None:
        """Cancel what still runs; each is answered when it has stopped."""
        self._runner.cancel_all("the worker stopped before the answer was ready")

    def close(self, linger_ms: int = 0) -> None:
        if self._listener is not None:
            self._flush()
            self._listener.close(linger_ms)
            self._listener = None
        self._runner.close()
        self.callers.clear()

    # --- what arrives

    def on_message(self, routing_id: bytes, message: bytes) -> None:
        caller = self.callers.get(routing_id)
        if len(message) > wire.MAX_GREETING and (caller is None or caller.info is None):
            self._malformed(caller)
            return
        try:
            sent_ms, envelopes = wire.decode(message)
        except wire.BadMessage as error:
            self._refuse_message(caller, routing_id, error)
            return
        now = self._loop.time()
        if caller is None:
            caller = self._meet(routing_id)
        excess = caller.delay.excess(sent_ms, now * 1000) / 1000
        for envelope in envelopes:
            if not wire.well_formed(envelope):
                self._malformed(caller)
            elif envelope[0] == wire.REQUEST:
                self._admit(caller, envelope, now, excess)
            else:
                self._take(caller, envelope)

    def on_malformed(self) -> None:
        self._malformed(None)

    def on_drained(self) -> None:
        arrived, self._arrived = self._arrived, []
        started = self._loop.time()
        for request in arrived:
            if request.id in request.caller.open:
                started = self._runner.start(request, started)

    def _meet(self, routing_id: bytes) -> Caller:
        caller = Caller(routing_id, self._max_message, self._cannot_travel)
        self.callers[routing_id] = caller
        return caller

    def _malformed(self, caller: Caller | None) -> None:
        self.counters["malformed"] += 1
        if caller is not None:
            caller.malformed += 1
            if caller.malformed == MALFORMED_LOGGED:
                self._log.warning("rpc.caller_malformed", caller=_name(caller), malformed=caller.malformed)

    def _refuse_message(self, caller: Caller | None, routing_id: bytes, error: wire.BadMessage) -> None:
        self._malformed(caller)
        if isinstance(error, wire.BadVersion):
            stranger = caller or Caller(routing_id, self._max_message, self._cannot_travel)
            self._say(stranger, (wire.REJECT, 0, 0, f"version {wire.VERSION} is spoken here"))

    def _take(self, caller: Caller, envelope: wire.Envelope) -> None:
        kind = envelope[0]
        if kind == wire.HELLO:
            self._greet(caller, envelope[3])
        elif kind == wire.CANCEL:
            request = caller.open.get(envelope[2])
            if request is not None:
                self.counters["cancels"] += 1
                self._runner.cancel(request, errors.Cancelled(origin=self.identity.worker_id))
        elif kind == wire.PING:
            self._say(caller, (wire.PONG, 0, envelope[2], None))
        elif kind == wire.PONG and envelope[2] == FAREWELL:
            self._hears(caller.routing_id)
        elif kind == wire.BYE:
            self._lose(caller.routing_id)

    def _greet(self, caller: Caller, facts: dict[str, Any]) -> None:
        try:
            caller.info = read_greeting(facts)
        except BadGreeting as error:
            self.counters["rejected"] += 1
            self._say(caller, (wire.REJECT, 0, 0, str(error)))
            return
        caller.wants_load = caller.info.role == "orchestrator"
        caller.outbox.max_message = caller.info.longest(self._max_message)
        limits = {"maxMessage": self._max_message, "maxInFlight": self._max_in_flight}
        self._say(caller, (wire.HELLO_OK, 0, 0, self.identity.greeting(limits)))
        if self.draining:
            self._say(caller, (wire.GOAWAY, 0, 0, self.draining))

    # --- one request's way

    def _admit(self, caller: Caller, envelope: wire.Envelope, now: float, excess: float) -> None:
        _, flags, request_id, epoch, method, remaining, head, content_type, payload, extras = envelope
        if caller.info is None or epoch != self.identity.epoch:
            self.counters["rejected"] += 1
            why = "greet first" if caller.info is None else "it was meant for another start of this worker"
            self._say(caller, (wire.REJECT, 0, request_id, why))
            return
        if request_id <= caller.last_id:
            self._malformed(caller)  # ids rise: this one was here before, and runs once
            return
        caller.last_id = request_id
        refusal = self._refusal(method, flags)
        if refusal is not None:
            self._say(caller, self._runner.error(request_id, refusal))
            return
        left = min(remaining, wire.MAX_REMAINING_MS) / 1000 - excess
        if left <= 0:
            self.counters["deadlineDrops"] += 1
            late = errors.DeadlineExceeded("the deadline passed before it could run", not_started=True)
            self._say(caller, self._runner.error(request_id, late))
            return
        handler = self.handlers[method]
        request = Request(
            self._runner, caller, request_id, handler, now, now + left, head, content_type, payload, extras
        )
        caller.open[request_id] = request
        self._arrived.append(request)

    def _refusal(self, method: str, flags: int) -> errors.WrkError | None:
        if method not in self.handlers:
            known = ", ".join(sorted(self.handlers))
            return errors.MethodNotFound(
                f"there is no method {method[:128]!r}; there are {known}", not_started=True
            )
        if flags:
            return errors.BadRequest("streams and chunked bodies are not offered here", not_started=True)
        if self.draining:
            return errors.Unavailable(f"{self.identity.worker_id} drains: {self.draining}", not_started=True)
        return None

    # --- what leaves

    def _say(self, caller: Caller, envelope: wire.Envelope, payload_bytes: int = 0) -> None:
        full = caller.outbox.add(envelope, payload_bytes)
        if full:
            self._flush_one(caller)
            return
        dirty = self._dirty
        if not dirty and self._tick is not None:
            self._tick.at_end(self._flush)
        dirty[caller.routing_id] = caller

    def _flush(self) -> None:
        while self._dirty:
            self._flush_one(self._dirty.popitem()[1])

    def _flush_one(self, caller: Caller) -> None:
        if not caller.outbox:
            return
        listener = self._listener
        caller.said_at = self._loop.time()
        if self.piggyback is not None and caller.wants_load:
            caller.outbox.add((wire.PONG, 0, 0, self.piggyback()))
        for message in caller.outbox.take(int(caller.said_at * 1000)):
            if listener is None or not listener.send(caller.routing_id, message):
                self._lose(caller.routing_id)
                return

    def _cannot_travel(self, caller: Caller, envelope: wire.Envelope, problem: str) -> None:
        """An answer that does not fit is replaced by one that says so."""
        self._log.error("rpc.answer_cannot_travel", problem=problem)
        if envelope[0] in (wire.REPLY, wire.ERROR):
            sorry = errors.Internal(f"the answer cannot be sent: {problem}")
            self._say(caller, self._runner.error(envelope[2], sorry))

    # --- callers that leave

    def on_doubt(self, routing_id: bytes, check: int = 0) -> None:
        """Its connection may be gone; ROUTER says so on a send, at the latest some moments later."""
        if self._listener is None:
            return
        if routing_id not in self.callers:
            self._listener.forget(routing_id)
            return
        ping = wire.encode([(wire.PING, 0, 0, None)], int(self._loop.time() * 1000))
        if not self._listener.send(routing_id, ping):
            self._lose(routing_id)
        elif check + 1 < len(DOUBT_CHECKS):
            self._loop.call_later(DOUBT_CHECKS[check + 1], self.on_doubt, routing_id, check + 1)

    def _lose(self, routing_id: bytes) -> None:
        caller = self.callers.pop(routing_id, None)
        self._hears(routing_id)
        if self._listener is not None:
            self._listener.forget(routing_id)
        if caller is None:
            return
        self.counters["lostCallers"] += 1
        self._dirty.pop(routing_id, None)
        self._runner.abandon(caller)

    def _hears(self, routing_id: bytes) -> None:
        self._unheard.discard(routing_id)
        if not self._unheard:
            self._heard.set()


def _name(caller: Caller) -> str:
    return caller.info.worker_id if caller.info else "stranger"
