"""The front door of `wrk`: what goes straight to a worker process, and what is wrong usage.

Nothing is started here: every command line ends at its settings or before.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from wrk_orchestrator.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
LOADED = """
import sys
from wrk_orchestrator.cli.main import main
code = main(sys.argv[1:])
print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
sys.exit(code)
"""


def fails(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit code and standard error of a command that says nothing on standard output."""
    code = main(words)
    said = capsys.readouterr()
    assert said.out == ""
    return code, said.err


def test_a_worker_is_started_by_its_type(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = fails(capsys, "worker", "--wtype", "wrk-rack-zork")
    assert (code, said.startswith("wrk: unknown worker type 'wrk-rack-zork'")) == (1, True)
    assert fails(capsys, "worker")[0] == 2


def test_the_orchestrator_is_the_one_with_http(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["orchestrator", "--show-config", "--port", "9003"]) == 0
    assert "port = 9003" in capsys.readouterr().out
    code, said = fails(capsys, "orchestrator", "--requestTimeout", "soon")
    assert (code, said.count("\n")) == (1, 1)
    assert "requestTimeout" in said


def test_a_rack_is_started_by_its_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rack", "sim", "--show-config", "--latency", "7"]) == 0
    assert "sim.latency = 7" in capsys.readouterr().out


def test_a_rack_of_the_users_own_is_named_by_its_class(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rack", "racks.sim:SimRack", "--show-config"]) == 0
    assert "sim.latency" in capsys.readouterr().out
    assert fails(capsys, "rack", "nowhere.at.all:Rack")[0] == 1


@pytest.mark.parametrize("words", [(), ("zork",), ("--rack", "r1")])
def test_without_a_kind_the_kinds_are_listed(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    code, said = fails(capsys, "rack", *words)
    assert code == 2
    assert "kinds: embeddings, openai, sim, transformers, or package.module:Class" in said


def test_help_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rack", "--help"]) == 0
    assert "kinds: " in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert "workers" in capsys.readouterr().out


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("wrk 0.")


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("zork",),
        ("workers", "--zork"),
        ("workers", "extra"),
        ("workers", "--timeout", "0"),
        ("workers", "--timeout", "soon"),
        ("workers", "--peer", "http://127.0.0.1:1"),
        ("infer", "m1"),
        ("infer", "m1", "{", "--input-json"),
        ("infer", "m1", "@/no/such/file"),
        ("call",),
        ("call", "ping", "{"),
        ("up", "--with", "tea"),
        ("up", "r1"),
    ],
)
def test_wrong_usage_is_2_and_starts_nothing(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    code, said = fails(capsys, *words)
    assert code == 2
    assert "Usage: wrk" in said


def test_a_wrong_setting_of_the_environment_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRK_REQUEST_TIMEOUT", "soon")
    code, said = fails(capsys, "workers")
    assert (code, said.count("\n")) == (1, 1)
    assert "environment WRK_REQUEST_TIMEOUT" in said


@pytest.mark.parametrize("words", [("worker", "--wtype", "wrk-rack-sim"), ("rack", "sim")])
def test_a_process_of_the_mesh_does_not_pay_for_the_command_line(words: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", LOADED, *words, "--show-config"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert {"typer", "httpx", "litestar"} & set(ran.stderr.split()) == set()
