"""One cell of one gateway: the load is run, and its figures stand beside what the processes used meanwhile.

wrk makes the unary load, `stream_load` the streams; both are processes that end by themselves.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from operator import sub
from pathlib import Path
from typing import Any

from benchmarks.gateway_side import answers, raw_http
from benchmarks.gateway_side.figures import Cell, Figures, Streams, Unary
from benchmarks.gateway_side.gateway import Running
from benchmarks.side_by_side.processes import ROOT, CellError, reason

SCRIPT = Path(__file__).resolve().parent / "chat.lua"
ANSWER_SECONDS = 20  # beyond which wrk counts an answer as failed
MARGIN_SECONDS = 30.0


def measure(running: Running, cell: Cell, seconds: int) -> Figures:
    """Raises `CellError`."""
    return unary(running, cell, seconds) if isinstance(cell, Unary) else streams(running, cell)


def unary(running: Running, cell: Unary, seconds: int) -> Figures:
    before = running.cpu_seconds()
    told = wrk(running.port, cell.connections, seconds, answers.request())
    between, mocks = map(sub, running.cpu_seconds(), before)
    done = told["requests"]
    if told["failed"] or told["refused"]:
        problems = f"{told['failed']:.0f} failures and {told['refused']:.0f} errors"
        raise CellError(f"{problems} among {done:.0f} answers")
    return Figures(
        rate=done / told["seconds"],
        p50=told["p50_us"],
        p99=told["p99_us"],
        cpu=between / done * 1e6,
        mock_cpu=mocks / done * 1e6,
    )


def streams(running: Running, cell: Streams) -> Figures:
    before = running.cpu_seconds()
    told = _stream_load(running.port, cell)
    between, mocks = map(sub, running.cpu_seconds(), before)
    if told["problem"]:
        raise CellError(f"{told['complete']} of {told['streams']} streams complete: {told['problem']}")
    return Figures(
        rate=told["events"] / told["seconds"],
        p50=told["first_p50_us"],
        p99=told["first_p99_us"],
        cpu=between / told["events"] * 1e6,
        mock_cpu=mocks / told["events"] * 1e6,
        gap_p50=told["gap_p50_us"],
        gap_p99=told["gap_p99_us"],
    )


def wrk(port: int, connections: int, seconds: int, body: bytes) -> dict[str, float]:
    """The same request over and over from `connections` callers; raises `CellError`."""
    program = shutil.which("wrk")
    if program is None:
        raise CellError("wrk is not on PATH (Debian: apt-get install wrk)")
    load = ("-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", f"{ANSWER_SECONDS}s")
    url = f"http://127.0.0.1:{port}{raw_http.PATH}"
    told = read_wrk(_output([program, *load, "-s", str(SCRIPT), url, "--", body.decode()], seconds))
    if not told["requests"]:
        raise CellError(f"no answer within {seconds} s, {told['failed']:.0f} failures")
    return told


def read_wrk(output: str) -> dict[str, float]:
    """The line of JSON that `chat.lua` writes last; raises `CellError`."""
    lines = [line for line in output.splitlines() if line.startswith("{")]
    try:
        told: dict[str, float] = json.loads(lines[-1])
    except (IndexError, ValueError):
        raise CellError(reason(output) or "wrk said nothing") from None
    return told


def _stream_load(port: int, cell: Streams) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.gateway_side.stream_load", str(port)]
    command += ["--streams", str(cell.streams), "--tokens", str(cell.tokens)]
    command += ["--over", str(cell.over), "--bursts", str(cell.bursts)]
    tokens_seconds = cell.tokens / answers.PER_SECOND * cell.bursts
    told: dict[str, Any] = json.loads(_output(command, tokens_seconds))
    return told


def _output(command: list[str], seconds: float) -> str:
    try:
        ended = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=seconds + MARGIN_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise CellError(f"no figures within {seconds + MARGIN_SECONDS:.0f} s") from None
    if ended.returncode:
        raise CellError(reason(ended.stderr or ended.stdout) or f"exit code {ended.returncode}")
    return ended.stdout
