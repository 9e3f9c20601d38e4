"""Real processes are killed, frozen and asked to end under load, and nobody who asked notices.

The scenarios of `bin/chaos` in short sizes: outcomes and counts are judged here; seconds and percentiles are
held in `tests/long/test_chaos.py`, on a machine that does nothing else.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop

from tests.fakes.processes import ROOT, wait_until
from wrk_orchestrator.chaos.play import Verdict, Where, Wishes, play
from wrk_orchestrator.chaos.scenarios import SCENARIOS

SEED = 1
GENEROUS = {"slack": 2.0, "cancel_slack": 10.0, "exit_within": 30.0, "route_slack": 2.0}
WRK = (sys.executable, "-m", "wrk_orchestrator.cli.main", "chaos")


def played(name: str, folder: Path, faults: int, haste: float = 2.0, rate: float | None = None) -> Verdict:
    scenario = SCENARIOS[name]
    lenient = replace(scenario, rules=replace(scenario.rules, **GENEROUS))  # type: ignore[arg-type]
    where = Where(f"chaos-{os.urandom(6).hex()}", folder / "state", folder)
    verdict = uvloop.run(play(lenient, Wishes(SEED, faults, rate=rate, haste=haste), where, print))
    print(verdict.figures)
    return verdict


def assert_unnoticed(verdict: Verdict) -> None:
    assert verdict.void == []
    assert verdict.violations == []
    assert set(verdict.figures.outcomes) == {"ok"}


def test_twenty_killed_racks_are_noticed_by_the_orchestrator_alone(tmp_path: Path) -> None:
    verdict = played("kill-racks", tmp_path, 20, haste=4.0)
    assert_unnoticed(verdict)
    assert verdict.figures.faults == {"kill": 20}
    assert len(verdict.figures.noticed) >= 15  # of racks killed again and again the log says less


def test_a_frozen_rack_is_worked_around(tmp_path: Path) -> None:
    verdict = played("freeze-rack", tmp_path, 1)
    assert_unnoticed(verdict)
    assert len(verdict.figures.back) == 1


def test_callers_of_two_orchestrators_do_not_miss_one(tmp_path: Path) -> None:
    assert_unnoticed(played("kill-orchestrator", tmp_path, 2))


def test_a_relay_that_resets_and_swallows_loses_nothing(tmp_path: Path) -> None:
    verdict = played("relay", tmp_path, 5, haste=4.0, rate=50)
    assert_unnoticed(verdict)


# --- the command


def chaos(*words: str, folder: Path) -> subprocess.Popen[str]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("WRK_")}
    return subprocess.Popen(
        [*WRK, *words, "--keep", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environ,
    )


def processes_of(folder: Path) -> list[int]:
    """Of this run, by their command lines."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in each.read_bytes():
                found.append(int(each.parent.name))
        except OSError:
            continue
    return found


def test_a_game_day_by_command_says_how_it_went_and_keeps_the_history(tmp_path: Path) -> None:
    told, said = chaos(
        "rolling-restart", "--seed", "3", "--faults", "2", "--rate", "50", "--json", folder=tmp_path
    ).communicate(timeout=120)
    report = json.loads(told)
    assert report["figures"]["faults"] == {"terminate": 2}, said
    assert report["violations"] == []
    assert (tmp_path / "history.jsonl").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_game_day_that_is_stopped_leaves_no_process(tmp_path: Path) -> None:
    run = chaos("kill-racks", folder=tmp_path)
    wait_until(lambda: len(processes_of(tmp_path)) >= 10, 60, "nine processes and the command itself")
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "stopped, with all that it had started" in said
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["explode"], "there is no scenario explode; there are kill-racks, "),
        (["kill-orchestrator", "--mesh", "home"], "needs a mesh of its own"),
        (["kill-racks", "--rate", "0"], "--rate"),
    ],
)
def test_wrong_usage_is_said_before_anything_starts(words: list[str], complaint: str, tmp_path: Path) -> None:
    run = chaos(*words, folder=tmp_path)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 2
    assert complaint in " ".join(said.replace("│", " ").split())
