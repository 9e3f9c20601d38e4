"""A mesh at work for long: what it keeps, and whether anything is lost while racks come and go.

Run by `bin/test --long`; prints what it measured. `WRK_TEST_SOAK_MINUTES` says for how long (30). 100
requests a second, half by RPC and half by HTTP, to four racks, of which one leaves and is back every 30 s.
Memory is judged after a third of the time, by the slope of a line through all samples, where there are 15
minutes of them or more. Linux only.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import linear_regression
from typing import Any

import msgspec
import pytest

from tests.fakes.aio import run
from tests.fakes.good_caller import GoodCaller
from tests.fakes.processes import ProcessHandle, client, spawn_worker, start_worker, until
from tests.fakes.siege import ROUTE, traffic
from wrk_base import clock, errors
from wrk_base.rpc.peers import Peers

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="measures by /proc"),
]

MINUTES = float(os.environ.get("WRK_TEST_SOAK_MINUTES", "30"))
RATE = 50.0  # requests a second of each kind
CHURN_S = 30.0
SAMPLE_S = 5.0
MAX_SLOPE = 8.0  # MiB an hour
SLOPE_FROM = 15.0  # minutes: in fewer, half a MiB of warming up is a slope of 10 or 25
MAX_MORE = 5  # descriptors, tasks
BODY = {"modelId": "m1", "inputData": "hello"}
QUIET = ("--discovery.mdns", "false")
RACKS = ("r1", "r2", "r3", "r4")


@dataclass
class Sample:
    at: float
    mib: float
    descriptors: int
    tasks: int


@dataclass
class Diary:
    """Of one process that lives all the time."""

    process: ProcessHandle
    samples: list[Sample] = field(default_factory=list)

    async def note(self, peers: Peers) -> None:
        proc = Path(f"/proc/{self.process.pid}")
        pages = int((proc / "statm").read_text().split()[1])
        stats = await peers.request(self.process.endpoint, "getStats", None, timeout=10.0)
        mib = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        sample = Sample(clock.monotonic(), mib, len(os.listdir(proc / "fd")), stats["tasks"])
        self.samples.append(sample)

    @property
    def settled(self) -> list[Sample]:
        return self.samples[len(self.samples) // 3 :]

    def slope(self) -> float:
        """MiB an hour."""
        line = linear_regression([one.at for one in self.settled], [one.mib for one in self.settled])
        return line.slope * 3600

    def more(self, what: str) -> int:
        """How many more there are at the end than after the warm-up, by medians: requests come and go."""
        half = len(self.settled) // 2
        first, last = (
            sorted(getattr(one, what) for one in part)[len(part) // 2]
            for part in (self.settled[:half], self.settled[half:])
        )
        return int(last - first)

    def __str__(self) -> str:
        last = self.samples[-1]
        return (
            f"{self.process.status['prefix']}: {self.settled[0].mib:.1f} -> {last.mib:.1f} MiB, "
            f"{self.slope():+.1f} MiB/h; descriptors {last.descriptors} ({self.more('descriptors'):+d}), "
            f"tasks {last.tasks} ({self.more('tasks'):+d})"
        )


def rack(tmp_path: Path, name: str) -> list[str]:
    return ["--wtype", "racks.sim:SimRack", "--rack", name, "--models", "m1", "--capacity", "8", *QUIET]


async def states(peers: Peers, orchestrator: ProcessHandle) -> dict[str, str]:
    listed = await peers.request(orchestrator.endpoint, "listWorkers", {}, timeout=10.0)
    return {worker["name"]: worker["state"] for worker in listed["workers"]}


@asynccontextmanager
async def churn(
    tmp_path: Path, held: ExitStack, running: dict[str, ProcessHandle]
) -> AsyncIterator[list[int]]:
    """One rack after the other, but the first, is asked to stop and started again; their exit codes."""
    codes: list[int] = []

    async def go() -> None:
        while True:
            for name in RACKS[1:]:
                await asyncio.sleep(CHURN_S)
                leaving = running[name]
                leaving.signal(15)
                codes.append(await leaving.ended())
                running[name] = held.enter_context(spawn_worker(rack(tmp_path, name), tmp_path))

    going = asyncio.create_task(go())
    try:
        yield codes
    finally:
        going.cancel()
        await asyncio.wait((going,))


def test_soak_with_churn(tmp_path: Path) -> None:
    run(soak(tmp_path, MINUTES * 60), "uvloop", within=MINUTES * 60 + 300)


async def soak(tmp_path: Path, seconds: float) -> None:
    with ExitStack() as held:
        args = ["--wtype", "wrk-orchestrator-http", "--port", "0", "--rpc.port", "0", *QUIET]
        orchestrator = held.enter_context(start_worker(args, tmp_path))
        running = {name: held.enter_context(start_worker(rack(tmp_path, name), tmp_path)) for name in RACKS}
        diaries = [Diary(orchestrator), Diary(running["r1"])]
        async with client(orchestrator) as peers:

            async def up() -> bool:
                return set((await states(peers, orchestrator)).values()) == {"healthy"}

            async def ask(number: int) -> int:
                body: dict[str, Any] = {**BODY, "inputData": str(number)}
                await peers.request(orchestrator.endpoint, ROUTE, body, timeout=5.0)
                return number

            await until(up)
            http = GoodCaller(str(orchestrator.status["http"]), msgspec.json.encode(BODY))
            began = clock.monotonic()
            async with churn(tmp_path, held, running) as codes, traffic(ask, RATE) as rpc:
                asking = asyncio.create_task(http.ask(seconds, RATE))
                while clock.monotonic() - began < seconds:
                    await asyncio.sleep(SAMPLE_S)
                    for diary in diaries:
                        await diary.note(peers)
                answers = await asking
            lap = rpc.lap()
            await http.close()
        print(f"\n{seconds / 60:.1f} min, {len(codes)} racks left: RPC {lap}")
        print(
            f"HTTP {len(answers.seconds)} answered, {len(answers.failures)} failed, "
            f"p99 {answers.ms(0.99):.1f} ms"
        )
        for diary in diaries:
            print(diary)
        assert Counter(lap.troubles) == {}
        assert Counter(answers.failures) == {}
        assert set(codes) <= {0}
        for diary in diaries:
            assert MINUTES < SLOPE_FROM or diary.slope() <= MAX_SLOPE
            assert diary.more("descriptors") <= MAX_MORE
            assert diary.more("tasks") <= MAX_MORE


# --- all racks away for a while


async def outage(tmp_path: Path, seconds: float) -> None:
    """Requests go on while every rack is dead: what they are told, and when the first is answered again."""
    with ExitStack() as held:
        args = ["--wtype", "wrk-orchestrator-http", "--port", "0", "--rpc.port", "0", *QUIET]
        orchestrator = held.enter_context(start_worker(args, tmp_path))
        racks = [held.enter_context(start_worker(rack(tmp_path, name), tmp_path)) for name in RACKS]
        told: list[tuple[float, float, str]] = []
        async with client(orchestrator) as peers:

            async def up() -> bool:
                return set((await states(peers, orchestrator)).values()) == {"healthy"}

            async def ask(number: int) -> int:
                sent, outcome = clock.monotonic(), "ok"
                try:
                    await peers.request(orchestrator.endpoint, ROUTE, BODY, timeout=5.0)
                except errors.WrkError as error:
                    outcome = f"{type(error).__name__}{'' if error.retry_after_ms else ' without a hint'}"
                told.append((sent, clock.monotonic(), outcome))
                return number

            await until(up)
            async with traffic(ask, 100.0):
                await asyncio.sleep(5.0)
                for one in racks:
                    one.kill()
                died = clock.monotonic()
                await asyncio.sleep(seconds)
                back = held.enter_context(start_worker(rack(tmp_path, RACKS[0]), tmp_path))
                returned = clock.monotonic()
                await until(_answered(told, returned))
        assert back.running
        during = [(sent, at, how) for sent, at, how in told if died + 3.0 < sent < returned - 3.0]
        first = min(at for sent, at, how in told if how == "ok" and at > died + 3.0)
        print(f"\noutage of {seconds:g} s: {Counter(how for _, _, how in during)}")
        print(f"first answer {first - returned:+.2f} s after the first rack was up again")
        assert {how for _, _, how in during} <= {"NoWorkersAvailable"}
        assert max(at - sent for sent, at, _ in during) <= 2.5
        assert first - returned <= 3.0


def _answered(told: list[tuple[float, float, str]], since: float) -> Any:
    async def answered() -> bool:
        return any(how == "ok" and at > since for _, at, how in told[-200:])

    return answered


def test_all_racks_are_dead_for_a_minute(tmp_path: Path) -> None:
    run(outage(tmp_path, 60.0), "uvloop", within=300.0)
