"""One seed from its plan to its verdict.

    outcome = simulate(42)
    assert outcome.violations == []

The load runs for the plan's sixty seconds and then until all is answered; then everything is counted. The
wall clock is whatever `wall` says: nothing may follow from it.
"""

from __future__ import annotations

import asyncio
import gc
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from unittest import mock

from tests.sim import promises
from tests.sim.faults import stage
from tests.sim.loop import SimLoop
from tests.sim.people import Ask, draw
from tests.sim.plan import SECONDS, Plan, plan
from tests.sim.world import World
from wrk_orchestrator.chaos.checker import Rules, check
from wrk_orchestrator.chaos.history import Event

LOAD_FROM = 2.0  # the mesh comes up before
STARTS_WITHIN = 1.0
LONGEST_ANSWER = 8.0  # seconds after the last request within which all have to be answered
CALM = 3.0  # and then everything has to be over

CONDEMNED = "condemned"  # the checker knows faults by their targets; `promises` knows whom else they hit

WALL = 1_800_000_000.0
Wall = Callable[[float], float]


@dataclass(frozen=True)
class Outcome:
    plan: Plan
    history: list[Event]
    lines: list[str]
    story: bytes
    violations: list[str]


def steady(now: float) -> float:
    return WALL + now


def simulate(seed: int, *, rate: float = 50.0, wall: Wall = steady) -> Outcome:
    """Play one seed. `wall` makes wall-clock seconds of the seconds since the beginning."""
    planned = plan(seed, rate)
    loop = SimLoop()
    with TemporaryDirectory(prefix="wrk-sim-") as directory, _garbage_waits():
        world = World(loop, planned, Path(directory))
        with _wall_clock(loop, wall):
            loop.at(0.0, None, _begin, world)
            loop.at(SECONDS + LONGEST_ANSWER + CALM, None, loop.stop)
            loop.run_forever()
        world.count()
        violations = _judge(world)
        outcome = Outcome(planned, world.history, world.lines, world.story(), violations)
        _tear_down(world)
        del world, loop
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # coroutines that were never begun
            gc.collect()
    return outcome


def _begin(world: World) -> None:
    dice, loop = Random(f"load {world.plan.seed}"), world.loop
    for member in world.members.values():
        loop.at(dice.uniform(0.0, STARTS_WITHIN), None, world.start, member)
    for mishap in world.plan.mishaps:
        stage(world, mishap)
    promises.look_when_healed(world)
    clients = world.of("client")
    at, number = LOAD_FROM, 0
    while (at := at + dice.expovariate(world.plan.rate)) < SECONDS:
        number += 1
        loop.at(at, None, _ask, world, dice.choice(clients).name, draw(dice, number))


def _ask(world: World, name: str, ask: Ask) -> None:
    member = world.members[name]
    assert member.caller is not None
    world.asks[ask.id] = ask
    world.loop.soon(member.process, member.caller.ask, ask)


def _judge(world: World) -> list[str]:
    starts = sum(member.epoch for member in world.of("orchestrator"))
    rules = Rules(allowed=None, orchestrators=starts)  # each of them may be asked once
    found = [str(found) for found in check(world.history, rules) if found.kind != CONDEMNED]
    return found + world.unseen + promises.broken(world.plan, world.asks, world.history)


def _tear_down(world: World) -> None:
    """Nobody ends properly: what was going on just goes away, and none of its code runs any more."""
    loop = world.loop
    loop.over = True
    for member in world.members.values():
        if member.running is not None:
            world._bury(member, member.running)
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()


@contextmanager
def _garbage_waits() -> Iterator[None]:
    """When cycles are collected depends on the machine, and what then runs must not matter."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@contextmanager
def _wall_clock(loop: SimLoop, wall: Wall) -> Iterator[None]:
    def seconds() -> float:
        return wall(loop.now)

    def nanoseconds() -> int:
        return int(wall(loop.now) * 1e9)

    with mock.patch.object(time, "time", seconds), mock.patch.object(time, "time_ns", nanoseconds):
        yield
