"""What is attacked: an orchestrator and a rack of one mesh over encrypted links, and a client that works on.

    async with fort(tmp_path) as f, f.traffic() as good:
        told = await attack(...)
        assert good.lap().failed == 0

All of it lives in the loop of the test; attackers are another process (`tests.fakes.gang`). A `Relay`
stands between two ends and keeps the bytes that pass.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

from tests.fakes.aio import closed, eventually
from tests.fakes.attackers import Target
from tests.fakes.http_house import StagedRack, context_of, settings_of
from tests.fakes.mesh import MeshHouse
from tests.fakes.rpc import RecordedLog
from wrk_base.discovery import combine
from wrk_base.discovery.static import StaticDiscovery
from wrk_base.rpc.identity import Identity
from wrk_base.rpc.line import PeerLimits
from wrk_base.rpc.link import LinkOptions
from wrk_base.rpc.peers import Peers
from wrk_base.rpc.zmq_link import ZmqNetwork
from wrk_base.security.membership import Membership
from wrk_base.worker import WorkerContext
from wrk_orchestrator.orchestrator import OrchestratorWorker

RATE = 100.0  # requests a second of the good client
ROUTE = "routeInferenceRequest"


class TimedLog(RecordedLog):
    """Also knows when: `busiest` is the most lines in any second, `since` a time of `time.monotonic`."""

    def __init__(self) -> None:
        super().__init__()
        self.at: list[float] = []

    def __getattr__(self, level: str) -> Any:
        note = super().__getattr__(level)

        def noted(event: str, **facts: Any) -> None:
            if level != "debug":
                self.at.append(time.monotonic())
                note(event, **facts)

        return noted

    def busiest(self, since: float) -> int:
        return max(Counter(int(at - since) for at in self.at if at >= since).values(), default=0)


@dataclass(slots=True)
class Lap:
    """What the good client met with since the one before; `waits` in seconds, sorted."""

    waits: list[float] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        return self.waits[min(len(self.waits) - 1, int(share * len(self.waits)))]

    def __str__(self) -> str:
        if not self.waits:
            return f"nothing answered, {len(self.troubles)} failed"
        p50, p99 = self.percentile(0.5) * 1000, self.percentile(0.99) * 1000
        return f"{len(self.waits)} answered, {len(self.troubles)} failed, p50 {p50:.1f} ms, p99 {p99:.1f} ms"


class Traffic:
    """Asks at fixed times, whatever became of the requests before: who waits is not spared the next one."""

    def __init__(self, ask: Callable[[int], Awaitable[Any]], rate: float) -> None:
        self._ask, self._rate = ask, rate
        self._lap = Lap()
        self._open: set[asyncio.Task[None]] = set()
        self.asked = 0

    def lap(self) -> Lap:
        lap, self._lap = self._lap, Lap()
        lap.waits.sort()
        return lap

    async def until(self, answered: int) -> None:
        """So many were answered in this lap."""
        await eventually(lambda: len(self._lap.waits) + len(self._lap.troubles) >= answered)

    async def go(self) -> None:
        begun = time.monotonic()  # a loop's own time may go by whole milliseconds
        while True:
            due = begun + self.asked / self._rate
            await asyncio.sleep(due - time.monotonic())
            self.asked += 1
            self._open.add(task := asyncio.create_task(self._one(self.asked, due)))
            task.add_done_callback(self._open.discard)

    async def ended(self) -> None:
        while self._open:
            await asyncio.wait(self._open)

    async def _one(self, number: int, due: float) -> None:
        try:
            assert await self._ask(number) == number, "somebody else's answer"
        except Exception as error:
            self._lap.troubles.append(f"{type(error).__name__}: {error}")
        else:
            self._lap.waits.append(time.monotonic() - due)


@asynccontextmanager
async def traffic(ask: Callable[[int], Awaitable[Any]], rate: float = RATE) -> AsyncIterator[Traffic]:
    """`ask(number)` returns the number."""
    good = Traffic(ask, rate)
    going = asyncio.create_task(good.go())
    try:
        yield good
    finally:
        going.cancel()
        with suppress(asyncio.CancelledError):
            await going
        await good.ended()


class Fort:
    """Orchestrator "main-1", rack "r1-1" of the model "m1", and a client."""

    def __init__(self, mesh: MeshHouse, log: TimedLog, encrypted: bool, options: LinkOptions) -> None:
        self.mesh, self.log, self._encrypted, self._options = mesh, log, encrypted, options
        self.networks: list[ZmqNetwork] = []
        self.orchestrator: OrchestratorWorker
        self.rack: StagedRack
        self.client: Peers

    @property
    def target(self) -> Target:
        """The orchestrator, to be attacked."""
        return _target(self.orchestrator)

    @property
    def rack_target(self) -> Target:
        return _target(self.rack)

    def member(self, name: str, *roles: str, machine: MeshHouse | None = None) -> Membership | None:
        return (machine or self.mesh).member(name, *roles) if self._encrypted else None

    def network(self, membership: Membership | None) -> ZmqNetwork:
        self.networks.append(ZmqNetwork(asyncio.get_running_loop(), self._options, membership))
        return self.networks[-1]

    def context(self, name: str, role: str, *seeds: str, machine: MeshHouse | None = None) -> WorkerContext:
        member = self.member(f"{name}-1", role, machine=machine)
        learn = member.book.learn if member is not None else None
        found = combine(StaticDiscovery(seeds), log=self._any_log, learn=learn)
        context = context_of(name, role, settings_of(), self.network(member), self.mesh.folder, found)
        context.membership, context.log = member, self._any_log
        return context

    def peers(self, name: str, *roles: str, at: str = "", machine: MeshHouse | None = None) -> Peers:
        """Another caller, which may know the orchestrator at another address, too; who made it closes it."""
        member = self.member(name, *roles, machine=machine)
        if member is not None:
            member.book.learn(self.rack.endpoint, public_text(self.rack))
            for endpoint in (self.orchestrator.endpoint, at):
                member.book.learn(endpoint, public_text(self.orchestrator))
        return peers_of(self.network(member), Identity(name, epoch=1, role=roles[0]))

    async def ask(self, question: Any) -> Any:
        """A request of the good client."""
        return await ask_at(self.client, self.orchestrator.endpoint, question)

    def traffic(self) -> AbstractAsyncContextManager[Traffic]:
        return traffic(self.ask)

    def new_rack(self, name: str, machine: MeshHouse | None = None) -> StagedRack:
        """One that will register here, not started yet."""
        seed = "#".join(filter(None, (self.orchestrator.endpoint, public_text(self.orchestrator))))
        return StagedRack(self.context(name, "rack", seed, machine=machine))

    @property
    def routable(self) -> bool:
        return self.is_routable("r1-1")

    def is_routable(self, worker_id: str) -> bool:
        known = self.orchestrator.registry.get(worker_id) is not None
        return known and self.orchestrator.health_monitor.state(worker_id) == "healthy"

    @property
    def listed(self) -> list[str]:
        """Everybody who is in the registry."""
        return [record.worker_id for record in self.orchestrator.registry.all()]

    @property
    def _any_log(self) -> Any:
        return self.log


@asynccontextmanager
async def fort(tmp_path: Path, *, encrypted: bool = True, patience_ms: int = 3000) -> AsyncIterator[Fort]:
    """Not `encrypted`: the same over plain links, to show what a test would see if nothing protected them."""
    mesh, log = MeshHouse(tmp_path / "state"), TimedLog()
    mesh.log = log
    f = Fort(mesh, log, encrypted, LinkOptions(handshake_timeout=patience_ms))
    f.orchestrator = OrchestratorWorker(f.context("main", "orchestrator"))
    await f.orchestrator.start()
    f.rack = f.new_rack("r1")
    try:
        await f.rack.start()
        await eventually(lambda: f.routable)
        f.client = f.peers("good", "client")
        try:
            yield f
        finally:
            f.client.close()
    finally:
        await f.orchestrator.stop()
        await f.rack.stop()
        for network in f.networks:
            await closed(network)


def _target(worker: OrchestratorWorker | StagedRack) -> Target:
    assert worker.membership is not None
    return Target(worker.endpoint, worker.membership.public_key, worker.identity.worker_id)


def public_text(worker: OrchestratorWorker | StagedRack) -> str:
    """Its key, as people write it; "" where there is none."""
    return worker.membership.public_text if worker.membership is not None else ""


def peers_of(network: ZmqNetwork, identity: Identity) -> Peers:
    return Peers(
        network=network, identity=identity, rng=Random(0), limits=PeerLimits(), max_peers=64, linger=60.0
    )


async def ask_at(peers: Peers, endpoint: str, question: Any, seconds: float = 10.0) -> Any:
    body = {"modelId": "m1", "inputData": question}
    return (await peers.request(endpoint, ROUTE, body, timeout=seconds))["result"]


def resident() -> int:
    """Bytes of this process that are in memory; 0 where /proc does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def queued_for_a_core() -> float:
    """Seconds so far in which the loop's thread could have run, and somebody else did. 0 where untold."""
    try:
        return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


class Relay:
    """Stands before `to` and keeps what each connection says: [(bytes to it, bytes from it), ...]."""

    def __init__(self, to: str) -> None:
        where = urlsplit(to)
        self._to = (where.hostname, where.port)
        self.heard: list[tuple[bytearray, bytearray]] = []
        self.endpoint = ""
        self._ways: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.endpoint = f"tcp://{host}:{port}"
        return self

    async def __aexit__(self, *trouble: object) -> None:
        self._server.close()
        for way in self._ways:
            way.cancel()
        if self._ways:
            await asyncio.wait(self._ways)

    @property
    def bytes(self) -> bytes:
        """All that passed, both ways."""
        return b"".join(there + back for there, back in self.heard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*self._to)
        self.heard.append((bytearray(), bytearray()))
        to, fro = self.heard[-1]
        for way in (self._pass(reader, back, to), self._pass(there, writer, fro)):
            task = asyncio.create_task(way)
            self._ways.add(task)
            task.add_done_callback(self._ways.discard)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray
    ) -> None:
        try:
            with suppress(ConnectionError):
                while data := await reader.read(65_536):
                    kept += data
                    writer.write(data)
                    await writer.drain()
        finally:
            writer.transport.abort()
