"""Workers without a process: everything that a `WorkerContext` holds, made by hand.

A `Site` is one place to run workers in a single event loop: a network, a multicast bus and a directory.
Workers that it starts are stopped with it, and what they leave behind fails the test. `FakeRack` is the
smallest rack there is; it answers at once unless it is told to hold or to fail.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, TypeVar

from tests.fakes.discovery import Bus, BusDiscovery
from tests.fakes.network import FakeNetwork
from tests.fakes.rpc import RecordedLog
from wrk_base import contract
from wrk_base.config import Settings
from wrk_base.discovery import Discovery, combine
from wrk_base.discovery.static import StaticDiscovery
from wrk_base.rack import Rack
from wrk_base.rpc.identity import Identity
from wrk_base.rpc.line import PeerLimits
from wrk_base.rpc.peers import Peers
from wrk_base.settings_loader import load
from wrk_base.worker import Worker, WorkerContext
from wrk_orchestrator.orchestrator import OrchestratorWorker

MESH = "test-mesh"

W = TypeVar("W", bound=Worker)


def settings_of(flags: Mapping[str, str] | None = None) -> Settings:
    """The defaults with some settings changed, by the names that flags have.

    Nothing is looked for at the start: a model that nobody serves is refused at once.
    """
    given = {"discovery.mesh": MESH, "rpc.port": "0", "routing.startGrace": "0", **(flags or {})}
    return load(config_dir=None, env="test", environ={}, flags=list(given.items())).settings


@dataclass(frozen=True)
class Offer:
    """What a `FakeRack` says of itself."""

    models: tuple[str, ...] = ("m1",)
    capacity: int = 4
    tags: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()


class FakeRack(Rack):
    """Answers with its own name; `hold` makes requests wait, `failure` is raised instead of an answer."""

    def __init__(self, context: WorkerContext, offer: Offer | None = None) -> None:
        super().__init__(context)
        self.offer = offer or Offer()
        self.seen: list[Any] = []
        self.failure: Exception | None = None
        self.free = asyncio.Event()
        self.free.set()
        self.cancelled = 0

    def describe(self) -> contract.Description:
        return contract.Description(
            models=list(self.offer.models),
            tags=list(self.offer.tags),
            max_concurrent=self.offer.capacity,
            labels=dict(self.offer.labels),
        )

    async def infer(self, model_id: str, input_data: Any, options: contract.Options) -> Any:
        self.seen.append(input_data)
        try:
            await self.free.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.failure is not None:
            raise self.failure
        return {"from": self.context.rack}

    def hold(self) -> None:
        self.free.clear()

    def let_go(self) -> None:
        self.free.set()

    def registrations(self) -> list[str]:
        """The orchestrators that this rack is registered with."""
        return sorted(self._enrolment.registered.values())


class Site:
    """Workers of one test, on one fake network and one bus. Use it as an async context manager."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.network = FakeNetwork()
        self.bus = Bus()
        self.log = RecordedLog()
        self._workers: list[Worker] = []
        self._callers: list[Peers] = []

    async def __aenter__(self) -> Site:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for caller in self._callers:
            caller.close()
        for worker in reversed(self._workers):
            await worker.stop()
        if error is None:
            self.network.close()

    def context(
        self,
        name: str,
        role: str,
        *,
        epoch: int = 1,
        flags: Mapping[str, str] | None = None,
        heard: BusDiscovery | None = None,
        peers: tuple[str, ...] = (),
        directory: Path | None = None,
    ) -> WorkerContext:
        """`heard` is the process's place on the bus, `peers` are named by hand; a `directory` of its own is
        a machine of its own."""
        settings = settings_of(flags)
        sources: list[Discovery] = [heard or self.bus.join(settings.discovery.mesh)]
        sources += [StaticDiscovery(peers)] if peers else []
        return WorkerContext(
            settings=settings,
            section=None,
            identity=Identity(name, epoch=epoch, role=role, name=name),
            wtype=f"fake-{role}",
            rack=name,
            state_dir=directory or self.directory,
            host="127.0.0.1",
            network=self.network,
            discovery=combine(*sources, log=self.log),  # type: ignore[arg-type]
            rng=Random(name),
            log=self.log,  # type: ignore[arg-type]
        )

    async def start(self, worker: W) -> W:
        """Start a worker that ends with the site."""
        self._workers.append(worker)
        await worker.start()
        return worker

    async def orchestrator(self, name: str = "orc", **more: Any) -> OrchestratorWorker:
        return await self.start(OrchestratorWorker(self.context(name, "orchestrator", **more)))

    async def rack(self, name: str, offer: Offer | None = None, **more: Any) -> FakeRack:
        return await self.start(FakeRack(self.context(name, "rack", **more), offer))

    def caller(self, name: str = "caller", role: str = "client") -> Peers:
        """Somebody who calls and serves nothing."""
        caller = Peers(
            network=self.network,
            identity=Identity(name, epoch=1, role=role),
            rng=Random(name),
            limits=PeerLimits(),
            max_peers=64,
            linger=600.0,
        )
        self._callers.append(caller)
        return caller

    async def crash(self, worker: Worker) -> None:
        """End a worker without a goodbye: its connections break and nobody listens there any more."""
        self._workers.remove(worker)
        for source in worker.context.discovery._sources:  # type: ignore[attr-defined]
            if isinstance(source, BusDiscovery):
                source.vanish()
        if isinstance(worker, Rack):
            worker._enrolment.registered.clear()
        worker.server.close()
        await worker.stop()
