"""`bin/bench NAME ...`: runs benchmarks and judges their figures.

A benchmark is a module of this folder with `run() -> list[Row]`; its file name is its name. Each one
is shown as a table and kept in benchmarks/results. Exit code 1 when a figure misses its limit, 2 when
there is no such benchmark.
"""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Started as a file, Python looks for modules in this folder; they are written as benchmarks.NAME.
sys.path[0] = str(HERE.parent)

from benchmarks import report  # noqa: E402


def available() -> list[str]:
    """The modules with a `run` at their top level, found without importing any of them."""
    return sorted(path.stem for path in HERE.glob("*.py") if _has_run(path))


def _has_run(path: Path) -> bool:
    body = ast.parse(path.read_text()).body
    return any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in body)


def measure(name: str) -> bool:
    """Runs, shows and keeps one benchmark; whether its figures hold."""
    rows: list[report.Row] = import_module(f"benchmarks.{name}").run()
    report.show(name, rows)
    for path in report.write(name, rows):
        print(f"written: {path.relative_to(HERE.parent)}")
    return not report.missed(rows)


def main(names: list[str]) -> int:
    known = available()
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        print(f"usage: bin/bench NAME ...   with NAME one of: {', '.join(known)}", file=sys.stderr)
        return 2
    verdicts = [measure(name) for name in names]
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
