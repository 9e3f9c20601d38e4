"""A peer's processes: a server that is started when it is needed, and a driver for each cell.

A server lives until its standard input ends, a driver until it has its figures or runs out of time, so
neither outlives the benchmark. After a cell that failed the server is ended as well: what it still has
to do would be measured with the next peer.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
READY_SECONDS = 20.0
DRIVE_SECONDS = 20.0
STOP_SECONDS = 10.0


class CellError(Exception):
    """Why a cell has no figures; its text stands in the table."""


class Peer:
    """The processes of one module of this folder, run by `python`."""

    def __init__(self, module: str, python: Path) -> None:
        self._command = [str(python), "-m", f"benchmarks.side_by_side.{module}"]
        self._server: subprocess.Popen[str] | None = None
        self._address = ""
        self._broken = ""  # why its server never starts

    def drive(self, arguments: Sequence[str]) -> dict[str, float]:
        """One cell's figures; raises `CellError`."""
        server = self._serve()
        try:
            return self._figures(["drive", self._address, "--server", str(server.pid), *arguments])
        except CellError:
            self.stop()
            raise

    def _serve(self) -> subprocess.Popen[str]:
        if self._server is not None and self._server.poll() is None:
            return self._server
        if self._broken:
            raise CellError(self._broken)
        with tempfile.TemporaryFile("w+") as errors:
            self._server = subprocess.Popen(
                [*self._command, "serve"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # so that what it started can be ended with it
            )
            self._address = _line(self._server)
            if not self._address:
                self.stop()
                errors.seek(0)
                self._broken = reason(errors.read()) or f"the server was not ready within {READY_SECONDS:g} s"
                raise CellError(self._broken)
        return self._server

    def _figures(self, arguments: list[str]) -> dict[str, float]:
        try:
            ended = subprocess.run(
                [*self._command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=DRIVE_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise CellError(f"no figures within {DRIVE_SECONDS:g} s") from None
        if ended.returncode:
            raise CellError(reason(ended.stderr) or f"exit code {ended.returncode}")
        figures: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
        return figures

    def stop(self) -> None:
        if self._server is None:
            return
        server, self._server = self._server, None
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.close()
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        server.stdout.close()


def ours() -> Path:
    """The interpreter that has the project's packages."""
    return Path(sys.executable)


def reason(stderr: str) -> str:
    """The last line that a process wrote before it gave up, short enough for a table."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return lines[-1][:120] if lines else ""


def _line(process: subprocess.Popen[str]) -> str:
    """The first line of its output, or nothing where none came in time."""
    assert process.stdout is not None
    heard, _, _ = select.select([process.stdout], [], [], READY_SECONDS)
    return process.stdout.readline().strip() if heard else ""
