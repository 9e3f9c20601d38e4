"""A mesh of real processes for benchmarks: started, awaited, ended.

All processes share a state directory, and so one mesh, below a temporary directory, and find each other by
the status files in it. Unless mDNS is what is measured it is off; either way nothing but loopback is
touched. An `open_mesh` is the same on links without security.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from random import Random
from typing import Any

from wrk_base import clock, log
from wrk_base.discovery.local import read_status
from wrk_base.rpc.identity import Identity
from wrk_base.rpc.line import PeerLimits
from wrk_base.rpc.peers import Peers
from wrk_base.rpc.zmq_link import ZmqNetwork
from wrk_base.security.curve_keys import ephemeral
from wrk_base.security.membership import Membership
from wrk_base.security.mesh_files import MeshFiles

ROOT = Path(__file__).resolve().parent.parent
START = ("-c", "import sys; from wrk_base.boot import main; sys.exit(main(sys.argv[1:], {}))")
START_OPEN = ("-m", "benchmarks.open_worker")
NAME = "default"
CLIENT = "bench-client"
READY_SECONDS = 20.0
STOP_SECONDS = 10.0


class Mesh:
    """Starts worker processes; `endpoint` of each is known once it is ready."""

    def __init__(self, folder: Path, *, is_open: bool = False) -> None:
        self._folder, self._is_open = folder, is_open
        self.state = folder / "state"
        self.state.mkdir(mode=0o700)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.status: dict[str, dict[str, Any]] = {}

    def start(self, wtype: str, rack: str, *flags: str, mdns: bool = False) -> str:
        """Start a worker and wait for its status file; returns its endpoint."""
        begin = START_OPEN if self._is_open else START
        who = ("--wtype", wtype, "--rack", rack, "--state-dir", str(self.state), "--interface", "127.0.0.1")
        command = [sys.executable, *begin, *who]
        quiet = ["--log.level", "error", *(() if mdns else ("--discovery.mdns", "false")), *flags]
        log = (self._folder / f"{rack}.log").open("wb")
        self.processes[rack] = process = subprocess.Popen(
            [*command, *quiet], cwd=ROOT, stderr=log, stdout=log
        )
        self.status[rack] = _await_status(process, self.state, self._folder / f"{rack}.log")
        return str(self.status[rack]["endpoint"])

    def visitor(self) -> Membership | None:
        """The membership of one more caller; None on open links."""
        return None if self._is_open else member(self.state, CLIENT, "client", "operator")

    def client(self) -> AbstractAsyncContextManager[Peers]:
        """Calls as a program on this machine would make them."""
        return client(None if self._is_open else self.state)

    def alive(self) -> bool:
        """Whether all that was started still runs."""
        return all(process.poll() is None for process in self.processes.values())

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
            if status["pid"] == process.pid:
                return status
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.01)
            break
    raise RuntimeError(f"a worker did not start: {log.read_text()[-2000:]}")


@contextlib.contextmanager
def mesh(*, is_open: bool = False) -> Iterator[Mesh]:
    with tempfile.TemporaryDirectory(prefix="wrk-bench-") as folder:
        made = Mesh(Path(folder), is_open=is_open)
        if not is_open:
            MeshFiles(made.state, NAME).create("benchmark", clock.wall())
        try:
            yield made
        finally:
            made.stop()


@contextlib.asynccontextmanager
async def client(state: Path | None) -> AsyncIterator[Peers]:
    """A caller who is a member by what `state` holds; None: on open links."""
    membership = None if state is None else member(state, CLIENT, "client", "operator")
    network = ZmqNetwork(asyncio.get_running_loop(), membership=membership)
    peers = Peers(
        network=network,
        identity=Identity(CLIENT, 1, "client"),
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


def member(state: Path, name: str, *roles: str) -> Membership:
    """One more member, which knows the keys of the processes that run now."""
    files = MeshFiles(state, NAME)
    membership = Membership(files, ephemeral(), name, roles, wall=clock.wall, log=log.get_logger())
    for found in read_status(state / "status", NAME):
        membership.book.learn(found.endpoint, found.key)
    return membership
