"""An orchestrator with its HTTP face and one rack in the test's own loop, over real sockets.

    async with house(tmp_path) as h:
        held = h.hold()  # a request that stays in the rack until h.rack.go_on is set

So a test can hold a request in the rack and let it go, and sees that nothing is left when everything has
stopped: no task, no socket, no descriptor. `Raw` speaks HTTP by the byte, for what no well-behaved
client would send.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import httpx
import msgspec
import structlog

from tests.fakes.aio import closed, eventually, open_files
from wrk_base import contract, errors
from wrk_base.config import RpcSettings, Settings
from wrk_base.discovery import Discoveries, combine
from wrk_base.discovery.static import StaticDiscovery
from wrk_base.rack import Rack
from wrk_base.rpc.identity import Identity
from wrk_base.rpc.link import Network
from wrk_base.rpc.zmq_link import ZmqNetwork
from wrk_base.worker import WorkerContext
from wrk_orchestrator.worker import OrchestratorService

ROUTE = "/api/inference/route"
REGISTER = "/api/workers/register"
SIMULATE = b'{"modelId":"m","inputData":1,"simulate":true}'


class StagedRack(Rack):
    """Answers with its input; an input {"stage": ...} waits for the test, or fails as it says."""

    capacity = 100

    def __init__(self, context: WorkerContext) -> None:
        super().__init__(context)
        self.go_on = asyncio.Event()
        self.entered = 0
        self.cancelled = 0

    def describe(self) -> contract.Description:
        return contract.Description(models=["m1"], max_concurrent=self.capacity)

    async def infer(self, model_id: str, input_data: Any, options: contract.Options) -> Any:
        self.entered += 1
        stage = input_data.get("stage") if isinstance(input_data, dict) else None
        if stage == "wait":
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        elif stage == "raise":
            raise RuntimeError("a secret of the rack")
        elif stage == "refuse":
            raise errors.BadRequest("the prompt is too long", data={"field": "inputData.prompt"})
        return input_data


class House:
    """An orchestrator with HTTP, one rack, and a client."""

    def __init__(self, service: OrchestratorService, rack: StagedRack, http: httpx.AsyncClient) -> None:
        self.service, self.rack, self.http = service, rack, http

    async def route(self, input_data: Any = "hello", /, **body: Any) -> httpx.Response:
        return await self.http.post(ROUTE, json={"modelId": "m1", "inputData": input_data, **body})

    def hold(self, **body: Any) -> asyncio.Task[httpx.Response]:
        """A request that the rack answers when the test says so."""
        return asyncio.create_task(self.route({"stage": "wait"}, **body))

    async def held(self, count: int = 1) -> None:
        await eventually(lambda: self.rack.entered >= count)

    def load(self) -> int:
        workers = self.service.load_balancing_stats()["workers"]
        return int(workers[self.rack.identity.worker_id]["currentLoad"])

    async def connect(self) -> Raw:
        return await Raw.connect(self.service.http_endpoint)


class Raw:
    """One connection, used by the byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, endpoint: str) -> Raw:
        host, _, port = endpoint.removeprefix("http://").rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    def send(self, head: str, body: bytes = b"") -> None:
        self.writer.write(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)

    def post(self, body: bytes) -> None:
        self.send(f"POST {ROUTE} HTTP/1.1\nhost: localhost\ncontent-length: {len(body)}", body)

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        """(status, headers, decoded body) of the next answer."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await self.reader.readexactly(int(headers["content-length"]))
        return int(head[0].split()[1]), headers, msgspec.json.decode(body)

    async def end(self) -> bytes:
        """What else comes until the server closes."""
        return await self.reader.read()

    def reset(self) -> None:
        """Leave without a goodbye."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass


def settings_of(start_grace: int = 0, **changes: Any) -> Settings:
    """Without a `start_grace` nothing is looked for: a model that nobody serves is refused at once."""
    made = msgspec.structs.replace(Settings(), **{"port": 0, "rpc": RpcSettings(port=0), **changes})
    routing = msgspec.structs.replace(made.routing, start_grace=start_grace)
    return msgspec.structs.replace(made, routing=routing)


def context_of(
    name: str, role: str, settings: Settings, network: Network, tmp_path: Path, discovery: Discoveries
) -> WorkerContext:
    return WorkerContext(
        settings=settings,
        section=None,
        identity=Identity(f"{name}-1", epoch=1, role=role),
        wtype=role,
        rack=name,
        state_dir=tmp_path,
        host="127.0.0.1",
        network=network,
        discovery=discovery,
        rng=Random(name),
        log=structlog.get_logger(),
    )


def service_of(
    network: Network,
    tmp_path: Path,
    settings: Settings | None = None,
    kind: type[OrchestratorService] = OrchestratorService,
    discovery: Discoveries | None = None,
) -> OrchestratorService:
    found = discovery or combine(log=structlog.get_logger())
    chosen = settings or settings_of()
    return kind(context_of("main", "orchestrator", chosen, network, tmp_path, found))


def rack_of(
    network: Network, tmp_path: Path, orchestrator: str, kind: type[StagedRack] = StagedRack
) -> StagedRack:
    found = combine(StaticDiscovery([orchestrator]), log=structlog.get_logger())
    return kind(context_of("r1", "rack", settings_of(), network, tmp_path, found))


@asynccontextmanager
async def network() -> AsyncIterator[ZmqNetwork]:
    """A network that must be without sockets in the end, as the process must be without descriptors."""
    before = open_files()
    net = ZmqNetwork(asyncio.get_running_loop())
    try:
        yield net
    finally:
        await closed(net)
    await eventually(lambda: open_files() <= before)


@asynccontextmanager
async def running(tmp_path: Path, **changes: Any) -> AsyncIterator[OrchestratorService]:
    """An orchestrator alone."""
    async with network() as net:
        service = service_of(net, tmp_path, settings_of(**changes))
        await service.start()
        try:
            yield service
        finally:
            await service.stop()


@asynccontextmanager
async def house(tmp_path: Path, kind: type[StagedRack] = StagedRack, **changes: Any) -> AsyncIterator[House]:
    """An orchestrator, and a rack that is routable."""
    async with running(tmp_path, **changes) as service:
        rack = rack_of(service.context.network, tmp_path, service.endpoint, kind)
        try:
            await rack.start()
            await eventually(lambda: routable(service))
            headers = {"x-wrk-admin-key": admin_key(tmp_path)}
            async with httpx.AsyncClient(base_url=service.http_endpoint, timeout=20, headers=headers) as http:
                yield House(service, rack, http)
        finally:
            await service.stop()
            await rack.stop()


def admin_key(tmp_path: Path) -> str:
    """As in `curl -H "x-wrk-admin-key: $(cat STATE_DIR/admin.key)"`."""
    return (tmp_path / "admin.key").read_text().strip()


def routable(service: OrchestratorService) -> bool:
    return service.registry.get("r1-1") is not None and service.health_monitor.state("r1-1") == "healthy"


async def get(service: OrchestratorService, path: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=service.http_endpoint) as http:
        return await http.get(path)
