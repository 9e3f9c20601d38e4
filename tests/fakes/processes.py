"""Real worker processes for tests: started in a state directory and a mesh of their own, ended with them.

    with start_worker(["--wtype", "racks.sim:SimRack", "--rack", "r1"], tmp_path) as rack:
        run(...)  # in there: async with client(rack) as mesh: await mesh.request(rack.endpoint, ...)

A worker counts as started once its status file is there, which it writes when it answers calls. Workers
that are started with the same `tmp_path` share one mesh, which nobody else has; it is made in the state
directory before the first start. Leaving the block ends the process, and fails if it does not end cleanly
by itself; a test that fails shows the process's log. This is the only place where tests look at processes
again and again.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, TypeVar

from tests.fakes.mesh import join
from tests.fakes.rpc import RecordedLog
from wrk_base.discovery.local import read_status
from wrk_base.rpc.identity import Identity
from wrk_base.rpc.line import PeerLimits
from wrk_base.rpc.peers import Peers
from wrk_base.rpc.zmq_link import ZmqNetwork
from wrk_base.security.keybook import KeyBook
from wrk_base.security.mesh_files import MeshFiles
from wrk_base.visit import Visit

ROOT = Path(__file__).resolve().parents[2]
BOOT = "import sys; from wrk_base.boot import main; sys.exit(main(sys.argv[1:]))"
THIS_PYTHON = (sys.executable, "-c", BOOT)
START_S = 60.0  # guards against a hang on a busy machine; nothing here is measured
END_S = 20.0
PAUSE_S = 0.01
LOOPBACK = "127.0.0.1"
LOG_SHOWN = 8000  # characters

T = TypeVar("T")


def wait_until(predicate: Callable[[], T | None], timeout: float = END_S, what: str = "") -> T:
    """The first true value of `predicate()`; blocks the thread, so not for use inside a loop's own test."""
    deadline = time.monotonic() + timeout
    while not (value := predicate()):
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what or predicate}"
        time.sleep(PAUSE_S)
    return value


async def until(ask: Callable[[], Awaitable[T | None]], timeout: float = END_S, what: str = "") -> T:
    """The first true value of `await ask()`, for what only another process knows."""
    try:
        async with asyncio.timeout(timeout):
            while True:
                if value := await ask():
                    return value
                await asyncio.sleep(PAUSE_S)
    except TimeoutError:
        raise AssertionError(f"not within {timeout:g} s: {what or ask}") from None


@cache
def mesh_of(tmp_path: Path) -> str:
    """The mesh of everything that is started with this `tmp_path`."""
    return f"test-{secrets.token_hex(8)}"


