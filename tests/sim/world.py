"""A mesh in one thread: real orchestrators, racks and clients on simulated hosts, and all that befalls them.

A `Member` is a name that outlives its processes; each start is a new process with a new epoch. The world
writes the history that the checker judges, and a log for people. Both follow from the plan alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

from tests.sim.discovery import Multicast, SimDiscovery
from tests.sim.loop import Order, Process, SimLoop
from tests.sim.network import SimNetwork, Wire, Wires
from tests.sim.people import ROUTE, Ask, Caller, SimulatedRack
from tests.sim.plan import Plan, RackPlan, address
from wrk_base import Client
from wrk_base.config import Settings
from wrk_base.discovery import combine
from wrk_base.errors import WorkerNotFound
from wrk_base.rpc.identity import Identity
from wrk_base.settings_loader import load
from wrk_base.worker import Worker, WorkerContext
from wrk_orchestrator.chaos.book import ROUTABLE
from wrk_orchestrator.chaos.history import Census, Event, StateChanged, line
from wrk_orchestrator.health_changes import Change, SetLimit, Transition
from wrk_orchestrator.health_monitor import HealthMonitor
from wrk_orchestrator.health_table import LINKED, State
from wrk_orchestrator.orchestrator import OrchestratorWorker

MESH = "simulated"
PORT = 8004
RUN = "runInference"
RELEASE = ": a release, to the checker"
LOGGED = 200  # characters of a fact


class Member:
    """One name; `process` and `worker` are those of its newest start, None while it is away."""

    def __init__(self, name: str, role: str, host: str, offset: float, plan: RackPlan | None = None) -> None:
        self.name, self.role, self.host, self.offset, self.plan = (
            name,
            role,
            address(host),
            offset,
            plan,
        )
        self.epoch = 0
        self.process: Process | None = None
        self.worker: Worker | None = None
        self.caller: Caller | None = None
        self.discovery: SimDiscovery | None = None

    @property
    def running(self) -> Process | None:
        return self.process if self.process is not None and self.process.alive else None


class World:
    def __init__(self, loop: SimLoop, plan: Plan, directory: Path) -> None:
        self.loop, self.plan, self.directory = loop, plan, directory
        self.history: list[Event] = []
        self.lines: list[str] = []
        self.unseen: list[str] = []  # what must not happen and no history tells
        self.dead: list[Process] = []  # kept whole: nothing of them is tidied up while others live
        self.wires = Wires(loop, Random(f"wires {plan.seed}"))
        self.air = Multicast(self.wires, plan.loss)
        self.members: dict[str, Member] = {}
        self.asks: dict[str, Ask] = {}
        dice = Random(f"clocks {plan.seed}")
        for rack in plan.racks:
            self._add(Member(rack.name, "rack", rack.host, dice.uniform(0, 1e6), rack))
        for name in plan.orchestrators:
            self._add(Member(name, "orchestrator", name, dice.uniform(0, 1e6)))
        for name in plan.clients:
            self._add(Member(name, "client", name, dice.uniform(0, 1e6)))
        loop.set_exception_handler(self._unseen)

    def _add(self, member: Member) -> None:
        self.members[member.name] = member

    def of(self, role: str) -> list[Member]:
        return [member for member in self.members.values() if member.role == role]

    @property
    def hosts(self) -> list[str]:
        return list(dict.fromkeys(member.host for member in self.members.values()))

    def now(self) -> float:
        return self.loop.now

    # --- starting and ending

    def start(self, member: Member) -> None:
        if member.running is not None:
            return
        member.epoch += 1
        process = member.process = Process(member.name, member.offset)
        self.say(member.name, "starts", epoch=member.epoch)
        with self.loop.as_process(process):
            member.discovery = SimDiscovery(self.air, member.host, process)
            if member.role == "client":
                self._open_client(member, process)
                return
            worker = member.worker = self._make(member, process)
            self.loop.create_task(worker.start()).add_done_callback(self._started)

    def _started(self, starting: asyncio.Task[None]) -> None:
        if not starting.cancelled() and (failure := starting.exception()) is not None:
            self.unseen.append(f"a start failed: {failure!r}")

    def _make(self, member: Member, process: Process) -> Worker:
        context = self._context(member, process)
        if member.plan is None:
            orchestrator = OrchestratorWorker(context)
            told = partial(self._state_changed, f"{member.name}.{member.epoch}", orchestrator)
            orchestrator.fleet.health = WatchedHealth(orchestrator.health_monitor, told)  # type: ignore[assignment]
            return orchestrator
        plan = member.plan
        return SimulatedRack(context, self.note, self.now, plan.capacity, plan.pace, self.plan.resumable)

    def _context(self, member: Member, process: Process) -> WorkerContext:
        log: Any = ProcessLog(self, member.name)
        flags = {"loadBalancingStrategy": self.plan.strategy}
        assert member.discovery is not None
        return WorkerContext(
            settings=_settings(tuple(flags.items())),
            section=None,
            identity=Identity(member.name, member.epoch, member.role, member.name),
            wtype=f"sim-{member.role}",
            rack=member.name,
            state_dir=self.directory,
            host=member.host,
            network=SimNetwork(self.wires, member.host, process),
            discovery=combine(member.discovery, log=log),
            rng=Random(f"{self.plan.seed} {member.name} {member.epoch}"),
            log=log,
        )

    def _open_client(self, member: Member, process: Process) -> None:
        given = dict(zip(self.plan.clients, self.plan.given, strict=True))[member.name]
        addresses = [f"tcp://{address(name)}:{PORT}" for name in self.plan.orchestrators] if given else []
        client = Client(
            *addresses,
            name=member.name,
            mesh=MESH,
            rng=Random(f"{self.plan.seed} {member.name}"),
            network=SimNetwork(self.wires, member.host, process),
            discovery=None if given else member.discovery,
        )
        member.caller = Caller(member.name, client, self.note, self.now)

    def kill(self, member: Member) -> None:
        """SIGKILL. The kernel closes what was open, and nothing else happens."""
        process = member.running
        if process is None:
            return
        self.say(member.name, "killed")
        self._bury(member, process)

    def _bury(self, member: Member, process: Process) -> None:
        self.loop.kill(process)
        self.dead.append(process)
        self.wires.kill(process)
        if member.discovery is not None:
            member.discovery.vanish()
        worker = member.worker
        if not isinstance(worker, OrchestratorWorker):
            return
        if worker._store is not None:
            worker._store.close()
        for name, state in self.states(member).items():  # what it thought of them is of no use any more
            self._note_state(f"{member.name}.{member.epoch}", name, state, "gone", "its orchestrator is gone")

    def terminate(self, member: Member) -> None:
        """SIGTERM."""
        process, worker = member.running, member.worker
        if process is None or worker is None:
            return
        self.say(member.name, "terminated")

        async def end() -> None:
            await worker.stop()
            self.loop.soon(None, self._ended, member, process)

        self.loop.spawn(process, end())

    def _ended(self, member: Member, process: Process) -> None:
        if process.alive:
            self.say(member.name, "exited")
            self._bury(member, process)

    def hold(self, member: Member, *, stop: bool) -> Process | None:
        """SIGSTOP, or, with `stop` False, a handler that blocks its event loop."""
        process = member.running
        if process is not None:
            self.loop.hold(process)
            process.stopped += stop
            self.wires.review()
        return process

    def release(self, process: Process, *, stop: bool) -> None:
        process.stopped -= stop
        order: Order = self.wires.rng.choice(("as planned", "timers first", "timers last"))
        self.loop.release(process, order)
        self.wires.review()

    def wires_of(self, member: Member) -> list[Wire]:
        return [wire for wire in self.wires.open if wire.is_of(member.running) and not wire.is_down]

    # --- what is written down

    def note(self, event: Event) -> None:
        if not self.loop.over:
            self.history.append(event)

    def say(self, who: str, event: str, **facts: Any) -> None:
        if self.loop.over:
            return
        told = " ".join(f"{name}={str(fact)[:LOGGED]}" for name, fact in facts.items())
        self.lines.append(f"{self.loop.now:10.6f} {who:<4} {event} {told}".rstrip())

    def logged(self, who: str, level: str, event: str, facts: Mapping[str, Any]) -> None:
        """What a process logs; some of it must never be said."""
        self.say(who, event, **facts)
        if event in _DEFECTS or level == "exception":
            self.unseen.append(f"{who} logged {event}: {facts}")

    def _state_changed(self, who: str, orchestrator: OrchestratorWorker, change: Transition) -> None:
        left = orchestrator.health_monitor.describe(change.worker_id, self.loop.time())["quarantineLeftMs"]
        cause = change.cause
        if change.new in ROUTABLE and change.old not in LINKED and not left:
            cause += RELEASE  # when half of its model is away already, a sentence is cut at the return
        self._note_state(who, change.worker_id, change.old, change.new, cause, (left or 0) / 1000)

    def _note_state(self, who: str, rack: str, old: str, new: str, cause: str, sentence: float = 0.0) -> None:
        self.note(
            StateChanged(
                orchestrator=who,
                worker=rack,
                old=str(old),
                new=str(new),
                at=self.loop.now,
                cause=cause,
                sentence=sentence,
            )
        )

    def _unseen(self, loop: object, context: Mapping[str, Any]) -> None:
        if not self.loop.over:
            self.unseen.append(f"{context.get('message')}: {context.get('exception')!r}")

    # --- what is there

    def states(self, orchestrator: Member) -> dict[str, str]:
        """What each rack is to this orchestrator."""
        worker = orchestrator.worker
        assert isinstance(worker, OrchestratorWorker)
        return {
            record.worker_id: worker.health_monitor.state(record.worker_id)
            for record in worker.registry.all()
        }

    def sentenced(self, orchestrator: Member, rack: str) -> bool:
        """Whether it is in a quarantine that has not been served."""
        worker, process = orchestrator.worker, orchestrator.process
        assert isinstance(worker, OrchestratorWorker)
        if rack not in self.states(orchestrator):
            return False
        with self.loop.as_process(process):
            return bool(worker.health_monitor.describe(rack, self.loop.time())["quarantineLeftMs"])

    def count(self) -> None:
        """Write down what everybody has open."""
        for member in self.members.values():
            process, worker = member.running, member.worker
            if process is None:
                continue
            with self.loop.as_process(process):
                if member.caller is not None:
                    self.note(Census(who=member.name, at=self.loop.now, open_calls=member.caller.waiting))
                elif isinstance(worker, OrchestratorWorker):
                    self.note(self._census(member.name, worker))
                elif isinstance(worker, SimulatedRack):
                    open_calls = worker.running + worker.server.in_flight + worker.server.held_bytes
                    self.note(Census(who=member.name, at=self.loop.now, open_calls=open_calls))

    def _census(self, name: str, worker: OrchestratorWorker) -> Census:
        calls = [
            request.handler.method
            for caller in worker.server.callers.values()
            for request in caller.open.values()
        ]
        onward = [call.parts[0] for peer in worker.peers._all() for call in peer._table.entries.values()]
        return Census(
            who=name,
            at=self.loop.now,
            open_calls=calls.count(ROUTE)
            + onward.count(RUN)
            + sum(peer._streams for peer in worker.peers._all()),
            leases=worker.balancer.leases,
            queue=worker.admission.waiting,
        )

    def story(self) -> bytes:
        """All that was written down; of two runs of one seed equal to the last byte."""
        return b"".join(map(line, self.history)) + "\n".join(self.lines).encode()


class WatchedHealth:
    """A health monitor whose every change of a state is told, whatever becomes of it in the log.

    Whom panic lets in is told as on probation: it gets some work, and its quarantine goes on afterwards.
    """

    def __init__(self, monitor: HealthMonitor, told: Callable[[Transition], None]) -> None:
        self._monitor, self._told = monitor, told
        self._let_in: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._monitor, name)

        def watched(*arguments: Any, **more: Any) -> Any:
            if name == "remove" and (old := self._state(arguments[0])) is not None:
                self._told(Transition(arguments[0], old, State.GONE, "it was removed"))
            changes = method(*arguments, **more)
            if changes and type(changes) is tuple:
                self._tell(changes)
            return changes

        setattr(self, name, watched)
        return watched

    def _tell(self, changes: tuple[Change, ...]) -> None:
        for change in changes:
            if isinstance(change, Transition):
                self._let_in.discard(change.worker_id)
                self._told(change)
        for worker_id in dict.fromkeys(c.worker_id for c in changes if isinstance(c, Transition | SetLimit)):
            self._tell_of_panic(worker_id)

    def _tell_of_panic(self, worker_id: str) -> None:
        if self._state(worker_id) is not State.QUARANTINED:
            return
        # A limit that panic leaves as it was is not told again: it has to be looked up.
        let_in = bool(self._monitor.describe(worker_id, 0.0)["limit"])
        if let_in and worker_id not in self._let_in:
            self._let_in.add(worker_id)
            self._told(Transition(worker_id, State.QUARANTINED, State.PROBATION, f"let in by panic{RELEASE}"))
        elif not let_in and worker_id in self._let_in:
            self._let_in.discard(worker_id)
            self._told(Transition(worker_id, State.PROBATION, State.QUARANTINED, "panic is over"))

    def _state(self, worker_id: str) -> State | None:
        try:
            return State(self._monitor.state(worker_id))
        except WorkerNotFound:
            return None


class ProcessLog:
    """The log of one process."""

    def __init__(self, world: World, who: str) -> None:
        for level in ("debug", "info", "warning", "error", "exception"):
            setattr(self, level, _logger(world, who, level))


def _logger(world: World, who: str, level: str) -> Callable[..., None]:
    def log(event: str, **facts: Any) -> None:
        world.logged(who, level, event, facts)

    return log


_DEFECTS = frozenset(
    {"worker.task_failed", "worker.handlers_stuck", "worker.task_stuck", "worker.close_failed"}
)


@cache
def _settings(flags: tuple[tuple[str, str], ...]) -> Settings:
    given = [("discovery.mesh", MESH), *flags]
    return load(config_dir=None, env="test", environ={}, flags=given).settings
