"""One peer as its caller sees it: dial, greet, call, notice loss, dial again.

A `Peer` owns one link at a time and is its only user. A call that waits for the link is not-started
when it fails; one that was handed to the link may have started. Nothing that was queued for a process
survives that process: a new link begins with an empty outbox and a new greeting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from .. import errors
from . import wire
from .call import Call, OpenCall, Parts
from .calls import CallTable, redial_delay
from .identity import BadGreeting, Identity, PeerInfo, read_greeting
from .link import Link, Network
from .outbox import Outbox


@dataclass(frozen=True, slots=True)
class PeerLimits:
    """Seconds, bytes and counts; the reasons stand at the settings of the same names."""

    connect_timeout: float = 3.0
    greeting_timeout: float = 3.0
    redial_min: float = 0.1
    redial_max: float = 1.0
    max_message: int = 1_048_576
    max_pending: int = 65_536

    @property
    def dial_timeout(self) -> float:
        """Longer than any link takes to connect and to shake hands, or to give that up."""
        return 3 * self.greeting_timeout


class PeerEvents:
    """What the owner of a peer may want to hear; every method may be left as it is."""

    def on_ready(self, peer: Peer) -> None:
        """The peer answered the greeting; `peer.info` says who it is."""

    def on_down(self, peer: Peer, reason: str) -> None:
        """The link failed or was lost."""

    def on_traffic(self, peer: Peer, load: dict[str, Any] | None) -> None:
        """The peer's process said something: a sign of life, perhaps with its load."""

    def on_goaway(self, peer: Peer, message: str) -> None:
        """The peer drains: no new calls will run there."""


