"""An orchestrator with HTTP as a process of its own, as users run it, for attacks and long runs.

    with serving(tmp_path, "--http.headerTimeout", "500") as server:
        ...  # server.endpoint, server.admin_key, server.rss()

A server must not share its loop with those who attack it, nor with those who measure it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fakes.http_house import admin_key
from tests.fakes.processes import ProcessHandle, start_worker

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Serving:
    """A server that runs. What it takes is read from /proc (Linux)."""

    def __init__(self, worker: ProcessHandle) -> None:
        self.endpoint = str(worker.status["http"])
        self.port = int(self.endpoint.rpartition(":")[2])
        self.admin_key = admin_key(worker.state)
        self._proc = Path(f"/proc/{worker.pid}")

    def rss(self) -> int:
        """Bytes of memory that it has now."""
        return int((self._proc / "statm").read_text().split()[1]) * PAGE

    def cpu(self) -> float:
        """Seconds of a core that it has had so far."""
        facts = (self._proc / "stat").read_text().rpartition(")")[2].split()
        return (int(facts[11]) + int(facts[12])) / TICKS


@contextmanager
def serving(tmp_path: Path, *flags: str) -> Iterator[Serving]:
    """`flags` are settings. It must end well with the block."""
    args = ["--wtype", "wrk-orchestrator-http", "--port", "0", "--rpc.port", "0", *flags]
    with start_worker(args, tmp_path) as worker:
        yield Serving(worker)
