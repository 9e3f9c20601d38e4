"""One program and its process of the moment: started, signalled, and asked how it ended.

It runs in a session of its own, so that a Ctrl-C in the terminal does not reach it. Its output goes to
a log that is appended to, as another `wrk up` of the same state directory may be writing there.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from wrk_base.errors import StartError

from .plan import Program

LAUNCHER = (sys.executable, "-P", "-m", "wrk_orchestrator.cli.child")
LOG_BYTES = 8 << 20  # a log longer than this is put aside at the next start


class ChildProcess:
    """Of one program. With `verbose`, its output goes to the terminal and not to its log. `inside` is the
    beginning of a command line that runs what follows elsewhere, as in another network namespace."""

    def __init__(
        self, program: Program, state_dir: Path, *, verbose: bool, inside: Sequence[str] = ()
    ) -> None:
        self.program = program
        self._inside = inside
        self.was_ready = False
        self._state_dir, self._verbose = state_dir, verbose
        self._log = state_dir / "logs" / f"{program.prefix}.log"
        self._log_from = 0
        self._process: Process | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """Of the process of the moment, or of the last one; 0 before the first."""
        return self._process.pid if self._process is not None else 0

    @property
    def exit_code(self) -> int | None:
        """Negative where a signal ended it."""
        return self._process.returncode if self._process is not None else None

    @property
    def log(self) -> Path:
        return self._log

    async def launch(self) -> None:
        """Start it, again if it has ended. Raises `StartError`."""
        self.was_ready = False
        program = [*self.program.arguments, f"--state-dir={self._state_dir}"]
        command = [*self._inside, *LAUNCHER, str(os.getpid()), *program]
        try:
            with self._open_log() as log:
                self._process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=DEVNULL,
                    stdout=None if self._verbose else log,
                    stderr=None if self._verbose else STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise StartError(f"cannot start {self.program.name}: {error}") from error

    async def ended(self) -> None:
        """Returns when there is no process (any more)."""
        if self._process is not None:
            await self._process.wait()

    def status(self) -> dict[str, Any] | None:
        """Its status file; None while there is none of this very process: a crash leaves one behind."""
        try:
            path = self._state_dir / "status" / f"{self.program.prefix}.json"
            status: dict[str, Any] = json.loads(path.read_bytes())
        except (OSError, ValueError):
            return None
        self.was_ready = self._process is not None and status.get("pid") == self._process.pid
        return status if self.was_ready else None

    def end(self) -> str:
        """That it ended, and why: its own last word, or what the kernel says."""
        what = "ended" if self.was_ready else "did not start"
        words = [line for line in self._said().splitlines() if line.startswith("wrk: ")]
        return f"{self.program.name} {what}: {words[-1].removeprefix('wrk: ') if words else self._verdict()}"

    def _verdict(self) -> str:
        code = self._process.returncode if self._process is not None else None
        return f"killed by signal {-code}" if code is not None and code < 0 else f"exit status {code}"

    def _said(self) -> str:
        try:
            with self._log.open("rb") as file:
                file.seek(self._log_from)
                return file.read(LOG_BYTES).decode(errors="replace")
        except OSError:
            return ""

    def terminate(self) -> None:
        """Ask it to drain and end."""
        if self._process is not None and self.running:
            try:
                self._process.terminate()
            except ProcessLookupError:
                pass  # it has just ended

    def signal(self, number: int) -> None:
        if self._process is not None and self.running:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once, with everything that it started itself."""
        if self._process is not None and self.running:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def _open_log(self) -> IO[bytes]:
        self._log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._log.exists() and self._log.stat().st_size > LOG_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))
        log = self._log.open("ab")
        self._log_from = log.tell()
        return log
