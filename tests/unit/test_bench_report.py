"""What becomes of a benchmark's figures: shown with their limits, kept, and judged as a whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.raw_pyzmq import measure
from benchmarks.report import Row, missed, show, write

HELD = Row("echo", 164_000.4, "1/s", ">= 1 x raw", True)
MISSED = Row("pick", 12.345, "us", "<= 10 us", False)
NO_LIMIT = Row("raw", 0.5, "1/s")


def test_one_missed_limit_fails_the_run_and_a_figure_without_limit_does_not() -> None:
    assert not missed([HELD, NO_LIMIT])
    assert missed([HELD, MISSED])


def test_the_table_puts_value_limit_and_verdict_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    show("rpc", [HELD, MISSED])
    shown = [[cell.strip() for cell in line.split("│")] for line in capsys.readouterr().out.splitlines()]
    assert ["", "echo", "164,000 1/s", ">= 1 x raw", "holds", ""] in shown
    assert ["", "pick", "12.3 us", "<= 10 us", "MISSED", ""] in shown


def test_figures_are_kept_with_the_machine_that_they_were_taken_on(tmp_path: Path) -> None:
    kept = write("rpc", [HELD, MISSED], tmp_path / "results")
    assert sorted(tmp_path.rglob("rpc.*")) == sorted(kept)

    content = json.loads((tmp_path / "results" / "rpc.json").read_text())
    assert [row["value"] for row in content["rows"]] == [164_000.4, 12.345]
    assert set(content["machine"]) == {"date", "commit", "cpu", "cores", "kernel", "python", "libraries"}
    assert "| pick | 12.3 us | <= 10 us | MISSED |" in (tmp_path / "results" / "rpc.md").read_text()


def test_the_yardstick_answers_every_request() -> None:
    rate, p50_us = measure(window=8, requests=200)
    assert rate > 0
    assert p50_us > 0
