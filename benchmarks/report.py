"""What a benchmark hands over, and what becomes of it: a table, a JSON file and a Markdown page.

A figure stands beside its limit and its verdict, and every page names the machine, the versions and
the commit it was taken on: figures of two machines are compared as ratios only. Knows nothing of
what is measured.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
LIBRARIES = ("pyzmq", "msgpack", "msgspec", "uvloop", "litestar", "uvicorn", "zeroconf")
VERDICTS = {True: "holds", False: "MISSED", None: ""}


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `limit` is for people (">= 1.0 x raw"; "" for none); `ok` is None without a limit."""

    name: str
    value: float
    unit: str
    limit: str = ""
    ok: bool | None = None


def missed(rows: Iterable[Row]) -> bool:
    return any(row.ok is False for row in rows)


def machine() -> dict[str, str]:
    """Where and on what the figures were taken."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "libraries": ", ".join(f"{name} {_version(name)}" for name in LIBRARIES),
    }


def show(title: str, rows: Iterable[Row]) -> None:
    table = Table(title=title, title_justify="left")
    for column in ("figure", "value", "limit", "verdict"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for row in rows:
        style = "bold red" if row.ok is False else ""
        table.add_row(row.name, f"{_figure(row.value)} {row.unit}", row.limit, VERDICTS[row.ok], style=style)
    Console().print(table)


def write(title: str, rows: list[Row], folder: Path = RESULTS, command: str = "bin/bench") -> list[Path]:
    """`<title>.json` and `<title>.md`, each replaced in one step."""
    facts = machine()
    content = {"benchmark": title, "machine": facts, "rows": [asdict(row) for row in rows]}
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _replace(folder / f"{title}.json", json.dumps(content, indent=2) + "\n"),
        _replace(folder / f"{title}.md", _page(f"{command} {title}", facts, rows)),
    ]


def _page(title: str, facts: dict[str, str], rows: list[Row]) -> str:
    lines = [f"# {title}", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    lines += ["", "| figure | value | limit | verdict |", "|---|---:|---|---|"]
    lines += [f"| {r.name} | {_figure(r.value)} {r.unit} | {r.limit} | {VERDICTS[r.ok]} |" for r in rows]
    return "\n".join(lines) + "\n"


def _figure(value: float) -> str:
    """Three digits are what a repetition reproduces."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _replace(path: Path, text: str) -> Path:
    fresh = path.with_suffix(path.suffix + ".tmp")
    fresh.write_text(text)
    fresh.replace(path)
    return path


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"
