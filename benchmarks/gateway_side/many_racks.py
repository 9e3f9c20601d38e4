"""What a hundred racks cost an orchestrator: its memory at rest and under load, its CPU at rest.

The racks are real ones with a key and links each, all in one process; the load is the same as that of the
other figures, first streams and then as many unary requests as go through.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import uvloop

from benchmarks.gateway_side import answers, load
from benchmarks.gateway_side.figures import ManyRacks, Streams
from benchmarks.gateway_side.gateway import Running
from benchmarks.gateway_side.ours import start_orchestrator
from benchmarks.mesh import ROOT, Mesh, mesh
from benchmarks.usage import cpu_seconds, peak_bytes, resident_bytes

RACKS = 100
READY_SECONDS = 30.0
CONNECTIONS = 128


def measure(settle: float, watch: float, streams: Streams, seconds: int) -> ManyRacks:
    """Idle for `watch` seconds, `settle` seconds after all racks were healthy; then `streams`, then unary."""
    with mesh() as made:
        port = start_orchestrator(made)
        pid = made.processes["o"].pid
        command = [sys.executable, "-m", "benchmarks.gateway_side.fleet", str(made.state), str(RACKS)]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as fleet:
            try:
                uvloop.run(_all_healthy(made))
                time.sleep(settle)
                before = cpu_seconds(pid)
                time.sleep(watch)
                idle_cpu = round((cpu_seconds(pid) - before) / watch, 4)  # ticks have no further digits
                idle_bytes = resident_bytes(pid)
                load.streams(Running(port, (pid,), (fleet.pid,)), streams)
                load.wrk(port, CONNECTIONS, seconds, answers.request())
                return ManyRacks(idle_bytes, peak_bytes(pid), idle_cpu)
            finally:
                fleet.kill()


async def _all_healthy(made: Mesh) -> None:
    async with made.client() as peers, asyncio.timeout(READY_SECONDS):
        while True:
            endpoint = str(made.status["o"]["endpoint"])
            status = await peers.request(endpoint, "getServiceStatus", {}, timeout=5.0)
            if status["health"]["healthy"] == RACKS:
                return
            await asyncio.sleep(0.1)
