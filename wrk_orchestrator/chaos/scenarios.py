"""The scenarios by name: what is done to a house under load, and what its callers may notice of that.

A scenario is a short story in faults. `rules.allowed` are the errors that its callers may be told; where that
is empty, nobody may notice anything. How long it plays follows from how many faults it is asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from wrk_base import errors

from . import network_scenarios as network
from .checker import Rules
from .house import Layout
from .load import Shape
from .stage import Stage

QUIET_SECONDS = 5.0  # of load before the first fault, to compare with
REST_SECONDS = 3.0  # of load behind the last one
OVERLOAD_SECONDS = 20.0

BUSY = frozenset({errors.CapacityExceeded.name, errors.QueueTimeout.name})
NOBODY_THERE = BUSY | {
    errors.NoWorkersAvailable.name,
    errors.Unavailable.name,
    errors.DeadlineExceeded.name,
    errors.Internal.name,
}


@dataclass(frozen=True, slots=True)
class Scenario:
    """Played by default with so many `faults`."""

    name: str
    says: str
    play: Callable[[Stage], Awaitable[None]]
    faults: int
    layout: Layout = field(default_factory=Layout)
    shape: Shape = field(default_factory=Shape)
    rules: Rules = field(default_factory=Rules)
    http: bool = True
    streams: bool = False

    @property
    def hurts_racks_alone(self) -> bool:
        """Whether it can be played by guests in a mesh that is there."""
        plain = self.layout.orchestrators == 1 and not (self.layout.relays or self.layout.cables)
        return plain and self.play not in (_freeze_orchestrator, network.hog)

    @property
    def confined(self) -> bool:
        """Whether it needs a network of its own."""
        return self.layout.cables


async def _kill_racks(stage: Stage) -> None:
    """A random one every three seconds; each is started again within two."""
    async with asyncio.TaskGroup() as beside:
        for _ in range(stage.faults):
            beside.create_task(stage.kill(await stage.some_rack(), stage.rng.uniform(0, 2)))
            await stage.calm(3.0)


async def _freeze_rack(stage: Stage) -> None:
    for _ in range(stage.faults):
        await stage.freeze(await stage.some_rack(), 8.0)
        await stage.calm(7.0)


async def _kill_orchestrator(stage: Stage) -> None:
    for _ in range(stage.faults):
        orchestrator = stage.rng.choice(stage.house.orchestrators)
        await stage.kill(orchestrator, stage.rng.uniform(0, 1))
        await stage.house.all_routable(10.0)
        await stage.calm(1.0)


async def _rolling_restart(stage: Stage) -> None:
    members = stage.house.members
    for number in range(stage.faults):
        member = members[number % len(members)]
        await stage.terminate(member)
        await stage.house.all_routable(10.0)


async def _freeze_orchestrator(stage: Stage) -> None:
    for _ in range(stage.faults):
        await stage.freeze(stage.rng.choice(stage.house.orchestrators), stage.rng.uniform(1, 10))
        await stage.calm(5.0)


async def _all_racks_fail(stage: Stage) -> None:
    """All at once, away for ten seconds."""
    for _ in range(stage.faults):
        await asyncio.gather(*(stage.kill(rack, 10.0) for rack in stage.house.racks))
        await stage.calm(5.0)


async def _streams(stage: Stage) -> None:
    """Racks are killed while they stream, wherever they are in it.

    Seldom enough for the retry budget, of which each stream that moves takes one: a fifth of those asked for.
    """
    for _ in range(stage.faults):
        await stage.kill(await stage.some_rack(), 0.0)
        await stage.calm(stage.rng.uniform(1.5, 2.5))


async def _overload(stage: Stage) -> None:
    """Nothing is done to anybody but that twice as much is asked as can be answered."""
    await stage.calm(OVERLOAD_SECONDS)


FOUR = Layout(racks=4)
CABLES = Layout(racks=4, cables=True)
TWO = Layout(orchestrators=2)

SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("kill-racks", "SIGKILL a random rack every 3 s, started again", _kill_racks, 20),
        Scenario("freeze-rack", "SIGSTOP one of four racks for 8 s", _freeze_rack, 1, FOUR),
        Scenario(
            "kill-orchestrator",
            "SIGKILL one of two orchestrators, started again",
            _kill_orchestrator,
            5,
            TWO,
            rules=Rules(orchestrators=2),
            http=False,
        ),
        Scenario(
            "rolling-restart",
            "SIGTERM every process in turn, started again",
            _rolling_restart,
            10,
            TWO,
            rules=Rules(orchestrators=2),
            http=False,
        ),
        Scenario(
            "freeze-orchestrator",
            "SIGSTOP the only orchestrator for 1 to 10 s",
            _freeze_orchestrator,
            3,
            rules=Rules(allowed=NOBODY_THERE),
        ),
        Scenario(
            "all-racks-fail",
            "SIGKILL all racks at once, away for 10 s",
            _all_racks_fail,
            1,
            rules=Rules(allowed=NOBODY_THERE),
        ),
        Scenario(
            "streams",
            "SIGKILL racks while they stream",
            _streams,
            10,
            shape=Shape(rate=30.0, deadline=10.0, words=40, interval=20.0),
            streams=True,
        ),
        Scenario("hog", "counting processes on every core for 20 s", network.hog, 1),
        Scenario("partition", "one rack's cable out for 1, 5 and 30 s in turn", network.partition, 3, CABLES),
        Scenario("one-way", "one rack is not heard, or hears nothing, for 6 s", network.one_way, 2, CABLES),
        Scenario("flapping-link", "one rack's cable out for a second", network.flapping_link, 10, CABLES),
        Scenario("multicast-dead", "no multicast for 30 s", network.multicast_dead, 1, CABLES),
        Scenario(
            "relay",
            "half the racks' links late, in slivers, reset, cut off, deaf in turn",
            network.relay,
            5,
            Layout(racks=4, relays=True),
        ),
        Scenario(
            "overload",
            "ask for twice of what can be answered",
            _overload,
            0,
            Layout(racks=4, rack_flags=(("latency", "80"), ("jitter", "40"), ("capacity", "2"))),
            shape=Shape(rate=160.0),
            rules=Rules(allowed=BUSY, queue=256),
        ),
    )
}
