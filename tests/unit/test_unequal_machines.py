"""Three machines with speeds 1 : 2 : 4 and no weights set: how much of their throughput callers get.

In a closed loop with a queue, in made-up time. Where machines say truly how much they work on at once, a
full one passes the next request on, so that every strategy uses all of them. Where they take more than they
work on, requests wait inside the slow one, and a strategy has to look at load or latency to notice:
`round-robin` and `random` look at neither, share evenly, and so go at the pace of the slowest.
"""

from __future__ import annotations

from random import Random

import pytest

from tests.fakes.balanced import BalancedMesh, ClosedLoop, Machine
from wrk_base.config import Settings
from wrk_orchestrator.affinity import Affinity
from wrk_orchestrator.strategies import STRATEGIES

EVERY = sorted(STRATEGIES)
BLIND = ["random", "round-robin"]
SPEEDS = {"slow": 1.0, "middle": 2.0, "quick": 4.0}
LANES = 4
CALLS = 4000


def share_of_throughput(strategy: str, seed: int, *, room: int, callers: int) -> float:
    """What callers get of the sum of what the machines can do."""
    rng = Random(seed)
    mesh = BalancedMesh(strategy, seed=seed)
    machines = {}
    for name, speed in SPEEDS.items():
        mesh.join(name, room, max_concurrent=room)
        machines[name] = Machine(LANES, lambda _, pace=speed: rng.expovariate(pace))
    loop = ClosedLoop(mesh, machines, lambda caller: Affinity(f"session {caller}", b"%d" % caller * 600))
    loop.run(callers, CALLS)
    return CALLS / mesh.now / (LANES * sum(SPEEDS.values()))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("strategy", EVERY)
def test_machines_that_say_what_they_can_do_are_used_to_the_full(strategy: str, seed: int) -> None:
    assert share_of_throughput(strategy, seed, room=LANES, callers=24) >= 0.9


def test_so_are_they_under_the_strategy_that_nobody_has_to_set() -> None:
    default = Settings().load_balancing_strategy
    assert share_of_throughput(default, 1, room=LANES, callers=3 * LANES) >= 0.9


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("strategy", sorted(set(EVERY) - set(BLIND)))
def test_machines_that_take_more_than_they_work_on_are_told_by_their_load(strategy: str, seed: int) -> None:
    assert share_of_throughput(strategy, seed, room=64, callers=32) >= 0.9


@pytest.mark.parametrize("strategy", BLIND)
def test_who_looks_at_neither_load_nor_latency_waits_for_the_slowest(strategy: str) -> None:
    thrice_the_slowest = 3 * min(SPEEDS.values()) / sum(SPEEDS.values())
    share = share_of_throughput(strategy, 1, room=64, callers=32)
    assert thrice_the_slowest - 0.05 <= share <= thrice_the_slowest + 0.1
