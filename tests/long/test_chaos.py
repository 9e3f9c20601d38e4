"""Faults at full size, with their seconds and percentiles, in a mesh of real processes on this machine.

Run by `bin/test --long tests/long/test_chaos.py`. Each scenario is what `bin/chaos` plays; its figures are
printed, asserted and kept in `benchmarks/results/`. The limits are those of README's promises.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import Row, show, write
from tests.fakes.processes import ROOT
from wrk_base.errors import StartError
from wrk_orchestrator.chaos.figures import percentile
from wrk_orchestrator.chaos.namespaces import confinement
from wrk_orchestrator.chaos.scenarios import SCENARIOS

pytestmark = pytest.mark.long

WRK = (sys.executable, "-m", "wrk_orchestrator.cli.main", "chaos")
SEED = 6
LONGEST_SECONDS = 3600.0

Figures = dict[str, Any]
Limit = tuple[str, Callable[[Figures], float], str, float]


def most(name: str) -> Callable[[Figures], float]:
    return lambda figures: max(figures[name], default=0.0)


def repeats(figures: Figures) -> float:
    """Executions a request."""
    return float(figures["executions"] / figures["requests"])


def moves(figures: Figures) -> float:
    """Streams that went on at another rack: whatever was executed more often than asked for."""
    return float(figures["executions"] - figures["requests"])


def goodput(figures: Figures) -> float:
    """Of a capacity of 80 requests a second: 8 slots, 100 ms each."""
    return float(figures["outcomes"]["ok"] / (figures["requests"] / 2))


NOTICED_AT_ONCE = ("noticed within, s", most("noticed"), "<=", 1.0)
NOTICED = ("noticed within, s", most("noticed"), "<=", 4.0)
REFUSED = ("refused within, p99, ms", lambda f: f["refusedP99Ms"] or 0.0, "<=", 50.0)
BACK = ("back within, s", most("back"), "<=", 5.0)


@dataclass(frozen=True)
class Case:
    scenario: str
    faults: int
    limits: tuple[Limit, ...] = ()
    seconds: float = 0.0


CASES = (
    Case("kill-racks", 200, (("requests", lambda f: f["requests"], ">=", 120_000), NOTICED_AT_ONCE)),
    Case("freeze-rack", 5, (NOTICED, BACK)),
    Case("kill-orchestrator", 50),
    Case("rolling-restart", 20, (("ended within, s", most("ends"), "<=", 10.0),)),
    Case("freeze-orchestrator", 5),
    Case("hog", 3),
    Case("partition", 6, (NOTICED, BACK)),
    Case("one-way", 4, (NOTICED, BACK)),
    Case("flapping-link", 30),
    Case("multicast-dead", 20),
    Case("relay", 10),
    Case("all-racks-fail", 6, (("executions a request", repeats, "<=", 1.2),)),
    Case("overload", 0, (("goodput, share of capacity", goodput, ">=", 0.9), REFUSED), seconds=300.0),
    Case("streams", 360, (("streams moved", moves, ">=", 1000),)),
)


@pytest.mark.parametrize("case", CASES, ids=[case.scenario for case in CASES])
def test_the_promises_hold(case: Case, tmp_path: Path) -> None:
    if SCENARIOS[case.scenario].confined:
        try:
            confinement()
        except StartError as reason:
            pytest.skip(str(reason))
    report = played(case, tmp_path)
    figures = report["figures"]
    rows = list(rows_of(case, report))
    show(f"chaos {case.scenario}", rows)
    write(f"chaos_{case.scenario}", rows, command="bin/test --long:")
    assert report["void"] == []
    assert report["violations"] == [], figures
    assert [row.name for row in rows if row.ok is False] == []


def played(case: Case, folder: Path) -> dict[str, Any]:
    words = ["--seed", str(SEED), "--faults", str(case.faults), "--seconds", str(case.seconds)]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("WRK_")}
    run = subprocess.run(
        [*WRK, case.scenario, *words, "--json", "--keep", str(folder / "history")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environ,
        timeout=LONGEST_SECONDS,
    )
    report: dict[str, Any] = json.loads(run.stdout)
    return report


def rows_of(case: Case, report: dict[str, Any]) -> list[Row]:
    figures, broken = report["figures"], [violation["kind"] for violation in report["violations"]]
    rows = [Row("requests", figures["requests"], ""), Row("faults", sum(figures["faults"].values()), "")]
    for kind in ("lost", "doubled", "late", "error"):
        rows.append(Row(kind, broken.count(kind), "", "0", broken.count(kind) == 0))
    others = [kind for kind in broken if kind not in ("lost", "doubled", "late", "error")]
    rows.append(Row("other violations", len(others), "", "0", not others))
    if figures["noticed"]:
        rows.append(Row("noticed, median, s", percentile(figures["noticed"], 0.5) or 0.0, ""))
        rows.append(
            Row("faults of which the log does not tell when they were noticed", figures["unnoticed"], "")
        )
    for name, value_of, way, limit in case.limits:
        value = value_of(figures)
        holds = value <= limit if way == "<=" else value >= limit
        rows.append(Row(name, value, "", f"{way} {limit:g}", holds))
    for name in ("p50Ms", "p99Ms", "calmP50Ms", "calmP99Ms", "slowestMs", "refusedP50Ms", "refusedP99Ms"):
        if figures[name] is not None:
            rows.append(Row(name, figures[name], "ms"))
    return rows
