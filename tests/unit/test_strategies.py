"""The strategies: fair among equals, away from the slow, and each true to its own rule.

Everything runs through the balancer, with fixed seeds and a made-up clock. "Slow" is ten times slower,
in a small simulation of callers that always have a call in flight.
"""

from __future__ import annotations

import heapq
from collections import Counter

import pytest

from tests.fakes.balanced import PLENTY, BalancedMesh
from wrk_base.errors import CapacityExceeded, NoWorkersAvailable
from wrk_orchestrator.load_balancer import Lease
from wrk_orchestrator.strategies import STRATEGIES, deck
from wrk_orchestrator.strategies.deck import Deck
from wrk_orchestrator.strategies.latency import LEAST, MOST, Latency, kept
from wrk_orchestrator.strategies.least_connections import LeastConnections
from wrk_orchestrator.strategies.weighted import Weighted

EVERY = sorted(STRATEGIES)
DRAWS = ["peak-ewma", "power-of-two", "random"]
FOLLOWS_SPEED = sorted(set(EVERY) - {"random", "round-robin"})


class Mesh(BalancedMesh):
    def shares(self, picks: int) -> dict[str, float]:
        """Each worker's picks as a multiple of the fair share."""
        count = Counter(self.pick() for _ in range(picks))
        return {worker_id: n * len(self.registry) / picks for worker_id, n in count.items()}

    def run(self, callers: int, calls: int, seconds: dict[str, float]) -> Counter[str]:
        """`callers` who call again as soon as they are answered; who answered how often."""
        answered: Counter[str] = Counter()
        busy: list[tuple[float, int, float, Lease]] = []
        for number in range(calls + callers):
            if number >= callers:
                self.now, _, started, lease = heapq.heappop(busy)
                lease.done(ok=True, now=self.now, elapsed_s=self.now - started)
                answered[lease.worker.worker_id] += 1
            lease = self.lease()
            ends = self.now + seconds[lease.worker.worker_id]
            heapq.heappush(busy, (ends, number, self.now, lease))
        return answered


# All of them.


@pytest.mark.parametrize("workers", [1, 2, 8, 32])
@pytest.mark.parametrize("strategy", EVERY)
def test_equal_workers_get_equal_shares(strategy: str, workers: int) -> None:
    shares = Mesh(strategy, workers).shares(picks=100_000)
    assert len(shares) == workers
    assert all(0.95 <= share <= 1.05 for share in shares.values())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("strategy", FOLLOWS_SPEED)
def test_a_worker_ten_times_slower_gets_at_most_a_quarter_of_a_fair_share(strategy: str, seed: int) -> None:
    mesh = Mesh(strategy, workers=8, seed=seed)
    seconds = {f"w{number}": 0.1 for number in range(8)} | {"w3": 1.0}
    answered = mesh.run(callers=32, calls=20_000, seconds=seconds)
    assert answered["w3"] <= 0.25 * 20_000 / 8
    assert answered["w3"] > 0  # it is still measured


@pytest.mark.parametrize("strategy", EVERY)
def test_excluded_workers_are_never_picked_however_few_are_left(strategy: str) -> None:
    mesh = Mesh(strategy, workers=5)
    for left in range(5):
        exclude = [f"w{number}" for number in range(5) if number != left]
        assert {mesh.pick(*exclude) for _ in range(50)} == {f"w{left}"}
    assert {mesh.pick() for _ in range(200)} == {f"w{number}" for number in range(5)}


@pytest.mark.parametrize("strategy", EVERY)
def test_being_excluded_costs_no_more_than_the_turn(strategy: str) -> None:
    mesh = Mesh(strategy, workers=4)
    for _ in range(200):
        mesh.pick("w0", "w1")
    assert all(0.8 <= share <= 1.25 for share in mesh.shares(picks=4000).values())


@pytest.mark.parametrize("strategy", EVERY)
def test_an_empty_list_breaks_nothing(strategy: str) -> None:
    mesh = Mesh(strategy, workers=1)
    assert mesh.pick() == "w0"
    mesh.balancer.set_limit("w0", 0)
    for _ in range(3):
        with pytest.raises(NoWorkersAvailable):
            mesh.pick()
    mesh.balancer.set_limit("w0", 1)
    assert mesh.pick() == "w0"
    mesh.leave("w0")
    with pytest.raises(NoWorkersAvailable):
        mesh.pick()
    mesh.join("w1")
    mesh.join("w2")
    assert {mesh.pick() for _ in range(20)} == {"w1", "w2"}


