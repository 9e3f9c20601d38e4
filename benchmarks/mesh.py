"""A mesh of real processes for benchmarks: started, awaited, ended.

Every process gets a state directory of its own below one temporary directory. Unless mDNS is what is
measured, racks are given the orchestrator's address; either way nothing but loopback is touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from random import Random
from typing import Any

from wrk_base.rpc.identity import Identity
from wrk_base.rpc.line import PeerLimits
from wrk_base.rpc.peers import Peers
from wrk_base.rpc.zmq_link import ZmqNetwork

ROOT = Path(__file__).resolve().parent.parent
START = "import sys; from wrk_base.boot import main; sys.exit(main(sys.argv[1:], {}))"
READY_SECONDS = 20.0
STOP_SECONDS = 10.0


class Mesh:
    """Starts worker processes; `endpoint` of each is known once it is ready."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.status: dict[str, dict[str, Any]] = {}

    def start(self, wtype: str, rack: str, *flags: str, mdns: bool = False) -> str:
        """Start a worker and wait for its status file; returns its endpoint."""
        state = self._folder / rack
        state.mkdir()
        command = [sys.executable, "-c", START, "--wtype", wtype, "--rack", rack, "--state-dir", str(state)]
        quiet = ["--log.level", "error", *(() if mdns else ("--discovery.mdns", "false")), *flags]
        log = (self._folder / f"{rack}.log").open("wb")
        self.processes[rack] = process = subprocess.Popen(
            [*command, *quiet], cwd=ROOT, stderr=log, stdout=log
        )
        self.status[rack] = _await_status(process, state, self._folder / f"{rack}.log")
        return str(self.status[rack]["endpoint"])

    def stop(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await_status(process: subprocess.Popen[bytes], state: Path, log: Path) -> dict[str, Any]:
    for _ in range(int(READY_SECONDS / 0.01)):
        for path in (state / "status").glob("*.json"):
            status: dict[str, Any] = json.loads(path.read_text())
            return status
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.01)
            break
    raise RuntimeError(f"a worker did not start: {log.read_text()[-2000:]}")


@contextlib.contextmanager
def mesh() -> Iterator[Mesh]:
    with tempfile.TemporaryDirectory(prefix="wrk-bench-") as folder:
        made = Mesh(Path(folder))
        try:
            yield made
        finally:
            made.stop()


@contextlib.asynccontextmanager
async def client() -> AsyncIterator[Peers]:
    """Calls as a program on the LAN would make them."""
    network = ZmqNetwork(asyncio.get_running_loop())
    peers = Peers(
        network=network,
        identity=Identity("bench-client", 1, "client"),
        rng=Random(1),
        limits=PeerLimits(),
        max_peers=4096,
        linger=300.0,
    )
    try:
        yield peers
    finally:
        peers.close()
        network.close()
