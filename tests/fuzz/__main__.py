"""`bin/test --fuzz SECONDS`: run the fuzzer on every target in turn and say what came of it.

Each target has a process of its own (`guided.py`) for its share of the time; this one reads what it
says. The exit code is 1 when there is a finding or a target was not really fuzzed. With a finding's file
in place of SECONDS, that input is run once more, without the fuzzer: 1 if it is still a finding.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.findings import FINDINGS
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
TELL_EVERY = 10.0  # seconds
PULSE = re.compile(r"#(\d+)\s+(\w+)\s+cov: (\d+) .*corp: (\d+)")


@dataclass
class Progress:
    """What libFuzzer said so far; coverage is in edges of our own modules."""

    target: str
    executions: int = 0
    first: int = 0
    covered: int = 0
    inputs: int = 0
    began: float = field(default_factory=time.monotonic)
    last_words: list[str] = field(default_factory=list)

    def read(self, line: str) -> None:
        pulse = PULSE.match(line)
        if pulse is None:
            self.last_words = [*self.last_words[-30:], line]
            return
        self.executions, self.covered, self.inputs = int(pulse[1]), int(pulse[3]), int(pulse[4])
        if pulse[2] == "INITED":
            self.first = self.covered

    def __str__(self) -> str:
        rate = self.executions / max(time.monotonic() - self.began, 0.001)
        return (
            f"{self.target:7}{self.executions:>9,} executions ({rate:,.0f}/s),"
            f" coverage {self.first} -> {self.covered} edges, corpus {self.inputs} inputs"
        )


def fuzz(seconds: int) -> int:
    """The exit code."""
    before = _findings()
    whole = [_fuzz_one(name, max(1, round(seconds * target.share))) for name, target in TARGETS.items()]
    found = [path for path, written in _findings().items() if before.get(path) != written]
    for path in found:
        name = path.relative_to(ROOT)
        words = path.with_suffix(".txt")
        why = words.read_text() if words.exists() else "it hung, took all memory or crashed\n"
        print(f"\nFINDING {name}\n{why}again: bin/test --fuzz {name}")
    print(f"{len(found)} findings")
    return 1 if found or not all(whole) else 0


def _findings() -> dict[Path, int]:
    """Input -> when it was written."""
    paths = sorted(path for path in FINDINGS.glob("*-*") if path.suffix != ".txt")
    return {path: path.stat().st_mtime_ns for path in paths}


def _fuzz_one(target: str, seconds: int) -> bool:
    """Whether the target was fuzzed to the end of its time."""
    progress = Progress(target)
    command = [sys.executable, "-m", "tests.fuzz.guided", target, str(seconds)]
    told_at = time.monotonic()
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        for line in child.stderr:
            progress.read(line.rstrip())
            if time.monotonic() - told_at > TELL_EVERY:
                told_at = time.monotonic()
                print(progress, flush=True)
    print(progress, flush=True)
    if child.returncode:
        print(*progress.last_words, f"{target} ended with {child.returncode}", sep="\n", file=sys.stderr)
    elif not progress.covered:
        print(f"{target}: no coverage was measured, so nothing guided it", file=sys.stderr)
    return not child.returncode and progress.covered > 0


def again(path: Path) -> int:
    """The exit code."""
    target = TARGETS[path.name.partition("-")[0]]
    data = path.read_bytes()
    print(target.shown(data))
    try:
        target.run(data)
    except BaseException:
        traceback.print_exc()
        return 1
    print("no finding any more")
    return 0


if __name__ == "__main__":
    if sys.argv[1].isdecimal():
        sys.exit(fuzz(int(sys.argv[1])))
    sys.exit(again(Path(sys.argv[1])))
