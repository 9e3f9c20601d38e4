"""Prequal: a fast worker that is not hot, by news that are neither old nor used up."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.fakes.balanced import BalancedMesh, ClosedLoop, Machine
from wrk_base.contract import Requirements
from wrk_orchestrator.affinity import NO_AFFINITY
from wrk_orchestrator.strategies.prequal import Prequal
from wrk_orchestrator.strategies.probes import AGE_S, MOST_PROBES, USES


def mesh_with_latencies(*seconds: float, room: int = 100) -> BalancedMesh:
    """Workers w0, w1, ... that answer in so many seconds, all just heard of."""
    mesh = BalancedMesh("prequal", len(seconds), room=room)
    everybody = [f"w{number}" for number in range(len(seconds))]
    for worker_id, took in zip(everybody, seconds, strict=True):
        others = [other for other in everybody if other != worker_id]
        mesh.lease(*others).done(ok=True, now=mesh.now, elapsed_s=took)
    for worker_id in everybody:
        mesh.report(worker_id, 0)
    return mesh


def fill(mesh: BalancedMesh, **loads: int) -> None:
    for worker_id, load in loads.items():
        mesh.report(worker_id, load)


def test_of_the_cold_the_fastest_is_taken() -> None:
    mesh = mesh_with_latencies(0.3, 0.1, 0.2)
    fill(mesh, w0=1, w1=2, w2=9)
    assert mesh.pick() == "w1"


def test_as_busy_as_the_busiest_is_hot_however_fast() -> None:
    mesh = mesh_with_latencies(0.3, 0.1, 0.2)
    fill(mesh, w0=1, w1=9, w2=2)
    assert mesh.pick() == "w2"


def test_a_sixth_of_many_is_hot() -> None:
    mesh = mesh_with_latencies(*(0.1 + number / 100 for number in range(12)))
    fill(mesh, **{f"w{number}": 20 - number for number in range(12)})
    assert mesh.pick() == "w2"  # w0 and w1 are faster and busier


def test_if_all_are_hot_the_least_busy_is_taken_and_of_equals_the_fastest() -> None:
    mesh = mesh_with_latencies(0.3, 0.1, 0.2)
    fill(mesh, w0=5, w1=5, w2=5)
    assert mesh.pick() == "w1"


def test_busy_is_meant_by_what_each_can_do() -> None:
    mesh = mesh_with_latencies(0.1, 0.2)
    mesh.balancer.set_limit("w1", 4)
    fill(mesh, w0=3, w1=2)
    assert mesh.pick() == "w0"


def test_our_own_calls_since_the_news_make_a_worker_hot() -> None:
    mesh = mesh_with_latencies(0.1, 0.2)
    fill(mesh, w0=0, w1=0)
    leases = [mesh.lease() for _ in range(6)]
    assert Counter(lease.worker.worker_id for lease in leases) == {"w0": 3, "w1": 3}


def known(mesh: BalancedMesh) -> list[str]:
    """Whom the next choice may go by."""
    (pool,) = mesh.balancer._pools
    assert isinstance(pool.strategy, Prequal)
    return [candidate.worker_id for candidate in pool.strategy._probes.fresh(mesh.now)]


def test_who_was_slow_once_is_tried_again_though_nobody_is_busy() -> None:
    mesh = mesh_with_latencies(0.1, 0.2)
    picked: list[str] = []
    for _ in range(60):  # one call at a time
        mesh.now += 0.5
        for worker_id in ("w0", "w1"):
            mesh.report(worker_id, 0)
        lease = mesh.lease()
        picked.append(lease.worker.worker_id)
        lease.done(ok=True, now=mesh.now, elapsed_s=0.1 if picked[-1] == "w0" else 0.2)
    assert picked[:10] == ["w0"] * 10
    assert 1 <= picked.count("w1") <= 20


def test_news_grow_old() -> None:
    mesh = mesh_with_latencies(0.1, 5.0, 5.0)
    mesh.now += AGE_S
    assert {mesh.pick() for _ in range(2)} == {"w0"}
    mesh.now += 0.01
    assert known(mesh) == []
    assert {mesh.pick() for _ in range(9)} == {"w0", "w1", "w2"}  # of two at random
    mesh.report("w0", 0)
    mesh.report("w2", 0)
    assert known(mesh) == ["w0", "w2"]
    assert mesh.pick() == "w0"


def test_news_are_used_up() -> None:
    mesh = mesh_with_latencies(0.1, 5.0, 5.0)
    assert [mesh.pick() for _ in range(USES)] == ["w0"] * USES
    assert known(mesh) == ["w1", "w2"]
    mesh.report("w0", 0)
    assert known(mesh) == ["w1", "w2", "w0"]
    assert mesh.pick() == "w0"


def test_only_the_latest_news_are_kept_and_none_of_those_who_left() -> None:
    mesh = BalancedMesh("prequal", 3 * MOST_PROBES)
    mesh.pick()
    for number in range(3 * MOST_PROBES):
        mesh.report(f"w{number}", 0)
    assert known(mesh) == [f"w{number}" for number in range(2 * MOST_PROBES, 3 * MOST_PROBES)]
    for number in range(3 * MOST_PROBES - 1):
        mesh.leave(f"w{number}")
    assert known(mesh) == [f"w{3 * MOST_PROBES - 1}"]
    assert {mesh.pick() for _ in range(9)} == {f"w{3 * MOST_PROBES - 1}"}


def test_news_of_a_worker_that_does_not_meet_the_requirements_are_not_gone_by() -> None:
    mesh = mesh_with_latencies(0.1, 0.2)
    for worker_id in ("w2", "w3"):
        mesh.join(worker_id, tags=frozenset({"gpu"}))
        mesh.lease("w0", "w1", "w2" if worker_id == "w3" else "w3").done(True, mesh.now, 9.0)
        mesh.report(worker_id, 0)
    with mesh.balancer.pick("m", Requirements(capabilities=["gpu"]), (), mesh.now) as lease:
        assert lease.worker.worker_id in ("w2", "w3")
    assert mesh.pick() == "w0"


@pytest.mark.parametrize("seed", range(5))
def test_a_worker_ten_times_slower_gets_little_and_is_still_measured(seed: int) -> None:
    mesh = BalancedMesh("prequal", 8, seed=seed)
    machines = {f"w{n}": Machine(100, lambda _, took=1.0 if n == 3 else 0.1: took) for n in range(8)}
    loop = ClosedLoop(mesh, machines, lambda _: NO_AFFINITY)
    loop.run(callers=32, calls=10_000)
    assert 0 < loop.answered["w3"] <= 0.25 * 10_000 / 8
    others = [loop.answered[f"w{n}"] for n in range(8) if n != 3]
    assert max(others) <= 1.5 * min(others)