@pytest.mark.parametrize("strategy", EVERY)
def test_full_workers_are_passed_over_until_they_have_room(strategy: str) -> None:
    mesh = Mesh(strategy, workers=3, room=2)
    leases = [mesh.lease() for _ in range(6)]
    assert Counter(lease.worker.worker_id for lease in leases) == {"w0": 2, "w1": 2, "w2": 2}
    with pytest.raises(CapacityExceeded):
        mesh.lease()
    for lease in leases:
        lease.release()
        assert mesh.pick() == lease.worker.worker_id
        mesh.balancer.set_limit(lease.worker.worker_id, 0)
        mesh.balancer.set_limit(lease.worker.worker_id, 2)
        leases[leases.index(lease)] = mesh.lease()


@pytest.mark.parametrize("strategy", EVERY)
def test_workers_that_join_late_or_return_get_their_share(strategy: str) -> None:
    mesh = Mesh(strategy, workers=4)
    mesh.shares(picks=1000)
    mesh.join("late")
    mesh.balancer.set_limit("w0", 0)
    mesh.shares(picks=1000)
    mesh.balancer.set_limit("w0", PLENTY)
    shares = mesh.shares(picks=10_000)
    assert set(shares) == {"w0", "w1", "w2", "w3", "late"}
    assert all(0.9 <= share <= 1.1 for share in shares.values())


@pytest.mark.parametrize("strategy", EVERY)
def test_the_same_seed_makes_the_same_picks(strategy: str) -> None:
    one, two = (Mesh(strategy, workers=9, seed=5) for _ in range(2))
    assert [one.pick("w1") for _ in range(100)] == [two.pick("w1") for _ in range(100)]


# Each one's own rule.


def test_round_robin_takes_turns() -> None:
    mesh = Mesh("round-robin", workers=3)
    assert [mesh.pick() for _ in range(6)] == ["w0", "w1", "w2", "w0", "w1", "w2"]
    assert mesh.pick("w0") == "w1"
    assert mesh.pick() == "w0"


def test_least_connections_goes_to_the_least_loaded() -> None:
    mesh = Mesh("least-connections", workers=3)
    first, second, third = (mesh.lease() for _ in range(3))
    second.release()
    assert mesh.pick() == second.worker.worker_id
    mesh.balancer.report_load("w1", in_flight=5, capacity=None, now=0)
    third.release()
    third.release()
    assert {mesh.pick() for _ in range(5)} == {"w2"}
    first.release()
    assert {mesh.pick() for _ in range(6)} == {"w0", "w2"}


def test_least_connections_lets_the_loaded_be_chosen_when_all_others_are_excluded() -> None:
    mesh = Mesh("least-connections", workers=3)
    mesh.balancer.report_load("w1", in_flight=3, capacity=None, now=0)
    mesh.balancer.report_load("w2", in_flight=9, capacity=None, now=0)
    assert mesh.pick("w0") == "w1"
    assert mesh.pick("w0", "w1") == "w2"
    assert mesh.pick() == "w0"


def test_least_connections_hears_of_loads_that_fell_after_the_pool_was_made() -> None:
    mesh = Mesh("least-connections", workers=2)
    mesh.balancer.report_load("w0", in_flight=5, capacity=None, now=0)
    mesh.balancer.report_load("w1", in_flight=3, capacity=None, now=0)
    assert mesh.pick() == "w1"
    mesh.balancer.report_load("w0", in_flight=2, capacity=None, now=0)
    assert mesh.pick() == "w0"


def test_least_connections_keeps_few_rows_whatever_loads_are_reported() -> None:
    mesh = Mesh("least-connections", workers=2)
    mesh.pick()
    (pool,) = mesh.balancer._pools
    assert isinstance(pool.strategy, LeastConnections)
    for load in range(1, 900):
        mesh.balancer.report_load("w0", in_flight=load, capacity=None, now=0)
        assert mesh.pick("w1") == "w0"
    assert len(pool.strategy._rows) < 30
    for load in range(900, 0, -1):
        mesh.balancer.report_load("w0", in_flight=load, capacity=None, now=0)
    assert len(pool.strategy._rows) < 30
    assert mesh.pick() == "w1"


def test_weights_set_by_hand_are_kept_to() -> None:
    mesh = Mesh("weighted")
    for worker_id, weight in {"one": 1.0, "two": 2.0, "five": 5.0}.items():
        mesh.join(worker_id, weight=weight)
    count = Counter(mesh.pick() for _ in range(8000))
    assert count["one"] == pytest.approx(1000, abs=5)
    assert count["two"] == pytest.approx(2000, abs=5)


