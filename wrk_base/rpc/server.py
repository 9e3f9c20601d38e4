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
from dataclasses import dataclass, field
from typing import Any

import structlog

from .. import errors
from ..log_throttle import Throttle
from . import wire
from .body import Assembly, Budget, reserve
from .flow import Flow
from .handlers import Blocking, Handler, make_handler
from .identity import BadGreeting, Identity, PeerInfo, meet
from .link import Listener, Network
from .membership import Membership
from .pace import HOLD_SECONDS
from .request import Caller, Request
from .runner import RunLimits, Runner
from .tick import Tick

DOUBT_CHECKS = (0.0, 0.005, 0.05, 0.5)  # seconds after a lost connection until ROUTER surely knows of it
MALFORMED_LOGGED = 100  # malformed messages of one caller until the log names it, once: a log is no counter
LOAD_SECONDS = 0.01  # a load that is younger tells an orchestrator nothing that its own leases do not
STRANGERS_MAY = (wire.HELLO, wire.JOIN, wire.BYE)
WARN_EVERY = 1.0  # second and event: whoever reaches the port does not fill the disk
FAREWELL = 1  # id of the PING whose PONG says that a caller has read everything before it


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Bytes and counts; the reasons stand at the settings of the same names."""

    max_message: int = 1_048_576
    link_window: int = 8_388_608
    max_body: int = 134_217_728
    peer_bytes: int = 268_435_456
    process_bytes: int = 1_073_741_824
    max_streams: int = 10_000
    run: RunLimits = field(default_factory=RunLimits)


class Server:
    """Serves methods on one listener. `respond` may be called at any time."""

    def __init__(
        self,
        identity: Identity,
        *,
        limits: ServerLimits | None = None,
        held: Budget | None = None,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self.identity = identity
        self.handlers: dict[str, Handler] = {}
        self.callers: dict[bytes, Caller] = {}
        self.counters = {
            "malformed": 0,
            "rejected": 0,
            "deadlineDrops": 0,
            "cancels": 0,
            "lostCallers": 0,
            "expelled": 0,
            "strangers": 0,
            "notAllowed": 0,
            "crowdedOut": 0,
        }
        self.on_join: Callable[[bytes], bytes] | None = None
        self.piggyback: Callable[[], dict[str, Any]] | None = None
        self.draining = ""
        self._limits, self._log = limits or ServerLimits(), log
        self._held = held or Budget(self._limits.process_bytes, "rpc.processBytes")
        self._loop = asyncio.get_running_loop()
        self._listener: Listener | None = None
        self._runner = Runner(identity.worker_id, self, self.counters, self._limits.run, self._held, log)
        self._arrived: list[Request] = []
        self._dirty: dict[bytes, Caller] = {}
        self._held_items: list[Callable[[], None]] = []
        self._holding: asyncio.TimerHandle | None = None
        self._tick: Tick | None = None
        self._membership: Membership | None = None
        self._warnings = Throttle(1, WARN_EVERY)
        self._unheard: set[bytes] = set()
        self._heard = asyncio.Event()

    # --- what the owner does

    def listen(self, network: Network, endpoint: str) -> str:
        """Bind; returns the real endpoint."""
        self._tick, self._membership = network.tick, network.membership
        self._listener = network.listen(endpoint, self)
        return self._listener.endpoint

    def respond(
        self,
        method: str,
        function: Callable[..., Any],
        *,
        raw: bool = False,
        blocking: Blocking | None = None,
        limit: int | None = None,
    ) -> None:
        self.handlers[method] = make_handler(method, function, raw=raw, blocking=blocking, limit=limit)

    @property
    def endpoint(self) -> str:
        """Where it listens; empty while it does not."""
        return self._listener.endpoint if self._listener is not None else ""

    def infos(self) -> list[PeerInfo]:
        """Everybody who has said who it is."""
        return [caller.info for caller in self.callers.values() if caller.info is not None]

    @property
    def in_flight(self) -> int:
        return self._runner.in_flight

    @property
    def held_bytes(self) -> int:
        """Bytes of open requests, and of answers that arrive in chunks."""
        return self._held.used

    @property
    def waiting(self) -> int:
        """Requests that found no slot yet."""
        return self._runner.waiting

    def tell(self, envelope: wire.Envelope, roles: Iterable[str], quiet_for: float) -> None:
        """Send a beat to every caller of these roles that heard nothing for `quiet_for` seconds."""
        before = self._loop.time() - quiet_for
        for caller in list(self.callers.values()):
            if caller.info is not None and caller.info.role in roles and caller.said_at <= before:
                self.say(caller, envelope)

    def greet_again(self) -> None:
        """Show every caller our newest certificate."""
        for caller in self._members():
            self.say(caller, self._welcome())

    def say_to_all(self, envelope: wire.Envelope) -> None:
        for caller in self._members():
            self.say(caller, envelope)

    def recheck(self) -> None:
        """Throw out who is no member any more."""
        for caller in self._members():
            member = caller.info.member if caller.info is not None else None
            if member is not None and self._membership is not None and not self._membership.stays(member):
                self._expel(caller, "its certificate was revoked or has expired")

    def _members(self) -> list[Caller]:
        return [caller for caller in self.callers.values() if caller.info is not None]

    def drain(self, reason: str) -> None:
        """Refuse new requests as not-started and tell every caller which of its own still run."""
        self.draining = reason
        for caller in list(self.callers.values()):
            self.say(caller, (wire.GOAWAY, 0, caller.last_id, reason))

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
            self._touch(self.callers[routing_id])
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
        if self._holding is not None:
            self._holding.cancel()
            self._holding = None
        self._runner.close()
        self.callers.clear()

    # --- what arrives

    def on_message(self, routing_id: bytes, message: bytes, chunk: memoryview | None = None) -> None:
        caller = self.callers.get(routing_id)
        if (len(message) > wire.MAX_GREETING or chunk is not None) and (
            caller is None or caller.info is None
        ):
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
        if caller.outbox.flow.read(len(message) + (0 if chunk is None else len(chunk))):
            self._touch(caller)
        excess = caller.delay.excess(sent_ms, now * 1000) / 1000
        if chunk is not None and not wire.is_chunk_alone(envelopes):
            self._malformed(caller)
            return
        for envelope in envelopes:
            if caller.lost:
                return  # by something that stood before this in the same message
            if not wire.well_formed(envelope):
                self._malformed(caller)
            elif envelope[0] == wire.REQUEST:
                self._admit(caller, envelope, now, excess)
            elif caller.info is None and self._membership is not None and envelope[0] not in STRANGERS_MAY:
                self._malformed(caller)
            else:
                self._take(caller, envelope, chunk)

    def on_malformed(self) -> None:
        self._malformed(None)

    def on_crowded(self) -> None:
        self.counters["crowdedOut"] += 1
        self._warn("rpc.no_descriptors", so_far=self.counters["crowdedOut"], advice="raise `ulimit -n`")

    def on_drained(self) -> None:
        arrived, self._arrived = self._arrived, []
        started = self._loop.time()
        for request in arrived:
            if request.id in request.caller.open:
                started = self._runner.start(request, started)
        if self._runner.started_tasks:
            self._runner.started_tasks = False
            assert self._tick is not None
            self._tick.plan()  # right behind their first steps: what these answer leaves in the same turn

    def _meet(self, routing_id: bytes) -> Caller:
        caller = self.callers[routing_id] = self._stranger(routing_id)
        return caller

    def _stranger(self, routing_id: bytes) -> Caller:
        limits = self._limits
        held = Budget(limits.peer_bytes, "rpc.peerBytes")
        return Caller(routing_id, limits.max_message, self._cannot_travel, Flow(limits.link_window), held)

    def _malformed(self, caller: Caller | None) -> None:
        self.counters["malformed"] += 1
        if caller is not None:
            caller.malformed += 1
            if caller.malformed == MALFORMED_LOGGED:
                self._log.warning("rpc.caller_malformed", caller=_name(caller), malformed=caller.malformed)

    def _refuse_message(self, caller: Caller | None, routing_id: bytes, error: wire.BadMessage) -> None:
        self._malformed(caller)
        if isinstance(error, wire.BadVersion):
            stranger = caller or self._stranger(routing_id)
            self.say(stranger, (wire.REJECT, 0, 0, f"version {wire.VERSION} is spoken here"))

    def _take(self, caller: Caller, envelope: wire.Envelope, chunk: memoryview | None) -> None:
        kind = envelope[0]
        if kind == wire.CREDIT:
            self._take_credit(caller, envelope)
        elif kind == wire.CHUNK and chunk is not None:
            self._take_chunk(caller, envelope[2], chunk, last=not envelope[1] & wire.MORE_CHUNKS)
        elif kind == wire.HELLO:
            self._greet(caller, envelope[3])
        elif kind == wire.CANCEL:
            request = caller.open.get(envelope[2])
            if request is not None:
                self.counters["cancels"] += 1
                self._runner.cancel(request, errors.Cancelled(origin=self.identity.worker_id))
            else:
                caller.outbox.drop_body(envelope[2])  # of an answer that nobody waits for any more
        elif kind == wire.PING:
            self.say(caller, (wire.PONG, 0, envelope[2], None))
        elif kind == wire.PONG and envelope[2] == FAREWELL:
            self._hears(caller.routing_id)
        elif kind == wire.BYE:
            self._lose(caller.routing_id)
        elif kind == wire.REVOKED and self._membership is not None:
            self._membership.hear_revocations(envelope[3])
        elif kind == wire.JOIN:
            self._join(caller, envelope[3])
        elif kind != wire.PONG:
            self._malformed(caller)

    def _take_credit(self, caller: Caller, envelope: wire.Envelope) -> None:
        _, _, request_id, items, size = envelope
        if request_id:
            request = caller.open.get(request_id)
            if request is None:
                return
            if request.on_credit is not None:
                request.on_credit(items, size)
            else:  # a stream that moves is granted more while its handler still waits for its first turn
                request.early = (items, size)
        elif not caller.outbox.flow.acked(items):
            self._malformed(caller)
        elif caller.outbox:
            self._touch(caller)

    def _greet(self, caller: Caller, facts: dict[str, Any]) -> None:
        assert self._listener is not None
        try:
            info = meet(facts, self._membership, self._listener.key_of(caller.routing_id))
        except BadGreeting as error:
            if caller.info is not None:  # it was a member until now
                self._expel(caller, str(error))
            else:
                self._turn_away(caller, str(error))
            return
        caller.info = info
        self._listener.settled(caller.routing_id)
        caller.wants_load = info.role == "orchestrator"
        caller.outbox.max_message = info.longest(self._limits.max_message)
        caller.outbox.flow.window = info.window(self._limits.link_window)
        self.say(caller, self._welcome())
        if self._membership is not None and self._membership.serial > info.serial:
            self.say(caller, (wire.REVOKED, 0, 0, self._membership.revocations()))
        if self.draining:
            self.say(caller, (wire.GOAWAY, 0, caller.last_id, self.draining))

    def _welcome(self) -> wire.Envelope:
        limits = {
            "maxMessage": self._limits.max_message,
            "maxInFlight": self._limits.run.max_in_flight,
            "window": self._limits.link_window,
        }
        return (wire.HELLO_OK, 0, 0, self.identity.greeting(limits, self._membership))

    def _turn_away(self, caller: Caller, reason: str) -> None:
        """A stranger is told why, and stays one: who says nothing better is thrown out by the listener."""
        self.counters["rejected"] += 1
        self.counters["strangers"] += 1
        self.say(caller, (wire.REJECT, 0, 0, reason))
        self._warn("rpc.stranger", reason=reason, so_far=self.counters["strangers"])

    def _warn(self, event: str, **facts: Any) -> None:
        """Log what others can bring about at will, at most once in a while."""
        more = self._warnings.facts(event, self._loop.time())
        if more is not None:
            self._log.warning(event, **facts, **more)

    def _join(self, caller: Caller, body: bytes) -> None:
        """A machine asks to become a member: with its invitation, which is all that it has."""
        try:
            if self.on_join is None:
                raise BadGreeting("nobody is taken in here: ask the orchestrator that the invitation names")
            self.say(caller, (wire.JOIN, 0, 0, self.on_join(body)))
        except BadGreeting as error:
            self._turn_away(caller, str(error))

    # --- one request's way

    def _admit(self, caller: Caller, envelope: wire.Envelope, now: float, excess: float) -> None:
        _, flags, request_id, epoch, method, remaining, head, content_type, payload, extras = envelope
        if caller.info is None or epoch != self.identity.epoch:
            self.counters["rejected"] += 1
            why = "greet first" if caller.info is None else "it was meant for another start of this worker"
            self.say(caller, (wire.REJECT, 0, request_id, why))
            return
        if request_id <= caller.last_id:
            self._malformed(caller)  # ids rise: this one was here before, and runs once
            return
        caller.last_id = request_id
        left = min(remaining, wire.MAX_REMAINING_MS) / 1000 - excess
        handler = self.handlers.get(method)
        size = len(payload) if not flags & wire.MORE_CHUNKS else wire.announced_size(extras) or 0
        held = size if head is None else size + len(head)
        try:
            if method in caller.info.barred:
                raise self._not_allowed(caller.info, method)
            if handler is None:
                raise self._no_such(method)
            if flags or left <= 0 or self.draining:
                self._check(caller, flags, size, left)
            reserve(held, caller.held, self._held)
        except errors.WrkError as refusal:
            self._refuse(caller, handler, request_id, refusal)
            return
        request = Request(
            self._runner,
            caller,
            request_id,
            flags,
            handler,
            now,
            now + left,
            head,
            content_type,
            payload,
            extras,
            held,
        )
        caller.open[request_id] = request
        if flags:
            caller.streams += 1
        if flags & wire.MORE_CHUNKS:
            request.assembly = Assembly(size)
            self._runner.gathering.add(request)
            request.late = self._loop.call_at(request.deadline, self._chunks_late, request)
        else:
            self._arrived.append(request)

    def _not_allowed(self, info: PeerInfo, method: str) -> errors.WrkError:
        self.counters["notAllowed"] += 1
        roles = ", ".join(sorted(info.member.roles)) if info.member is not None else "none"
        return errors.PermissionDenied(
            f"{method} is not for {info.worker_id}, whose certificate says: {roles}"
        )

    def _no_such(self, method: str) -> errors.WrkError:
        known = ", ".join(sorted(self.handlers))
        return errors.MethodNotFound(f"there is no method {method[:128]!r}; there are {known}")

    def _check(self, caller: Caller, flags: int, size: int, left: float) -> None:
        limits = self._limits
        if flags & ~wire.KNOWN_FLAGS or (flags & wire.MORE_CHUNKS and not size):
            raise errors.BadRequest("the request has flags that are not known here, or a body of no size")
        if size > limits.max_body:
            raise errors.BadRequest(f"a body of {size} bytes is longer than rpc.maxBody = {limits.max_body}")
        if self.draining:
            raise errors.Unavailable(f"{self.identity.worker_id} drains: {self.draining}")
        if left <= 0:
            raise errors.DeadlineExceeded("the deadline passed before it could run")
        if flags and caller.streams >= limits.max_streams:
            text = f"{caller.streams} streams and large bodies are under way already (rpc.maxStreams)"
            raise errors.CapacityExceeded(text, retry_after_ms=1000)

    def _refuse(
        self, caller: Caller, handler: Handler | None, request_id: int, refusal: errors.WrkError
    ) -> None:
        refusal.not_started = True
        if isinstance(refusal, errors.DeadlineExceeded):
            self.counters["deadlineDrops"] += 1
        if handler is not None:
            handler.stats.deadline_drops += isinstance(refusal, errors.DeadlineExceeded)
            handler.stats.refusals += isinstance(refusal, errors.CapacityExceeded)
        self.say(caller, self._runner.error(request_id, refusal))

    # --- bodies in chunks

    def _take_chunk(self, caller: Caller, request_id: int, chunk: memoryview, *, last: bool) -> None:
        request = caller.open.get(request_id)
        if request is None or request.assembly is None:
            return  # it was refused or given up while it arrived
        try:
            complete = request.assembly.add(chunk, last)
        except ValueError as error:
            self._malformed(caller)
            self._runner.turn_away(request, errors.BadRequest(str(error)))
            return
        if complete:
            request.payload, request.assembly = request.assembly.buffer, None
            self._runner.gathering.discard(request)
            if request.late is not None:
                request.late.cancel()
            self._arrived.append(request)

    def _chunks_late(self, request: Request) -> None:
        if request.assembly is not None and request.id in request.caller.open:
            self._runner.turn_away(
                request, errors.DeadlineExceeded("the deadline passed while its body arrived")
            )

    # --- what leaves

    def say(self, caller: Caller, envelope: wire.Envelope, payload_bytes: int = 0) -> None:
        """Say it at the end of this tick, or at once where much waits."""
        outbox = caller.outbox
        if outbox.add(envelope, payload_bytes):
            self._flush_one(caller)
            if outbox.size > self._limits.peer_bytes:
                self._expel(caller, f"it reads nothing: {outbox.size} bytes wait")
        else:
            self._touch(caller)

    def say_body(self, caller: Caller, envelope: wire.Envelope, body: wire.Payload) -> None:
        """Say what has a large body: that follows in chunks. Or that too much waits for this caller."""
        waits, limit = caller.outbox.size + caller.outbox.body_bytes, self._limits.peer_bytes
        if waits + len(body) > limit:
            full = f"an answer of {len(body)} bytes beside {waits} that wait exceeds rpc.peerBytes = {limit}"
            self.say(caller, self._runner.error(envelope[2], errors.CapacityExceeded(full)))
            return
        announced = (envelope[0], envelope[1] | wire.MORE_CHUNKS, *envelope[2:-2], b"", {"size": len(body)})
        caller.outbox.add_body(envelope[2], body)
        self.say(caller, announced)

    def plan_items(self, caller: Caller, emit: Callable[[], None]) -> None:
        """Call `emit` at the end of this tick, or a moment later where many items leave for this caller."""
        if not caller.pace.fast:
            assert self._tick is not None
            self._tick.at_end(emit)
            return
        self._held_items.append(emit)
        if self._holding is None:
            self._holding = self._loop.call_later(HOLD_SECONDS, self._release_items)

    def _release_items(self) -> None:
        self._holding = None
        emits, self._held_items = self._held_items, []
        for emit in emits:
            emit()

    def _touch(self, caller: Caller) -> None:
        """It has something to be said at the end of this tick."""
        dirty = self._dirty
        if not dirty and self._tick is not None:
            self._tick.at_end(self._flush)
        dirty[caller.routing_id] = caller

    def _flush(self) -> None:
        while self._dirty:
            self._flush_one(self._dirty.popitem()[1])

    def _flush_one(self, caller: Caller) -> None:
        outbox = caller.outbox
        listener = self._listener
        caller.said_at = self._loop.time()
        if (
            caller.wants_load
            and self.piggyback is not None
            and caller.said_at >= caller.load_due
            and outbox
            and outbox.flow.open
        ):
            caller.load_due = caller.said_at + LOAD_SECONDS
            outbox.add((wire.PONG, 0, 0, self.piggyback()))
        for message, chunk in outbox.take(int(caller.said_at * 1000)):
            if listener is None or not listener.send(caller.routing_id, message, chunk):
                self._lose(caller.routing_id)
                return
        if self._unheard and caller.routing_id in self._unheard and not outbox and not caller.farewell:
            caller.farewell = True  # behind everything else, chunks too
            self.say(caller, (wire.PING, 0, FAREWELL, None))

    def _expel(self, caller: Caller, why: str) -> None:
        if caller.routing_id in self.callers and self._listener is not None:
            self.counters["expelled"] += 1
            self._warn("rpc.caller_expelled", caller=_name(caller), reason=why)
            self._listener.expel(caller.routing_id)
            self._lose(caller.routing_id)

    def _cannot_travel(self, caller: Caller, envelope: wire.Envelope, problem: str) -> None:
        """An answer that does not fit is replaced by one that says so."""
        self._log.error("rpc.answer_cannot_travel", problem=problem)
        caller.outbox.drop_body(envelope[2])
        if envelope[0] in (wire.REPLY, wire.ERROR, wire.END):
            sorry = errors.Internal(f"the answer cannot be sent: {problem}")
            self.say(caller, self._runner.error(envelope[2], sorry))

    # --- callers that leave

    def on_lost(self, routing_id: bytes) -> None:
        if self._listener is not None:
            self._lose(routing_id)

    def on_doubt(self, routing_id: bytes, check: int = 0) -> None:
        """Its connection may be gone; ROUTER says so on a send, at the latest some moments later."""
        if self._listener is None:
            return
        if routing_id not in self.callers:
            self._listener.forget(routing_id)
            return
        ping = wire.encode([(wire.PING, 0, 0, None)], int(self._loop.time() * 1000))
        self.callers[routing_id].outbox.flow.sent(len(ping))
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
        caller.lost = True
        self.counters["lostCallers"] += 1
        self._dirty.pop(routing_id, None)
        self._runner.abandon(caller)

    def _hears(self, routing_id: bytes) -> None:
        self._unheard.discard(routing_id)
        if not self._unheard:
            self._heard.set()


def _name(caller: Caller) -> str:
    return caller.info.worker_id if caller.info else "stranger"