class Peer:
    """Calls to one endpoint. `keep` redials for ever; otherwise only while calls wait."""

    def __init__(
        self,
        endpoint: str,
        *,
        network: Network,
        identity: Identity,
        rng: Random,
        limits: PeerLimits,
        events: PeerEvents | None = None,
        keep: bool = False,
        heartbeat: bool = True,
    ) -> None:
        self.endpoint = endpoint
        self.info: PeerInfo | None = None
        self.ready = False
        self.draining = False
        self.closed = False
        self.reason = "not dialled yet"
        self.last_used = 0.0
        self.malformed = 0
        self._network, self._identity, self._rng, self._limits = network, identity, rng, limits
        self._events = events or PeerEvents()
        self._keep, self._heartbeat = keep, heartbeat
        self._loop = asyncio.get_running_loop()
        self._tick = network.tick
        self._table: CallTable[int, OpenCall] = CallTable()
        self._waiting: dict[int, OpenCall] = {}
        self._outbox = Outbox(limits.max_message, self._cannot_travel)
        self._flush_due = False
        self._next_id = 0
        self._attempt = 0
        self._link: Link | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}

    # --- calling

    def call(
        self,
        method: str,
        payload: bytes,
        *,
        deadline: float,
        head: bytes | None = None,
        content_type: int = wire.MSGPACK,
        extras: dict[str, Any] | None = None,
    ) -> Call:
        """A call whose reply can be awaited; raises `WrkError`. `deadline` is in the loop's time."""
        call = Call(loop=self._loop)
        call.peer = self
        self.start(call, deadline, (method, head, content_type, payload, extras))
        return call

    def start(self, call: OpenCall, deadline: float, parts: Parts) -> None:
        """Send a call, or keep it until the link is up; raises `WrkError` when it cannot be taken at all."""
        table = self._table
        if self.closed or self.draining:
            raise errors.Unavailable(
                f"{self.endpoint} is {'closed' if self.closed else 'draining'}", not_started=True
            )
        if len(table.entries) >= self._limits.max_pending:
            raise errors.CapacityExceeded(
                f"{len(table)} calls wait for {self.endpoint} already",
                not_started=True,
                retry_after_ms=1000,
            )
        self._next_id = call.id = self._next_id + 1
        call.deadline, call.sent, call.parts = deadline, False, parts
        if table.add(call.id, call):
            self._arm()
        if self.ready:
            self._enqueue(call)
        else:
            self._wait(call)

    def _enqueue(self, call: OpenCall) -> None:
        assert self.info is not None
        method, head, content_type, payload, extras = call.parts
        remaining = int((call.deadline - self._loop.time()) * 1000) + 1
        call.sent = True
        full = self._outbox.add(
            (
                wire.REQUEST,
                0,
                call.id,
                self.info.epoch,
                method,
                remaining,
                head,
                content_type,
                payload,
                extras,
            ),
            len(payload),
        )
        if full:
            self._flush()
        elif not self._flush_due:
            self._flush_due = True
            self._tick.at_end(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        link = self._link
        now = self._loop.time()
        self.last_used = now
        for message in self._outbox.take(int(now * 1000)):
            if link is None or not link.send(message):
                return  # the link is being lost; its end fails what was sent

    def _cannot_travel(self, envelope: wire.Envelope, problem: str) -> None:
        call = self._table.pop(envelope[2]) if envelope[0] == wire.REQUEST else None
        if call is not None:
            call.failed(errors.BadRequest(f"the request cannot be sent: {problem}", not_started=True))

    def give_up(self, call: OpenCall) -> None:
        """Nobody waits for this call any more; it is told no outcome, and the peer that it may stop."""
        if call.id in self._table.entries:
            self._table.discard(call.id)
            self._tell_cancel(call)

    def _tell_cancel(self, call: OpenCall) -> None:
        if call.sent and self.ready:
            self._say((wire.CANCEL, 0, call.id))
        else:
            self._waiting.pop(call.id, None)

    def _say(self, envelope: wire.Envelope) -> None:
        self._outbox.add(envelope)
        if not self._flush_due:
            self._flush_due = True
            self._tick.at_end(self._flush)

    # --- deadlines

    def _arm(self) -> None:
        self._timer("deadline", self._table.wake_at, self._expire)

    def _expire(self) -> None:
        for _, call in self._table.expire(self._loop.time()):
            self._tell_cancel(call)
            where = self.endpoint if call.sent else f"{self.endpoint} ({self.reason})"
            call.failed(errors.DeadlineExceeded(f"no answer from {where} in time", not_started=not call.sent))
        if self._table.entries:
            self._arm()

    def _timer(self, name: str, at: float, action: Callable[[], None]) -> None:
        old = self._timers.pop(name, None)
        if old is not None:
            old.cancel()
        self._timers[name] = self._loop.call_at(at, action)

    # --- the link's life

    def dial(self) -> None:
        """Start to connect, if nothing is under way."""
        if self._link is None and not self.closed and "redial" not in self._timers:
            self._connect()

    def _connect(self) -> None:
        self._timers.pop("redial", None)
        self._link = self._network.dial(self.endpoint, self, heartbeat=self._heartbeat)
        # A link tells how its dial ended; where ZeroMQ finds no descriptor for it, nobody ever does.
        self._timer("greeting", self._loop.time() + self._limits.dial_timeout, self._dial_late)

    def on_up(self) -> None:
        assert self._link is not None
        hello = (wire.HELLO, 0, 0, self._identity.greeting({"maxMessage": self._limits.max_message}))
        self._link.send(wire.encode([hello], int(self._loop.time() * 1000)))
        self._timer("greeting", self._loop.time() + self._limits.greeting_timeout, self._greeting_late)

    def _dial_late(self) -> None:
        self.drop("the dial had no end")

    def _greeting_late(self) -> None:
        self.drop("no answer to the greeting")

    def drop(self, reason: str) -> None:
        """Give this link up; calls that it carried fail, and it is dialled anew where wanted."""
        if self._link is not None:
            self._link.close()
            self.on_down(reason)

    def on_down(self, reason: str) -> None:
        self._link, self.ready, self.draining, self.reason = None, False, False, reason
        self._outbox.clear()
        self._cancel_timer("greeting")
        lost = self._table.take(lambda call: call.sent)
        if self._keep or self._waiting:
            self._redial()
        self._events.on_down(self, reason)
        for call in lost:  # last: who sends its call elsewhere must know by then that this peer is down
            call.failed(errors.Unavailable(f"lost {self.endpoint}: {reason}"))

    def _redial(self) -> None:
        if self.closed or self._link is not None or "redial" in self._timers:
            return
        self._attempt += 1
        limits = self._limits
        pause = redial_delay(self._attempt, limits.redial_min, limits.redial_max, self._rng.random())
        self._timer("redial", self._loop.time() + pause, self._connect)

    def _wait(self, call: OpenCall) -> None:
        self._waiting[call.id] = call
        if "connect" not in self._timers:
            self._timer("connect", self._loop.time() + self._limits.connect_timeout, self._stop_waiting)
        self.dial()

    def _stop_waiting(self) -> None:
        self._timers.pop("connect", None)
        self._waiting.clear()
        for call in self._table.take(lambda call: not call.sent):
            call.failed(errors.Unavailable(f"cannot reach {self.endpoint}: {self.reason}", not_started=True))

    # --- what the peer says

    def on_message(self, message: bytes) -> None:
        try:
            _, envelopes = wire.decode(message)
        except wire.BadMessage as error:
            self.malformed += 1
            if not self.ready:
                self.drop(str(error))
            return
        load = None
        pop, reply = self._table.pop, wire.REPLY
        for envelope in envelopes:
            if not wire.well_formed(envelope):
                self.malformed += 1
            elif envelope[0] == reply:
                _, _, call_id, head, content_type, payload, _ = envelope
                call = pop(call_id)
                if call is not None:
                    call.answered(head, content_type, payload)
            else:
                load = self._take(envelope) or load
        self._events.on_traffic(self, load)

    def on_drained(self) -> None:
        """Every answer was acted on as it came."""

    def _take(self, envelope: wire.Envelope) -> dict[str, Any] | None:
        """Act on one envelope; returns the load that it carried."""
        kind = envelope[0]
        if kind == wire.ERROR:
            self._take_error(envelope)
        elif kind == wire.PONG:
            return envelope[3]  # type: ignore[no-any-return]
        elif kind == wire.PING:
            self._say((wire.PONG, 0, envelope[2], None))
        elif kind == wire.HELLO_OK:
            self._greeted(envelope[3])
        elif kind == wire.GOAWAY:
            self._take_goaway(envelope[2], envelope[3])
        elif kind == wire.REJECT:
            self._take_reject(envelope[2], envelope[3])
        return None

    def _take_error(self, envelope: wire.Envelope) -> None:
        _, _, call_id, _, name, message, retryable, retry_after, origin, not_started, data = envelope
        call = self._table.pop(call_id)
        if call is not None:
            error = errors.from_wire(
                name,
                message,
                retryable=retryable,
                retry_after_ms=retry_after,
                origin=origin,
                not_started=not_started,
                data=data,
            )
            call.failed(error)

    def _greeted(self, facts: dict[str, Any]) -> None:
        if self._link is None:
            return  # it was given up for something that stood before this in the same message
        try:
            self.info = read_greeting(facts)
        except BadGreeting as error:
            self.drop(str(error))
            return
        self._outbox.max_message = self.info.longest(self._limits.max_message)
        self._cancel_timer("greeting")
        self._cancel_timer("connect")
        self._attempt, self.ready, self.reason = 0, True, ""
        self.last_used = self._loop.time()
        waiting, self._waiting = self._waiting, {}
        for call in waiting.values():
            self._enqueue(call)
        self._events.on_ready(self)

    def _take_goaway(self, last_id: int, message: str) -> None:
        self.draining = True
        refused = self._table.take(lambda call: call.id > last_id)
        self._events.on_goaway(self, message)
        for call in refused:
            call.failed(errors.Unavailable(f"{self.endpoint} drains: {message}", not_started=True))

    def _take_reject(self, call_id: int, reason: str) -> None:
        if call_id == 0:
            self.drop(f"it refused us: {reason}")
            return
        call = self._table.pop(call_id)
        if call is not None:
            call.failed(errors.Unavailable(f"{self.endpoint} did not run it: {reason}", not_started=True))

    # --- the end

    @property
    def idle(self) -> bool:
        return not self._table.entries

    @property
    def late_answers(self) -> int:
        return self._table.unmatched

    def close(self, linger_ms: int = 0) -> None:
        """Fail what is open and leave no timer and no socket. A second call does nothing."""
        if self.closed:
            return
        self.closed, was_ready, self.ready = True, self.ready, False
        for name in list(self._timers):
            self._cancel_timer(name)
        if self._link is not None:
            if was_ready:
                self._link.send(wire.encode([(wire.BYE, 0, 0)], int(self._loop.time() * 1000)))
            self._link.close(linger_ms)
            self._link = None
        for _, call in self._table.close_all():
            call.failed(
                errors.Unavailable(f"the link to {self.endpoint} was closed", not_started=not call.sent)
            )

    def _cancel_timer(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
