"""Scenarios of bad networks: cables that are pulled, links that lead one way, a relay that spoils bytes.

Those with cables run in network namespaces of their own (`namespaces.py`), those with relays anywhere.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress

from .history import PARTITION
from .namespaces import Host, multicast_arrives
from .relay import DELAYED, NO_TROUBLE, RESET, SLICED, SWALLOWED, TRUNCATED, Relay, Trouble
from .stage import Stage

PARTITIONS = (1.0, 5.0, 30.0)
BACK_SECONDS = 10.0
SILENT_SECONDS = 30.0
LONGEST_SECONDS = 330.0  # whose link came and went again and again is in quarantine for up to five minutes
HOG_SECONDS = 20.0
COUNT = "import sys, time\nend = time.time() + float(sys.argv[1])\nwhile time.time() < end: pass"
TROUBLES = (
    (DELAYED, Trouble(delay=0.03, jitter=0.04)),
    (SLICED, Trouble(slices=64)),
    (RESET, Trouble(reset_within=20_000)),
    (TRUNCATED, Trouble(truncate_within=20_000)),
    (SWALLOWED, Trouble(deaf=True)),
)
TROUBLED_SECONDS = 5.0


async def partition(stage: Stage) -> None:
    """One rack's cable for 1, 5 and 30 seconds in turn."""
    for number in range(stage.faults):
        host, rack = _some_host(stage)
        at = stage.recorder.now()
        await host.unplug()
        await stage.calm(PARTITIONS[number % len(PARTITIONS)])
        await host.plug()
        stage.staged(PARTITION, rack, at, bit=True)
        await stage.house.all_routable(BACK_SECONDS)


async def one_way(stage: Stage) -> None:
    """What one rack sends vanishes for six seconds, then what is sent to another."""
    for number in range(stage.faults):
        host, rack = _some_host(stage)
        lose, heal = (host.mute, host.unmute) if number % 2 == 0 else (host.deafen, host.undeafen)
        at = stage.recorder.now()
        await lose()
        await stage.calm(6.0)
        await heal()
        stage.staged("one way", rack, at, bit=True)
        await stage.house.all_routable(BACK_SECONDS)


async def flapping_link(stage: Stage) -> None:
    """One rack's cable, a second out and a second in."""
    host, rack = _some_host(stage)
    for _ in range(stage.faults):
        at = stage.recorder.now()
        await host.unplug()
        await stage.calm(1.0)
        await host.plug()
        stage.staged("flap", rack, at, bit=True)
        await stage.calm(1.0)
    await stage.house.all_routable(BACK_SECONDS)


async def multicast_dead(stage: Stage) -> None:
    """No multicast at all, and nothing else is wrong."""
    hosts = stage.house.hosts
    spoke = all([await multicast_arrives(host) for host in hosts])
    for host in hosts:
        await host.silence()
    bit = spoke and not any([await multicast_arrives(host) for host in hosts])
    for _ in range(stage.faults):
        at = stage.recorder.now()
        await stage.calm(SILENT_SECONDS)
        stage.staged("no multicast", "everybody", at, bit=bit)
        await stage.house.all_routable(1.0)


async def relay(stage: Stage) -> None:
    """Each trouble in turn, on the links of half the racks."""
    for number in range(stage.faults):
        what, trouble = TROUBLES[number % len(TROUBLES)]
        troubled = stage.rng.sample(range(len(stage.house.relays)), len(stage.house.relays) // 2)
        at = stage.recorder.now()
        before = _did(stage.house.relays, what)
        for index in troubled:
            stage.house.relays[index].trouble = trouble
        await stage.calm(TROUBLED_SECONDS)
        for index in troubled:
            stage.house.relays[index].trouble = NO_TROUBLE
            if trouble.deaf:  # these connections would stay as they are for ever
                stage.house.relays[index].reset()
        bit = _did(stage.house.relays, what) > before
        for index in troubled:
            stage.staged(what, stage.house.racks[index].worker_id, at, bit=bit)
        await stage.house.all_routable(LONGEST_SECONDS)  # and half of the racks are well again


async def hog(stage: Stage) -> None:
    """As many processes as there are cores that do nothing but count, one time after the other."""
    for _ in range(stage.faults):
        await _hog(stage)


async def _hog(stage: Stage) -> None:
    at = stage.recorder.now()
    counting = [await _count() for _ in range(os.cpu_count() or 1)]
    try:
        await stage.calm(HOG_SECONDS)
        bit = all(process.returncode is None for process in counting)
    finally:
        for process in counting:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    stage.staged("hog", "everybody", at, bit=bit)


async def _count() -> asyncio.subprocess.Process:
    # It ends by itself should nobody be left to end it.
    return await asyncio.create_subprocess_exec(sys.executable, "-c", COUNT, str(HOG_SECONDS * 2))


def _some_host(stage: Stage) -> tuple[Host, str]:
    number = stage.rng.randrange(len(stage.house.hosts))
    return stage.house.hosts[number], stage.house.racks[number].worker_id


def _did(relays: list[Relay], what: str) -> int:
    return sum(each.did[what] for each in relays)
