"""Whoever comes and goes leaves nothing behind, however many they are.

Every table that is reached from an orchestrator or a rack is counted, whether or not anybody thought of it.
What remembers those who left on purpose is named here, with its bound.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from tests.fakes.aio import run
from tests.fakes.census import census, grown
from tests.fakes.context import Offer
from tests.unit.test_orchestrator import Mesh, until
from wrk_base import errors
from wrk_orchestrator.state_log import MOST_VOICES

REMEMBERED = {
    "StateLog._voices": MOST_VOICES,
    "_Voice": MOST_VOICES,
    "Book._rows": 10_000,  # tombstones, for seven days
    "Book._stamps": 10_000,
}
CALM = 120.0  # virtual seconds, after which leases, quarantines and timers of those who left are over


def left_behind(before: Counter[str], after: Counter[str]) -> dict[str, tuple[int, int]]:
    more = grown(before, after)
    return {name: counts for name, counts in more.items() if counts[1] > REMEMBERED.get(name, 0)}


async def passers_by(mesh: Mesh, first: int, count: int) -> None:
    """Workers are registered that nobody reaches, are asked for, and leave again or are forgotten."""
    for number in range(first, first + count):
        worker = f"w{number}"
        await mesh.register(worker, f"tcp://10.0.{number // 250}.{1 + number % 250}:7", f"m{number % 3}")
        try:
            await mesh.ask("routeInferenceRequest", {"modelId": f"m{number % 3}", "inputData": "x"})
        except errors.WrkError:
            pass
        await mesh.ask("unregisterWorker", {"workerId": worker})


async def racks_and_callers(mesh: Mesh, first: int, count: int) -> None:
    """The same by racks that live, work and stop, and callers who ask once."""
    for number in range(first, first + count):
        rack = await mesh.rack(f"r{number}", Offer(models=("m1", f"of {number % 3}")))
        await until(lambda name=f"r{number}": mesh.states().get(name) == "healthy")  # type: ignore[misc]
        caller = mesh.caller(f"caller {number}")
        body = {"modelId": "m1", "inputData": "x", "options": {"sessionId": f"s{number}"}}
        await caller.request(mesh.orc.endpoint, "routeInferenceRequest", body, timeout=60.0)
        caller.close()
        await rack.stop()


def test_ids_that_come_and_go_leave_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with Mesh(tmp_path) as mesh:
            counts: list[Counter[str]] = []
            for turn in range(2):
                await passers_by(mesh, 1000 * turn, 200 * (turn + 1))
                await asyncio.sleep(CALM)
                counts.append(census(mesh.orc))
            assert left_behind(*counts) == {}

    run(story(), "virtual", within=1e6)


def test_racks_and_callers_that_come_and_go_leave_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with Mesh(tmp_path) as mesh:
            stays = await mesh.rack("stays", Offer(models=("m1", "m2")))
            counts: list[Counter[str]] = []
            for turn in range(2):
                await racks_and_callers(mesh, 100 * turn, 10 * (turn + 1))
                await asyncio.sleep(CALM)
                counts.append(census(mesh.orc, stays))
            assert left_behind(*counts) == {}

    run(story(), "virtual", within=1e6)


def test_census_finds_what_grows(tmp_path: Path) -> None:
    async def story() -> None:
        async with Mesh(tmp_path) as mesh:
            before = census(mesh.orc)
            await mesh.register("w1", "tcp://10.0.0.1:7", "m1")
            more = grown(before, census(mesh.orc))
            assert {"ServiceRegistry._workers", "HealthMonitor._records", "WorkerRecord"} <= more.keys()
            for number in range(50):
                mesh.orc.router.book(f"leak {number}")
            assert grown(before, census(mesh.orc))["Router._books"][1] >= 50

    run(story(), "virtual", within=1e6)
