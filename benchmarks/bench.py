"""`bin/bench NAME ...`: runs benchmarks and judges their figures.

A benchmark is a module of this folder with `run() -> list[Row]`; its file name is its name. Each one
is shown as a table and kept in benchmarks/results; with `--quick`, for those whose `run` takes it, it is
shown only. Exit code 1 when a figure misses its limit, 2 when there is no such benchmark.
"""

from __future__ import annotations

import argparse
import ast
import sys
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":  # started as a file, Python looks for modules in this folder
    sys.path[0] = str(HERE.parent)

from benchmarks import report  # noqa: E402


def available() -> list[str]:
    """The modules with a `run` at their top level, found without importing any of them."""
    return sorted(path.stem for path in HERE.glob("*.py") if _has_run(path))


def _has_run(path: Path) -> bool:
    return _run_of(path) is not None


def _options_of_run(path: Path) -> list[str]:
    found = _run_of(path)
    return [argument.arg for argument in found.args.kwonlyargs] if found else []


def _run_of(path: Path) -> ast.FunctionDef | None:
    body = ast.parse(path.read_text()).body
    return next((node for node in body if isinstance(node, ast.FunctionDef) and node.name == "run"), None)


def quick() -> list[str]:
    """Those that can be had short."""
    return [path.stem for path in sorted(HERE.glob("*.py")) if "quick" in _options_of_run(path)]


def measure(name: str, *, is_quick: bool = False) -> bool:
    """Runs, shows and keeps one benchmark; whether its figures hold."""
    run = import_module(f"benchmarks.{name}").run
    rows: list[report.Row] = run(quick=True) if is_quick else run()
    report.show(name, rows)
    for path in [] if is_quick else report.write(name, rows):
        print(f"written: {path.relative_to(HERE.parent)}")
    return not report.missed(rows)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="bin/bench")
    known, short = available(), quick()
    parser.add_argument("names", nargs="+", metavar="NAME", choices=known, help=f"one of {', '.join(known)}")
    parser.add_argument("--quick", action="store_true", help=f"a short look, for {', '.join(short)}")
    arguments = parser.parse_args(argv)
    unable = [name for name in arguments.names if name not in short]
    if arguments.quick and unable:
        parser.error(f"there is no short look at {', '.join(unable)}")
    verdicts = [measure(name, is_quick=arguments.quick) for name in arguments.names]
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
