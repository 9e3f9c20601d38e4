"""One scenario from beginning to end: a house, load, faults, the last count, and the verdict.

It ends by itself, leaves no process, and keeps the history where it is told to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from wrk_base import __version__
from wrk_base.client import Client
from wrk_base.config import Settings

from .callers import Caller, HttpCaller, HttpStreamCaller, RpcCaller, RpcStreamCaller
from .census import Counting
from .checker import Rules, Violation, check
from .figures import Figures, figures
from .history import Run
from .house import House, Layout
from .http_caller import Connections
from .load import Load, Shape
from .recorder import Recorder, events_of
from .scenarios import QUIET_SECONDS, REST_SECONDS, Scenario
from .stage import Stage
from .validity import void


@dataclass(frozen=True, slots=True)
class Verdict:
    """`void` says why the run proves nothing; then `violations` mean nothing either."""

    figures: Figures
    violations: list[Violation]
    void: list[str]

    @property
    def holds(self) -> bool:
        return not self.violations and not self.void


@dataclass(frozen=True, slots=True)
class Wishes:
    """`faults` and `rate` are the scenario's own where they are None; `seconds` are the least it takes.

    A `guest` starts, and hurts, racks alone, in a mesh that is there. `haste` is for tests.
    """

    seed: int
    faults: int | None = None
    seconds: float | None = None
    rate: float | None = None
    guest: bool = False
    haste: float = 1.0


@dataclass(frozen=True, slots=True)
class Where:
    """`folder` is for the history."""

    mesh: str
    state_dir: Path
    folder: Path


async def play(scenario: Scenario, wishes: Wishes, where: Where, say: Callable[[str], None]) -> Verdict:
    """Raises `StartError` where the house does not come up."""
    faults = scenario.faults if wishes.faults is None else wishes.faults
    shape = replace(scenario.shape, rate=scenario.shape.rate if wishes.rate is None else wishes.rate)
    layout = _with_deadline(scenario.layout, shape)
    if wishes.guest:
        layout = replace(layout, orchestrators=0)
    with Recorder(where.folder) as recorder:
        rng = Random(wishes.seed)
        house = House(layout, where.mesh, where.state_dir, recorder, rng)
        say(_who(layout, where))
        async with house:
            say(f"load: {shape.rate:g} requests/s; faults: {faults} x {scenario.says}; seed {wishes.seed}")
            stage = Stage(house, recorder, rng, shape, faults, wishes.haste)
            try:
                await _under_load(scenario, stage, wishes)
            except ExceptionGroup as group:
                raise group.exceptions[0] from None
            for member in house.orchestrators:
                recorder.take_states(member.child.log, member.name, Settings().health.quarantine_min / 1000)
    return judge(where.folder, scenario.rules)


def _who(layout: Layout, where: Where) -> str:
    racks = f"{layout.racks} simulated racks"
    if not layout.orchestrators:
        return f"{racks} join mesh {where.mesh}; history in {where.folder}"
    return f"{layout.orchestrators} orchestrator(s) and {racks} start in {where.folder}"


def judge(folder: Path, rules: Rules) -> Verdict:
    """The verdict on the history in this folder."""
    events = events_of(folder)
    return Verdict(figures(events), check(events, rules), void(events))


def _with_deadline(layout: Layout, shape: Shape) -> Layout:
    """OpenAI's chat has the deadline that the orchestrator gives it."""
    deadline = ("http.inferenceTimeout", str(round(shape.deadline * 1000)))
    return replace(layout, orchestrator_flags=(*layout.orchestrator_flags, deadline))


async def _under_load(scenario: Scenario, stage: Stage, wishes: Wishes) -> None:
    """Returns when every request has its end and all is counted."""
    house, recorder, shape = stage.house, stage.recorder, stage.shape
    client = house.client("load")
    connections = Connections(*house.http()) if scenario.http and house.orchestrators else None
    load = Load(shape, _callers(scenario, client, connections), recorder, Random(wishes.seed + 1))
    counting = Counting(house, recorder)
    try:
        await load.learn()
        run = Run(
            scenario=scenario.name,
            seed=wishes.seed,
            at=recorder.now(),
            rate=shape.rate,
            faults=stage.faults,
            facts={"version": __version__},
        )
        recorder.note(run)
        async with asyncio.TaskGroup() as beside:
            watching = [beside.create_task(counting.keep())]
            if wishes.guest:
                watching.append(beside.create_task(counting.watch()))
            loading = beside.create_task(load.run())
            await stage.calm(QUIET_SECONDS)
            await scenario.play(stage)
            await stage.calm(max(REST_SECONDS, (wishes.seconds or 0) - (recorder.now() - run.at)))
            load.stop()
            await loading
            for task in watching:
                task.cancel()
    finally:
        if connections is not None:
            connections.close()
        await client.close()
    await counting.end()


def _callers(scenario: Scenario, client: Client, connections: Connections | None) -> list[Caller]:
    rpc: Caller = RpcStreamCaller(client) if scenario.streams else RpcCaller(client)
    if connections is None:
        return [rpc]
    if scenario.streams:
        return [rpc, HttpStreamCaller(connections)]
    return [rpc, HttpCaller(connections, chat=True), rpc, HttpCaller(connections, chat=False)]
