"""A gateway while it is measured: started when it is first needed, and anew after a cell that failed.

How its processes come to life is a function that takes an `ExitStack` and registers their end on it, so
nothing outlives the comparison. What does not start, or answers something else than the mock, has a
reason instead of figures, and is not tried again.
"""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from benchmarks.gateway_side import answers, raw_http
from benchmarks.side_by_side.processes import ROOT, CellError, reason
from benchmarks.usage import cpu_seconds

READY_SECONDS = 40.0  # litellm takes ten on a machine that does nothing else
STOP_SECONDS = 5.0
ASK_SECONDS = 5.0
REST_SECONDS = 3.0  # for what a gateway still has to do after its cell
RESTING = 0.2  # of a core


class Running(NamedTuple):
    """Where it listens, and whose CPU time counts: what stands between client and mock, and the mocks."""

    port: int
    between: tuple[int, ...]
    mocks: tuple[int, ...]

    def cpu_seconds(self) -> tuple[float, float]:
        return sum(map(cpu_seconds, self.between)), sum(map(cpu_seconds, self.mocks))


class Gateway:
    """One row of every table. What answers slowly is given `patience` times as long, or it has no figures."""

    def __init__(self, name: str, start: Callable[[ExitStack], Running], *, patience: int = 1) -> None:
        self.name, self.patience = name, patience
        self._start = start
        self._stack: ExitStack | None = None
        self._running: Running
        self._broken = ""

    def running(self) -> Running:
        """Raises `CellError`."""
        if self._broken:
            raise CellError(self._broken)
        if self._stack is None:
            try:
                with ExitStack() as stack:
                    self._running = self._start(stack)
                    self._stack = stack.pop_all()
            except (CellError, OSError, RuntimeError, subprocess.SubprocessError) as error:
                self._broken = reason(str(error)) or type(error).__name__
                raise CellError(self._broken) from error
        return self._running

    def rest(self) -> None:
        """Wait until it does nothing any more, lest the next one is measured with it."""
        until = time.monotonic() + REST_SECONDS
        before = sum(self._running.cpu_seconds())
        while time.monotonic() < until:
            time.sleep(0.1)
            now = sum(self._running.cpu_seconds())
            if now - before < RESTING * 0.1:
                return
            before = now

    def stop(self) -> None:
        if self._stack is not None:
            stack, self._stack = self._stack, None
            stack.close()


@contextmanager
def process(command: Sequence[str], env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A program with a session of its own, ended with all that it started; its output is kept for reasons."""
    with tempfile.TemporaryFile("w+") as output:
        started = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            text=True,
            start_new_session=True,
        )
        try:
            yield started
        except CellError as error:
            output.seek(0)
            raise CellError(f"{error}: {reason(output.read())}" if started.poll() else str(error)) from error
        finally:
            _end(started)


def _end(started: subprocess.Popen[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(started.pid, number)
            started.wait(STOP_SECONDS)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def await_answer(
    port: int,
    alive: Callable[[], bool],
    body: bytes = answers.request(),
    fault: Callable[[int, bytes], str] = answers.fault,
) -> None:
    """Until there is an answer to `body` that `fault` finds nothing wrong with; raises `CellError`."""
    until, problem = time.monotonic() + READY_SECONDS, ""
    while time.monotonic() < until:
        if not alive():
            raise CellError("it ended before it was ready")
        try:
            problem = fault(*_ask(port, body))
        except (OSError, http.client.HTTPException) as error:
            problem = str(error)
        if not problem:
            return
        time.sleep(0.1)
    raise CellError(f"not ready within {READY_SECONDS:g} s: {problem}")


def _ask(port: int, body: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ASK_SECONDS)
    try:
        connection.request("POST", raw_http.PATH, body, {"content-type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
