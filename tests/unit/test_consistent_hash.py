"""Consistent hash: a session stays where it is, no worker gets far above its share, few sessions move."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.fakes.balanced import BalancedMesh
from wrk_orchestrator.affinity import Affinity
from wrk_orchestrator.load_balancer import Lease
from wrk_orchestrator.strategies import Tuning
from wrk_orchestrator.strategies.consistent_hash import ConsistentHash
from wrk_orchestrator.strategies.ring import FEW, MANY, MOST_PASSED, Ring

SESSIONS = [Affinity(f"session {number}") for number in range(4000)]
UNBOUNDED = Tuning(session_load_bound=100)


def mesh_of(workers: int, tuning: Tuning = UNBOUNDED) -> BalancedMesh:
    return BalancedMesh("consistent-hash", workers, tuning=tuning)


def owners(mesh: BalancedMesh, *exclude: str) -> list[str]:
    """Whose each session is while nobody is busy."""
    return [mesh.pick(*exclude, affinity=session) for session in SESSIONS]


def ring_of(mesh: BalancedMesh) -> Ring:
    (pool,) = mesh.balancer._pools
    assert isinstance(pool.strategy, ConsistentHash)
    return pool.strategy._ring


def moved(before: list[str], after: list[str]) -> set[tuple[str, str]]:
    return {(old, new) for old, new in zip(before, after, strict=True) if old != new}


def test_a_session_stays_with_its_worker_and_other_orchestrators_send_it_there_too() -> None:
    one, other = mesh_of(9), mesh_of(0)
    for number in reversed(range(9)):  # they met the workers in another order
        other.join(f"w{number}")
    assert owners(one) == owners(one) == owners(other)


@pytest.mark.parametrize("workers", [2, 3, 8, 16])
def test_workers_alike_get_as_many_sessions_each(workers: int) -> None:
    count = Counter(owners(mesh_of(workers)))
    assert len(count) == workers
    assert all(0.8 <= n * workers / len(SESSIONS) <= 1.2 for n in count.values())


@pytest.mark.parametrize("by_hand", [True, False])
def test_who_can_do_more_gets_more_sessions(by_hand: bool) -> None:
    mesh = mesh_of(0)
    for worker_id, share in {"one": 1, "two": 2, "five": 5}.items():
        facts = {"weight": share / 3} if by_hand else {"max_concurrent": share}
        mesh.join(worker_id, **facts)
    count = Counter(owners(mesh))
    assert count["two"] / count["one"] == pytest.approx(2, rel=0.2)
    assert count["five"] / count["one"] == pytest.approx(5, rel=0.2)


@pytest.mark.parametrize("workers", [2, 8, 20, 100])
def test_only_the_sessions_of_a_worker_that_leaves_move_and_they_come_back_with_it(workers: int) -> None:
    mesh = mesh_of(workers)
    before = owners(mesh)
    mesh.leave("w1")
    without = owners(mesh)
    assert {old for old, _ in moved(before, without)} == {"w1"}
    if workers > 2:
        assert len({new for _, new in moved(before, without)}) > min(workers, 12) / 2  # no one inherits all
    mesh.join("w1")
    assert owners(mesh) == before
    mesh.balancer.set_limit("w1", 0)
    assert owners(mesh) == without
    mesh.balancer.set_limit("w1", 9)
    assert owners(mesh) == before


def test_a_request_that_tries_again_goes_where_the_session_would_live_without_the_first() -> None:
    mesh = mesh_of(6)
    again = owners(mesh, "w2")
    mesh.leave("w2")
    assert owners(mesh) == again


def test_no_worker_goes_above_its_bounded_share_of_the_load() -> None:
    mesh = mesh_of(5, Tuning(session_load_bound=1.25))
    crowd = Affinity("everybody is in this one session")
    leases: list[Lease] = []
    for number in range(100):
        leases.append(mesh.lease(affinity=crowd))
        loads = [mesh.balancer.load(f"w{worker}") for worker in range(5)]
        assert max(loads) <= 1.25 * (number + 1) / 5 + 1
    assert loads.count(max(loads)) < 5  # it is a bound, not an even load
    assert sorted(loads)[-1] == 25
    for lease in leases:
        lease.release()
    assert mesh.pick(affinity=crowd) == leases[0].worker.worker_id
    assert ring_of(mesh)._load == 0


def test_the_bound_goes_by_what_each_can_do() -> None:
    mesh = mesh_of(0, Tuning(session_load_bound=1.25))
    mesh.join("small", max_concurrent=1)
    mesh.join("large", max_concurrent=3)
    for session in ("one", "two", "three", "four"):  # some are at home at one, some at the other
        leases = [mesh.lease(affinity=Affinity(session)) for _ in range(64)]
        assert 64 * (1 - 1.25 * 3 / 4) - 1 <= mesh.balancer.load("small") <= 64 * 1.25 / 4 + 1
        for lease in leases:
            lease.release()


def test_load_from_elsewhere_counts_once_it_is_noticed() -> None:
    mesh = mesh_of(3, Tuning(session_load_bound=1.25))
    session = Affinity("a")
    home = mesh.pick(affinity=session)
    mesh.report(home, in_flight=50)
    away = mesh.pick(affinity=session)
    assert away != home
    mesh.report(home, in_flight=0)
    assert mesh.pick(affinity=session) == home


def test_requests_without_a_session_count_for_the_mean() -> None:
    mesh = mesh_of(4, Tuning(session_load_bound=1.25))
    before = owners(mesh)[:50]
    for _ in range(40):
        mesh.lease()
    assert [mesh.pick(affinity=session) for session in SESSIONS[:50]] == before


def test_a_full_worker_gets_its_sessions_back_when_it_has_room() -> None:
    mesh = mesh_of(4)
    before = owners(mesh)
    mesh.report("w3", in_flight=5)
    mesh.balancer.set_limit("w3", 5)
    assert "w3" not in owners(mesh)
    mesh.report("w3", in_flight=4)
    assert owners(mesh) == before


def test_requests_without_a_session_go_to_the_less_loaded() -> None:
    mesh = mesh_of(2)
    mesh.report("w0", in_flight=3)
    assert {mesh.pick() for _ in range(20)} == {"w1"}


def test_few_workers_are_all_asked_and_of_many_some_dozen_whatever_their_number() -> None:
    mesh = mesh_of(MANY)
    mesh.pick(affinity=SESSIONS[0])
    ring = ring_of(mesh)
    assert ring._arc == 1
    for number in range(MANY, 1000):
        mesh.join(f"w{number}")
        assert number < MANY or FEW <= (number + 1) * ring._arc <= MANY
    for number in range(999, 0, -1):
        mesh.leave(f"w{number}")
        assert ring._arc == 1 or FEW <= number * ring._arc <= MANY
    assert ring._arc == 1


def test_what_would_be_chosen_is_told_of_many_too_before_anybody_asked_for_it() -> None:
    for session in SESSIONS[:20]:
        mesh = mesh_of(200)
        assert mesh.explain(affinity=session)[0]["workerId"] == mesh.pick(affinity=session)


def test_one_that_comes_and_goes_at_the_border_does_not_move_everybody_each_time() -> None:
    mesh = mesh_of(MANY)
    mesh.pick(affinity=SESSIONS[0])
    mesh.join("one more")
    before = owners(mesh)
    for _ in range(3):
        mesh.leave("one more")
        assert len(moved(before, owners(mesh))) <= MANY
        mesh.join("one more")
        assert owners(mesh) == before


def test_where_all_are_busy_a_bounded_number_is_asked_and_the_least_busy_taken() -> None:
    mesh = mesh_of(500, Tuning(session_load_bound=1.0))
    mesh.pick(affinity=SESSIONS[0])
    for number in range(500):
        mesh.report(f"w{number}", in_flight=7)  # of which the circle has noticed nothing
    ring, asked = ring_of(mesh), 0

    class Seen(dict):  # type: ignore[type-arg]
        def __getitem__(self, key: object) -> object:
            nonlocal asked
            asked += 1
            return super().__getitem__(key)

    ring._loads = Seen(ring._loads)
    assert mesh.pick(affinity=SESSIONS[0])
    assert asked <= 2 * MOST_PASSED


def test_workers_that_come_and_go_leave_nothing_behind() -> None:
    mesh = mesh_of(3)
    mesh.pick(affinity=SESSIONS[0])
    for number in range(300):
        mesh.join("guest", weight=0.1 + number)
        lease = mesh.lease("w0", "w1", "w2", affinity=SESSIONS[number])
        mesh.leave("guest")
        lease.release()
    ring = ring_of(mesh)
    assert (len(ring._workers), len(ring._places), len(ring._loads)) == (3, 3, 3)
    assert (ring._size, ring._load, len(ring._waiting)) == (3_000_000, 0, 0)