def test_extreme_weights_do_not_stop_the_clock() -> None:
    mesh = Mesh("weighted")
    for worker_id, weight in {"dust": 5e-324, "light": 1.0, "heavy": 1e6}.items():
        mesh.join(worker_id, weight=weight)
    assert {mesh.pick("heavy", "light") for _ in range(20)} == {"dust"}
    assert Counter(mesh.pick() for _ in range(1000)).most_common(1)[0][0] == "heavy"


def test_learnt_weights_follow_slots_and_speed() -> None:
    mesh = Mesh("weighted")
    mesh.join("quick", room=2)
    mesh.join("wide", room=8)
    mesh.join("slow", room=2)
    seconds = {"quick": 0.1, "wide": 0.1, "slow": 0.4}
    answered = mesh.run(callers=2, calls=10_000, seconds=seconds)
    assert answered["wide"] / answered["quick"] == pytest.approx(4, rel=0.15)
    assert answered["quick"] / answered["slow"] == pytest.approx(4, rel=0.15)


def test_a_weighted_pool_that_is_new_for_every_pick_still_prefers_the_heavy() -> None:
    count: Counter[str] = Counter()
    for seed in range(1000):
        mesh = Mesh("weighted", seed=seed)
        mesh.join("one", weight=1.0)
        mesh.join("three", weight=3.0)
        count[mesh.pick()] += 1
    assert 700 < count["three"] < 900


def test_a_weighted_pool_that_weighs_its_workers_little_by_little_reaches_all_of_them() -> None:
    mesh = Mesh("weighted", workers=1000)
    assert set(mesh.shares(picks=2000)) == {f"w{number}" for number in range(1000)}
    assert all(0.9 <= share <= 1.1 for share in mesh.shares(picks=20_000).values())


def test_a_worker_that_is_full_when_weighed_is_not_lost() -> None:
    mesh = Mesh("weighted", workers=200, room=1)
    mesh.pick()
    for number in range(200):
        mesh.balancer.set_limit(f"w{number}", 0)
    mesh.balancer.set_limit("w7", 1)
    assert {mesh.pick() for _ in range(100)} == {"w7"}
    for number in range(200):
        mesh.balancer.set_limit(f"w{number}", 1)
    assert len(mesh.shares(picks=600)) == 200


def test_workers_that_come_and_go_leave_no_turns_behind() -> None:
    mesh = Mesh("weighted", workers=2)
    mesh.pick()
    for _ in range(1000):
        mesh.join("guest")
        mesh.leave("guest")
    (pool,) = mesh.balancer._pools
    assert isinstance(pool.strategy, Weighted)
    assert len(pool.strategy._heap) < 100


def test_random_deals_everybody_once_in_an_order_that_changes() -> None:
    mesh = Mesh("random", workers=10)
    rounds = [tuple(mesh.pick() for _ in range(10)) for _ in range(20)]
    assert all(len(set(dealt)) == 10 for dealt in rounds)
    assert len(set(rounds)) == 20


def test_workers_that_come_and_go_leave_no_cards_behind() -> None:
    mesh = Mesh("random", workers=2)
    mesh.pick()
    for _ in range(1000):
        mesh.join("guest")
        mesh.leave("guest")
    (pool,) = mesh.balancer._pools
    assert isinstance(pool.strategy, Deck)
    assert len(pool.strategy._cards) < 200


@pytest.mark.parametrize("strategy", DRAWS)
def test_a_worker_that_left_is_never_a_rival(strategy: str) -> None:
    for seed in range(20):
        mesh = Mesh(strategy, workers=6, seed=seed)
        mesh.pick()
        mesh.balancer.report_load("w0", in_flight=5, capacity=None, now=0)
        for number in range(1, 6):
            mesh.leave(f"w{number}")
        assert {mesh.pick() for _ in range(10)} == {"w0"}


@pytest.mark.parametrize("spare", [0, 64])
@pytest.mark.parametrize("strategy", DRAWS)
def test_a_worker_that_changes_keeps_exactly_one_card(
    strategy: str, spare: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deck, "SPARE_CARDS", spare)
    mesh = Mesh(strategy, workers=3, room=1)
    leases = [mesh.lease() for _ in range(2)]
    for weight in (1.0, 2.0):
        for number in range(3):
            mesh.join(f"w{number}", room=1, weight=weight)
        assert mesh.pick() not in {lease.worker.worker_id for lease in leases}
    with pytest.raises(CapacityExceeded), mesh.lease():
        mesh.lease()
    for lease in leases:
        lease.release()
    (pool,) = mesh.balancer._pools
    assert {mesh.pick() for _ in range(3)} == {"w0", "w1", "w2"}
    assert isinstance(pool.strategy, Deck)
    assert sorted(candidate.worker_id for candidate in pool.strategy._cards) == ["w0", "w1", "w2"]


