"""The whole comparison as a Markdown page and as JSON. Pure: takes results, gives text."""

from __future__ import annotations

import json
from dataclasses import asdict

from benchmarks.side_by_side.figures import Cell, Figures, Outcome, Results

YARDSTICK = "raw pyzmq"
HEAD = ("peer", "requests/s", "MB/s", f"x {YARDSTICK}", "p50 us", "p99 us", "CPU us a request, both sides")
STREAM_HEAD = ("peer", "items/s", f"x {YARDSTICK}", "p50 us a stream", "p99 us", "CPU us an item, both sides")
MB_FROM = 10_000  # bytes of a body from which the megabytes say more than the requests


def page(
    facts: dict[str, str], notes: dict[str, str], cells: list[Cell], results: Results, rounds: int
) -> str:
    """`facts` of the machine and the run; `notes` by peer: what was chosen for it and why."""
    lines = [
        "# bin/bench peers: every cell",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        "",
    ]
    lines += [
        f"Rounds: {rounds}; in each all peers take turns. Figures are medians of the rounds and compare"
    ]
    lines += ["within this page only. A request is an echo; MB/s counts its body once, not there and back."]
    for cell in cells:
        lines += ["", f"## {cell.title[0].upper()}{cell.title[1:]}", "", *_table(cell, results, rounds)]
    lines += ["", "## What was chosen for each", ""]
    lines += [f"- **{peer}**: {note}" for peer, note in notes.items()]
    return "\n".join(lines) + "\n"


def _table(cell: Cell, results: Results, rounds: int) -> list[str]:
    here = {peer: outcome for (peer, where), outcome in results.items() if where == cell}
    yardstick = here[YARDSTICK].figures if YARDSTICK in here else None
    head = [name for name in (STREAM_HEAD if cell.stream else HEAD) if name != "MB/s" or cell.body >= MB_FROM]
    rows = [_row(peer, cell, outcome, yardstick, rounds, len(head)) for peer, outcome in here.items()]
    return [_line(head), _line(["---", *["---:"] * (len(head) - 1)]), *(_line(row) for row in rows)]


def _row(
    peer: str, cell: Cell, outcome: Outcome, yardstick: Figures | None, rounds: int, width: int
) -> list[str]:
    figures = outcome.figures
    if figures is None:
        return [peer, f"left out: {outcome.problem}", *[""] * (width - 2)]
    rate = figures.requests_per_s
    missing = f" ({len(outcome.rounds)} of {rounds} rounds: {outcome.problem})" if outcome.problem else ""
    return [
        f"{peer}{missing}",
        f"{rate:,.0f}",
        *([f"{rate * cell.body / 1e6:,.0f}"] if cell.body >= MB_FROM else []),
        f"{rate / yardstick.requests_per_s:.2f}" if yardstick else "",
        f"{figures.p50_us:,.0f}",
        f"{figures.p99_us:,.0f}",
        "" if figures.cpu_us is None else f"{figures.cpu_us:,.1f}",
    ]


def _line(columns: list[str]) -> str:
    return "| " + " | ".join(column.replace("|", "\\|") for column in columns) + " |"


def document(facts: dict[str, str], results: Results) -> str:
    """The same as JSON, with every round."""
    cells = [
        {
            "peer": peer,
            **asdict(cell),
            "left_out": outcome.problem,
            "medians": asdict(outcome.figures) if outcome.figures else None,
            "rounds": [asdict(figures) for figures in outcome.rounds],
        }
        for (peer, cell), outcome in results.items()
    ]
    return json.dumps({"benchmark": "peers", "machine": facts, "cells": cells}, indent=2) + "\n"
