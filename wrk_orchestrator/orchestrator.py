"""The orchestrator: the worker that keeps the registry, watches health and routes. Composition only.

It builds the three components (registry, balancer, monitor), the fleet that connects them with the
racks and the router on top, answers the contract's methods, and runs two timers. Decisions live in the
parts. RPC alone; the HTTP face is `worker.OrchestratorService`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from wrk_base import callers, clock, contract, errors
from wrk_base.config import RoutingSettings
from wrk_base.discovery import Found, HearsOthers
from wrk_base.rpc import wire
from wrk_base.rpc.call import Reply
from wrk_base.rpc.identity import PeerInfo
from wrk_base.rpc.request import Request
from wrk_base.security.roles import OPERATOR
from wrk_base.store import Store
from wrk_base.worker import Worker, WorkerContext

from .admission import Admission, Limits
from .fleet import Fleet
from .health_monitor import HealthMonitor
from .health_policy import HealthPolicy
from .health_table import Observation
from .holds import Holds
from .http.key_bridge import KeyBridge
from .http.key_files import KeyFile
from .kept_registrations import KeptRegistrations
from .known_racks import KnownRacks
from .load_balancer import Lease, LoadBalancer
from .members import Members
from .model_loader import ModelLoader
from .model_names import ModelNames
from .owners import Owners
from .question import Question
from .records import WorkerRecord
from .replicator import COMPARE, EXCHANGE, Replicator
from .routing import Router
from .service_registry import ServiceRegistry
from .shared_records import SharedRecords
from .start_grace import StartGrace
from .strategies import Tuning
from .telling import simulated

TICK_SECONDS = 0.25


class OrchestratorWorker(Worker):
    """Registers, finds, routes and tells; `role` orchestrator, RPC port 8004 unless set."""

    role = "orchestrator"
    default_port = 8004

    def __init__(self, context: WorkerContext) -> None:
        super().__init__(context)
        settings = self.settings
        self.names = ModelNames(settings.routing.aliases, settings.routing.fallbacks)
        self.registry = ServiceRegistry(
            lease_s=settings.worker_timeout / 1000, max_workers_per_model=settings.max_workers_per_model
        )
        self.balancer = LoadBalancer(
            self.registry,
            settings.load_balancing_strategy,
            context.rng,
            Tuning(
                half_life_s=settings.balancing.latency_half_life / 1000,
                session_load_bound=settings.balancing.session_load_bound,
                prefix_load_gap=settings.balancing.prefix_load_gap,
            ),
        )
        self.health_monitor = HealthMonitor(_policy(context), context.rng)
        self.loader = ModelLoader(
            self.registry,
            self.balancer,
            racks=lambda: self.fleet,
            timeout=settings.routing.load_timeout / 1000,
            spawn=self.spawn,
            on_end=lambda models: self.admission.review(models),
            log=self.log,
        )
        limits = _queue_limits(settings.routing)
        self.grace = StartGrace(
            self.loader,
            settings.routing.start_grace / 1000,
            queues=limits.per_model > 0,
            on_end=lambda: self._grace_over(),
        )
        self.admission: Admission[Lease] = Admission(limits, self.balancer, self.grace)
        self.owners = Owners(self.identity.worker_id)
        self.fleet = Fleet(
            registry=self.registry,
            balancer=self.balancer,
            health=self.health_monitor,
            peers=self.peers,
            network=context.network,
            spawn=self.spawn,
            on_room=self.admission.wake,
            on_offers=self.admission.review,
            on_listed=lambda record: self._listed(record),
            on_left=lambda record, reason: self._left(record, reason),
            on_orchestrator=lambda endpoint: self.replicator.dial(endpoint),
            on_silent=lambda worker_id: self.router.leave(worker_id),
            probe_timeout=settings.health.probe_timeout / 1000,
            max_links=settings.rpc.max_peers,
            owners=self.owners,
            membership=context.membership,
            log=self.log,
        )
        self.members = Members(context.membership, self.server, self.peers, self.registry)
        self.router = Router(
            self.balancer,
            self.fleet,
            self.admission,
            max_retries=settings.max_retries,
            enable_failover=settings.enable_failover,
            budget_share=settings.routing.retry_budget_share,
            budget_floor=settings.routing.retry_budget_min,
            stream_idle=settings.routing.stream_idle_timeout / 1000,
            hedge_share=settings.routing.hedge_share,
            resume_bytes=settings.routing.resume_bytes,
            resume_total=settings.routing.resume_total,
            names=self.names,
        )
        self._store: Store | None = None
        own = self.identity.worker_id
        self.records = SharedRecords(own, self.log, self._loop.time)
        self.replicator = Replicator(
            self.records, self.peers, own, spawn=self.spawn, rng=context.rng, log=self.log
        )
        self.holds = Holds(self.records, self.registry, self.fleet.observe, self.fleet.held)
        self.registrations = KeptRegistrations(self.records, self.fleet, self.log)
        self.known_racks = KnownRacks(own, self.log)
        keys = KeyFile(context.state_dir)
        self.api_keys = KeyBridge(keys, self.records, own, self._loop.time, self.log)
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._sweeping: asyncio.Task[Any] | None = None
        self._respond_as_orchestrator()

    def _respond_as_orchestrator(self) -> None:
        self.respond("registerWorker", self._register_worker)
        self.respond("unregisterWorker", self._unregister_worker)
        self.respond("findAvailableWorker", lambda body: self.find(body))
        self.respond("routeInferenceRequest", self._route_request, raw=True)
        self.respond("getServiceStatus", lambda _: self.service_status())
        self.respond("getLoadBalancingStats", lambda _: self.load_balancing_stats())
        self.respond("healthCheck", lambda _: self.health_check())
        self.respond("listWorkers", lambda body: self.list_workers(body))
        self.respond("drainWorker", lambda body: self.hold(body, Observation.OPERATOR_DRAIN))
        self.respond("quarantineWorker", lambda body: self.hold(body, Observation.OPERATOR_QUARANTINE))
        self.respond("releaseWorker", lambda body: self.hold(body, Observation.OPERATOR_RELEASE))
        self.respond(COMPARE, self.replicator.compare)
        self.respond(EXCHANGE, self.replicator.exchange)
        self.respond("listMembers", lambda _: self.members.list())
        self.respond("renewMachine", self.members.renew)
        self.respond("registerRack", self._register_rack)
        self.respond("listRacks", lambda body: self.list_workers(body))
        self.respond("forgetRacks", self._forget_racks)

    # --- life

    async def open(self) -> None:
        self._store = Store(self.context.state_dir / f"{self.context.prefix}.sqlite")
        self.owners.open(self._store)
        self.records.open(self._store)
        self.known_racks.open(self._store)
        self.api_keys.open(self._store)

    async def on_listening(self) -> None:
        self.registrations.restore()
        self.grace.begin_now(self.known_racks.ids())
        for found in self.known_racks.hints():
            self.fleet.hear_with_key(found)
        self._tick()
        self.replicator.start()
        self._plan_sweep()

    def on_found(self, found: Found) -> None:
        if not self.replicator.hear(found):
            self.fleet.hear(found)

    async def before_drain(self) -> None:
        self._cancel_timer("sweep")
        self.replicator.stop()

    async def after_drain(self) -> None:
        self._cancel_timer("tick")

    async def close(self) -> None:
        self.router.close()
        if self._store is not None:
            self._store.close()

    def _tick(self) -> None:
        self._timers["tick"] = self._loop.call_later(TICK_SECONDS, self._tick)
        self.fleet.tick(self.lag.last)
        self.api_keys.look()
        self.grace.look(self.fleet.is_back)

    def _plan_sweep(self) -> None:
        seconds = self.settings.service_discovery_interval / 1000
        self._timers["sweep"] = self._loop.call_later(seconds, self._sweep)

    def _sweep(self) -> None:
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = self.spawn(self._discover(), "sweep")
        self._plan_sweep()

    async def _discover(self) -> None:
        await self.context.discovery.sweep()
        for found in self.context.discovery.known():
            self.on_found(found)

    def _cancel_timer(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    # --- registration

    def register(self, body: Any, *, source: str, by: PeerInfo | None = None) -> dict[str, Any]:
        """`registerWorker`. A registration by anybody but the worker itself is manual and is kept."""
        offer = contract.parse(contract.Registration, body, what="registration")
        itself = by if by is not None and by.worker_id == offer.worker_id else None
        if itself is None:
            _check_operator(by, offer.worker_id)
        if itself is None:
            record = self.registrations.enter(offer, source)
        else:
            record = self.fleet.register(offer, source=source, by=itself)
        lease = self.settings.worker_timeout
        return contract.as_body(contract.Registered(record.worker_id, record.registered_at, lease))

    def unregister(self, worker_id: str) -> dict[str, Any]:
        """`unregisterWorker`; raises `WorkerNotFound`."""
        record = self.fleet.entry(worker_id)
        self.fleet.remove(record.worker_id, "unregistered")
        return {"success": True}

    def _grace_over(self) -> None:
        self.admission.review_all()
        for rack in self.known_racks.ids():
            if not self.fleet.is_back(rack):
                self.known_racks.missed(rack)

    def _listed(self, record: WorkerRecord) -> None:
        self.holds.apply(record)
        self.known_racks.note(record)

    def _left(self, record: WorkerRecord, reason: str) -> None:
        self.registrations.forget(record)
        if not self.stopping:
            self.known_racks.forget(record.instance_id)

    def _register_worker(self, body: Any, request: Request) -> dict[str, Any]:
        return self.register(body, source="rpc", by=request.peer)

    def _unregister_worker(self, body: Any, request: Request) -> dict[str, Any]:
        worker_id = contract.parse(contract.WorkerRef, body).worker_id
        if request.peer.worker_id == worker_id:
            self.owners.claim(request.peer)
            record = self.registry.holder(worker_id)
            if record is None or record.manual:  # what an operator registered stays listed
                return {"success": True}
            if record.epoch > request.peer.epoch:  # a late word of an earlier start
                return {"success": True}
        else:
            _check_operator(request.peer, worker_id)
        return self.unregister(worker_id)

    def _register_rack(self, body: Any, request: Request) -> dict[str, Any]:
        rack = contract.parse(contract.RegisterRack, body, what="registration")
        info = rack.info
        offer = contract.Registration(
            rack.id, info.address, info.capabilities, info.labels, info.weight, rack.type, info.public_key
        )
        return self.register(contract.as_body(offer), source="rpc", by=request.peer)

    def _forget_racks(self, body: Any) -> dict[str, Any]:
        """An id that is kept for a machine's worker is freed, too, registered or not."""
        wanted = contract.parse(contract.ForgetRacks, body)
        kept = {name for name in wanted.ids if name in self.owners and self.registry.holder(name) is None}
        named = (self.fleet.entry(name) for name in wanted.ids if name not in kept)
        records = self.registry.all() if wanted.all else list(named)
        ids = dict.fromkeys(record.worker_id for record in records)
        for worker_id in ids:
            self.unregister(worker_id)
        for worker_id in (*ids, *kept):
            self.owners.forget(worker_id)
        return {"success": True, "forgotten": len(ids) + len(kept)}

    # --- routing

    def _route_request(self, request: Request) -> None:
        head = contract.read_head(request.head)
        question = self._question(
            head,
            request.head,
            request.content_type,
            request.payload,
            request.deadline,
            request.flags,
            request.peer.worker_id,
        )
        if head.options.idempotency_key is not None:
            question.sign(callers.peer(request.peer))
        if _simulates(head):
            reply = simulated(question, self.identity.worker_id)
            request.answer(reply.head, reply.content_type, reply.payload)
            return
        route = self.router.start(question, request)
        request.on_cancel, request.on_credit = route.cancel, route.grant

    async def route(
        self,
        head: contract.InferenceHead,
        packed_head: bytes | None,
        content_type: int,
        payload: wire.Payload,
        deadline: float,
        models: tuple[str, ...] | None = None,
        caller: str = "",
        origin: str = "",
    ) -> Reply:
        """Route one request whose payload stays packed; `deadline` in the loop's time. Raises `WrkError`.

        `models` may answer it; None: those that the settings name. `caller` is whose share of queues it has,
        `origin` whose results it may get, if it has an idempotency key.
        """
        question = self._question(head, packed_head, content_type, payload, deadline, caller=caller)
        question.models = models
        if head.options.idempotency_key is not None:
            question.sign(origin)
        if _simulates(head):
            return simulated(question, self.identity.worker_id)
        return await self.router.route(question)

    def _question(
        self,
        head: contract.InferenceHead,
        packed_head: bytes | None,
        content_type: int,
        payload: wire.Payload,
        deadline: float,
        flags: int = 0,
        caller: str = "",
    ) -> Question:
        if head.options.timeout_ms is not None:
            deadline = min(deadline, self._loop.time() + head.options.timeout_ms / 1000)
            flags |= flags & wire.STREAM_WANTED and wire.WHOLE
        flags &= wire.STREAM_WANTED | wire.WHOLE
        return Question(head, packed_head, content_type, payload, deadline, flags, caller)

    def find(self, body: Any, models: tuple[str, ...] | None = None) -> dict[str, Any]:
        """`findAvailableWorker`: the lookaside way. `modelId` is there where the rack has to be asked for
        another model than the one named."""
        want = contract.parse(contract.FindWorker, body)
        with self.grace.excused():
            worker_id, model = self.router.find(want, models)
        found = {"success": True, "worker": self.show(self.fleet.entry(worker_id))}
        return found if model == want.model_id else {**found, "modelId": model}

    # --- operators

    def hold(self, body: Any, word: Observation) -> dict[str, Any]:
        """`drainWorker`, `quarantineWorker`, `releaseWorker`; raises `WorkerNotFound`."""
        return self.hold_worker(contract.parse(contract.WorkerRef, body).worker_id, word)

    def hold_worker(self, worker_id: str, word: Observation) -> dict[str, Any]:
        """The same for an id that may be anything."""
        with self.grace.excused():
            record = self.holds.say(worker_id, word)
        if record is None:  # it is away, and will be back in service
            return {"success": True, "workerId": worker_id, "state": "gone"}
        state = self.health_monitor.state(record.worker_id)
        return {"success": True, "workerId": record.worker_id, "state": state}

    # --- telling

    def show(self, record: WorkerRecord) -> dict[str, Any]:
        """One worker as `listWorkers` and HTTP show it."""
        return self.fleet.show(record, self._heard_by())

    def list_workers(self, body: Any) -> dict[str, Any]:
        """`listWorkers`: records, narrowed by model, state and labels."""
        want = contract.parse(contract.WorkerFilter, body)
        model = None if want.model_id is None else self.names.model(want.model_id)
        records = self.registry.all() if model is None else self.registry.workers_of(model)
        heard = self._heard_by()
        shown = [
            self.fleet.show(record, heard)
            for record in records
            if want.labels.items() <= record.labels.items()
        ]
        workers = [worker for worker in shown if want.state is None or worker["state"] == want.state]
        return {"success": True, "workers": workers, "total": len(workers)}

    def _heard_by(self) -> dict[str, str]:
        return {found.worker_id: found.source for found in self.context.discovery.known() if found.worker_id}

    def service_status(self) -> dict[str, Any]:
        """`getServiceStatus`: registry, balancer, health and RPC clients in one answer."""
        return {
            "success": True,
            "status": "draining" if self.stopping else "ok" if self.started.is_set() else "starting",
            "timestamp": clock.wall_ms(),
            "workerId": self.identity.worker_id,
            "mesh": self.settings.discovery.mesh,
            "endpoint": self.endpoint,
            "registry": {
                "workers": len(self.registry),
                "models": self.registry.models(),
                "aliases": self.names.aliases,
                "leaseMs": self.settings.worker_timeout,
            },
            "loadBalancer": {
                "strategy": self.settings.load_balancing_strategy,
                "workers": self._balancer_stats(),
                "waiting": self.admission.waiting,
                "queues": self.admission.queues(),
                "loading": self.loader.under_way,
            },
            "health": self.health_monitor.aggregate(),
            "rpcClients": self.peers.stats(),
            "routing": dict(self.router.counters),
            "discovery": self.context.discovery.counters(),
            "records": self._records_status(),
            "otherMeshes": self._other_meshes(),
        }

    def _records_status(self) -> dict[str, Any]:
        """What is shared with other orchestrators, and with whom."""
        counters = {**self.records.counters, **self.replicator.counters}
        return {
            "orchestrators": self.replicator.linked(),
            "kept": len(self.records.book),
            "holds": self.holds.shown(),
            **counters,
        }

    def _other_meshes(self) -> list[dict[str, str]]:
        """Meshes that were heard on the network and are not ours."""
        heard = self.context.discovery
        others = heard.strangers() if isinstance(heard, HearsOthers) else []
        return [{"name": other.name, "id": other.mesh_id} for other in others]

    def load_balancing_stats(self) -> dict[str, Any]:
        """`getLoadBalancingStats`: figures per worker."""
        strategy = self.settings.load_balancing_strategy
        return {"success": True, "strategy": strategy, "workers": self._balancer_stats()}

    def _balancer_stats(self) -> dict[str, Any]:
        return self.balancer.stats(self._loop.time(), clock.wall_ms())

    def health_check(self) -> dict[str, Any]:
        """`healthCheck`: of the service itself. That no rack is there does not make it unhealthy."""
        lagging = self.lag.last > self.settings.health.heartbeat_interval / 1000
        components: dict[str, dict[str, Any]] = {
            "registry": {"healthy": True, "workers": len(self.registry)},
            "loadBalancer": {"healthy": True, "strategy": self.settings.load_balancing_strategy},
            "healthMonitor": {"healthy": True, "workers": self.health_monitor.aggregate()},
            "rpc": {"healthy": bool(self.endpoint), "endpoint": self.endpoint},
            "eventLoop": {"healthy": not lagging, "lagMs": round(self.lag.last * 1000, 1)},
        }
        healthy = all(part["healthy"] for part in components.values()) and not self.stopping
        return {"success": True, "healthy": healthy, "components": components, "timestamp": clock.wall_ms()}

    def not_ready(self) -> str:
        """Why no traffic should come now; empty when it may. What comes all the same in the first moments is
        taken, and waits."""
        looking = "it has just started and still looks for its racks" if self.grace.active else ""
        return self.takes_nothing() or looking

    def takes_nothing(self) -> str:
        """Why every request is refused now; empty when they are taken."""
        if self.stopping:
            return "it is draining"
        return "" if self.started.is_set() else "it is starting"


