"""From a command line to a running worker and its end: what is understood, what is refused, and how.

Parsing and refusals are called directly. What has a process's life in it (signals, exit codes, files) is
run as a process, with workers that are written here.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from racks.sim import SimRack
from tests.fakes.aio import eventually, run
from tests.fakes.processes import client, spawn_worker, start_worker, wait_until
from wrk_base import boot
from wrk_base.boot import Arguments, UsageError, find_class, main, parse
from wrk_base.errors import StartError
from wrk_orchestrator.orchestrator import OrchestratorWorker
from wrk_orchestrator.worker import OrchestratorService

# --- the command line

LINES = [
    ([], {}, Arguments()),
    (["--wtype", "x"], {}, Arguments(wtype="x")),
    (["--wtype=x", "--rack=r", "--env=test"], {}, Arguments(wtype="x", rack="r", env="test")),
    (["--rack", "a", "--rack", "b"], {}, Arguments(rack="b")),
    (["--show-config"], {}, Arguments(show_config=True)),
    (["--show-config", "--rack", "r"], {}, Arguments(show_config=True, rack="r")),
    (["--config", "/c", "--state-dir=/s"], {}, Arguments(config=Path("/c"), state_dir=Path("/s"))),
    (["--debug"], {}, Arguments(flags=[("debug", "true")])),
    (["--debug", "--rack", "r"], {}, Arguments(rack="r", flags=[("debug", "true")])),
    (["--debug", "false"], {}, Arguments(flags=[("debug", "false")])),
    (["--rpc.port", "0", "--port=1"], {}, Arguments(flags=[("rpc.port", "0"), ("port", "1")])),
    (["--rpc.port", "-1"], {}, Arguments(flags=[("rpc.port", "-1")])),
    (["--labels", "a=b"], {}, Arguments(flags=[("labels", "a=b")])),
    (["--labels=a=b"], {}, Arguments(flags=[("labels", "a=b")])),
    (["--models", ""], {}, Arguments(flags=[("models", "")])),
    (["--models="], {}, Arguments(flags=[("models", "")])),
    ([], {"WRK_RACK": "r", "WRK_ENV": "test"}, Arguments(rack="r", env="test")),
    ([], {"WRK_CONFIG": "/c", "WRK_STATE_DIR": "/s"}, Arguments(config=Path("/c"), state_dir=Path("/s"))),
    (
        ["--rack", "flag", "--config", "/f"],
        {"WRK_RACK": "r", "WRK_CONFIG": "/c"},
        Arguments(rack="flag", config=Path("/f")),
    ),
    ([], {"WRK_RACK": "", "WRK_ENV": "", "WRK_CONFIG": "", "WRK_STATE_DIR": ""}, Arguments()),
]


@pytest.mark.parametrize(("argv", "environ", "arguments"), LINES)
def test_command_line_and_environment_are_understood(
    argv: list[str], environ: dict[str, str], arguments: Arguments
) -> None:
    assert parse(argv, environ) == arguments


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        (["word"], "'word'"),
        (["--wtype", "x", "word"], "'word'"),
        (["-x"], "'-x'"),
        (["--"], "'--'"),
        ([""], "''"),
        (["--wtype"], "--wtype"),
        (["--wtype", "--rack", "r"], "--wtype"),
        (["--rack="], "--rack"),
        (["--env", ""], "--env"),
        (["--config"], "--config"),
        (["--state-dir"], "--state-dir"),
    ],
)
def test_command_line_that_makes_no_sense_is_named(argv: list[str], names: str) -> None:
    with pytest.raises(UsageError, match=names):
        parse(argv, {})


# --- the class


@pytest.mark.parametrize(
    ("wtype", "kind"),
    [
        ("wrk-orchestrator", OrchestratorWorker),
        ("wrk-orchestrator-http", OrchestratorService),
        ("wrk-rack-sim", SimRack),
        ("racks.sim:SimRack", SimRack),
    ],
)
def test_class_is_found_by_type_or_by_path(wtype: str, kind: type) -> None:
    assert find_class(wtype) is kind


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the user's, from which a worker is started."""
    monkeypatch.chdir(tmp_path)
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


FAULTY = [
    ("nothing", None, "unknown worker type 'nothing'; there are wrk-orchestrator"),
    ("no_such_module:Thing", None, "cannot import no_such_module: No module named 'no_such_module'"),
    ("", None, "unknown worker type ''"),
    (":Thing", None, "cannot import : .*Empty module name"),
    ("mine:", "", "no class"),
    ("mine:Missing", "", "module mine has no class Missing"),
    ("mine:Thing", "class Thing: pass", "mine:Thing is no subclass"),
    ("mine:thing", "thing = 5", "mine:thing is no subclass"),
    ("mine:Thing", "import no_such_library", "cannot import mine: No module named 'no_such_library'"),
    ("mine:Thing", "import os\nos.nothing_there", "cannot import mine: .*nothing_there.*line 2"),
    ("mine:Thing", "1 / 0", "cannot import mine: ZeroDivisionError.*mine.py, line 1"),
    ("mine:Thing", "class Thing(:", "cannot import mine: .*mine.py, line 1"),
]


@pytest.mark.parametrize(("wtype", "source", "reason"), FAULTY)
def test_class_that_cannot_be_had_is_explained_in_one_line(
    here: Path, wtype: str, source: str | None, reason: str
) -> None:
    if source is not None:
        (here / "mine.py").write_text(source)
    with pytest.raises(StartError, match=reason) as refused:
        find_class(wtype)
    assert "\n" not in str(refused.value)


def test_class_of_the_users_own_is_found_in_the_working_directory(here: Path) -> None:
    (here / "own.py").write_text("from wrk_base.worker import Worker\nclass Mine(Worker): pass\n")
    assert find_class("own:Mine").__name__ == "Mine"


