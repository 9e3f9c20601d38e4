"""Every cell of every gateway, as a Markdown page and as JSON. Pure: takes results, gives text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from benchmarks.gateway_side.figures import Cell, Figures, Outcome, Results, Unary

UNARY_HEAD = ("gateway", "requests/s", "p50 us", "p99 us", "CPU us a request", "the mocks' us")
STREAM_HEAD = (
    "gateway",
    "events/s",
    "first event p50 us",
    "p99 us",
    "gap p50 ms",
    "gap p99 ms",
    "CPU us an event",
    "the mocks' us",
)


def page(
    facts: Mapping[str, str], notes: Mapping[str, str], cells: Sequence[Cell], results: Results, rounds: int
) -> str:
    """`facts` of the machine and the run; `notes` by gateway: what it is and what was chosen for it."""
    lines = [
        "# bin/bench gateway: every cell",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        "",
    ]
    lines += [
        f"Rounds: {rounds}; in each all take turns. Figures are medians of the rounds and compare within"
    ]
    lines += ["this page only. CPU time is that of all processes between the client and the mocks."]
    for cell in cells:
        lines += ["", f"## {cell.title[0].upper()}{cell.title[1:]}", "", *section(cell, results, rounds)]
    lines += ["", "## What each is", ""]
    lines += [f"- **{name}**: {note}" for name, note in notes.items()]
    return "\n".join(lines) + "\n"


def section(cell: Cell, results: Results, rounds: int) -> list[str]:
    """The table of one cell."""
    head = UNARY_HEAD if isinstance(cell, Unary) else STREAM_HEAD
    here = {name: outcome for (name, where), outcome in results.items() if where == cell}
    rows = [_row(name, cell, outcome, rounds, len(head)) for name, outcome in here.items()]
    return [_line(head), _line(["---", *["---:"] * (len(head) - 1)]), *map(_line, rows)]


def _row(name: str, cell: Cell, outcome: Outcome, rounds: int, width: int) -> list[str]:
    figures = outcome.figures
    if figures is None:
        return [name, f"left out: {outcome.problem}", *[""] * (width - 2)]
    missing = f" ({len(outcome.rounds)} of {rounds} rounds: {outcome.problem})" if outcome.problem else ""
    return [f"{name}{missing}", *_cells(figures, isinstance(cell, Unary))]


def _cells(figures: Figures, is_unary: bool) -> list[str]:
    gaps = [] if is_unary else [f"{gap / 1e3:,.1f}" for gap in (figures.gap_p50, figures.gap_p99)]
    return [
        *(f"{value:,.0f}" for value in (figures.rate, figures.p50, figures.p99)),
        *gaps,
        *(f"{value:,.1f}" for value in (figures.cpu, figures.mock_cpu)),
    ]


def _line(columns: Sequence[str]) -> str:
    return "| " + " | ".join(column.replace("|", "\\|") for column in columns) + " |"


def document(facts: Mapping[str, str], results: Results) -> str:
    """The same as JSON, with every round."""
    cells = [
        {
            "gateway": name,
            "cell": cell.title,
            "left_out": outcome.problem,
            "medians": asdict(outcome.figures) if outcome.figures else None,
            "rounds": [asdict(figures) for figures in outcome.rounds],
        }
        for (name, cell), outcome in results.items()
    ]
    return json.dumps({"benchmark": "gateway", "machine": facts, "cells": cells}, indent=2) + "\n"
