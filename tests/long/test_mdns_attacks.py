"""Attacks by mDNS at full size, against a process on one core: what they cost it, and that it is not deaf.

Run by `bin/test --long`; every test prints what it measured. Linux only.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog
import uvloop

from tests.fakes.ear import HOST, MESH_ID, SEAL, Ear, Report, ear, sealed
from tests.fakes.forger import flood
from wrk_base.discovery.advert import Advert
from wrk_base.discovery.mdns import MdnsDiscovery

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="measures by /proc"),
]

MEGABYTE = 2**20
MAX_GROWTH = 40 * MEGABYTE
MAX_LAG = 0.050  # seconds, 99th percentile
MAX_CORES = 0.5
FOUND_WITHIN = 10.0  # seconds


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(story())


def worker(mesh: str, name: str, role: str = "rack") -> Advert:
    return sealed(Advert(f"{name}-{mesh[-8:]}", 1, role, mesh, HOST, 4000 + len(name), 1))


@asynccontextmanager
async def announced(advert: Advert) -> AsyncIterator[None]:
    """A real member, on loopback, in this process."""
    log: Any = structlog.wrap_logger(
        structlog.ReturnLogger(), wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL)
    )
    discovery = MdnsDiscovery(advert.mesh, HOST, log, seal=SEAL, mesh_id=MESH_ID)
    await discovery.start(advert, lambda found: None, lambda found: None)
    try:
        yield
    finally:
        await discovery.stop()


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[str, Ear]]:
    """A mesh with one process in it, which has come to rest."""
    mesh = f"test-{random.randrange(2**64):016x}"
    async with ear(worker(mesh, "ear", "orchestrator")) as listener:
        async with announced(worker(mesh, "early")):
            await listener.found(worker(mesh, "early").worker_id)
        await listener.measure()
        yield mesh, listener


async def seconds_to_find(listener: Ear, advert: Advert) -> float:
    begun = time.monotonic()
    async with announced(advert), asyncio.timeout(FOUND_WITHIN):
        await listener.found(advert.worker_id)
        return time.monotonic() - begun


def tell(what: str, report: Report, took: float) -> None:
    print(
        f"\n{what}: {report.cores:.2f} cores, {report.grown / MEGABYTE:+.1f} MiB, "
        f"lag p99 {report.lag_p99 * 1000:.1f} ms, a real rack found after {took * 1000:.0f} ms, "
        f"{report.counters}"
    )


@pytest.mark.parametrize(
    ("packets", "per_second"), [(10_000, 200.0), (100_000, 0.0)], ids=["200 a second", "as fast as it goes"]
)
@pytest.mark.parametrize("source", [HOST, "127.0.0.66"], ids=["our address", "another address"])
def test_forged_announcements_are_never_found(packets: int, per_second: float, source: str) -> None:
    async def story() -> None:
        async with listening() as (mesh, listener):
            model = worker(mesh, "forged")
            async with flood(
                "spoofs", model, packets=packets, per_second=per_second, source=source
            ) as attack:
                await attack.wait()
            took = await seconds_to_find(listener, worker(mesh, "newcomer"))
            report = await listener.report()
            tell(f"{packets} forged announcements", report, took)
            assert report.found == 2
            assert report.counters["forged"] >= 500
            assert report.grown <= MAX_GROWTH

    run(story)


@pytest.mark.parametrize("kind", ["records", "spoofs", "questions"])
def test_a_flood_costs_half_a_core_at_most_and_deafens_nobody(kind: str) -> None:
    """100 packets a second, of 250 records where they are records; the others at 1,000 a second."""

    async def story() -> None:
        rate, seconds = (100.0, 100.0) if kind == "records" else (1000.0, 30.0)
        async with listening() as (mesh, listener):
            packets = int(rate * seconds)
            async with flood(kind, worker(mesh, "forged"), packets=packets, per_second=rate) as attack:
                await asyncio.sleep(seconds / 2)
                took = await seconds_to_find(listener, worker(mesh, "newcomer"))
                await attack.wait()
            report = await listener.report()
            tell(f"{kind}, {rate:.0f} packets a second for {seconds:.0f} s", report, took)
            assert report.found == 2
            assert report.grown <= MAX_GROWTH
            assert report.cores <= MAX_CORES
            assert report.lag_p99 <= MAX_LAG

    run(story)


def test_a_thousand_forged_goodbyes_take_nobody_away() -> None:
    async def story() -> None:
        async with listening() as (mesh, listener):
            victim = worker(mesh, "victim")
            async with announced(victim):
                await listener.found(victim.worker_id)
                async with flood("goodbyes", victim, packets=1000, per_second=100) as attack:
                    await attack.wait()
                begun = time.monotonic()
                async with asyncio.timeout(FOUND_WITHIN):
                    report = await listener.report()
                    while report.known != [victim.worker_id]:
                        report = await listener.report()
                tell("1,000 forged goodbyes", report, time.monotonic() - begun)

    run(story)
