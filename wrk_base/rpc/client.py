"""One peer as its caller sees it: calls and streams, each with exactly one end.

A call that waits for the link is not-started when it fails; one that was handed to the link may have
started. Outcomes are told inside the drain that brought them, and the loss of a link after its owner
has learnt of it, so that whoever sends a call elsewhere chooses among the living.
"""

from __future__ import annotations

from random import Random
from typing import Any

from .. import errors
from . import wire
from .body import Assembly, Budget, give_back, reserve
from .call import Call, OpenCall, Parts, StreamCall
from .calls import INFINITY, CallTable
from .identity import Identity
from .line import Line, PeerLimits
from .link import REFUSED, Network
from .stream import NEXT


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


class Peer(Line):
    """Calls to one endpoint. `held` is what bodies that arrive in chunks may take of the process."""

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
        held: Budget | None = None,
    ) -> None:
        super().__init__(endpoint, network, identity, rng, limits, keep=keep, heartbeat=heartbeat)
        self.draining = False
        self.stalls = 0
        self._events = events or PeerEvents()
        self._table: CallTable[int, OpenCall] = CallTable()
        self._waiting: dict[int, OpenCall] = {}
        self._waiting_bytes = 0
        self._next_id = 0
        self._streams = 0
        self._gathering: dict[int, tuple[Assembly, wire.Envelope]] = {}
        own = Budget(limits.peer_bytes, "rpc.peerBytes")
        self._held = (own, held or Budget(limits.peer_bytes, "rpc.processBytes"))

    # --- calling

    def call(
        self,
        method: str,
        payload: wire.Payload,
        *,
        deadline: float,
        head: bytes | None = None,
        content_type: int = wire.MSGPACK,
    ) -> Call:
        """A call whose reply can be awaited; raises `WrkError`. `deadline` is in the loop's time."""
        call = Call(loop=self._loop)
        call.peer = self
        self.start(call, deadline, (method, 0, head, content_type, payload))
        return call

    def start(self, call: OpenCall, deadline: float, parts: Parts) -> None:
        """Send a call, or keep it until the link is up; raises `WrkError` when it cannot be taken at all."""
        table, limits = self._table, self._limits
        if self.closed or self.draining:
            raise errors.Unavailable(
                f"{self.endpoint} is {'closed' if self.closed else 'draining'}", not_started=True
            )
        if len(table.entries) >= limits.max_pending:
            raise self._full(f"{len(table)} calls wait for {self.endpoint} already (rpc.maxPending)")
        waits = self._outbox.size + self._waiting_bytes
        if waits > limits.peer_bytes:
            why = "does not read" if self.ready else "is not reached yet"
            raise self._full(f"{self.endpoint} {why}: {waits} bytes wait for it (rpc.peerBytes)")
        if len(parts[4]) > limits.max_body:
            raise errors.BadRequest(
                f"a body of {len(parts[4])} bytes is longer than rpc.maxBody = {limits.max_body}",
                not_started=True,
            )
        if parts[1] & wire.STREAM_WANTED:
            if self._streams >= limits.max_streams:
                raise self._full(f"{self._streams} streams come from {self.endpoint} (rpc.maxStreams)")
            self._streams += 1
        self._next_id = call.id = self._next_id + 1
        call.deadline, call.sent, call.parts = deadline, False, parts
        if table.add(call.id, call):
            self._arm()
        if self.ready:
            self._enqueue(call)
        else:
            self._wait(call)

    def _full(self, why: str) -> errors.WrkError:
        return errors.CapacityExceeded(why, not_started=True, retry_after_ms=1000)

    def _enqueue(self, call: OpenCall) -> None:
        assert self.info is not None
        method, flags, head, content_type, payload = call.parts
        if method in self.info.misplaced:
            self._misplaced(call, method)
            return
        until = call.until if flags & wire.WHOLE and isinstance(call, StreamCall) else call.deadline
        remaining = int((until - self._loop.time()) * 1000) + 1
        call.sent = True
        extras = None
        if len(payload) > wire.CHUNK_BYTES:
            self._outbox.add_body(call.id, payload)
            extras = {"size": len(payload)}
            flags, payload = flags | wire.MORE_CHUNKS, b""
        epoch = self.info.epoch
        self._say(
            (wire.REQUEST, flags, call.id, epoch, method, remaining, head, content_type, payload, extras),
            len(payload),
        )

    def _misplaced(self, call: OpenCall, method: str) -> None:
        """It is not certified for what it would be asked: so it is not told what that was."""
        assert self.info is not None
        self._close(call.id)
        roles = ", ".join(sorted(self.info.member.roles)) if self.info.member is not None else "none"
        text = f"{self.endpoint} is not certified to serve {method}; its certificate says: {roles}"
        call.failed(errors.PermissionDenied(text, not_started=True))

    def _cannot_travel(self, envelope: wire.Envelope, problem: str) -> None:
        call = self._close(envelope[2]) if envelope[0] == wire.REQUEST else None
        if call is not None:
            call.failed(errors.BadRequest(f"the request cannot be sent: {problem}", not_started=True))

    def give_up(self, call: OpenCall) -> None:
        """Nobody waits for this call any more; it is told no outcome, and the peer that it may stop."""
        if call.id in self._table.entries:
            self._close(call.id)
            self._tell_cancel(call)

    def _tell_cancel(self, call: OpenCall) -> None:
        if call.sent and self.ready:
            self._say((wire.CANCEL, 0, call.id))
        elif self._waiting.pop(call.id, None) is not None:
            self._waiting_bytes -= len(call.parts[4])

    def grant(self, call: StreamCall, items: int, size: int) -> None:
        """Let a stream go on: totals since it began."""
        if call.id in self._table.entries and self.ready:
            self._say((wire.CREDIT, 0, call.id, items, size))

    def expect(self, call: OpenCall, deadline: float) -> None:
        """Move the deadline of an open call, as when the next item of a stream is waited for."""
        call.deadline = deadline
        if deadline < self._table.wake_at:
            self._table.wake_at = deadline
            self._arm()

    def _close(self, call_id: int) -> OpenCall | None:
        """Take a call out of the books; None for a late or duplicate answer, which is counted."""
        call = self._table.pop(call_id)
        if call is not None:
            self._let_go(call)
        return call

    def _let_go(self, call: OpenCall) -> None:
        """What a call holds besides its place in the table."""
        if call.parts[1] & wire.STREAM_WANTED:
            self._streams -= 1
        if len(call.parts[4]) > wire.CHUNK_BYTES:
            self._outbox.drop_body(call.id)
        if self._gathering:
            self._stop_gathering(call.id)

    # --- deadlines

    def _arm(self) -> None:
        self._timer("deadline", self._table.wake_at, self._expire)

    def _expire(self) -> None:
        for _, call in self._table.expire(self._loop.time()):
            self._let_go(call)
            self._tell_cancel(call)
            where = self.endpoint if call.sent else f"{self.endpoint} ({self.reason})"
            call.failed(errors.DeadlineExceeded(f"no answer from {where} in time", not_started=not call.sent))
        if self._table.wake_at < INFINITY:
            self._arm()

    # --- the link's life

    def _wait(self, call: OpenCall) -> None:
        self._waiting[call.id] = call
        self._waiting_bytes += len(call.parts[4])
        if "connect" not in self._timers:
            self._timer("connect", self._loop.time() + self._limits.connect_timeout, self._stop_waiting)
        self.dial()

    def _stop_waiting(self) -> None:
        self._timers.pop("connect", None)
        self._waiting.clear()
        self._waiting_bytes = 0
        reason = f"cannot reach {self.endpoint}: {self.reason}"
        self._fail(self._table.take(lambda call: not call.sent), reason, not_started=True)

    def _wanted(self) -> bool:
        return bool(self._waiting)

    def _came_up(self) -> None:
        waiting, self._waiting, self._waiting_bytes = self._waiting, {}, 0
        for call in waiting.values():
            self._enqueue(call)
        self._events.on_ready(self)

    def _went_down(self, reason: str) -> None:
        self.draining = False
        lost = self._table.take(lambda call: call.sent)
        self._events.on_down(self, reason)
        self._fail(lost, f"lost {self.endpoint}: {reason}", not_started=False)

    def _fail(self, calls: list[OpenCall], reason: str, *, not_started: bool) -> None:
        for call in calls:
            self._let_go(call)
            call.failed(errors.Unavailable(reason, not_started=not_started))

    # --- what the peer says

    def on_message(self, message: bytes, chunk: memoryview | None = None) -> None:
        if self._outbox.flow.read(len(message) + (0 if chunk is None else len(chunk))):
            self._flush_later()
        try:
            _, envelopes = wire.decode(message)
        except wire.BadMessage as error:
            self.malformed += 1
            if not self.ready:
                self.drop(str(error))
            return
        if chunk is not None and not wire.is_chunk_alone(envelopes):
            self.malformed += 1
            return
        load = None
        reply, pop = wire.REPLY, self._table.pop
        for envelope in envelopes:
            if not wire.well_formed(envelope):
                self.malformed += 1
            elif not self.ready:
                if self._link is None:
                    break  # it was given up for something that stood before this in the same message
                self._take_greeting(envelope)
            elif envelope[0] == reply and not envelope[1] & wire.MORE_CHUNKS:
                _, _, call_id, head, content_type, payload, _ = envelope
                call = pop(call_id)
                if call is not None:
                    parts = call.parts
                    if parts[1] or len(parts[4]) > wire.CHUNK_BYTES or self._gathering:
                        self._let_go(call)
                        if isinstance(call, StreamCall) and not call.may_take(reply):
                            call.failed(_broken(self.endpoint))
                            continue
                    call.answered(head, content_type, payload)
            else:
                load = self._take(envelope, chunk) or load
        self._events.on_traffic(self, load)

    def _take_greeting(self, envelope: wire.Envelope) -> None:
        """What may be said before the greeting was answered: that answer, or a refusal."""
        if envelope[0] == wire.HELLO_OK:
            self._greeted(envelope[3])
        elif envelope[0] == wire.REJECT and envelope[2] == 0:
            self.drop(f"it refused us: {envelope[3]}")
        else:
            self.malformed += 1

    def on_drained(self) -> None:
        """Every answer was acted on as it came."""

    def _take(self, envelope: wire.Envelope, chunk: memoryview | None) -> dict[str, Any] | None:
        """Act on one envelope; returns the load that it carried."""
        kind = envelope[0]
        if kind == wire.ITEM:
            self._take_items(envelope)
        elif (kind == wire.END or kind == wire.REPLY) and envelope[1] & wire.MORE_CHUNKS:
            self._gather(envelope)
        elif kind == wire.END:
            self._take_end(envelope, envelope[6])
        elif kind == wire.ERROR:
            self._take_error(envelope)
        elif kind == wire.PONG:
            return envelope[3]  # type: ignore[no-any-return]
        elif kind == wire.CREDIT:
            self._take_credit(envelope)
        elif kind == wire.CHUNK and chunk is not None:
            self._take_chunk(envelope[2], chunk, last=not envelope[1] & wire.MORE_CHUNKS)
        elif kind == wire.PING:
            if self._outbox.flow.open:  # who does not read its answers gets none
                self._say((wire.PONG, 0, envelope[2], None))
        elif kind == wire.GOAWAY:
            self._take_goaway(envelope[2], envelope[3])
        elif kind == wire.REJECT:
            self._take_reject(envelope[2], envelope[3])
        elif not self._take_membership(envelope):
            self.malformed += 1
        return None

    def _take_credit(self, envelope: wire.Envelope) -> None:
        """The peer has read; what was held back for that may leave."""
        if envelope[2] or not self._outbox.flow.acked(envelope[3]):
            self.malformed += 1
        elif self._outbox:
            self._flush_later()

    def _take_items(self, envelope: wire.Envelope) -> None:
        _, _, call_id, first, content_type, payloads = envelope
        call = self._table.entries.get(call_id)
        if call is None:
            self._table.unmatched += 1
        elif not (
            isinstance(call, StreamCall)
            and self._proceeds(call, wire.ITEM)
            and call.items(first, content_type, payloads)
        ):
            self._break(call)

    def _take_end(self, envelope: wire.Envelope, payload: wire.Payload) -> None:
        _, _, call_id, items, head, content_type, _, _ = envelope
        call = self._table.entries.get(call_id)
        if isinstance(call, StreamCall) and not (items == call.received and self._proceeds(call, wire.END)):
            self._break(call)
            return
        call = self._close(call_id)
        if isinstance(call, StreamCall):
            call.ended(head, content_type, payload)
        elif call is not None:
            call.failed(_broken(self.endpoint))

    def _proceeds(self, call: StreamCall, kind: int) -> bool:
        if not call.parts[1] & wire.STREAM_WANTED or not call.may_take(kind):
            return False
        call.phase = NEXT[call.phase, kind]
        return True

    def _break(self, call: OpenCall) -> None:
        """The peer said what may not follow: its call ends here, and there."""
        self.malformed += 1
        self.give_up(call)
        call.failed(_broken(self.endpoint))

    def _take_error(self, envelope: wire.Envelope) -> None:
        _, _, call_id, _, name, message, retryable, retry_after, origin, not_started, data = envelope
        call = self._close(call_id)
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

    def _take_goaway(self, last_id: int, message: str) -> None:
        self.draining = True
        refused = self._table.take(lambda call: call.id > last_id)
        self._events.on_goaway(self, message)
        self._fail(refused, f"{self.endpoint} drains: {message}", not_started=True)

    def _take_reject(self, call_id: int, reason: str) -> None:
        if call_id == 0:
            self.drop(f"{REFUSED}{reason}")
            return
        call = self._close(call_id)
        if isinstance(call, StreamCall) and not call.may_take(wire.REJECT):
            call.failed(_broken(self.endpoint))
        elif call is not None:
            call.failed(errors.Unavailable(f"{self.endpoint} did not run it: {reason}", not_started=True))

    # --- replies in chunks

    def _gather(self, envelope: wire.Envelope) -> None:
        """A result whose body follows."""
        call_id, size = envelope[2], wire.announced_size(envelope[-1])
        call = self._table.entries.get(call_id)
        if call is None:
            self._table.unmatched += 1
            return
        if size is None or call_id in self._gathering:
            self._break(call)
            return
        try:
            if size > self._limits.max_body:
                raise errors.CapacityExceeded(
                    f"an answer of {size} bytes is longer than rpc.maxBody = {self._limits.max_body}"
                )
            reserve(size, *self._held)
        except errors.CapacityExceeded as error:
            self.give_up(call)
            error.not_started = False
            call.failed(error)
            return
        self._gathering[call_id] = (Assembly(size), envelope)

    def _take_chunk(self, call_id: int, chunk: memoryview, *, last: bool) -> None:
        assembly, envelope = self._gathering.get(call_id, (None, ()))
        if assembly is None:
            return  # of a call that was given up while it arrived
        try:
            complete = assembly.add(chunk, last)
        except ValueError:
            self._break(self._table.entries[call_id])
            return
        if not complete:
            return
        if envelope[0] == wire.END:
            self._take_end(envelope, assembly.buffer)
            return
        call = self._close(call_id)
        if call is not None:
            call.answered(envelope[3], envelope[4], assembly.buffer)

    def _stop_gathering(self, call_id: int) -> None:
        assembly, _ = self._gathering.pop(call_id, (None, ()))
        if assembly is not None:
            give_back(assembly.size, *self._held)

    # --- the end

    @property
    def idle(self) -> bool:
        return not self._table.entries

    @property
    def open_calls(self) -> tuple[int, ...]:
        """Ids of the calls that have no end yet."""
        return tuple(self._table.entries)

    @property
    def under_way(self) -> tuple[OpenCall, ...]:
        """The calls themselves."""
        return tuple(self._table.entries.values())

    @property
    def late_answers(self) -> int:
        return self._table.unmatched

    def close(self, linger_ms: int = 0) -> None:
        """Fail what is open and leave no timer and no socket. A second call does nothing."""
        if self.closed:
            return
        self._end(linger_ms)
        self._waiting.clear()
        for _, call in self._table.close_all():
            self._fail([call], f"the link to {self.endpoint} was closed", not_started=not call.sent)


def _broken(endpoint: str) -> errors.WrkError:
    return errors.Internal(f"{endpoint} broke the protocol: out of order, or more than was granted")
