"""How long a rack takes from the start of its event loop until an orchestrator would give it work.

Real processes that find each other on loopback, by mDNS and by their status files: the rack is heard,
dialled back, asked what it offers and entered. The end is the first `findAvailableWorker` that names it.
"""

from __future__ import annotations

import asyncio
import statistics

import uvloop

from benchmarks.mesh import Mesh, mesh
from benchmarks.report import Row
from wrk_base import clock, errors
from wrk_base.rpc.peers import Peers

ROUNDS = 5
LIMIT_S = 1.0


def measure() -> Row:
    """The median over `ROUNDS` racks that join one after the other."""
    with mesh() as made:
        orchestrator = made.start("wrk-orchestrator", "o", "--rpc.port", "0", mdns=True)
        seconds = [uvloop.run(_join(made, orchestrator, number)) for number in range(ROUNDS)]
    taken = statistics.median(seconds)
    return Row("a rack is routable after its loop's start", taken, "s", f"<= {LIMIT_S:g} s", taken <= LIMIT_S)


async def _join(made: Mesh, orchestrator: str, number: int) -> float:
    model = f"model-{number}"
    async with made.client() as peers:
        routable = asyncio.ensure_future(_routable_at(peers, orchestrator, model))
        rack = f"r{number}"
        await asyncio.to_thread(made.start, "wrk-rack-sim", rack, "--models", model, mdns=True)
        return (await routable - int(made.status[rack]["startedAt"])) / 1000


async def _routable_at(peers: Peers, orchestrator: str, model: str) -> int:
    """Unix milliseconds at which the orchestrator first offers a worker for the model."""
    async with asyncio.timeout(30):
        while True:
            try:
                await peers.request(orchestrator, "findAvailableWorker", {"modelId": model}, timeout=5.0)
            except errors.NoWorkersAvailable:
                await asyncio.sleep(0.002)
            else:
                return clock.wall_ms()
