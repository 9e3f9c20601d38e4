"""What a thousand racks that do nothing but live cost an orchestrator: its CPU, over real sockets.

The racks are servers in one process of their own, each with its own listener, a beat a second at its
own phase and an answer to `getInfo` and `getHealth`; the orchestrator is a real process that dials
every one of them. Its CPU time is read from the system, threads of ZeroMQ included.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import structlog
import uvloop

from benchmarks.mesh import Mesh, member, mesh
from benchmarks.report import Row
from benchmarks.usage import cpu_seconds
from wrk_base import contract, descriptors
from wrk_base.rpc import wire
from wrk_base.rpc.identity import Identity
from wrk_base.rpc.server import Server
from wrk_base.rpc.zmq_link import ZmqNetwork

RACKS = 1000
SETTLE_SECONDS = 8.0  # probes and registrations of the start are over
MEASURE_SECONDS = 15.0
LIMIT = 0.15
ANY_PORT = "tcp://127.0.0.1:0"


def measure() -> Row:
    """The orchestrator's share of one core while `RACKS` racks beat once a second."""
    with mesh() as made:
        orchestrator = made.start("wrk-orchestrator", "o", "--rpc.port", "0")
        command = [sys.executable, "-m", "benchmarks.beats", str(made.state)]
        root = Path(__file__).resolve().parent.parent
        racks = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)
        try:
            assert racks.stdout is not None
            endpoints = racks.stdout.readline().split()
            share = uvloop.run(_watch(made, orchestrator, endpoints))
        finally:
            racks.kill()
            racks.wait()
    name = f"{RACKS:,} racks beating once a second"
    return Row(name, share * 100, "% of a core", "<= 15 %", share <= LIMIT)


async def _watch(made: Mesh, orchestrator: str, endpoints: list[str]) -> float:
    async with made.client() as peers:
        for number, endpoint in enumerate(endpoints):
            offer = contract.Registration(
                f"rack-{number}", endpoint, contract.Capabilities(models=[f"model-{number % 20}"])
            )
            await peers.request(orchestrator, "registerWorker", contract.as_body(offer), timeout=10.0)
        async with asyncio.timeout(60):
            while True:
                status = await peers.request(orchestrator, "getServiceStatus", {}, timeout=10.0)
                if status["health"]["healthy"] == len(endpoints):
                    break
    pid = made.processes["o"].pid
    await asyncio.sleep(SETTLE_SECONDS)
    before = cpu_seconds(pid)
    await asyncio.sleep(MEASURE_SECONDS)
    return (cpu_seconds(pid) - before) / MEASURE_SECONDS


async def _live(state: Path) -> None:
    """The racks' process: listen, say where and with which key, beat until killed."""
    descriptors.raise_limit()
    loop = asyncio.get_running_loop()
    servers, endpoints = [], []
    network = ZmqNetwork(loop, membership=member(state, "rack-0", "rack"))
    for number in range(RACKS):
        network.membership = mine = member(state, f"rack-{number}", "rack")  # of the server that listens next
        server = Server(Identity(f"rack-{number}", 1, "rack"), log=structlog.get_logger())
        info = {"models": [f"model-{number % 20}"], "capacity": {"maxConcurrent": 8}}
        server.respond("getInfo", lambda _, info=info: info)
        server.respond("getHealth", lambda _: {"healthy": True})
        endpoints.append(f"{server.listen(network, ANY_PORT)}#{mine.public_text}")
        servers.append(server)
    for number, server in enumerate(servers):
        loop.call_later(number / RACKS, _beat, loop, server)
    print(*endpoints, flush=True)
    await asyncio.Event().wait()


def _beat(loop: asyncio.AbstractEventLoop, server: Server) -> None:
    load = {"load": {"inFlight": 0, "maxConcurrent": 8, "free": 8, "lagMs": 0}}
    server.tell((wire.PONG, 0, 0, load), ("orchestrator",), quiet_for=0.5)
    loop.call_later(1.0, _beat, loop, server)


if __name__ == "__main__":
    uvloop.run(_live(Path(sys.argv[1])))
