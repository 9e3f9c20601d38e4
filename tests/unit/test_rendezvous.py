"""The worker that an idempotency key belongs to: every orchestrator names the same one, busy or not, and it
changes only where it must."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.balanced import BalancedMesh
from wrk_base import errors
from wrk_base.contract import Requirements
from wrk_orchestrator.affinity import Affinity
from wrk_orchestrator.candidate import Candidate
from wrk_orchestrator.records import WorkerRecord
from wrk_orchestrator.strategies import STRATEGIES, Rendezvous
from wrk_orchestrator.strategies.ring import MANY

KEYS = [Affinity(key=f"key {number}") for number in range(2000)]


def mesh_of(workers: int, strategy: str = "round-robin", room: int = 1000) -> BalancedMesh:
    return BalancedMesh(strategy, workers, room=room)


def owners(mesh: BalancedMesh, *exclude: str) -> list[str]:
    return [mesh.pick(*exclude, affinity=key) for key in KEYS]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_whatever_the_strategy_all_orchestrators_name_the_same_worker(strategy: str) -> None:
    one, other = mesh_of(9, strategy), mesh_of(0)
    for number in reversed(range(9)):  # they met the workers in another order
        other.join(f"w{number}")
    assert owners(one) == owners(one) == owners(other)


@pytest.mark.parametrize("workers", [40, 100, 1000])
def test_so_they_do_where_there_are_many_and_had_been_more(workers: int) -> None:
    one, other = mesh_of(workers), mesh_of(2 * workers)
    owners(other)
    for number in range(workers, 2 * workers):
        other.leave(f"w{number}")
    assert owners(one) == owners(other)


def test_the_process_counts_and_not_the_name_that_it_is_registered_by() -> None:
    one, other = mesh_of(0), mesh_of(0)
    for number in range(5):
        one.join(f"w{number}", instance_id=f"w{number}")
        other.join(f"by hand {number}", instance_id=f"w{number}")
    assert [name[-1] for name in owners(one)] == [name[-1] for name in owners(other)]


def test_a_name_that_is_bound_later_moves_its_keys_where_others_have_them() -> None:
    one, other = mesh_of(0), mesh_of(0)
    for number in range(5):
        one.join(f"w{number}", instance_id=f"w{number}")
        other.join(f"by hand {number}")
    owners(other)
    for number in range(5):
        other.balancer.apply(other.registry.bind_instance(f"by hand {number}", f"w{number}", 1))
        other.balancer.set_limit(f"by hand {number}", 1000)
    assert [name[-1] for name in owners(one)] == [name[-1] for name in owners(other)]


def test_load_moves_no_key_until_the_worker_is_full() -> None:
    mesh, key = mesh_of(4, room=10), KEYS[0]
    first = mesh.pick(affinity=key)
    leases = [mesh.lease(affinity=key) for _ in range(10)]
    assert {lease.worker.worker_id for lease in leases} == {first}
    second = mesh.pick(affinity=key)
    assert second == mesh.pick(first, affinity=key) != first
    leases[0].release()
    assert mesh.pick(affinity=key) == first


def test_the_full_owner_can_be_asked_all_the_same_and_one_out_of_service_cannot() -> None:
    mesh, key = mesh_of(4, room=1), KEYS[0]
    full = mesh.lease(affinity=key)
    owner = full.worker.worker_id
    asked = mesh.balancer.pick_full("m", None, (), 0.0, key)
    assert asked is not None
    assert asked.worker.worker_id == owner
    assert mesh.balancer.load(owner) == 2
    asked.release()
    full.release()
    assert mesh.balancer.pick_full("m", None, (), 0.0, key) is None  # it is not full
    mesh.balancer.set_limit(owner, 0)
    assert mesh.balancer.pick_full("m", None, (), 0.0, key) is None
    assert mesh.pick(affinity=key) != owner
    assert mesh.balancer.pick_full("nobody's", None, (), 0.0, key) is None
    assert mesh.balancer.leases == 0


@pytest.mark.parametrize("workers", [2, 8, 20, 100])
def test_only_the_keys_of_a_worker_that_leaves_move_and_they_come_back_with_it(workers: int) -> None:
    mesh = mesh_of(workers)
    before = owners(mesh)
    mesh.leave("w1")
    moved = {old for old, new in zip(before, owners(mesh), strict=True) if old != new}
    assert moved == {"w1"}
    mesh.join("w1")
    assert owners(mesh) == before


def test_of_many_workers_few_draw_lots() -> None:
    class Counted(Candidate):
        drawn = 0

        @property
        def size(self) -> int:
            Counted.drawn += 1
            return 1

        @size.setter
        def size(self, _: int) -> None: ...

    workers = [Counted(WorkerRecord(worker_id=f"w{n}", address=""), n) for n in range(10_000)]
    for worker in workers:
        worker.limit = 1
        worker.settle()
    Counted.drawn = 0
    assert Rendezvous("m", list(workers)).choose((), "key") is not None
    assert 0 < Counted.drawn <= 2 * MANY


def test_who_can_do_more_gets_more_keys() -> None:
    mesh = mesh_of(0)
    for name, capacity in {"one": 1, "two": 2, "five": 5}.items():
        mesh.join(name, max_concurrent=capacity)
    count = Counter(owners(mesh))
    assert count["two"] / count["one"] == pytest.approx(2, rel=0.2)
    assert count["five"] / count["one"] == pytest.approx(5, rel=0.2)


def test_the_same_key_for_another_model_belongs_to_whom_it_falls() -> None:
    mesh = mesh_of(0)
    for number in range(8):
        mesh.join(f"w{number}", models=("m", "other"))
    alike = 0
    for key in KEYS[:400]:
        with mesh.balancer.pick("other", None, (), 0.0, key) as lease:
            alike += lease.worker.worker_id == mesh.pick(affinity=key)
    assert 20 < alike < 100  # one in eight, by chance


def test_requirements_bind_keys_too_and_where_all_are_full_that_is_said() -> None:
    mesh = mesh_of(3, room=1)
    mesh.join("gpu", 1, tags=frozenset({"gpu"}))
    wants = Requirements(capabilities=["gpu"])
    with mesh.balancer.pick("m", wants, (), 0.0, KEYS[0]) as lease:
        assert lease.worker.worker_id == "gpu"
        with pytest.raises(errors.CapacityExceeded):
            mesh.balancer.pick("m", wants, (), 0.0, KEYS[0])


def test_an_explanation_names_them_in_the_order_of_the_key() -> None:
    mesh, key = mesh_of(5, "least-connections", room=1), KEYS[3]
    told = mesh.balancer.explain("m", None, (), 0.0, key)
    assert told[0]["score"] == "choice 1 of its key"
    taken = [mesh.lease(affinity=key).worker.worker_id for _ in range(5)]
    assert [one["workerId"] for one in told] == taken


@given(
    st.lists(st.tuples(st.sampled_from(("join", "leave", "limit", "pick")), st.integers(0, 60))),
    st.booleans(),
)
def test_what_is_kept_in_step_names_whom_a_new_one_names(steps: list[tuple[str, int]], many: bool) -> None:
    mesh = mesh_of(50 if many else 3)
    limits = Random(1)
    for what, number in steps:
        name = f"w{number}"
        if what == "join":
            mesh.join(name, max_concurrent=1 + number % 3)
        elif what == "leave" and mesh.registry.holder(name) is not None:
            mesh.leave(name)
        elif what == "limit":
            mesh.balancer.set_limit(name, limits.choice((0, 5)))
        elif what == "pick" and any(mesh.balancer.limit(f"w{n}") for n in range(61)):
            mesh.pick(affinity=KEYS[number])
    there = [name for name in (f"w{n}" for n in range(61)) if mesh.balancer.limit(name)]
    if there:
        kept = [mesh.pick(affinity=key) for key in KEYS[:20]]
        (pool,) = mesh.balancer._pools
        pool.by_key = None
        assert [mesh.pick(affinity=key) for key in KEYS[:20]] == kept