class ProcessHandle:
    """A running worker. `status` is what its status file says."""

    def __init__(self, process: subprocess.Popen[bytes], state: Path, log_file: Path) -> None:
        self.process, self.state, self.log_file = process, state, log_file
        self.status: dict[str, Any] = {}

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def endpoint(self) -> str:
        return str(self.status["endpoint"])

    @property
    def worker_id(self) -> str:
        return str(self.status["instanceId"])

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def status_file(self) -> Path:
        return self.state / "status" / f"{self.status['prefix']}.json"

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def events(self) -> list[dict[str, Any]]:
        """The log's lines, as the JSON objects that they are."""
        return [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self, timeout: float = END_S) -> int:
        """Ask it to end and wait until it has; its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def kill(self) -> None:
        """End it, and all that it started, without a chance to say goodbye."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(END_S)

    def wait(self, timeout: float = END_S) -> int:
        """Its exit code, once it has ended by itself or by a signal sent before."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it did not end within {timeout:g} s\n{self.tail()}") from None

    async def ended(self, timeout: float = END_S) -> int:
        """The same inside an event loop."""
        return await asyncio.to_thread(self.wait, timeout)

    def tail(self) -> str:
        return f"--- {self.log_file.name}\n{self.log()[-LOG_SHOWN:]}"

    def __enter__(self) -> ProcessHandle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None:
                print(self.tail())
            elif self.running:
                self.signal(signal.SIGCONT)
                code = self.stop()
                assert code == 0, f"it ended with {code}\n{self.tail()}"
        finally:
            self.kill()


def spawn_worker(
    args: Sequence[str],
    tmp_path: Path,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    command: Sequence[str] = THIS_PYTHON,
    in_mesh: bool = True,
    interface: str = LOOPBACK,
    output: int | None = None,
) -> ProcessHandle:
    """Start a worker and do not wait for it; for starts that are meant to fail or to race.

    The machine, which is what a state directory stands for, is in the mesh unless `in_mesh` is False. An
    `interface` of "" leaves the choice to the worker. `output` is a descriptor to write to instead of a log.
    """
    rest = list(args)
    state = Path(_value(rest, "--state-dir") or tmp_path / "state")
    mesh = _value(rest, "--discovery.mesh") or mesh_of(tmp_path)
    if in_mesh:
        MeshFiles(state, mesh).create("first", time.time())
    defaults = {"--state-dir": str(state), "--discovery.mesh": mesh, "--log.format": "json"}
    defaults["--routing.startGrace"] = "0"  # a model that nobody serves is refused at once
    for flag, value in {**defaults, "--interface": interface}.items():
        if value and flag not in rest:
            rest += [flag, value]
    mine = {key: value for key, value in os.environ.items() if not key.startswith("WRK_")}
    log_file = tmp_path / f"worker-{secrets.token_hex(4)}.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [*command, *rest],
            stdin=subprocess.DEVNULL,
            stdout=log if output is None else output,
            stderr=subprocess.STDOUT,
            cwd=cwd or tmp_path,
            env={**mine, "PYTHONPATH": str(ROOT), **(env or {})},
            start_new_session=True,
        )
    return ProcessHandle(process, state, log_file)


def join_machine(tmp_path: Path, name: str, *roles: str, models: set[str] | None = None) -> Path:
    """The state directory of another machine, which joins the mesh of `tmp_path`: `--state-dir` of its
    processes."""
    mesh, now = mesh_of(tmp_path), time.time()
    first = MeshFiles(tmp_path / "state", mesh)
    first.create("first", now)
    join(first, tmp_path / name, name, *roles, models=models, now=now)
    return tmp_path / name


def _value(args: Sequence[str], flag: str) -> str:
    """What follows the flag; empty where it is not there."""
    return args[args.index(flag) + 1] if flag in args else ""


def start_worker(
    args: Sequence[str],
    tmp_path: Path,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    command: Sequence[str] = THIS_PYTHON,
    in_mesh: bool = True,
    interface: str = LOOPBACK,
    timeout: float = START_S,
) -> ProcessHandle:
    """A worker that is ready for calls; `args` are those of `wrk worker`, `--wtype` among them."""
    handle = spawn_worker(
        args, tmp_path, env=env, cwd=cwd, command=command, in_mesh=in_mesh, interface=interface
    )
    return ready(handle, timeout)


def ready(handle: ProcessHandle, timeout: float = START_S) -> ProcessHandle:
    """The same worker once it is ready for calls."""
    try:
        handle.status = wait_until(lambda: _status_of(handle), timeout, "the start of a worker")
    except BaseException:
        handle.kill()
        print(handle.tail())
        raise
    return handle


def _status_of(handle: ProcessHandle) -> dict[str, Any] | None:
    """Found by pid: a file that a killed process left behind is not taken for this one's."""
    assert handle.running, f"it ended with {handle.process.returncode} before it was ready\n{handle.tail()}"
    for path in (handle.state / "status").glob("*.json"):
        try:
            status: dict[str, Any] = json.loads(path.read_text())
        except FileNotFoundError:  # another worker's, which has just stopped
            continue
        if status["pid"] == handle.pid:
            return status
    return None


class _StatusBook(KeyBook):
    """Knows the keys of the processes of one state directory, those that start later, too."""

    def __init__(self, state: Path, mesh: str) -> None:
        super().__init__()
        self._directory, self._mesh = state / "status", mesh

    def key_of(self, endpoint: str) -> bytes | None:
        for found in read_status(self._directory, self._mesh):
            self.learn(found.endpoint, found.key)
        return super().key_of(endpoint)


@asynccontextmanager
async def client(worker: ProcessHandle) -> AsyncIterator[Peers]:
    """A caller over real sockets: `await mesh.request(endpoint, method, body, timeout=5)`.

    It is a client and an operator on the machine and in the mesh of `worker`, and can call every process
    that runs there.
    """
    log: Any = RecordedLog()
    visit = Visit(worker.state, worker.status["mesh"], "test-client", log)
    visit.membership.book = _StatusBook(worker.state, worker.status["mesh"])
    network = ZmqNetwork(asyncio.get_running_loop(), membership=visit.membership)
    identity = Identity("test-client", epoch=1, role="client")
    peers = Peers(
        network=network, identity=identity, rng=Random(0), limits=PeerLimits(), max_peers=64, linger=60.0
    )
    try:
        yield peers
    finally:
        peers.close()
        network.close()
