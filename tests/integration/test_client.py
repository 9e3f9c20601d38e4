"""`SyncClient` and `Client` against real processes, as scripts and notebooks use them.

Two orchestrators and a rack that counts serve the whole module, by their addresses; what is heard by mDNS
is in a mesh of its own. Programs that end in the midst of it are processes, too.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypedDict

import pytest

from tests.fakes.processes import LOOPBACK, ROOT, ProcessHandle, mesh_of, start_worker, wait_until
from wrk_base import Client, SyncClient, errors
from wrk_base.security.mesh_files import MeshFiles
from wrk_base.sync_client import CLOSE_SECONDS, _running

RACK = """\
import asyncio

from wrk_base import Final
from wrk_base.contract import Description
from wrk_base.rack import Rack


class Count(Rack):
    begun = stopped = 0

    def __init__(self, context):
        super().__init__(context)
        self.respond("tally", lambda _: {"begun": self.begun, "stopped": self.stopped})

    def describe(self):
        return Description(models=["count"], max_concurrent=100)

    async def infer(self, model_id, input_data, options):
        self.begun += 1
        try:
            for number in range(input_data["to"]):
                yield number
                await asyncio.sleep(input_data.get("pause", 0))
        except (asyncio.CancelledError, GeneratorExit):
            self.stopped += 1
            raise
        yield Final(input_data["to"])