def _check_operator(by: PeerInfo | None, worker_id: str) -> None:
    """Raises `PermissionDenied` for a rack that speaks for another. HTTP asks for its own key before."""
    if by is not None and by.member is not None and OPERATOR not in by.member.roles:
        raise errors.PermissionDenied(
            f"{by.worker_id} speaks for itself alone, not for {worker_id}: that takes the role of operator"
        )


def _simulates(head: contract.InferenceHead) -> bool:
    return head.simulate or head.options.simulate


def _queue_limits(routing: RoutingSettings) -> Limits:
    return Limits(routing.queue_limit, routing.queue_total, routing.queue_timeout / 1000)


def _policy(context: WorkerContext) -> HealthPolicy:
    health = context.settings.health
    return HealthPolicy(
        heartbeat_interval=health.heartbeat_interval / 1000,
        silence_timeout=health.silence_timeout / 1000,
        probe_interval=context.settings.health_check_interval / 1000,
        probe_timeout=health.probe_timeout / 1000,
        deadline_misses=health.deadline_misses,
        quarantine_min=health.quarantine_min / 1000,
        quarantine_max=health.quarantine_max / 1000,
        probation_successes=health.probation_successes,
        flap_high=health.flap_high,
        flap_low=health.flap_low,
        max_quarantined_share=health.max_quarantined_share,
        panic_share=health.panic_share,
        max_probe_rate=health.max_probe_rate,
    )
