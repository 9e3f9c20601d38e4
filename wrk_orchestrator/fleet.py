"""The racks as the orchestrator holds them: one link each, what they offer, what health says of them.

The shell around registry, health monitor and balancer: it dials who is heard or registered, pulls what
they offer, feeds health with what it sees, and carries out what the pure parts answer. Nothing else
changes the registry or the routing limits. A rumour (mDNS) becomes an entry only after the rack itself
answered on its link; a registration is listed at once and routable only after the dial-back.

Invariant: who answers at an address is what its link's greeting said, never what somebody registered. All
entries at one address are claims on one link, and become one entry when it is greeted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import structlog

from wrk_base import clock, contract, errors
from wrk_base.discovery import Found
from wrk_base.discovery.advert import StaticPeer, parse_peer
from wrk_base.rpc.client import Peer, PeerEvents
from wrk_base.rpc.identity import PeerInfo
from wrk_base.rpc.link import NO_KEY, REFUSED, UNTRUSTED, Network
from wrk_base.rpc.peers import Peers, call_with_body
from wrk_base.security import z85
from wrk_base.security.membership import Membership

from .health_changes import (
    Change,
    CloseLink,
    OfWorker,
    PanicBegan,
    PanicEnded,
    ProbeNow,
    Redial,
    SetLimit,
    Transition,
)
from .health_monitor import HealthMonitor
from .health_table import Observation, State
from .load_balancer import LoadBalancer
from .owners import Owners
from .records import Change as Offer
from .records import Changes, Joined, Left, Updated, WorkerRecord
from .service_registry import ServiceRegistry
from .state_log import Line, StateLog

PULL_SECONDS = 5.0
RUMOUR_SECONDS = 5.0  # a rumour that does not answer that long is dropped until it is heard again
DIAGNOSE_EVERY_S = 10.0
KNOCK_EVERY_S = 1.0
NAMED = 20  # workers in one line of the log
_SILENT = (State.SUSPECT.value, State.STALLED.value)
LEAST_MISS_SECONDS = 0.1  # a caller's haste says nothing about a rack


class RackLink(PeerEvents):
    """One endpoint that is kept connected.

    `claims` are the entries at this address, none while it is a rumour; `worker_id` is the one that was
    shown to answer there, "" before.
    """

    __slots__ = (
        "claims",
        "diagnosed_at",
        "endpoint",
        "fleet",
        "leaving",
        "peer",
        "pull",
        "since",
        "source",
        "up",
        "worker_id",
    )

    def __init__(self, fleet: Fleet, endpoint: str, source: str, since: float) -> None:
        self.fleet, self.endpoint, self.source, self.since = fleet, endpoint, source, since
        self.claims: dict[str, None] = {}
        self.worker_id = ""
        self.diagnosed_at = float("-inf")
        self.up = self.leaving = False
        self.peer: Peer | None = None
        self.pull: asyncio.Task[Any] | None = None

    @property
    def answers(self) -> PeerInfo | None:
        """Who is there now."""
        return self.peer.info if self.up and self.peer is not None else None

    def on_ready(self, peer: Peer) -> None:
        self.fleet.link_ready(self, peer)

    def on_down(self, peer: Peer, reason: str) -> None:
        self.fleet.link_down(self, reason)

    def on_traffic(self, peer: Peer, load: dict[str, Any] | None) -> None:
        if self.worker_id:
            self.fleet.heard(self.worker_id, load)

    def on_goaway(self, peer: Peer, message: str) -> None:
        self.leaving = True
        self.fleet.observe(self.worker_id, Observation.GOODBYE, message)


class Fleet:
    """All racks of one orchestrator."""

    def __init__(
        self,
        *,
        registry: ServiceRegistry,
        balancer: LoadBalancer,
        health: HealthMonitor,
        peers: Peers,
        network: Network,
        spawn: Callable[[Coroutine[Any, Any, Any], str], asyncio.Task[Any]],
        on_room: Callable[[str], None],
        on_offers: Callable[[Iterable[str]], None],
        on_listed: Callable[[WorkerRecord], None],
        on_left: Callable[[WorkerRecord, str], None],
        on_orchestrator: Callable[[str], None],
        on_silent: Callable[[str], None],
        probe_timeout: float,
        max_links: int,
        owners: Owners,
        membership: Membership | None,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._owners, self._membership = owners, membership
        self.registry, self.balancer, self.health = registry, balancer, health
        self._peers, self._network, self._spawn = peers, network, spawn
        self._on_room, self._on_offers, self._on_left = on_room, on_offers, on_left
        self._on_silent = on_silent
        self._silent: dict[str, None] = {}
        self._on_listed, self._on_orchestrator = on_listed, on_orchestrator
        self._probe_timeout, self._max_links, self._log = probe_timeout, max_links, log
        self._loop = asyncio.get_running_loop()
        self._state_log = StateLog()
        self._links: dict[str, RackLink] = {}
        self._link_of: dict[str, RackLink] = {}

    # --- who is there

    def hear(self, found: Found) -> None:
        """Discovery named an endpoint; dial it, to see who answers."""
        if found.role not in ("rack", "") or found.endpoint in self._links:
            return
        link = self._link_of_instance(found.worker_id)
        if link is None or link.answers is None or link.answers.epoch != found.epoch:
            self._open_link(found.endpoint, found.source)

    def hear_with_key(self, found: Found) -> None:
        """The same with the key that was known there, which nobody has told this process yet."""
        self._learn(found.endpoint, found.key)
        self.hear(found)

    def register(
        self, offer: contract.Registration, *, source: str, by: PeerInfo | None, at: int = 0
    ) -> WorkerRecord:
        """Enter a worker; `by` is the worker itself, None when somebody else registers it (manual).

        `at` is when that was said, in Unix milliseconds; 0: now.

        Raises `BadRequest` for an address that cannot be one, `PermissionDenied` for an identity in
        use, `CapacityExceeded` for `maxWorkersPerModel`.
        """
        where = _parsed(offer.address)
        endpoint, key = where.endpoint, offer.public_key or where.key
        if by is not None:
            self._owners.claim(by)
            _check_models(by, (*offer.capabilities.models, *offer.capabilities.cold))
            endpoint = self._place_of(by, endpoint)
            key = _key_of(by)
        self._learn(endpoint, key)
        record = WorkerRecord(
            worker_id=offer.worker_id,
            address=endpoint,
            models=tuple(dict.fromkeys(offer.capabilities.models)),
            tags=frozenset(offer.capabilities.tags),
            labels=dict(offer.labels),
            max_concurrent=offer.capabilities.capacity.max_concurrent,
            cold=tuple(dict.fromkeys(offer.capabilities.cold)),
            facts=dict(offer.capabilities.facts),
            resumable=offer.capabilities.resumable,
            weight=offer.weight,
            name=by.name if by is not None else "",
            type=offer.type,
            instance_id=by.worker_id if by is not None else "",
            epoch=by.epoch if by is not None else 0,
            source=source,
            manual=by is None,
            registered_at=at or clock.wall_ms(),
            public_key=key,
        )
        self._carry_out(self.registry.register(record, self._loop.time()))
        held = self.registry.holder(offer.worker_id) or record
        if held.worker_id not in self._link_of:  # there was no room for a link when it came
            self._connect(held)
        return held

    def _learn(self, endpoint: str, key: str) -> None:
        """Note whose key answers there; who answers there now is not put out by another's word."""
        there = self._links.get(endpoint)
        if key and self._membership is not None and (there is None or there.answers is None):
            self._membership.book.learn(endpoint, key)

    def remove(self, worker_id: str, reason: str) -> None:
        """Raises `WorkerNotFound`."""
        record = self.entry(worker_id)
        self._carry_out(self.registry.remove(record.worker_id, reason))

    def entry(self, worker_id: str) -> WorkerRecord:
        """The entry under this id or instance; raises `WorkerNotFound`."""
        record = self.registry.holder(worker_id)
        if record is None:
            raise errors.WorkerNotFound(
                f"no worker {worker_id!r} is registered", data={"workerId": worker_id}
            )
        return record

    def peer(self, worker_id: str) -> Peer | None:
        link = self._link_of.get(worker_id)
        return link.peer if link is not None else None

    def _link_of_instance(self, instance_id: str) -> RackLink | None:
        holder = self.registry.holder(instance_id)
        return self._link_of.get(holder.worker_id) if holder is not None else None

    def _place_of(self, who: PeerInfo, endpoint: str) -> str:
        """Where this very process is linked already, else `endpoint`, which is where it says it is.

        Raises `PermissionDenied` when another process is there, or has its identity.
        """
        there = self._links.get(endpoint)
        if there is not None and there.answers is not None and there.answers.worker_id != who.worker_id:
            raise errors.PermissionDenied(
                f"{who.worker_id} is not at {endpoint}: {there.answers.worker_id} answers there"
            )
        holder, link = self.registry.holder(who.worker_id), self._link_of_instance(who.worker_id)
        if holder is None or holder.manual or link is None or link.answers is None:
            return endpoint
        if link.answers.epoch == who.epoch:
            return holder.address
        if holder.address != endpoint and self.health.state(holder.worker_id) == State.HEALTHY.value:
            raise errors.PermissionDenied(f"identity {who.worker_id} is in use at {holder.address}")
        return endpoint

    # --- changes of the registry

    def _carry_out(self, changes: Changes) -> None:
        now = self._loop.time()
        self.balancer.apply(changes)
        for change in changes:
            worker = change.worker
            if isinstance(change, Joined):
                self._log.info(
                    "worker.joined", worker=worker.worker_id, address=worker.address, source=worker.source
                )
                self._act(self.health.add(worker.worker_id, worker.models, worker.max_concurrent, now))
                self._on_listed(worker)
                self._connect(worker)
            elif isinstance(change, Updated):
                self._act(self.health.update(worker.worker_id, worker.models, worker.max_concurrent))
                self._on_listed(worker)
                if worker.address != change.before.address:
                    # No work for it before it was dialled there.
                    self.observe(worker.worker_id, Observation.CONNECTION_LOST, "it has moved")
                    self._disconnect(worker.worker_id)
                    self._connect(worker)
                self._on_room(worker.worker_id)
            elif isinstance(change, Left):
                self._log.info("worker.left", worker=worker.worker_id, reason=change.reason)
                self._act(self.health.remove(worker.worker_id))
                self._silent.pop(worker.worker_id, None)
                self._disconnect(worker.worker_id)
                self._on_left(worker, change.reason)
        for change in changes:
            self._on_offers(_concerned(change))

    def _connect(self, worker: WorkerRecord) -> None:
        link = self._links.get(worker.address) or self._open_link(worker.address, worker.source)
        if link is None:
            full = f"all links are taken: rpc.maxPeers = {self._max_links}"
            self.observe(worker.worker_id, Observation.CANNOT_DIAL, full)
            return
        link.claims[worker.worker_id] = None
        self._link_of[worker.worker_id] = link
        if link.up and link.peer is not None:
            self._settle(link, link.peer)

    def _disconnect(self, worker_id: str) -> None:
        link = self._link_of.pop(worker_id, None)
        if link is None:
            return
        link.claims.pop(worker_id, None)
        if not link.claims:
            self._close_link(link)

    def _open_link(self, endpoint: str, source: str) -> RackLink | None:
        if len(self._links) >= self._max_links:
            self._log.warning("fleet.full", links=len(self._links), endpoint=endpoint)
            return None
        link = self._links[endpoint] = RackLink(self, endpoint, source, self._loop.time())
        link.peer = self._peers.hold(endpoint, link, heartbeat=False)
        return link

    def _close_link(self, link: RackLink) -> None:
        if self._links.get(link.endpoint) is link:
            del self._links[link.endpoint]
            self._peers.release(link.endpoint)

    # --- what links tell

    def link_ready(self, link: RackLink, peer: Peer) -> None:
        link.up, link.leaving = True, False
        self._settle(link, peer)

    def _settle(self, link: RackLink, peer: Peer) -> None:
        """Who answers is known: the entries at this address become its own, or lose the link to it."""
        info = peer.info
        assert info is not None
        if info.role == "orchestrator" or not (link.claims or info.role == "rack"):
            self._refuse(link, f"no rack answers there, but one in the role of {info.role}")
            if info.role == "orchestrator" and not link.claims:
                self._on_orchestrator(link.endpoint)
            return
        try:
            self._owners.claim(info)
        except errors.PermissionDenied as error:
            self._refuse(link, error.message)
            return
        for worker_id in tuple(link.claims):
            record = self.registry.get(worker_id)
            if record is None or worker_id not in link.claims:
                continue
            if record.manual or record.instance_id in ("", info.worker_id):
                self._carry_out(self.registry.bind_instance(worker_id, info.worker_id, info.epoch))
            else:  # it was here before, and another process has its address now
                del self._link_of[worker_id], link.claims[worker_id]
        link.worker_id = next(iter(link.claims), "")
        self.observe(link.worker_id, Observation.LINK_UP)
        if peer.draining:
            self.observe(link.worker_id, Observation.GOODBYE)
        self._start_pull(link)

    def _refuse(self, link: RackLink, why: str) -> None:
        link.worker_id = ""
        for worker_id in link.claims:
            self.observe(worker_id, Observation.CANNOT_DIAL, f"{link.endpoint}: {why}")
        if not link.claims:
            self._log.debug("fleet.refused", endpoint=link.endpoint, reason=why)
            self._close_link(link)

    def link_down(self, link: RackLink, reason: str) -> None:
        now, was_up, link.up = self._loop.time(), link.up, False
        if not link.claims:
            if now - link.since > RUMOUR_SECONDS and link.source != "static":
                self._close_link(link)
        elif was_up:
            self.observe(link.worker_id, Observation.CONNECTION_LOST, reason)
            self._let_go(link)
        elif now - link.diagnosed_at >= DIAGNOSE_EVERY_S:
            link.diagnosed_at = now
            if reason.startswith((REFUSED, UNTRUSTED, NO_KEY)):  # more than a look from outside tells
                self._tell_cause(link, reason)
            else:
                self._spawn(self._diagnose(link), "diagnose")

    def _let_go(self, link: RackLink) -> None:
        """Who said goodbye on its link and then left it is not waited for; the operator's entries stay."""
        record = self.registry.get(link.worker_id)
        if link.leaving and record is not None and not record.manual:
            self._carry_out(self.registry.remove(record.worker_id, "it left"))

    async def _diagnose(self, link: RackLink) -> None:
        cause = await self._network.diagnose(link.endpoint)
        if not link.up:
            self._tell_cause(link, cause)

    def _tell_cause(self, link: RackLink, cause: str) -> None:
        for worker_id in tuple(link.claims):
            self.observe(worker_id, Observation.CANNOT_DIAL, f"{link.endpoint}: {cause}")

    def heard(self, worker_id: str, load: dict[str, Any] | None) -> None:
        now = self._loop.time()
        changes = self.health.beat(worker_id, now)
        if changes:
            self._act(changes)
        facts = load.get("load") if load is not None else None
        if type(facts) is dict:
            in_flight, capacity = facts.get("inFlight"), facts.get("maxConcurrent")
            if type(in_flight) is int and type(capacity) is int and in_flight >= 0 and capacity >= 0:
                self.balancer.report_load(worker_id, in_flight, capacity, now)
                self._on_room(worker_id)

    def held(self, worker_id: str) -> str:
        """What an operator holds a listed worker for: drain, quarantine, or nothing."""
        return str(self.health.describe(worker_id, self._loop.time())["hold"])

    def is_back(self, instance_id: str) -> bool:
        """Whether a rack that was known before is linked and has said what it offers."""
        record = self.registry.holder(instance_id)
        return record is not None and self.is_ready(record.worker_id)

    # --- models that are not loaded

    def is_ready(self, worker_id: str) -> bool:
        """Whether a call could be sent there now."""
        peer = self.peer(worker_id)
        return peer is not None and peer.ready

    def note_cold(self, worker_id: str, model_id: str) -> None:
        """The rack was asked for a model that it has put out; it is asked what it offers now, too."""
        self._carry_out(self.registry.cool(worker_id, model_id))

    async def load_model(self, worker_id: str, model_id: str, timeout: float) -> None:
        """Have the rack load a model it lists as cold, and see what it offers then; raises `WrkError`."""
        peer = self.peer(worker_id)
        if peer is None:
            raise errors.Unavailable(f"{worker_id} has left")
        body = contract.as_body(contract.ModelRef(model_id))
        await call_with_body(peer, "loadModel", body, self._loop.time() + timeout)
        record, link = self.registry.get(worker_id), self._link_of.get(worker_id)
        if link is None or (record is not None and model_id in record.models):
            return
        for _ in range(2):  # one that is under way may have asked too early
            self._start_pull(link)
            if link.pull is not None:
                await asyncio.wait((link.pull,))

    def _start_pull(self, link: RackLink) -> None:
        """Ask what it offers, unless that is under way: a burst of refusals is one reason to ask."""
        if link.up and link.peer is not None and (link.pull is None or link.pull.done()):
            link.pull = self._spawn(self._pull(link, link.peer), "pull")

    async def _pull(self, link: RackLink, peer: Peer) -> None:
        """Ask the rack itself what it offers; a rumour becomes an entry by its answer."""
        try:
            said = await call_with_body(peer, "getInfo", None, self._loop.time() + PULL_SECONDS)
            offer = contract.parse(contract.Info, said, what="getInfo")
            if peer.info is None or self._links.get(link.endpoint) is not link:
                return
            self._enter_pulled(link, peer.info, offer)
        except errors.WrkError as error:
            self._log.warning("fleet.pull_failed", endpoint=link.endpoint, reason=error.message)
        if not link.claims:  # it has nothing to offer, or is linked already by another address
            self._close_link(link)

    def _enter_pulled(self, link: RackLink, info: PeerInfo, offer: contract.Info) -> None:
        held = self.registry.get(link.worker_id)
        if held is None:
            address = self._place_of(info, link.endpoint)
        else:  # to a manual entry it matters where the rack says that it is
            address = _parsed(offer.address).endpoint if held.manual and offer.address else link.endpoint
        _check_models(info, (*offer.models, *offer.cold))
        record = WorkerRecord(
            worker_id=info.worker_id,
            address=address,
            models=tuple(dict.fromkeys(offer.models)),
            tags=frozenset(offer.tags),
            labels=dict(offer.labels),
            max_concurrent=offer.capacity.max_concurrent,
            cold=tuple(dict.fromkeys(offer.cold)),
            facts=dict(offer.facts),
            resumable=offer.resumable,
            weight=offer.weight,
            name=offer.name,
            type=offer.type,
            instance_id=info.worker_id,
            epoch=info.epoch,
            source=held.source if held is not None else link.source,
            registered_at=held.registered_at if held is not None else clock.wall_ms(),
            public_key=_key_of(info),
        )
        self._carry_out(self.registry.register(record, self._loop.time()))

    # --- health

    def observe(self, worker_id: str, observation: Observation, cause: str = "") -> None:
        if self.registry.get(worker_id) is not None:
            self._act(self.health.observe(worker_id, observation, self._loop.time(), cause=cause))

    def tick(self, loop_lag: float) -> None:
        """A quarter-second's look at clocks: silence, quarantines, probes, leases."""
        now = self._loop.time()
        self._act(self.health.tick(now, loop_lag))
        for worker_id in tuple(self._silent):  # what could not leave it yet may find room elsewhere by now
            self._on_silent(worker_id)
        for line in self._state_log.due(now):
            self._log_state(line)
        for link in self._link_of.values():
            if link.peer is not None and link.peer.ready:
                self.registry.renew(link.worker_id, now)
        self._carry_out(self.registry.expire(now))

    def note_outcome(self, worker_id: str, error: errors.WrkError | None, elapsed: float) -> None:
        """How a routed call ended, as far as it says something about the worker."""
        if error is None:
            changes = self.health.observe(worker_id, Observation.CALL_OK, self._loop.time())
            if changes:
                self._act(changes)
        elif isinstance(error, errors.DeadlineExceeded):
            if elapsed >= LEAST_MISS_SECONDS:
                self.observe(worker_id, Observation.CALL_TIMED_OUT, error.message)
        elif isinstance(error, errors.Unavailable):
            if not error.not_started:
                self.observe(worker_id, Observation.CALL_FAILED, error.message)
        elif error.origin:  # an answer, too: a refusal, or the handler's own error
            self.observe(worker_id, Observation.CALL_OK)
            link = self._link_of.get(worker_id)
            if isinstance(error, errors.ModelNotAvailable) and link is not None:
                self._start_pull(link)

    def _act(self, changes: tuple[Change, ...]) -> None:
        for change in changes:
            if isinstance(change, PanicBegan):
                facts = {"let_in": list(change.let_in[:NAMED]), "workers": len(change.let_in)}
                self._log.warning("model.panic", model=change.model, **facts)
            elif isinstance(change, PanicEnded):
                self._log.info("model.panic_over", model=change.model)
            else:
                self._act_on(change, self._link_of.get(change.worker_id))

    def _act_on(self, change: OfWorker, link: RackLink | None) -> None:
        if isinstance(change, SetLimit):
            self._set_limit(change.worker_id, change.limit)
        elif isinstance(change, Transition):
            line = self._state_log.note(change, self._loop.time())
            if line is not None:
                self._log_state(line)
            self._note_silence(change)
            if change.new is State.SUSPECT and link is not None:
                self._spawn(self._knock(change.worker_id, link), "knock")
        elif isinstance(change, ProbeNow):
            self._spawn(self._probe(change.worker_id), "probe")
        elif link is None or link.peer is None:
            return
        elif isinstance(change, CloseLink):
            link.peer.drop("no sign of life")
        elif isinstance(change, Redial):
            link.peer.dial()

    def _log_state(self, line: Line) -> None:
        change = line.change
        facts = {"worker": change.worker_id, "old": change.old, "new": change.new, "cause": change.cause}
        late = {"unsaid": line.unsaid, "ago_ms": round(line.ago * 1000)} if line.unsaid or line.ago else {}
        silent = {"silent_ms": round(line.silent * 1000)} if line.silent else {}
        self._log.info("worker.state", **facts, **late, **silent)

    def _note_silence(self, change: Transition) -> None:
        if change.new in (State.SUSPECT, State.STALLED):
            self._silent[change.worker_id] = None
        else:
            self._silent.pop(change.worker_id, None)

    def _set_limit(self, worker_id: str, limit: int) -> None:
        self.balancer.set_limit(worker_id, limit)
        record = self.registry.get(worker_id)
        if limit:
            self._on_room(worker_id)
        elif record is not None:
            self._on_offers(record.models)

    async def _knock(self, worker_id: str, link: RackLink) -> None:
        """Tell a rack whose loop stands still from one that is gone, and from one whose link alone is dead.

        A connection that something on the way has forgotten says nothing and never ends. Who answers on a
        new one, and again a beat later, would have been heard on the old one.
        """
        peer, answered = link.peer, False
        while self._is_silent(worker_id):
            if not await self._network.host_answers(link.endpoint):
                return  # its silence decides
            self.observe(worker_id, Observation.HOST_ANSWERS, "its host answers, its event loop does not")
            answers = await self._peers.answers(link.endpoint, KNOCK_EVERY_S)
            if answered and answers and peer is not None and self._is_silent(worker_id):
                peer.drop("it is heard on a new connection and not on this one")
                return
            answered = answers
            await asyncio.sleep(KNOCK_EVERY_S)

    def _is_silent(self, worker_id: str) -> bool:
        return self.registry.get(worker_id) is not None and self.health.state(worker_id) in _SILENT

    async def _probe(self, worker_id: str) -> None:
        peer = self.peer(worker_id)
        if peer is None or not peer.ready:
            self.observe(worker_id, Observation.PROBE_FAILED, "the link is down")
            return
        try:
            answer = await call_with_body(peer, "getHealth", None, self._loop.time() + self._probe_timeout)
        except (errors.DeadlineExceeded, errors.CapacityExceeded) as error:  # busy is not dead
            self.observe(worker_id, Observation.PROBE_SLOW, f"getHealth: {error.message}")
        except errors.WrkError as error:
            self.observe(worker_id, Observation.PROBE_FAILED, error.message)
        else:
            said = answer.get("healthy") if isinstance(answer, dict) else None
            if said is True:
                self._observe_probe_ok(worker_id)
            elif said is False:
                reason = str(answer.get("reason", "it says that it is not healthy"))[:200]
                self.observe(worker_id, Observation.SAYS_UNHEALTHY, reason)
            else:
                self.observe(worker_id, Observation.PROBE_FAILED, "getHealth does not say how it is")

    def _observe_probe_ok(self, worker_id: str) -> None:
        busy = self.balancer.load(worker_id) > 0  # then its calls have to prove it
        self._act(self.health.observe(worker_id, Observation.PROBE_OK, self._loop.time(), busy=busy))

    # --- what is shown

    def show(self, record: WorkerRecord, heard_by: dict[str, str]) -> dict[str, Any]:
        """One worker for `listWorkers` and HTTP; `heard_by`: instance id -> how discovery heard of it."""
        shown = {
            "workerId": record.worker_id,
            "name": record.name,
            "type": record.type,
            "address": record.address,
            "capabilities": {
                "models": list(record.models),
                "cold": list(record.cold),
                "tags": sorted(record.tags),
                "capacity": {"maxConcurrent": record.max_concurrent},
                "facts": {model: contract.as_body(facts) for model, facts in record.facts.items()},
                "resumable": record.resumable,
            },
            "labels": record.labels,
            "weight": record.weight,
            "instanceId": record.instance_id,
            "publicKey": record.public_key,
            "foundBy": heard_by.get(record.instance_id, record.source),
            "manual": record.manual,
            "registeredAt": record.registered_at,
            "currentLoad": self.balancer.load(record.worker_id),
        }
        return {**shown, **self.health.describe(record.worker_id, self._loop.time())}


def _concerned(change: Offer) -> Iterable[str]:
    """The models that a change may have made better or worse off."""
    worker = change.worker
    before = change.before.models if isinstance(change, Updated) else ()
    return dict.fromkeys((*before, *worker.models, *worker.cold))


def _parsed(address: str) -> StaticPeer:
    try:
        return parse_peer(address)
    except ValueError as error:
        raise errors.BadRequest(f"address: {error}", data={"field": "address"}) from None


def _key_of(info: PeerInfo) -> str:
    return z85.encode(info.member.key) if info.member is not None else ""


def _check_models(info: PeerInfo, models: Iterable[str]) -> None:
    """Raises `PermissionDenied` for models that the rack was not invited for."""
    allowed = info.member.models if info.member is not None else None
    others = sorted(set(models) - allowed) if allowed is not None else []
    if others:
        mine = ", ".join(sorted(allowed or ()))
        raise errors.PermissionDenied(
            f"the machine of {info.worker_id} was invited for {mine}, and not for {', '.join(others[:5])}"
        )