"""
ORCHESTRATOR = ("--wtype", "wrk-orchestrator", "--rpc.port", "0", "--rack")
NOBODY = "tcp://127.0.0.1:1"
WRK = (sys.executable, "-m", "wrk_orchestrator.cli.main")
FOR_EVER = {"to": 1_000_000, "pause": 0.02}


class Here(TypedDict):
    mesh: str
    state_dir: Path
    interface: str


class Mesh:
    def __init__(self, folder: Path, one: ProcessHandle, two: ProcessHandle, rack: ProcessHandle) -> None:
        self.folder, self.one, self.two, self.rack = folder, one, two, rack
        self.addresses = (one.endpoint, two.endpoint)

    @property
    def here(self) -> Here:
        """Arguments of a client on the machine and in the mesh of these processes."""
        return {"mesh": mesh_of(self.folder), "state_dir": self.one.state, "interface": LOOPBACK}

    def client(self, *addresses: str, **more: Any) -> SyncClient:
        return SyncClient(*addresses, **self.here, **more)

    def tally(self) -> dict[str, int]:
        with self.client() as client:
            told: dict[str, int] = client.request("tally", peer=self.rack.endpoint)
        return told

    def stopped(self, since: dict[str, int], count: int = 1) -> None:
        """Wait until the rack has stopped so many requests."""
        wait_until(lambda: self.tally()["stopped"] >= since["stopped"] + count, what="the rack stops")

    def knows(self, orchestrator: ProcessHandle) -> None:
        """Wait until it can route to the rack."""
        with self.client(orchestrator.endpoint) as client:
            wait_until(lambda: client.models() == ["count"], what="the rack is in the mesh")

    def environment(self) -> dict[str, str]:
        """Of a shell in which `wrk` finds this mesh."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("WRK_")}
        here = {"WRK_STATE_DIR": str(self.one.state), "WRK_DISCOVERY__MESH": mesh_of(self.folder)}
        return {**clean, **here, "WRK_INTERFACE": LOOPBACK, "PYTHONPATH": str(ROOT)}

    def program(self, script: str) -> subprocess.Popen[str]:
        """A program of its own, which finds the address in `sys.argv[1]` and the mesh in `sys.argv[2]`."""
        return subprocess.Popen(
            [sys.executable, "-c", script, self.one.endpoint, mesh_of(self.folder)],
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ran(self, script: str) -> tuple[int, str, str]:
        """Exit code, output and errors of a program."""
        out, err = (process := self.program(script)).communicate(timeout=30)
        return process.returncode, out, err


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    folder = tmp_path_factory.mktemp("mesh")
    (folder / "count.py").write_text(RACK)
    with (
        start_worker([*ORCHESTRATOR, "one"], folder) as one,
        start_worker([*ORCHESTRATOR, "two"], folder) as two,
        start_worker(["--wtype", "count:Count", "--rack", "c1"], folder, cwd=folder) as rack,
    ):
        MeshFiles(one.state, "nobody-is-here").create("first", time.time())
        made = Mesh(folder, one, two, rack)
        for orchestrator in (one, two):
            made.knows(orchestrator)
        yield made


@pytest.fixture
def client(mesh: Mesh) -> Iterator[SyncClient]:
    with mesh.client(*mesh.addresses, name="test") as made:
        yield made


def threads() -> int:
    return sum(thread.name == "wrk-client" for thread in threading.enumerate())


# --- calls


def test_calls_block_and_return_results(mesh: Mesh, client: SyncClient) -> None:
    assert client.models() == ["count"]
    assert [worker["workerId"] for worker in client.workers()] == [mesh.rack.worker_id]
    assert client.infer("count", {"to": 3}) == 3
    assert client.request("ping", [1, "x"]) == [1, "x"]
    for peer in (mesh.rack.endpoint, mesh.rack.worker_id, "c1"):
        assert client.request("getInstanceId", peer=peer) == {"instanceId": mesh.rack.worker_id}
    with pytest.raises(errors.NoWorkersAvailable, match="never seen here; known here are count"):
        client.infer("m9", "x")
    with pytest.raises(TypeError, match="repeatble"):
        client.infer("count", {"to": 3}, **{"repeatble": False})  # type: ignore[typeddict-item]
    with pytest.raises(errors.DeadlineExceeded):
        client.infer("count", FOR_EVER, timeout=0.2)


def test_a_stream_is_an_iterator(client: SyncClient) -> None:
    stream = client.stream("count", {"to": 1000})
    assert list(stream) == list(range(1000))
    assert (stream.value, stream.received, stream.facts["attempts"]) == (1000, 1000, 1)
    with pytest.raises(RuntimeError, match="read once"):
        iter(stream)


def _break(stream: Any) -> None:
    for item in stream:
        if item == 2:
            break


def _close(stream: Any) -> None:
    next(iter(stream))
    stream.close()
    stream.close()


def _with(stream: Any) -> None:
    with stream:
        next(items := iter(stream))
    with pytest.raises(StopIteration):
        next(items)


@pytest.mark.parametrize("leave", [_break, _close, _with])
def test_whoever_leaves_a_stream_stops_the_rack(
    mesh: Mesh, client: SyncClient, leave: Callable[[Any], None]
) -> None:
    before = mesh.tally()
    stream = client.stream("count", FOR_EVER)
    leave(stream)
    mesh.stopped(before)
    del stream


def test_a_stream_can_be_closed_by_another_thread(mesh: Mesh, client: SyncClient) -> None:
    before = mesh.tally()
    stream = client.stream("count", FOR_EVER)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(list, stream)
        wait_until(lambda: stream.received > 3)
        stream.close()
        assert reading.result() == list(range(stream.received))
    mesh.stopped(before)


def test_several_threads_share_one_client(client: SyncClient) -> None:
    with ThreadPoolExecutor(8) as pool:
        inferred = list(pool.map(lambda n: client.infer("count", {"to": n}), range(100)))
        streamed = list(pool.map(lambda n: sum(client.stream("count", {"to": n})), range(100)))
    assert inferred == list(range(100))
    assert streamed == [sum(range(n)) for n in range(100)]
    assert threads() == 1


def test_it_works_where_a_loop_runs_already_as_in_a_notebook(client: SyncClient) -> None:
    async def cell() -> list[int]:
        return [client.infer("count", {"to": 3}), *client.stream("count", {"to": 2})]

    assert asyncio.run(cell()) == [3, 0, 1]


def test_the_async_client_speaks_to_the_same_mesh(mesh: Mesh) -> None:
    async def work() -> list[int]:
        async with Client(*mesh.addresses, **mesh.here) as client:
            return [
                await client.infer("count", {"to": 3}),
                *[n async for n in client.stream("count", {"to": 2})],
            ]

    assert asyncio.run(work()) == [3, 0, 1]


def test_when_an_orchestrator_is_killed_the_next_one_answers(mesh: Mesh) -> None:
    slow = {"to": 30, "pause": 0.02}
    with (
        start_worker([*ORCHESTRATOR, "third"], mesh.folder) as third,
        start_worker([*ORCHESTRATOR, "fourth"], mesh.folder) as fourth,
        mesh.client(third.endpoint, fourth.endpoint) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        for orchestrator in (third, fourth):
            mesh.knows(orchestrator)
        asked = client.request("getInstanceId")["instanceId"]
        dying, next_one = (third, fourth) if asked == third.worker_id else (fourth, third)
        before = mesh.tally()
        asking = [pool.submit(client.infer, "count", slow) for _ in range(8)]
        wait_until(lambda: mesh.tally()["begun"] >= before["begun"] + 8)
        dying.kill()
        assert [future.result() for future in asking] == [30] * 8
        assert client.request("getInstanceId") == {"instanceId": next_one.worker_id}


# --- ends


def test_close_ends_calls_of_other_threads_and_may_come_twice(mesh: Mesh) -> None:
    before = mesh.tally()
    client = mesh.client(*mesh.addresses)
    stream = iter(client.stream("count", FOR_EVER))
    next(stream)
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(client.infer, "count", FOR_EVER)
        wait_until(lambda: mesh.tally()["begun"] >= before["begun"] + 2)
        client.close()
        with pytest.raises(errors.Unavailable):
            asking.result()
    client.close()
    for late in (client.models, lambda: next(stream), lambda: list(client.stream("count", {"to": 1}))):
        with pytest.raises(RuntimeError, match="closed"):
            late()
    mesh.stopped(before, 2)


def test_a_client_that_is_forgotten_takes_its_thread_along(mesh: Mesh) -> None:
    before = threads()
    client = mesh.client(*mesh.addresses)
    stream = client.stream("count", FOR_EVER)
    next(iter(stream))
    del client
    gc.collect()
    assert threads() == before + 1, "a stream that may be read keeps it"
    del stream
    gc.collect()
    wait_until(lambda: threads() == before, what="the thread ends")
    assert not _running


def test_where_nobody_is_it_says_so_and_a_second_one_is_as_good(mesh: Mesh) -> None:
    with mesh.client(NOBODY, connect_timeout=0.2) as client:
        for _ in range(2):
            with pytest.raises(errors.Unavailable, match=f"no orchestrator answers at {NOBODY}"):
                client.models()
    with pytest.raises(ValueError, match="tcp://host:port"):
        SyncClient("nowhere")


def test_an_interrupt_ends_the_call_here_and_at_the_rack(mesh: Mesh) -> None:
    """Ctrl-C in a notebook: the next cell uses the same client."""
    script = f"""
import sys
from wrk_base import SyncClient
client = SyncClient(sys.argv[1], mesh=sys.argv[2])
for ask in (lambda: client.infer("count", {FOR_EVER}), lambda: list(client.stream("count", {FOR_EVER}))):
    try:
        print("asking", flush=True)
        ask()
    except KeyboardInterrupt:
        print("interrupted", client.infer("count", {{"to": 2}}), flush=True)
"""
    before = mesh.tally()
    process = mesh.program(script)
    assert process.stdout is not None
    for count in (1, 2):
        assert process.stdout.readline() == "asking\n"
        wait_until(lambda n=count: mesh.tally()["begun"] >= before["begun"] + 2 * n - 1)
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted 2\n"
        mesh.stopped(before, count)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 0


BEGIN = """
import gc, sys, threading, time
from wrk_base import SyncClient
client = SyncClient(sys.argv[1], mesh=sys.argv[2])
print(client.infer("count", {"to": 2}))
endless = ("count", {"to": 10**6, "pause": 0.01})
"""
LEFT_OPEN = {
    "nothing else": "",
    "a stream": "items = iter(client.stream(*endless)); next(items)",
    "a thread": "threading.Thread(target=client.infer, args=endless, daemon=True).start(); time.sleep(0.2)",
    "forgotten": "del client",
    "closed": "client.close()",
    "exit": "sys.exit(0)",
    "a cycle": "client.me = client; del client; gc.collect()",
    "several": "lonely, heard = (SyncClient(*to, mesh='nobody-is-here') for to in (['tcp://[::1]:1'], []))",
    "a failure": "print(1 / 0)",
}


@pytest.mark.parametrize("rest", LEFT_OPEN.values(), ids=LEFT_OPEN)
def test_a_program_ends_whatever_it_left_open(mesh: Mesh, rest: str) -> None:
    code, out, err = mesh.ran(BEGIN + rest)
    assert out == "2\n"
    if "1 / 0" in rest:
        assert (code, err.splitlines()[-1]) == (1, "ZeroDivisionError: division by zero")
    else:
        assert (code, err) == (0, "")


def test_it_works_without_uvloop(mesh: Mesh) -> None:
    without = (
        f"import sys; sys.modules['uvloop'] = None\n{BEGIN}print(list(client.stream('count', {{'to': 2}})))"
    )
    assert mesh.ran(without) == (0, "2\n[0, 1]\n", "")


def test_a_fork_needs_a_client_of_its_own_and_is_told_so(mesh: Mesh) -> None:
    script = """
import os, sys, warnings
from wrk_base import SyncClient
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads
client = SyncClient(sys.argv[1], mesh=sys.argv[2])
stream = iter(client.stream("count", {"to": 3}))
next(stream)
if os.fork() == 0:
    try:
        client.models()
    except RuntimeError as error:
        print(error, flush=True)
    client.close()
    del stream
    with SyncClient(sys.argv[1], mesh=sys.argv[2]) as own:
        print(own.models(), flush=True)
    sys.exit(0)
print(os.wait()[1], list(stream), client.models())
"""
    code, out, err = mesh.ran(script)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "this client was made before a fork: make another one in this process",
        "['count']",
        "0 [1, 2] ['count']",
    ]


def test_closing_is_bounded_even_when_a_peer_stands_still(mesh: Mesh) -> None:
    with start_worker([*ORCHESTRATOR, "still"], mesh.folder) as still:
        client = mesh.client(still.endpoint)
        assert client.request("ping", 1) == 1
        still.signal(signal.SIGSTOP)
        with pytest.raises(errors.DeadlineExceeded):
            client.request("ping", 1, timeout=0.2)
        closing = threading.Thread(target=client.close)
        closing.start()
        closing.join(CLOSE_SECONDS + 1.0)
        assert not closing.is_alive()
        assert not _running


# --- the command line


def wrk(mesh: Mesh, *words: str) -> tuple[int, str, str]:
    """Exit code, output and errors of `wrk`, which finds the mesh by its status files."""
    ran = subprocess.run(
        [*WRK, *words], env=mesh.environment(), cwd=mesh.folder, capture_output=True, text=True, timeout=30
    )
    return ran.returncode, ran.stdout, ran.stderr


@pytest.mark.parametrize("way", ["id", "name", "address"])
def test_ping_measures_round_trips(mesh: Mesh, way: str) -> None:
    peer = {"id": mesh.rack.worker_id, "name": "c1", "address": mesh.rack.endpoint}[way]
    code, out, err = wrk(mesh, "ping", peer, "--count", "20", "--interval", "1", "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert (told["workerId"], told["role"]) == (mesh.rack.worker_id, "rack")
    assert told["endpoint"] == mesh.rack.endpoint
    assert (told["sent"], told["received"], len(told["roundTripsMs"])) == (20, 20, 20)
    assert 0 < told["ms"]["min"] <= told["ms"]["p50"] <= told["ms"]["p99"] <= told["ms"]["max"]
    assert sum(one["count"] for one in told["histogram"]) == 20
    assert told["connectMs"] > 0


def test_ping_shows_a_histogram_and_asks_an_orchestrator_by_default(mesh: Mesh) -> None:
    code, out, err = wrk(mesh, "ping", "--count", "5", "--interval", "0")
    assert (code, err) == (0, "")
    assert any(one.worker_id in out.splitlines()[0] for one in (mesh.one, mesh.two))
    assert "█" in out
    assert out.splitlines()[-1].startswith("5 of 5 came back: min ")


def test_ping_of_nobody_is_a_failure_in_one_line(mesh: Mesh) -> None:
    code, out, err = wrk(mesh, "ping", NOBODY, "--count", "2")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert f"ERR_UNAVAILABLE: cannot reach {NOBODY}" in err


def test_ping_of_one_that_stands_still_is_a_failure_and_an_interrupt_ends_it_well(mesh: Mesh) -> None:
    with start_worker([*ORCHESTRATOR, "still"], mesh.folder) as still:
        command = [*WRK, "ping", still.endpoint, "--count", "1000000", "--interval", "5", "--json"]
        process = subprocess.Popen(command, env=mesh.environment(), stdout=subprocess.PIPE, text=True)
        with mesh.client(still.endpoint) as client:

            def asked() -> bool:
                methods: dict[str, Any] = client.request("getStats")["methods"]
                return "ping" in methods and bool(methods["ping"]["requests"] > 3)

            wait_until(asked, what="some pings")
        process.send_signal(signal.SIGINT)
        told = json.loads(process.communicate(timeout=30)[0])
        assert process.returncode == 0
        assert told["received"] > 3
        still.signal(signal.SIGSTOP)
        assert wrk(mesh, "ping", still.endpoint, "--count", "2", "--timeout", "0.2")[0] == 1


def test_a_call_tells_what_it_cost(mesh: Mesh) -> None:
    body = json.dumps("x" * 1000)
    code, out, err = wrk(mesh, "call", "echo", body, "--peer", "c1", "--stats", "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["result"] == "x" * 1000
    stats = told["stats"]
    assert 1000 < stats["bytesOut"] < 1200
    assert 1000 < stats["bytesIn"] < 1200
    assert stats["connectMs"] > 0
    assert stats["roundTripMs"] > 0
    assert stats["workerId"] == mesh.rack.worker_id
    assert stats["method"]["requests"] >= 1
    code, out, err = wrk(mesh, "call", "ping", "5", "--peer", "c1", "--stats")
    assert (code, out) == (0, "5\n")
    cost, figures = err.splitlines()
    assert cost.startswith("connect ")
    assert figures.startswith(f"ping at {mesh.rack.worker_id}: ")
    code, out, err = wrk(mesh, "call", "zork", "--peer", "c1", "--stats")
    assert (code, out, err.count("\n")) == (1, "", 1)


# --- what README shows

SNIPPET = """\
from wrk_base import SyncClient

with SyncClient() as client:
    print(client.models())
    print(client.infer("m1", "hello")["text"])
    for item in client.stream("m1", "hello"):
        print(item["text"], end="", flush=True)
"""


def test_readme_shows_what_works(tmp_path: Path) -> None:
    assert SNIPPET in (ROOT / "README.md").read_text()
    assert 6 <= len(SNIPPET.splitlines()) <= 10
    rack = ["--wtype", "wrk-rack-sim", "--rack", "r1", "--models", "m1"]
    mine = SNIPPET.replace("SyncClient()", f"SyncClient(mesh={mesh_of(tmp_path)!r})")
    assert mine != SNIPPET
    (tmp_path / "snippet.py").write_text(mine)
    with start_worker([*ORCHESTRATOR, "main"], tmp_path), start_worker(rack, tmp_path):
        with SyncClient(mesh=mesh_of(tmp_path), state_dir=tmp_path / "state") as client:
            wait_until(lambda: client.models() == ["m1"], what="the rack is in the mesh")
        ran = subprocess.run(
            [sys.executable, "snippet.py"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "WRK_STATE_DIR": str(tmp_path / "state")},
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert (ran.returncode, ran.stderr) == (0, "")
    models, inferred, streamed = ran.stdout.splitlines()
    assert models == "['m1']"
    assert len(inferred.split()) == 8
    assert streamed == inferred
