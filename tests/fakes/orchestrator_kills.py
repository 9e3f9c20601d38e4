"""Two orchestrators that are killed and started again, in turns, under the load of clients that know both.

    measured = run(kills(tmp_path, count=3, rate=50, racks=3), "uvloop", within=120.0)

All are real processes. Requests come at a steady rate whatever becomes of them, each with a deadline of five
seconds; every fourth wants a stream. An orchestrator comes back at the address that it had, half a second
after it died, and the next one dies when it has its racks again and the load has gone on for a while.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fakes.processes import (
    LOOPBACK,
    ProcessHandle,
    client,
    mesh_of,
    ready,
    spawn_worker,
    start_worker,
    until,
)
from wrk_base import Client, errors
from wrk_base.rpc.peers import Peers

MODEL = "sim-model"
DEADLINE_S = 5.0
DOWN_S = 0.5
CALM_S = 1.0  # between two deaths, with everybody there


@dataclass
class Measured:
    """What the clients saw; times in seconds."""

    kills: int = 0
    answered: int = 0
    streamed: int = 0
    broken: int = 0  # streams that had begun; their error says how many items came
    failed: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    racks_back: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        back = max(self.racks_back, default=0.0)
        return (
            f"{self.kills} kills, {self.answered} answered, {self.streamed} of them streams; "
            f"streams broken after items: {self.broken}; failed: {dict(self.failed) or 'none'}; "
            f"slowest answer {self.slowest:.2f} s; racks back after {back:.2f} s at most"
        )


class _Mesh:
    def __init__(self, tmp_path: Path, racks: int) -> None:
        self.tmp_path, self.racks = tmp_path, racks
        self.orchestrators: list[ProcessHandle] = []
        self._stack = ExitStack()

    def __enter__(self) -> _Mesh:
        for name in ("one", "two"):
            self.orchestrators.append(start_worker(self._orchestrator(name), self.tmp_path))
        rack = ("--wtype", "wrk-rack-sim", "--latency", "20", "--jitter", "60", "--rack")
        begun = [spawn_worker([*rack, f"r{number}"], self.tmp_path) for number in range(self.racks)]
        for handle in begun:
            self._stack.enter_context(ready(handle))
        return self

    def __exit__(self, *failure: Any) -> None:
        with self._stack:
            for handle in self.orchestrators:
                if failure[0] is not None:
                    print(handle.tail())
                handle.kill()

    def _orchestrator(self, name: str, port: str = "0") -> list[str]:
        flags = ["--rpc.port", port, "--rack", name, "--routing.startGrace", "3000"]
        return ["--wtype", "wrk-orchestrator", *flags]

    def restart(self, number: int) -> ProcessHandle:
        """Where it was."""
        name, before = ("one", "two")[number], self.orchestrators[number]
        port = before.endpoint.rpartition(":")[2]
        self.orchestrators[number] = start_worker(self._orchestrator(name, port), self.tmp_path)
        return self.orchestrators[number]


async def kills(tmp_path: Path, *, count: int, rate: float, racks: int) -> Measured:
    """`count` deaths, with `rate` requests a second meanwhile."""
    measured = Measured()
    mesh = _Mesh(tmp_path, racks)
    async with AsyncExitStack() as stack:
        await asyncio.to_thread(mesh.__enter__)
        stack.push_async_exit(lambda *failure: asyncio.to_thread(mesh.__exit__, *failure))
        here: dict[str, Any] = {"mesh": mesh_of(tmp_path), "state_dir": mesh.orchestrators[0].state}
        addresses = [handle.endpoint for handle in mesh.orchestrators]
        asker = await stack.enter_async_context(Client(*addresses, interface=LOOPBACK, **here))
        looker = await stack.enter_async_context(client(mesh.orchestrators[0]))
        for handle in mesh.orchestrators:
            await _has_racks(looker, handle, racks)
        load = _Load(asker, rate, measured)
        stack.push_async_callback(load.end)
        for number in range(count):
            await asyncio.sleep(CALM_S)
            await _one_death(mesh, looker, number % 2, measured)
        await asyncio.sleep(CALM_S)
        await load.end()
    return measured


async def _one_death(mesh: _Mesh, looker: Peers, victim: int, measured: Measured) -> None:
    await asyncio.to_thread(mesh.orchestrators[victim].kill)
    measured.kills += 1
    await asyncio.sleep(DOWN_S)
    again = await asyncio.to_thread(mesh.restart, victim)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await _has_racks(looker, again, mesh.racks)
    measured.racks_back.append(loop.time() - begun)


async def _has_racks(looker: Peers, orchestrator: ProcessHandle, racks: int) -> None:
    async def look() -> bool:
        try:
            listed = await looker.request(
                orchestrator.endpoint, "listWorkers", {"state": "healthy"}, timeout=2.0
            )
        except errors.Unavailable:
            return False
        return bool(listed["total"] == racks)

    await until(look, what="all racks are healthy there")


class _Load:
    """Requests at a steady rate until its end, which waits for the last answers."""

    def __init__(self, asker: Client, rate: float, measured: Measured) -> None:
        self._asker, self._rate, self._measured = asker, rate, measured
        self._loop = asyncio.get_running_loop()
        self._open: set[asyncio.Task[None]] = set()
        self._sending = asyncio.ensure_future(self._send())

    async def end(self) -> None:
        self._sending.cancel()
        await asyncio.wait((self._sending, *self._open))

    async def _send(self) -> None:
        begun, number = self._loop.time(), 0
        while True:
            number += 1
            task = asyncio.ensure_future(self._ask(number))
            self._open.add(task)
            task.add_done_callback(self._open.discard)
            await asyncio.sleep(max(0.0, begun + number / self._rate - self._loop.time()))

    async def _ask(self, number: int) -> None:
        measured, begun, prompt = self._measured, self._loop.time(), f"request {number}"
        try:
            if number % 4:
                await self._asker.infer(MODEL, prompt, timeout=DEADLINE_S)
            else:
                stream = self._asker.stream(MODEL, prompt, timeout=DEADLINE_S)
                items = [item async for item in stream]
                measured.streamed += bool(items)
        except errors.WrkError as error:
            if error.data.get("items"):
                measured.broken += 1
                return
            measured.failed[f"{error.name}: {error.message[:120]}"] += 1
        else:
            measured.answered += 1
            measured.slowest = max(measured.slowest, self._loop.time() - begun)
