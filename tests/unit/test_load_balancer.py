"""The balancer: leases that cannot leak, limits that drive routing, refusals that name what exists.

The last part plays random histories against a model in which everything is computed from scratch.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from wrk_base.contract import ModelFacts, Requirements
from wrk_base.errors import CapacityExceeded, NoWorkersAvailable, NoWorkersMatch, WrkError
from wrk_orchestrator import load_balancer, pools
from wrk_orchestrator.affinity import NO_AFFINITY, Affinity
from wrk_orchestrator.load_balancer import Lease, LoadBalancer
from wrk_orchestrator.records import WorkerRecord
from wrk_orchestrator.service_registry import ServiceRegistry
from wrk_orchestrator.strategies import (
    STRATEGIES,
    Tuning,
    deck,
    least_connections,
    prefixes,
    probes,
    ring,
    weighted,
)

EVERY = sorted(STRATEGIES)


class Mesh:
    """A registry and a balancer that hears of every change."""

    def __init__(self, strategy: str = "round-robin", lease_s: float = 30.0) -> None:
        self.registry = ServiceRegistry(lease_s=lease_s)
        self.balancer = LoadBalancer(self.registry, strategy, Random(1), Tuning(half_life_s=10))
        self.now = 100.0

    def join(self, worker_id: str, *models: str, room: int | None = 1, **more: Any) -> None:
        """Registers a worker; `room` None leaves it as the registry does: not routable."""
        facts: dict[str, Any] = {"address": "tcp://h:1", "models": models or ("m",)}
        self.register(WorkerRecord(worker_id=worker_id, **(facts | more)))
        if room is not None:
            self.balancer.set_limit(worker_id, room)

    def register(self, worker: WorkerRecord) -> None:
        self.balancer.apply(self.registry.register(worker, self.now))

    def leave(self, worker_id: str) -> None:
        self.balancer.apply(self.registry.remove(worker_id))

    def lease(
        self,
        model: str = "m",
        *exclude: str,
        need: Requirements | None = None,
        affinity: Affinity = NO_AFFINITY,
    ) -> Lease:
        return self.balancer.pick(model, need, exclude, self.now, affinity)

    def pick(self, model: str = "m", *exclude: str, need: Requirements | None = None) -> str:
        with self.lease(model, *exclude, need=need) as lease:
            return lease.worker.worker_id

    def refusal(self, model: str = "m", *exclude: str, need: Requirements | None = None) -> WrkError:
        with pytest.raises(WrkError) as caught:
            self.lease(model, *exclude, need=need)
        return caught.value


@pytest.fixture
def mesh() -> Mesh:
    return Mesh()


# Leases.


def test_a_lease_raises_the_load_and_gives_it_back_once(mesh: Mesh) -> None:
    mesh.join("w1", room=2)
    lease = mesh.lease()
    assert (mesh.balancer.load("w1"), mesh.balancer.leases) == (1, 1)
    lease.release()
    lease.release()
    lease.done(ok=True, now=mesh.now, elapsed_s=1)
    assert (mesh.balancer.load("w1"), mesh.balancer.leases) == (0, 0)


def test_leaving_the_block_by_an_error_gives_the_lease_back(mesh: Mesh) -> None:
    mesh.join("w1")

    def call() -> None:
        with mesh.lease():
            assert mesh.balancer.load("w1") == 1
            raise ConnectionResetError

    for _ in range(3):
        with pytest.raises(ConnectionResetError):
            call()
    assert mesh.balancer.load("w1") == 0


def test_a_cancelled_call_gives_the_lease_back(mesh: Mesh) -> None:
    mesh.join("w1")

    async def call(entered: asyncio.Event) -> None:
        with mesh.lease():
            entered.set()
            await asyncio.Event().wait()

    async def story() -> None:
        entered = asyncio.Event()
        task = asyncio.create_task(call(entered))
        await entered.wait()
        assert mesh.balancer.load("w1") == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(story())
    assert mesh.balancer.load("w1") == 0


@pytest.mark.parametrize("strategy", EVERY)
def test_ten_thousand_random_exits_leave_no_lease(strategy: str) -> None:
    mesh, rng, held = Mesh(strategy), Random(7), list[Lease]()
    for number in range(8):
        mesh.join(f"w{number}", room=20)
    for _ in range(10_000):
        mesh.now += 0.01
        if len(held) < 100:
            held.append(mesh.lease())
        lease = held[rng.randrange(len(held))]
        for way in rng.choices(["done", "failed", "release", "twice", "keep"], k=2):
            if way == "keep":
                break
            held.remove(lease) if lease in held else None
            if way in ("done", "failed"):
                lease.done(ok=way == "done", now=mesh.now, elapsed_s=rng.random())
            else:
                lease.release()
                lease.__exit__(None, None, None)
        assert mesh.balancer.leases == len(held)
    for lease in held:
        lease.release()
    assert mesh.balancer.leases == 0
    assert {mesh.balancer.load(f"w{number}") for number in range(8)} == {0}


def test_a_lease_on_a_worker_that_left_ends_without_harm(mesh: Mesh) -> None:
    mesh.join("w1")
    lease = mesh.lease()
    mesh.leave("w1")
    mesh.join("w1")
    lease.done(ok=False, now=mesh.now, elapsed_s=1)
    assert mesh.balancer.leases == 0
    assert mesh.balancer.load("w1") == 0
    assert mesh.pick() == "w1"


def test_no_estimate_is_kept_of_a_worker_that_left_even_if_its_calls_end_later() -> None:
    mesh = Mesh("peak-ewma")
    mesh.join("stays")
    for number in range(5):
        mesh.join(f"w{number}")
        left, changed = mesh.lease("m", "stays"), mesh.lease()
        mesh.leave(f"w{number}")
        mesh.join("stays", "m", "m2", name=str(number))
        left.done(ok=True, now=mesh.now, elapsed_s=1)
        changed.done(ok=True, now=mesh.now, elapsed_s=1)
    mesh.join("known")
    mesh.lease("m", "stays").done(ok=True, now=mesh.now, elapsed_s=1)
    mesh.lease("m", "known").done(ok=True, now=mesh.now, elapsed_s=1)
    (pool,) = mesh.balancer._pools
    assert len(pool.latencies._known) == 2
    mesh.leave("known")
    assert len(pool.latencies._known) == 1


def test_the_lease_shows_the_worker_as_it_was_picked(mesh: Mesh) -> None:
    mesh.join("w1", address="tcp://h:1", room=1)
    lease = mesh.lease()
    mesh.join("w1", address="tcp://h:2", room=1)
    assert lease.worker.address == "tcp://h:1"
    lease.release()
    with mesh.lease() as again:
        assert again.worker.address == "tcp://h:2"


# Limits and loads.


def test_a_new_worker_is_not_routable_until_somebody_says_so(mesh: Mesh) -> None:
    mesh.join("w1", room=None)
    assert isinstance(mesh.refusal(), NoWorkersAvailable)
    mesh.balancer.set_limit("w1", 1)
    assert mesh.balancer.limit("w1") == 1
    assert mesh.pick() == "w1"


def test_a_limit_below_the_load_closes_without_touching_what_runs(mesh: Mesh) -> None:
    mesh.join("w1", room=3)
    leases = [mesh.lease() for _ in range(3)]
    mesh.balancer.set_limit("w1", 1)
    leases.pop().release()
    leases.pop().release()
    assert isinstance(mesh.refusal(), CapacityExceeded)
    leases.pop().release()
    assert mesh.pick() == "w1"


def test_what_others_run_there_counts_until_the_rack_says_less(mesh: Mesh) -> None:
    mesh.join("w1", room=3)
    lease = mesh.lease()
    mesh.balancer.report_load("w1", in_flight=3, capacity=None, now=mesh.now)
    assert mesh.balancer.load("w1") == 3
    assert isinstance(mesh.refusal(), CapacityExceeded)
    lease.release()
    assert mesh.balancer.load("w1") == 2
    assert mesh.pick() == "w1"
    mesh.balancer.report_load("w1", in_flight=0, capacity=None, now=mesh.now)
    assert mesh.balancer.load("w1") == 0


def test_a_report_older_than_our_own_calls_takes_nothing_away(mesh: Mesh) -> None:
    mesh.join("w1", room=9)
    lease = mesh.lease()
    mesh.balancer.report_load("w1", in_flight=0, capacity=None, now=mesh.now)
    assert mesh.balancer.load("w1") == 1
    lease.release()


def test_a_capacity_that_the_rack_says_narrows_the_limit_and_never_widens_it(mesh: Mesh) -> None:
    mesh.join("w1", room=2)
    mesh.balancer.report_load("w1", in_flight=0, capacity=1, now=mesh.now)
    lease = mesh.lease()
    assert isinstance(mesh.refusal(), CapacityExceeded)
    mesh.balancer.report_load("w1", in_flight=1, capacity=9, now=mesh.now)
    other = mesh.lease()
    assert isinstance(mesh.refusal(), CapacityExceeded)
    lease.release()
    other.release()
    mesh.balancer.report_load("w1", in_flight=0, capacity=0, now=mesh.now)
    assert isinstance(mesh.refusal(), CapacityExceeded)


def test_a_restarted_rack_starts_with_no_foreign_load(mesh: Mesh) -> None:
    mesh.join("w1", room=2, epoch=1)
    mesh.balancer.report_load("w1", in_flight=2, capacity=1, now=mesh.now)
    mesh.join("w1", room=2, epoch=1, name="same process")
    assert mesh.balancer.load("w1") == 2
    mesh.join("w1", room=2, epoch=2)
    assert mesh.balancer.load("w1") == 0
    assert mesh.pick() == "w1"


def test_words_about_unknown_workers_are_ignored(mesh: Mesh) -> None:
    mesh.balancer.set_limit("nobody", 3)
    mesh.balancer.report_load("nobody", in_flight=1, capacity=None, now=mesh.now)
    assert (mesh.balancer.limit("nobody"), mesh.balancer.load("nobody")) == (0, 0)
    assert mesh.balancer.stats(mesh.now, 0) == {}


# Requirements.


def test_requirements_narrow_the_choice(mesh: Mesh) -> None:
    mesh.join("plain")
    mesh.join("gpu", tags=frozenset({"gpu"}), labels={"site": "a"}, max_concurrent=8)
    for need in (
        Requirements(capabilities=["gpu"]),
        Requirements(labels={"site": "a"}),
        Requirements(min_capacity=2),
        Requirements(capabilities=["gpu", "gpu"], labels={"site": "a"}, min_capacity=8),
    ):
        assert {mesh.pick(need=need) for _ in range(4)} == {"gpu"}
    assert {mesh.pick(need=Requirements(min_capacity=1)) for _ in range(4)} == {"plain", "gpu"}


def test_what_a_worker_tells_of_a_model_counts_for_that_model_alone(mesh: Mesh) -> None:
    mesh.join("sees", "m", "m2", facts={"m": ModelFacts(["vision"], 32_768), "m2": ModelFacts(["tools"])})
    mesh.join("blind", "m", "m2", tags=frozenset({"tools"}))
    vision, tools = Requirements(capabilities=["vision"]), Requirements(capabilities=["tools"])
    assert {mesh.pick(need=vision) for _ in range(4)} == {"sees"}
    assert isinstance(mesh.refusal("m2", need=vision), NoWorkersMatch)
    assert {mesh.pick("m", need=tools) for _ in range(4)} == {"blind"}
    assert {mesh.pick("m2", need=tools) for _ in range(4)} == {"sees", "blind"}


def test_a_requirement_may_be_met_by_tags_and_facts_together(mesh: Mesh) -> None:
    mesh.join("w1", tags=frozenset({"gpu"}), facts={"m": ModelFacts(["vision"])})
    assert mesh.pick(need=Requirements(capabilities=["gpu", "vision"])) == "w1"
    assert isinstance(mesh.refusal(need=Requirements(capabilities=["gpu", "tools"])), NoWorkersMatch)


def test_a_context_that_is_not_told_meets_no_requirement(mesh: Mesh) -> None:
    mesh.join("long", facts={"m": ModelFacts(context_length=32_768)})
    mesh.join("short", facts={"m": ModelFacts(context_length=8192)})
    mesh.join("silent")
    mesh.join("elsewhere", "m2", facts={"m": ModelFacts(context_length=10**6)})
    assert {mesh.pick(need=Requirements(min_context=8192)) for _ in range(6)} == {"long", "short"}
    assert {mesh.pick(need=Requirements(min_context=8193)) for _ in range(6)} == {"long"}
    assert isinstance(mesh.refusal(need=Requirements(min_context=32_769)), NoWorkersMatch)
    assert {mesh.pick(need=Requirements(min_context=0)) for _ in range(6)} == {"long", "short", "silent"}


def test_a_model_that_learns_or_forgets_something_moves_between_filters(mesh: Mesh) -> None:
    need = Requirements(capabilities=["vision"], min_context=8192)
    mesh.join("w1")
    assert isinstance(mesh.refusal(need=need), NoWorkersMatch)
    mesh.join("w1", facts={"m": ModelFacts(["vision"], 8192)})
    assert mesh.pick(need=need) == "w1"
    mesh.join("w1", facts={"m": ModelFacts(["vision"], 4096)})
    assert isinstance(mesh.refusal(need=need), NoWorkersMatch)


def test_hints_bind_while_a_worker_tells_and_answers_are_kept_no_longer(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_balancer, "MOST_NARROWED", 3)
    narrowed, plain = mesh.balancer.narrowed, Requirements()
    sees = Requirements(["vision"])
    mesh.join("w1")
    assert narrowed("m", plain, ("vision",)) == plain
    mesh.join("w2", facts={"m": ModelFacts(["vision"])})
    for number in range(20):  # whatever others ask for
        assert narrowed("m", plain, ("vision",)) == sees
        assert narrowed(f"m{number}", plain, ("vision",)) == plain
        assert narrowed("m", Requirements(labels={"site": str(number)}), ("vision",)).capabilities == []
        assert len(mesh.balancer._narrowed) <= 3
    mesh.join("w2", facts={"m": ModelFacts(["tools"])})
    assert narrowed("m", plain, ("vision", "tools")) == Requirements(["tools"])
    mesh.leave("w2")
    assert narrowed("m", plain, ("vision", "tools")) == plain


def test_a_worker_that_changes_moves_between_filters(mesh: Mesh) -> None:
    need = Requirements(capabilities=["gpu"])
    mesh.join("w1", tags=frozenset({"gpu"}))
    assert mesh.pick(need=need) == "w1"
    mesh.join("w1", "m", "m2")
    assert isinstance(mesh.refusal(need=need), NoWorkersMatch)
    mesh.join("w1", "m2", tags=frozenset({"gpu"}))
    assert isinstance(mesh.refusal(need=need), NoWorkersAvailable)
    assert mesh.pick("m2", need=need) == "w1"


def test_a_filter_that_is_new_for_every_request_still_takes_turns(mesh: Mesh) -> None:
    for worker_id in ("w1", "w2", "w3"):
        mesh.join(worker_id, tags=frozenset(f"t{number}" for number in range(30)))
    picks = [mesh.pick(need=Requirements(capabilities=[f"t{number}"])) for number in range(30)]
    assert {worker_id: picks.count(worker_id) for worker_id in picks} == {"w1": 10, "w2": 10, "w3": 10}


@pytest.mark.parametrize(("bound", "value"), [("MAX_POOLS", 4), ("MAX_SEATS", 8)])
def test_filters_beyond_the_bound_are_searched_anew_and_nothing_keeps_the_old_ones(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch, bound: str, value: int
) -> None:
    monkeypatch.setattr(pools, bound, value)
    tags = [f"t{number}" for number in range(50)]
    mesh.join("busy", tags=frozenset(tags))
    mesh.join("free", tags=frozenset(tags))
    mesh.join("off", room=0, tags=frozenset(tags))
    mesh.balancer.report_load("busy", in_flight=1, capacity=None, now=mesh.now)
    for tag in tags * 2:
        assert mesh.pick(need=Requirements(capabilities=[tag])) == "free"
        assert len(mesh.balancer._pools) <= 4
        assert max(len(c.behind) for c in mesh.balancer._candidates.values()) <= 4
    mesh.balancer.report_load("busy", in_flight=0, capacity=None, now=mesh.now)
    assert {mesh.pick(need=Requirements(capabilities=["t0"])) for _ in range(2)} == {"busy", "free"}


def test_the_filter_that_is_in_use_stays(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "MAX_POOLS", 3)
    mesh.join("w1", tags=frozenset(f"t{number}" for number in range(9)))
    mesh.pick()
    in_use = next(iter(mesh.balancer._pools))
    for number in range(9):
        mesh.pick(need=Requirements(capabilities=[f"t{number}"]))
        mesh.pick()
        assert in_use in mesh.balancer._pools


def test_a_model_listed_twice_counts_once(mesh: Mesh) -> None:
    mesh.join("w1")
    mesh.pick()
    mesh.join("w2", "m", "m")
    with mesh.lease(), mesh.lease():
        assert mesh.refusal().data["workers"] == 2
    mesh.leave("w2")
    assert {mesh.pick() for _ in range(4)} == {"w1"}


def test_of_a_model_that_nobody_serves_any_more_nothing_is_kept(mesh: Mesh) -> None:
    for number in range(50):
        mesh.join("w1", f"m{number}")
        mesh.pick(f"m{number}")
        mesh.pick(f"m{number}", need=Requirements(min_capacity=1))
    assert len(mesh.balancer._pools) == 1
    mesh.leave("w1")
    assert len(mesh.balancer._pools) == 0


# Refusals.


def test_a_model_never_seen_is_refused_with_what_exists(mesh: Mesh) -> None:
    mesh.join("w1", *(f"m{number}" for number in range(30)))
    error = mesh.refusal("other")
    assert isinstance(error, NoWorkersAvailable)
    assert error.data == {
        "model": "other",
        "modelSeen": False,
        "models": [f"m{number}" for number in range(20)],
    }
    assert error.retry_after_ms is None


def test_a_model_that_is_gone_may_come_back(mesh: Mesh) -> None:
    mesh.join("w1")
    mesh.leave("w1")
    error = mesh.refusal()
    assert isinstance(error, NoWorkersAvailable)
    assert error.data["modelSeen"] is True
    assert error.retry_after_ms == 1000


def test_requirements_that_nobody_meets_are_named(mesh: Mesh) -> None:
    mesh.join("w1", tags=frozenset({"gpu"}), labels={"site": "a"})
    mesh.join("w2", max_concurrent=4)
    mesh.join("elsewhere", "m2", tags=frozenset({"npu"}))
    need = Requirements(capabilities=["gpu", "npu"], labels={"site": "b"}, min_capacity=8)
    error = mesh.refusal(need=need)
    assert isinstance(error, NoWorkersMatch)
    unmet = ["capacity 8", "capability npu", "label site=b"]
    assert error.data == {"model": "m", "unmet": unmet, "capabilities": ["gpu"]}

    mesh.join("w3", tags=frozenset({"npu"}))
    assert mesh.refusal(need=need).data["unmet"] == ["capacity 8", "label site=b"]
    both = Requirements(capabilities=["gpu"], min_capacity=4)
    assert mesh.refusal(need=both).data["unmet"] == []
    assert "all that is required" in mesh.refusal(need=both).message


def test_a_refusal_says_which_capabilities_and_contexts_there_are(mesh: Mesh) -> None:
    mesh.join("w1", tags=frozenset({"gpu"}), facts={"m": ModelFacts(["tools"], 8192)})
    mesh.join("w2", facts={"m": ModelFacts([], 4096), "m3": ModelFacts(["vision"], 32_768)})
    mesh.join("w3", "m2")
    error = mesh.refusal(need=Requirements(capabilities=["vision"], min_context=32_768))
    assert isinstance(error, NoWorkersMatch)
    assert error.message == (
        "model m: nobody has context 32768, capability vision; there are gpu, tools; "
        "the longest context that is told is 8192"
    )
    assert error.data == {
        "model": "m",
        "unmet": ["context 32768", "capability vision"],
        "capabilities": ["gpu", "tools"],
        "longestContext": 8192,
    }
    error = mesh.refusal(need=Requirements(capabilities=["gpu"], min_context=1, labels={"site": "a"}))
    assert error.message == "model m: nobody has label site=a"
    error = mesh.refusal("m2", need=Requirements(min_context=1))
    assert error.message == "model m2: nobody has context 1; nobody tells a context"


def test_a_refusal_names_a_bounded_number_of_capabilities(mesh: Mesh) -> None:
    mesh.join("w1", facts={"m": ModelFacts([f"c{number}" for number in range(100)])})
    error = mesh.refusal(need=Requirements(capabilities=["vision"]))
    assert len(error.data["capabilities"]) == 20


def test_full_is_told_from_out_of_service(mesh: Mesh) -> None:
    mesh.join("w1", tags=frozenset({"gpu"}))
    mesh.join("w2", tags=frozenset({"gpu"}))
    mesh.join("w3")
    need = Requirements(capabilities=["gpu"])
    held = [mesh.lease(need=need), mesh.lease(need=need)]
    error = mesh.refusal(need=need)
    assert isinstance(error, CapacityExceeded)
    assert error.data == {"model": "m", "workers": 2}
    assert error.retry_after_ms == 1000

    held.pop().done(ok=True, now=mesh.now, elapsed_s=0.25)
    held.append(mesh.lease(need=need))
    assert mesh.refusal(need=need).retry_after_ms == 250

    mesh.balancer.set_limit("w1", 0)
    mesh.balancer.set_limit("w2", 0)
    error = mesh.refusal(need=need)
    assert isinstance(error, NoWorkersAvailable)
    assert "out of service" in error.message
    assert error.data["modelSeen"] is True
    assert mesh.pick() == "w3"


def test_when_all_were_tried_nobody_is_available_and_when_the_rest_is_full_it_is_capacity(
    mesh: Mesh,
) -> None:
    mesh.join("w1")
    mesh.join("w2")
    error = mesh.refusal("m", "w1", "w2", "w2", "unknown")
    assert isinstance(error, NoWorkersAvailable)
    assert "tried" in error.message
    mesh.join("w3")
    with mesh.lease("m", "w1", "w2"):
        error = mesh.refusal("m", "w1", "w2")
        assert isinstance(error, CapacityExceeded)
        assert error.data["workers"] == 1
        assert mesh.pick("m", "w1") == "w2"
        mesh.balancer.set_limit("w1", 0)  # tried, and out of service since
        assert isinstance(mesh.refusal("m", "w1", "w2"), CapacityExceeded)


@pytest.mark.parametrize(("seconds", "hint"), [(1e-5, 50), (2.0, 2000), (1e6, 30_000)])
def test_the_hint_when_to_retry_is_about_one_answer_and_bounded(
    mesh: Mesh, seconds: float, hint: int
) -> None:
    mesh.join("w1")
    mesh.lease().done(ok=True, now=mesh.now, elapsed_s=seconds)
    with mesh.lease():
        assert mesh.refusal().retry_after_ms == hint


# Figures.


def test_stats_are_those_of_the_contract(mesh: Mesh) -> None:
    mesh.join("w1", room=9)
    mesh.lease().done(ok=True, now=mesh.now, elapsed_s=0.1)
    mesh.lease().done(ok=False, now=mesh.now, elapsed_s=0.3)
    mesh.lease().release()
    mesh.now += 2
    lease = mesh.lease()
    assert mesh.balancer.stats(now=mesh.now + 1, wall_ms=1_000_000) == {
        "w1": {
            "requestCount": 4,
            "successCount": 1,
            "failureCount": 1,
            "averageProcessingTime": pytest.approx(200),
            "totalProcessingTime": pytest.approx(400),
            "lastRequestTime": 999_000,
            "currentLoad": 1,
        }
    }
    lease.release()


def test_stats_of_a_worker_that_was_never_asked(mesh: Mesh) -> None:
    mesh.join("w1")
    figures = mesh.balancer.stats(mesh.now, 0)["w1"]
    assert figures["averageProcessingTime"] == 0
    assert figures["lastRequestTime"] is None


def test_stats_outlive_a_new_registration(mesh: Mesh) -> None:
    mesh.join("w1")
    mesh.pick()
    mesh.join("w1", "m", "m2")
    assert mesh.balancer.stats(mesh.now, 0)["w1"]["requestCount"] == 1


# Random histories.

WORKERS = ["a", "b", "c", "d", "e"]
NEEDS = [
    None,
    Requirements(),
    Requirements(capabilities=["t1"]),
    Requirements(labels={"k": "v"}),
    Requirements(capabilities=["t1"], labels={"k": "v"}, min_capacity=2),
    Requirements(capabilities=["t1", "t2"]),
    Requirements(min_context=2),
    Requirements(capabilities=["t2"], labels={"k": "v"}, min_context=1),
]
FACTS = st.dictionaries(
    st.sampled_from(["m1", "m2"]),
    st.builds(ModelFacts, st.lists(st.sampled_from(["t1", "t2"]), max_size=2), st.integers(0, 2)),
)


AFFINITIES = [
    NO_AFFINITY,
    *(Affinity(session=session) for session in ("s1", "s2", "s3")),
    *(Affinity(prompt=prompt) for prompt in (b"a" * 600, b"a" * 400 + b"b" * 400, b"c" * 600)),
]
FORETOLD = ["round-robin", "least-connections", "prefix-aware"]  # these leave nothing to chance


def meets(worker: WorkerRecord, model: str, need: Requirements | None) -> bool:
    told = worker.facts.get(model, ModelFacts())
    return need is None or (
        set(need.capabilities) <= worker.tags.union(told.capabilities)
        and (need.min_context == 0 or told.context_length >= need.min_context)
        and all(worker.labels.get(key) == value for key, value in need.labels.items())
        and worker.max_concurrent >= need.min_capacity
    )


class History(RuleBasedStateMachine):
    """The mesh beside plain dictionaries from which every answer is computed anew."""

    strategy = "round-robin"

    def __init__(self) -> None:
        super().__init__()
        self.mesh = Mesh(self.strategy, lease_s=30)
        self.limit: dict[str, int] = {}
        self.own: dict[str, int] = {}
        self.foreign: dict[str, int] = {}
        self.capacity: dict[str, int | None] = {}
        self.held: list[tuple[Lease, bool]] = []  # with: whether its worker is still the same entry

    def load(self, worker_id: str) -> int:
        return self.own[worker_id] + self.foreign[worker_id]

    def open(self, worker_id: str) -> bool:
        told = self.capacity[worker_id]
        limit = self.limit[worker_id]
        return self.load(worker_id) < (limit if told is None else min(limit, told))

    def matching(self, model: str, need: Requirements | None) -> set[str]:
        workers = self.mesh.registry.all()
        return {w.worker_id for w in workers if model in w.models and meets(w, model, need)}

    def gone(self, before: set[str]) -> None:
        left = before - {worker.worker_id for worker in self.mesh.registry.all()}
        for worker_id in left:
            for table in (self.limit, self.own, self.foreign, self.capacity):
                table.pop(worker_id)
        self.held = [(lease, same and lease.worker.worker_id not in left) for lease, same in self.held]

    @rule(
        worker_id=st.sampled_from(WORKERS),
        models=st.sets(st.sampled_from(["m1", "m2"])),
        tags=st.frozensets(st.sampled_from(["t1", "t2"])),
        labels=st.dictionaries(st.just("k"), st.sampled_from(["v", "w"])),
        size=st.integers(1, 3),
        epoch=st.integers(0, 1),
        facts=FACTS,
    )
    def register(
        self,
        worker_id: str,
        models: set[str],
        tags: frozenset[str],
        labels: dict[str, str],
        size: int,
        epoch: int,
        facts: dict[str, ModelFacts],
    ) -> None:
        before = self.mesh.registry.get(worker_id)
        worker = WorkerRecord(
            worker_id=worker_id,
            address="tcp://h:1",
            models=tuple(sorted(models)),
            tags=tags,
            labels=labels,
            max_concurrent=size,
            epoch=epoch,
            facts=facts,
        )
        self.mesh.register(worker)
        held = self.mesh.registry.get(worker_id)
        assert held is not None
        if before is None:
            self.limit[worker_id] = self.own[worker_id] = 0
        if before is None or before.epoch != held.epoch:
            self.foreign[worker_id], self.capacity[worker_id] = 0, None

    @rule(worker_id=st.sampled_from(WORKERS), limit=st.integers(0, 3))
    def set_limit(self, worker_id: str, limit: int) -> None:
        self.mesh.balancer.set_limit(worker_id, limit)
        if worker_id in self.limit:
            self.limit[worker_id] = limit

    @rule(
        worker_id=st.sampled_from(WORKERS),
        in_flight=st.integers(0, 4),
        capacity=st.one_of(st.none(), st.integers(0, 3)),
    )
    def report(self, worker_id: str, in_flight: int, capacity: int | None) -> None:
        self.mesh.balancer.report_load(worker_id, in_flight, capacity, self.mesh.now)
        if worker_id in self.own:
            self.foreign[worker_id] = max(0, in_flight - self.own[worker_id])
            self.capacity[worker_id] = capacity

    @rule(worker_id=st.sampled_from(WORKERS))
    def remove(self, worker_id: str) -> None:
        before = set(self.own)
        self.mesh.leave(worker_id)
        self.gone(before)

    @rule(seconds=st.floats(0, 20), alive=st.sets(st.sampled_from(WORKERS)))
    def wait(self, seconds: float, alive: set[str]) -> None:
        before = set(self.own)
        self.mesh.now += seconds
        for worker_id in alive:
            self.mesh.registry.renew(worker_id, self.mesh.now)
        self.mesh.balancer.apply(self.mesh.registry.expire(self.mesh.now))
        self.gone(before)

    @rule(
        model=st.sampled_from(["m1", "m2", "m3"]),
        need=st.sampled_from(NEEDS),
        exclude=st.lists(st.sampled_from(WORKERS), max_size=3),
        affinity=st.sampled_from(AFFINITIES),
        keep=st.booleans(),
    )
    def pick(
        self, model: str, need: Requirements | None, exclude: list[str], affinity: Affinity, keep: bool
    ) -> None:
        matching = self.matching(model, need)
        fitting = {worker_id for worker_id in matching - set(exclude) if self.open(worker_id)}
        ranked = self.explained(model, need, exclude, affinity)
        assert set(ranked) == fitting
        known = self.has_pool(model, need)
        if not fitting:
            assert type(self.mesh.refusal(model, *exclude, need=need)) is self.expected(model, need, exclude)
            return
        lease = self.mesh.lease(model, *exclude, need=need, affinity=affinity)
        worker_id = lease.worker.worker_id
        assert worker_id in fitting
        if known and (self.strategy in FORETOLD or (self.strategy == "consistent-hash" and affinity.session)):
            assert worker_id == ranked[0]
        if self.strategy == "least-connections":
            assert self.load(worker_id) == min(map(self.load, fitting))
        self.own[worker_id] += 1
        self.held.append((lease, True))
        if not keep:
            self.end(len(self.held) - 1, True)

    def explained(
        self, model: str, need: Requirements | None, exclude: list[str], affinity: Affinity
    ) -> list[str]:
        """Who might be picked, the likeliest first; what is said of the others is checked here."""
        balancer, now = self.mesh.balancer, self.mesh.now
        told = balancer.explain(model, need, exclude, now, affinity)
        assert told == balancer.explain(model, need, exclude, now, affinity)
        assert {one["workerId"] for one in told} == self.matching(model, None)
        for one in told:
            worker_id = one["workerId"]
            assert (one["load"], one["limit"]) == (self.load(worker_id), self.limit[worker_id])
            assert (one["score"] is None) == (one["excluded"] is not None)
            assert one["excluded"] == self.reason(worker_id, model, need, exclude)
        return [one["workerId"] for one in told if one["excluded"] is None]

    def reason(self, worker_id: str, model: str, need: Requirements | None, exclude: list[str]) -> str | None:
        if worker_id in exclude:
            return "tried already"
        if worker_id not in self.matching(model, need):
            return "does not meet the requirements"
        if not self.limit[worker_id]:
            return "not routable"
        return None if self.open(worker_id) else "full"

    def has_pool(self, model: str, need: Requirements | None) -> bool:
        before = list(self.mesh.balancer._pools)
        strategy = self.mesh.balancer._pools.look(model, need)[1]
        assert list(self.mesh.balancer._pools) == before
        return any(pool.strategy is strategy for pool in before)

    def expected(self, model: str, need: Requirements | None, exclude: list[str]) -> type[WrkError]:
        in_service = {worker_id for worker_id, limit in self.limit.items() if limit}
        if self.matching(model, None) & in_service and not self.matching(model, need):
            return NoWorkersMatch
        could = self.matching(model, need) & in_service
        return CapacityExceeded if could - set(exclude) else NoWorkersAvailable

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 100), ok=st.booleans())
    def end(self, which: int, ok: bool) -> None:
        lease, same = self.held.pop(which % len(self.held))
        self.mesh.now += 0.01
        lease.done(ok, self.mesh.now, 0.01)
        lease.release()
        if same:
            self.own[lease.worker.worker_id] -= 1

    @invariant()
    def loads_and_leases_agree(self) -> None:
        balancer = self.mesh.balancer
        assert balancer.leases == len(self.held)
        stats = balancer.stats(self.mesh.now, 0)
        assert set(stats) == set(self.own)
        assert all(stats[worker_id]["currentLoad"] == self.load(worker_id) for worker_id in self.own)

    @invariant()
    def every_pool_equals_one_made_from_scratch(self) -> None:
        for pool in self.mesh.balancer._pools:
            want = pool.want
            need = Requirements(sorted(want.tags), want.min_capacity, dict(want.labels), want.min_context)
            matching = self.matching(want.model, need)
            assert pool.matching == len(matching)
            assert pool.routable == sum(self.limit[worker_id] > 0 for worker_id in matching)

    def teardown(self) -> None:
        """Every pool offers exactly the open workers, and every order can still reach each of them."""
        for pool in self.mesh.balancer._pools:
            matching = {c for c in self.own if pool.want.model in self.models(c)}
            there = {c for c in matching if self.open(c) and pool.want.met_by(self.record(c))}
            looks = type(pool.strategy).by_session or type(pool.strategy).by_prompt
            for affinity in AFFINITIES if looks else [NO_AFFINITY]:
                offered: set[str] = set()
                while (candidate := pool.strategy.choose(offered, self.mesh.now, affinity)) is not None:
                    assert candidate.worker_id not in offered
                    offered.add(candidate.worker_id)
                assert offered == there

    def record(self, worker_id: str) -> WorkerRecord:
        record = self.mesh.registry.get(worker_id)
        assert record is not None
        return record

    def models(self, worker_id: str) -> tuple[str, ...]:
        return self.record(worker_id).models


@pytest.mark.parametrize("strategy", EVERY)
def test_any_history_equals_the_model(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Small enough that five workers reach what ten thousand do.
    monkeypatch.setattr(pools, "MAX_POOLS", 6)
    monkeypatch.setattr(least_connections, "SPARE_ROWS", 0)
    monkeypatch.setattr(ring, "FEW", 1)
    monkeypatch.setattr(ring, "MANY", 2)
    monkeypatch.setattr(prefixes, "MOST_BEGINNINGS", 9)
    monkeypatch.setattr(prefixes, "MOST_HOLDERS", 2)
    monkeypatch.setattr(probes, "MOST_PROBES", 3)
    monkeypatch.setattr(deck, "SPARE_CARDS", 2)
    monkeypatch.setattr(weighted, "SPARE_TURNS", 0)
    monkeypatch.setattr(weighted, "FIRST", 1)
    monkeypatch.setattr(weighted, "MORE", 1)
    machine = type("History", (History,), {"strategy": strategy})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=120, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
