"""The HTTP mocks of a run, each a process; all gateways stand before the same ones."""

from __future__ import annotations

import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from benchmarks.side_by_side.processes import ROOT

COUNT = 2  # picking among one would be no picking
READY_SECONDS = 10.0
STOP_SECONDS = 5.0


class Mocks(NamedTuple):
    ports: tuple[int, ...]
    pids: tuple[int, ...]

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.ports]


@contextmanager
def serve(count: int = COUNT) -> Iterator[Mocks]:
    command = [sys.executable, "-m", "benchmarks.gateway_side.mock"]
    started = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    try:
        yield Mocks(tuple(map(_port, started)), tuple(process.pid for process in started))
    finally:
        for process in started:
            _end(process)


def _port(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    heard, _, _ = select.select([process.stdout], [], [], READY_SECONDS)
    line = process.stdout.readline() if heard else ""
    if not line:
        raise RuntimeError("a mock did not start")
    return int(line)


def _end(process: subprocess.Popen[str]) -> None:
    try:
        process.communicate(timeout=STOP_SECONDS)  # closes its standard input, which is its end
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