# --- exit codes


def test_wrong_usage_exits_with_two_and_shows_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["word"], ["--wtype"], ["--rack", "r"]):
        assert main(argv, {}) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("wrk: ")
        assert boot.USAGE in err


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["--wtype", "nothing"], "unknown worker type"),
        (["--wtype", "wrk-rack-sim", "--env", "nowhere"], "nowhere"),
        (["--wtype", "wrk-rack-sim", "--rpc.prot", "1"], "did you mean --rpc.port"),
        (["--wtype", "wrk-rack-sim", "--rpc.port", "many"], "rpc.port"),
        (["--wtype", "wrk-orchestrator", "--loadBalancingStrategy", "best"], "round-robin"),
        (["--wtype", "wrk-rack-sim", "--interface", "no-such-card0"], "no-such-card0"),
        (["--wtype", "wrk-rack-sim", "--rack", "a/b"], "a/b"),
        (["--wtype", "wrk-rack-sim", "--config", "/no/such/folder"], "/no/such/folder"),
    ],
)
def test_what_stops_the_start_is_one_line_and_exit_code_one(
    argv: list[str], reason: str, tmp_path: Path
) -> None:
    worker = spawn_worker(argv, tmp_path)
    assert worker.wait() == 1
    (line,) = worker.log().splitlines()
    assert line.startswith("wrk: ")
    assert reason in line


def test_help_exits_with_zero(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--help", "-h"):
        assert main(["--wtype", "x", flag], {}) == 0
        assert capsys.readouterr().out == boot.USAGE


def test_show_config_tells_the_value_and_its_source_and_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "common.json").write_text('{"maxRetries": 7, "routing": {"queueLimit": 1}}')
    (tmp_path / "test.common.json").write_text('{"routing": {"queueLimit": 2}}')
    argv = ["--wtype", "wrk-rack-sim", "--env", "test", "--show-config", "--capacity", "3"]
    environ = {"WRK_CONFIG": str(tmp_path), "WRK_STATE_DIR": str(tmp_path / "state"), "WRK_PORT": "9"}
    assert main(argv, environ) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"maxRetries = 7   # {tmp_path / 'common.json'}" in lines
    assert f"routing.queueLimit = 2   # {tmp_path / 'test.common.json'}" in lines
    assert "port = 9   # environment WRK_PORT" in lines
    assert "sim.capacity = 3   # flag --capacity" in lines
    assert "requestTimeout = 60000   # default" in lines
    assert not (tmp_path / "state").exists()


# --- a process's life

WORKERS = """
import asyncio
from pathlib import Path
from wrk_base.worker import Worker

class Plain(Worker):
    pass

class SlowOpen(Worker):
    async def open(self):
        Path("opening").touch()
        try:
            await asyncio.sleep(3600)
        finally:
            Path("open-ended").touch()

    async def close(self):
        Path("closed").touch()

class CannotOpen(Worker):
    async def open(self):
        raise RuntimeError("the weights are missing")

class CannotBe(Worker):
    def __init__(self, context):
        super().__init__(context)
        raise RuntimeError("no such thing")

class Busy(Worker):
    async def open(self):
        self.respond("work", self.work)

    async def work(self, body):
        Path("begun").touch()
        await asyncio.sleep(3600)
"""
QUIET = ["--discovery.mdns", "false"]


@pytest.fixture
def workers(tmp_path: Path) -> Path:
    """The folder in which the processes are started."""
    (tmp_path / "mine.py").write_text(WORKERS)
    return tmp_path


def test_running_worker_has_a_status_file_until_it_ends(workers: Path) -> None:
    with start_worker(["--wtype", "mine:Plain", "--rack", "r1", *QUIET], workers) as worker:
        assert worker.status_file.name == "Plain-r1.json"
        assert worker.status["pid"] == worker.pid
        assert worker.stop() == 0
        assert not worker.status_file.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_during_a_slow_open_ends_the_start(workers: Path, number: int) -> None:
    worker = spawn_worker(["--wtype", "mine:SlowOpen", *QUIET], workers)
    wait_until((workers / "opening").exists)
    worker.signal(number)
    assert worker.wait() == 0
    assert (workers / "open-ended").exists()
    assert (workers / "closed").exists()
    assert list((workers / "state").glob("status/*")) == []


def test_second_signal_ends_the_drain(workers: Path) -> None:
    flags = ["--stop.drainTimeout", "3600000", *QUIET]
    with start_worker(["--wtype", "mine:Busy", *flags], workers) as worker:

        async def work_and_end() -> None:
            async with client(worker) as caller:
                peer = caller.get(worker.endpoint)
                call = peer.call("work", b"\xc0", deadline=asyncio.get_running_loop().time() + 60.0)
                await eventually((workers / "begun").exists)
                worker.signal(signal.SIGTERM)
                await eventually(lambda: peer.draining)
                worker.signal(signal.SIGTERM)
                assert await worker.ended() == 0
                call.cancel()

        run(work_and_end())


@pytest.mark.parametrize("kind", ["CannotOpen", "CannotBe"])
def test_worker_that_fails_to_start_shows_its_author_where(workers: Path, kind: str) -> None:
    worker = spawn_worker(["--wtype", f"mine:{kind}", *QUIET], workers)
    assert worker.wait() == 1
    assert "RuntimeError" in worker.log()
    assert "mine.py" in worker.log()


def test_status_file_that_cannot_be_written_ends_the_process_and_says_why(workers: Path) -> None:
    (workers / "state").mkdir()
    (workers / "state" / "status").write_text("in the way")
    worker = spawn_worker(["--wtype", "mine:Plain", *QUIET], workers)
    assert worker.wait() == 1
    assert "wrk: status file" in worker.log()