def test_many_may_leave_in_the_middle_of_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deck, "SPARE_CARDS", 0)
    mesh = Mesh("random", workers=10)
    mesh.pick()
    for number in range(9):
        mesh.leave(f"w{number}")
    assert {mesh.pick() for _ in range(30)} == {"w9"}


@pytest.mark.parametrize("strategy", ["power-of-two", "peak-ewma"])
def test_the_less_loaded_of_a_pair_is_preferred(strategy: str) -> None:
    mesh = Mesh(strategy, workers=2)
    mesh.balancer.report_load("w0", in_flight=1, capacity=None, now=0)
    assert {mesh.pick() for _ in range(50)} == {"w1"}


def test_peak_ewma_leaves_a_worker_at_once_and_returns_after_a_while() -> None:
    mesh = Mesh("peak-ewma", workers=2)
    for _ in range(20):
        lease = mesh.lease()
        lease.done(ok=True, now=mesh.now, elapsed_s=0.1)
    lease = mesh.lease()
    sick = lease.worker.worker_id
    lease.done(ok=True, now=mesh.now, elapsed_s=5.0)
    assert sick not in {mesh.pick() for _ in range(50)}

    for _ in range(60):  # one call a second to the other, half-life 10 s
        mesh.now += 1
        lease = mesh.lease(sick)
        lease.done(ok=True, now=mesh.now, elapsed_s=0.1)
    assert {mesh.pick() for _ in range(50)} == {sick}


@pytest.mark.parametrize("strategy", ["weighted", "peak-ewma"])
def test_failing_fast_attracts_nothing(strategy: str) -> None:
    mesh = Mesh(strategy, workers=4)
    count: Counter[str] = Counter()
    for _ in range(4000):
        mesh.now += 0.01
        lease = mesh.lease()
        broken = lease.worker.worker_id == "w0"
        lease.done(ok=not broken, now=mesh.now, elapsed_s=0.001 if broken else 0.1)
        count[lease.worker.worker_id] += 1
    assert count["w0"] <= 1100


def test_a_slow_failure_counts_as_slow() -> None:
    mesh = Mesh("weighted", workers=2)
    for _ in range(200):
        mesh.now += 1
        lease = mesh.lease()
        slow = lease.worker.worker_id == "w0"
        lease.done(ok=not slow, now=mesh.now, elapsed_s=2.0 if slow else 0.1)
    assert Counter(mesh.pick() for _ in range(1000))["w0"] < 150


# Arithmetic.


@pytest.mark.parametrize(
    ("age", "half_life", "share"),
    [(0, 10, 1), (10, 10, 0.5), (20, 10, 0.25), (-5, 10, 1), (1e9, 10, 0), (1, 1e-3, 0), (0, 1e-9, 1)],
)
def test_what_is_kept_of_an_old_average(age: float, half_life: float, share: float) -> None:
    assert kept(age, half_life) == pytest.approx(share, abs=1e-12)


def test_the_mean_moves_slowly_and_the_peak_jumps() -> None:
    latency = Latency(1.0, now=0, half_life_s=10)
    latency.observe(3.0, now=10, half_life_s=10)
    assert (latency.mean, latency.peak) == (2.0, 3.0)
    latency.observe(1.0, now=20, half_life_s=10)
    assert (latency.mean, latency.peak) == (1.5, 2.0)


def test_ranks_compare_decayed_peaks_without_a_clock() -> None:
    old = Latency(4.0, now=0, half_life_s=10)  # at 20 s worth 1.0
    assert old.rank == Latency(1.0, now=20, half_life_s=10).rank
    assert old.rank < Latency(1.1, now=20, half_life_s=10).rank
    assert old.rank > Latency(0.9, now=20, half_life_s=10).rank


@pytest.mark.parametrize(("elapsed", "speed"), [(0.0, MOST), (1e-9, MOST), (0.1, 1.0), (100.0, LEAST)])
def test_no_measurement_moves_a_weight_out_of_bounds(elapsed: float, speed: float) -> None:
    mesh = Mesh("weighted", workers=100)
    for number in range(100):
        exclude = [f"w{other}" for other in range(100) if other != number]
        mesh.now += 1e-3
        mesh.lease(*exclude).done(ok=True, now=mesh.now, elapsed_s=elapsed if number == 99 else 0.1)
    count = Counter(mesh.pick() for _ in range(20_000))
    assert count["w99"] / count["w0"] == pytest.approx(speed, rel=0.35)
