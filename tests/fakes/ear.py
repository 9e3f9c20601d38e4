"""A process that listens to mDNS as a member of a mesh does, and measures itself. Linux only.

    async with ear(listener) as process:
        await process.measure()
        ...                            # the attack
        report = await process.report()  # since `measure`

It announces `listener`, sweeps every `SWEEP_SECONDS` as workers do by default, runs on one core, and
writes a line of JSON for each finding and each report.
"""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import structlog
import uvloop

from wrk_base.discovery import Found
from wrk_base.discovery.advert import Advert, facts_of, short_id
from wrk_base.discovery.mdns import MdnsDiscovery
from wrk_base.security.seal import Seal

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
SECRET, MESH_ID = b"discovery secret of all tests...", b"id of the mesh.."
SEAL = Seal(SECRET, MESH_ID)
KEY = bytes(range(32))
SWEEP_SECONDS = 10.0
TICK_SECONDS = 0.005


def sealed(advert: Advert, seal: Seal = SEAL, mesh_id: bytes = MESH_ID, key: bytes = KEY) -> Advert:
    """The same as a member announces it."""
    known = dataclasses.replace(advert, mesh_id=short_id(mesh_id))
    return dataclasses.replace(known, key=seal.seal(key, facts_of(known)))


@dataclasses.dataclass
class Report:
    """What the process was like since `measure`; seconds, bytes, cores, and what was told in all."""

    lag_p99: float
    grown: int
    cores: float
    found: int
    gone: int
    known: list[str]
    counters: dict[str, int]


class Ear:
    """A running process of this kind, seen from outside."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._found: dict[str, asyncio.Event] = {}
        self._reports: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._reader = asyncio.create_task(self._read())

    async def measure(self) -> None:
        self._write("measure")
        await self._reports.get()

    async def report(self) -> Report:
        self._write("report")
        return Report(**await self._reports.get())

    async def found(self, worker_id: str) -> None:
        await self._event(worker_id).wait()

    async def stop(self) -> None:
        self._reader.cancel()
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    def _write(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n".encode())

    def _event(self, worker_id: str) -> asyncio.Event:
        return self._found.setdefault(worker_id, asyncio.Event())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            message = json.loads(line)
            if "worker" in message:
                self._event(message["worker"]).set()
            else:
                self._reports.put_nowait(message)


@asynccontextmanager
async def ear(listener: Advert) -> AsyncIterator[Ear]:
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.fakes.ear", repr(dataclasses.astuple(listener))),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    process = Ear(running)
    try:
        yield process
    finally:
        await process.stop()


class Measured:
    """The inside of it."""

    def __init__(self, listener: Advert) -> None:
        silence = structlog.wrap_logger(
            structlog.ReturnLogger(), wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL)
        )
        log = cast("structlog.typing.FilteringBoundLogger", silence)
        self._listener = listener
        self._discovery = MdnsDiscovery(listener.mesh, HOST, log, seal=SEAL, mesh_id=MESH_ID)
        self._lags: list[float] = []
        self._told = {"found": 0, "gone": 0}

    async def run(self) -> None:
        await self._discovery.start(self._listener, self._on_found, self._on_gone)
        words = asyncio.StreamReader()
        reading = asyncio.StreamReaderProtocol(words)
        await asyncio.get_running_loop().connect_read_pipe(lambda: reading, sys.stdin)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tick())
            group.create_task(self._sweep())
            async for word in words:
                if word.strip() == b"measure":
                    self._lags.clear()
                    self._begun = time.monotonic(), time.process_time(), _resident()
                print(json.dumps(dataclasses.asdict(self._report())), flush=True)

    def _on_found(self, found: Found) -> None:
        self._told["found"] += 1
        print(json.dumps({"worker": found.worker_id}), flush=True)

    def _on_gone(self, found: Found) -> None:
        self._told["gone"] += 1

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            self._lags.append(max(0.0, time.monotonic() - due))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            await self._discovery.sweep()

    def _report(self) -> Report:
        at, busy, resident = self._begun
        passed = max(time.monotonic() - at, 1e-9)
        lags = sorted(self._lags) or [0.0]
        return Report(
            lag_p99=lags[int(0.99 * len(lags))],
            grown=_resident() - resident,
            cores=(time.process_time() - busy) / passed,
            found=self._told["found"],
            gone=self._told["gone"],
            known=[found.worker_id for found in self._discovery.known()],
            counters=self._discovery.counters(),
        )


def _resident() -> int:
    """Bytes of memory in use, now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    uvloop.run(Measured(Advert(*ast.literal_eval(sys.argv[1]))).run())
