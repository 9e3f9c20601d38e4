"""The registry: who serves what, who an entry really is, and what is remembered of those who left.

The last part plays random histories and holds every index against one computed from scratch.
"""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wrk_base.contract import ModelFacts
from wrk_base.errors import CapacityExceeded
from wrk_orchestrator import service_registry
from wrk_orchestrator.records import Changes, Joined, Left, Updated, Want, WorkerRecord
from wrk_orchestrator.service_registry import ServiceRegistry

LEASE = 30.0


def offer(worker_id: str, *models: str, **more: object) -> WorkerRecord:
    facts: dict[str, object] = {"address": f"tcp://10.0.0.1:{worker_id}", "models": models or ("m",)}
    return WorkerRecord(worker_id=worker_id, **(facts | more))  # type: ignore[arg-type]


def ids(workers: list[WorkerRecord]) -> list[str]:
    return [worker.worker_id for worker in workers]


def kinds(changes: Changes) -> list[tuple[str, str]]:
    return [(type(change).__name__, change.worker.worker_id) for change in changes]


@pytest.fixture
def registry() -> ServiceRegistry:
    return ServiceRegistry(lease_s=LEASE)


# Joining, changing, leaving.


def test_a_worker_is_found_by_model_tag_label_and_capacity(registry: ServiceRegistry) -> None:
    worker = offer("w1", "m1", "m2", tags=frozenset({"gpu"}), labels={"site": "a"}, max_concurrent=4)
    assert registry.register(worker, now=0) == (Joined(worker),)

    assert registry.get("w1") == registry.holder("w1") == worker
    assert registry.models() == {"m1": 1, "m2": 1}
    assert ids(registry.workers_of("m2")) == ["w1"]
    site = frozenset({("site", "a")})
    assert registry.matching(Want("m1", frozenset({"gpu"}), site, 4)) == ["w1"]
    assert registry.matching(Want("m1", frozenset({"gpu"}), site, 5)) == []
    assert registry.matching(Want("m1", frozenset({"cpu"}), site, 4)) == []
    assert registry.matching(Want("m1", frozenset({"gpu"}), frozenset({("site", "b")}))) == []


def test_a_worker_is_found_by_what_it_tells_of_a_model_that_it_serves(registry: ServiceRegistry) -> None:
    facts = {"m1": ModelFacts(["vision"], 8192), "m3": ModelFacts(["tools"])}
    registry.register(offer("w1", "m1", "m2", tags=frozenset({"gpu"}), facts=facts), now=0)
    assert registry.matching(Want("m1", frozenset({"vision", "gpu"}), min_context=8192)) == ["w1"]
    assert registry.matching(Want("m1", min_context=8193)) == []
    assert registry.matching(Want("m2", frozenset({"vision"}))) == []
    assert registry.matching(Want("m3", frozenset({"tools"}))) == []
    assert (registry.capabilities("m1"), registry.longest_context("m1")) == (["gpu", "vision"], 8192)
    assert (registry.capabilities("m2"), registry.longest_context("m2")) == (["gpu"], 0)
    assert (registry.capabilities("m3"), registry.longest_context("m3")) == ([], 0)


def test_registering_again_leaves_nothing_of_the_old_entry(registry: ServiceRegistry) -> None:
    old = offer("w1", "old", tags=frozenset({"cpu"}), labels={"site": "a"})
    new = offer("w1", "new", tags=frozenset({"gpu"}), labels={"site": "b"})
    registry.register(old, now=0)
    assert registry.register(new, now=1) == (Updated(new, before=old),)

    assert registry.models() == {"new": 1}
    assert registry.workers_of("old") == []
    assert registry.matching(Want("new", frozenset({"cpu"}))) == []
    assert registry.matching(Want("new", labels=frozenset({("site", "a")}))) == []
    assert len(registry) == 1


def test_saying_the_same_again_changes_nothing_but_the_lease(registry: ServiceRegistry) -> None:
    registry.register(offer("w1", registered_at=1), now=0)
    assert registry.register(offer("w1", registered_at=2), now=5) == ()
    assert registry.expires("w1") == 5 + LEASE


def test_a_model_listed_twice_is_served_once_and_leaves_whole(registry: ServiceRegistry) -> None:
    registry.register(offer("w1", "m", "m"), now=0)
    assert registry.models() == {"m": 1}
    registry.remove("w1")
    assert registry.models() == {}


def test_removing_says_who_left_and_why(registry: ServiceRegistry) -> None:
    worker = offer("w1")
    registry.register(worker, now=0)
    assert registry.remove("w1", "goodbye") == (Left(worker, "goodbye"),)
    assert registry.remove("w1") == ()
    assert registry.get("w1") is None


def test_workers_that_come_and_go_do_not_widen_the_index(registry: ServiceRegistry) -> None:
    registry.register(offer("stays"), now=0)
    for number in range(100):
        facts = {f"m{number}": ModelFacts(["vision"], number)}
        guest = offer(f"guest{number}", f"m{number}", labels={"n": str(number)}, facts=facts)
        registry.register(guest, now=0)
        registry.remove(f"guest{number}")
    index = registry._facts
    assert len(index._ids) == 2
    assert (len(index._serving), len(index._labelled), len(index._told)) == (1, 0, 0)
    assert registry.matching(Want("m")) == ["stays"]


# Leases.


def test_a_lease_ends_unless_renewed_and_the_end_itself_counts(registry: ServiceRegistry) -> None:
    registry.register(offer("alive"), now=0)
    registry.register(offer("quiet"), now=0)
    registry.renew("alive", now=10)
    assert registry.expire(now=LEASE - 0.001) == ()
    assert kinds(registry.expire(now=LEASE)) == [("Left", "quiet")]
    assert ids(registry.all()) == ["alive"]
    assert kinds(registry.expire(now=10 + LEASE)) == [("Left", "alive")]


def test_manual_entries_have_no_lease(registry: ServiceRegistry) -> None:
    registry.register(offer("w1"), now=0)
    registry.register(offer("w1", manual=True), now=0)
    registry.renew("w1", now=1)
    assert registry.expires("w1") == inf
    assert registry.expire(now=1e9) == ()


def test_renewing_an_unknown_worker_does_not_create_one(registry: ServiceRegistry) -> None:
    registry.renew("nobody", now=0)
    assert registry.expire(now=1e9) == ()
    assert len(registry) == 0


# The cap.


def test_the_cap_refuses_one_more_worker_and_touches_nothing() -> None:
    registry = ServiceRegistry(lease_s=LEASE, max_workers_per_model=1)
    first = offer("w1", "m")
    registry.register(first, now=0)
    with pytest.raises(CapacityExceeded, match="model m has 1") as caught:
        registry.register(offer("w2", "other", "m"), now=0)
    assert caught.value.data == {"model": "m", "maxWorkersPerModel": 1}
    assert registry.all() == [first]
    assert registry.models() == {"m": 1}


def test_the_cap_lets_a_worker_replace_itself_or_its_own_other_entry() -> None:
    registry = ServiceRegistry(lease_s=LEASE, max_workers_per_model=1)
    registry.register(offer("w1", "m"), now=0)
    registry.register(offer("w1", "m", max_concurrent=2), now=0)
    registry.bind_instance("w1", "inst", 1)
    assert kinds(registry.register(offer("inst", "m", instance_id="inst"), now=0)) == [
        ("Left", "w1"),
        ("Joined", "inst"),
    ]


def test_an_update_that_would_exceed_the_cap_leaves_the_old_entry() -> None:
    registry = ServiceRegistry(lease_s=LEASE, max_workers_per_model=1)
    registry.register(offer("w1", "m"), now=0)
    registry.register(offer("w2", "other"), now=0)
    with pytest.raises(CapacityExceeded):
        registry.register(offer("w2", "m"), now=5)
    assert registry.models() == {"m": 1, "other": 1}
    assert registry.expires("w2") == LEASE


def test_the_cap_holds_for_what_a_rack_adds_to_its_manual_entry() -> None:
    registry = ServiceRegistry(lease_s=LEASE, max_workers_per_model=1)
    registry.register(offer("box", "m", manual=True), now=0)
    registry.bind_instance("box", "r1", 7)
    registry.register(offer("w2", "m2"), now=0)
    before = registry.all()
    with pytest.raises(CapacityExceeded, match="model m2 has 1"):
        registry.register(offer("r1", "m", "m2", instance_id="r1"), now=0)
    assert registry.all() == before


# Who an entry really is.


def test_the_dial_back_finds_an_instance_that_is_listed_and_the_older_entry_goes(
    registry: ServiceRegistry,
) -> None:
    registry.register(offer("static-1", source="static"), now=0)
    registry.bind_instance("static-1", "r1", 7)
    registry.register(offer("r1"), now=0)
    assert kinds(registry.bind_instance("r1", "r1", 7)) == [("Left", "static-1"), ("Updated", "r1")]
    assert registry.holder("r1") == registry.get("r1")
    assert ids(registry.all()) == ["r1"]


def test_what_dialling_has_shown_holds_as_long_as_the_address_does(registry: ServiceRegistry) -> None:
    registry.register(offer("w1", address="tcp://a:1"), now=0)
    registry.bind_instance("w1", "inst", 7)

    registry.register(offer("w1", "other", address="tcp://a:1"), now=1)
    held = registry.get("w1")
    assert held is not None
    assert (held.instance_id, held.epoch) == ("inst", 7)

    registry.register(offer("w1", "other", address="tcp://a:2"), now=2)
    held = registry.get("w1")
    assert held is not None
    assert held.instance_id == ""
    assert registry.holder("inst") is None


def test_binding_an_entry_that_has_left_meanwhile_does_nothing(registry: ServiceRegistry) -> None:
    assert registry.bind_instance("gone", "inst", 1) == ()
    assert registry.holder("inst") is None


@pytest.fixture
def with_manual(registry: ServiceRegistry) -> ServiceRegistry:
    """The operator has registered `box`, and the dial-back has found r1 there."""
    manual = offer(
        "box", "m", address="tcp://gateway:1", manual=True, source="http", weight=2.0, labels={"site": "a"}
    )
    registry.register(manual, now=0)
    registry.bind_instance("box", "r1", 7)
    return registry


def test_a_rack_that_a_manual_entry_stands_for_refreshes_that_entry(with_manual: ServiceRegistry) -> None:
    own = offer("r1", "m", "m2", instance_id="r1", epoch=7, max_concurrent=4, labels={"site": "b", "z": "1"})
    assert kinds(with_manual.register(own, now=1)) == [("Updated", "box")]

    held = with_manual.holder("r1")
    assert held is not None
    assert held.worker_id == "box"
    assert (held.models, held.max_concurrent) == (("m", "m2"), 4)
    # The operator's word stands: a way through a gateway, a label, a weight, and no lease.
    assert (held.address, held.labels, held.weight) == ("tcp://gateway:1", {"site": "a", "z": "1"}, 2.0)
    assert held.manual
    assert with_manual.expire(now=1e9) == ()


def test_a_label_that_the_rack_drops_is_dropped_from_the_manual_entry(with_manual: ServiceRegistry) -> None:
    with_manual.register(offer("r1", instance_id="r1", labels={"z": "1"}), now=1)
    with_manual.register(offer("r1", instance_id="r1"), now=2)
    held = with_manual.get("box")
    assert held is not None
    assert held.labels == {"site": "a"}


def test_a_manual_entry_follows_an_instance_that_says_another_address_than_before(
    with_manual: ServiceRegistry,
) -> None:
    with_manual.register(offer("r1", instance_id="r1", address="tcp://inside:5000"), now=1)
    assert ids([held for held in with_manual.all() if held.address == "tcp://gateway:1"]) == ["box"]
    with_manual.register(offer("r1", instance_id="r1", address="tcp://inside:6000", epoch=8), now=2)
    held = with_manual.get("box")
    assert held is not None
    assert (held.address, held.epoch) == ("tcp://inside:6000", 8)


def test_a_rack_that_registered_before_the_dial_back_is_taken_into_the_manual_entry(
    registry: ServiceRegistry,
) -> None:
    registry.register(offer("r1", "m", "m2"), now=0)
    registry.register(offer("box", "m", manual=True), now=0)
    registry.bind_instance("box", "r1", 7)
    assert kinds(registry.bind_instance("r1", "r1", 7)) == [("Left", "r1"), ("Updated", "box")]
    assert registry.models() == {"m": 1, "m2": 1}


def test_a_manual_entry_under_the_racks_own_id_stays_manual(registry: ServiceRegistry) -> None:
    registry.register(offer("r1", manual=True), now=0)
    registry.register(offer("r1", "m2", instance_id="r1"), now=1)
    held = registry.get("r1")
    assert held is not None
    assert held.manual
    assert held.models == ("m2",)


def test_of_two_manual_entries_for_one_instance_the_later_word_stays(with_manual: ServiceRegistry) -> None:
    with_manual.register(offer("late", manual=True, registered_at=2), now=1)
    assert kinds(with_manual.bind_instance("late", "r1", 7)) == [("Left", "box"), ("Updated", "late")]
    with_manual.register(offer("early", manual=True, registered_at=1), now=1)
    assert kinds(with_manual.bind_instance("early", "r1", 7)) == [("Left", "early")]


def test_the_operator_registering_again_replaces_what_the_rack_had_said(with_manual: ServiceRegistry) -> None:
    with_manual.register(offer("r1", "m2", instance_id="r1"), now=1)
    with_manual.register(offer("box", "m3", address="tcp://gateway:1", manual=True), now=2)
    held = with_manual.get("box")
    assert held is not None
    assert (held.models, held.instance_id) == (("m3",), "r1")

    # From here on the rack's next word is its first again: the operator's address stays.
    with_manual.register(offer("r1", "m2", instance_id="r1", address="tcp://inside:6000"), now=3)
    held = with_manual.get("box")
    assert held is not None
    assert held.address == "tcp://gateway:1"


def test_of_a_manual_entry_that_is_removed_nothing_is_kept(with_manual: ServiceRegistry) -> None:
    with_manual.register(offer("r1", "m2", instance_id="r1"), now=1)
    with_manual.remove("box")
    assert with_manual.holder("r1") is None
    assert not with_manual._said
    assert not with_manual._heard


# Memory of models.


def test_a_model_that_left_is_told_from_one_never_seen(registry: ServiceRegistry) -> None:
    registry.register(offer("w1", "m"), now=0)
    registry.remove("w1")
    assert registry.seen("m")
    assert not registry.serves("m")
    assert not registry.seen("n")


def test_memory_of_models_that_left_is_bounded_and_never_drops_a_served_one(
    registry: ServiceRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_registry, "MAX_GONE_MODELS", 3)
    registry.register(offer("stays", "served"), now=0)
    for name in "abcd":
        registry.register(offer("w1", name), now=0)
    registry.remove("w1")
    assert [name for name in "abcd" if registry.seen(name)] == ["b", "c", "d"]
    assert registry.seen("served")


# Random histories.

WORKERS = st.sampled_from(["a", "b", "c", "r1", "r2"])
NAMES = st.sampled_from(["m1", "m2", "m3"])
INSTANCES = st.sampled_from(["r1", "r2", "r3"])
OFFERS = st.builds(
    WorkerRecord,
    worker_id=WORKERS,
    address=st.sampled_from(["tcp://h:1", "tcp://h:2"]),
    models=st.lists(NAMES, max_size=3).map(tuple),
    cold=st.lists(NAMES, max_size=2).map(tuple),
    tags=st.frozensets(st.sampled_from(["t1", "t2"])),
    labels=st.dictionaries(st.sampled_from(["k1", "k2"]), st.sampled_from(["v1", "v2"])),
    max_concurrent=st.integers(1, 3),
    facts=st.dictionaries(
        NAMES, st.builds(ModelFacts, st.lists(st.sampled_from(["t1", "t2"]), max_size=2), st.integers(0, 3))
    ),
    instance_id=st.one_of(st.just(""), INSTANCES),
    epoch=st.integers(0, 2),
    manual=st.booleans(),
    registered_at=st.integers(0, 3),
)
STEPS = st.one_of(
    st.tuples(st.just("register"), OFFERS),
    st.tuples(st.just("remove"), WORKERS),
    st.tuples(st.just("bind"), WORKERS, INSTANCES, st.integers(0, 2)),
    st.tuples(st.just("cool"), WORKERS, NAMES),
    st.tuples(st.just("renew"), WORKERS),
    st.tuples(st.just("wait"), st.floats(0, LEASE)),
)
WANTS = [
    Want(model, frozenset(tags), frozenset(labels), capacity, context)
    for model in ("m1", "m2", "m3", "never")
    for tags in ((), ("t1",), ("t1", "t2"))
    for labels in ((), (("k1", "v1"),), (("k1", "v1"), ("k2", "v2")))
    for capacity in (0, 2)
    for context in (0, 1, 3)
]


def play(registry: ServiceRegistry, step: tuple[object, ...], now: float) -> Changes:
    match step:
        case ("register", WorkerRecord() as worker):
            try:
                return registry.register(worker, now)
            except CapacityExceeded:
                return ()
        case ("remove", str(worker_id)):
            return registry.remove(worker_id)
        case ("bind", str(worker_id), str(instance), int(epoch)):
            return registry.bind_instance(worker_id, instance, epoch)
        case ("cool", str(worker_id), str(model)):
            return registry.cool(worker_id, model)
        case ("renew", str(worker_id)):
            registry.renew(worker_id, now)
            return ()
        case _:
            return registry.expire(now)


def replay(known: dict[str, WorkerRecord], changes: Changes) -> None:
    """What somebody who only reads the changes takes the registry to hold."""
    for change in changes:
        worker = change.worker
        if isinstance(change, Left):
            assert known.pop(worker.worker_id) == worker
        elif isinstance(change, Updated):
            assert known[worker.worker_id] == change.before
            known[worker.worker_id] = worker
        else:
            assert worker.worker_id not in known
            known[worker.worker_id] = worker


def check(registry: ServiceRegistry, seen: set[str], now: float) -> None:
    everybody = registry.all()
    by_model = {m: [w for w in everybody if m in w.models] for w in everybody for m in w.models}
    cold = {m: [w for w in everybody if m in w.cold and m not in w.models] for m in ("m1", "m2", "m3")}
    known = {model: 0 for model, workers in cold.items() if workers}
    assert registry.models() == known | {model: len(workers) for model, workers in by_model.items()}
    assert sorted(registry.some_models(9)) == sorted(registry.models())
    for model, workers in cold.items():
        assert sorted(ids(registry.could_load(model))) == sorted(ids(workers))
        assert registry.known(model) == (model in registry.models())
    for model, workers in by_model.items():
        assert sorted(ids(registry.workers_of(model))) == sorted(ids(workers))
    for want in WANTS:
        found = sorted(worker.worker_id for worker in by_model.get(want.model, []) if want.met_by(worker))
        assert sorted(registry.matching(want)) == found
        assert registry.anybody(want) == bool(found)
    instances = [worker.instance_id for worker in everybody if worker.instance_id]
    assert len(instances) == len(set(instances))
    for worker in everybody:
        assert registry.holder(worker.worker_id) == worker
        assert (registry.expires(worker.worker_id) == inf) == worker.manual
        assert registry.expires(worker.worker_id) > now
    assert {model for model in ("m1", "m2", "m3", "never") if registry.seen(model)} == seen


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=40), st.sampled_from([0, 2]))
def test_after_any_history_every_index_equals_one_made_from_scratch(
    steps: list[tuple[object, ...]], cap: int
) -> None:
    registry = ServiceRegistry(lease_s=LEASE, max_workers_per_model=cap)
    known: dict[str, WorkerRecord] = {}
    seen: set[str] = set()
    now = 0.0
    for step in steps:
        now += step[1] if isinstance(step[1], float) else 0.0
        replay(known, registry.expire(now))
        changes = play(registry, step, now)
        replay(known, changes)
        seen.update(*(worker.models + worker.cold for worker in known.values()))
        assert known == {worker.worker_id: worker for worker in registry.all()}
        assert not cap or max(registry.models().values(), default=0) <= cap
        check(registry, seen, now)
        if step[0] in ("renew", "wait"):
            assert not changes


@settings(max_examples=100, deadline=None)
@given(st.lists(STEPS, max_size=30))
def test_nothing_that_racks_do_removes_the_operators_word(steps: list[tuple[object, ...]]) -> None:
    registry = ServiceRegistry(lease_s=LEASE)
    registry.register(offer("box", manual=True, address="tcp://h:1"), now=0)
    registry.bind_instance("box", "r1", 1)
    for number, step in enumerate(steps):
        if step[0] == "remove" or (isinstance(step[1], WorkerRecord) and step[1].manual):
            continue
        play(registry, step, now=number * LEASE)
        held = registry.get("box")
        assert held is not None
        assert held.manual


# --- models that are not loaded


def test_cold_models_are_known_and_not_served() -> None:
    registry = ServiceRegistry(lease_s=LEASE)
    registry.register(
        WorkerRecord(worker_id="w1", address="tcp://h:1", models=("m",), cold=("m", "big")), 0.0
    )
    assert registry.models() == {"m": 1, "big": 0}
    assert ids(registry.could_load("big")) == ["w1"]
    assert registry.could_load("m") == []
    assert (registry.serves("big"), registry.known("big"), registry.seen("big")) == (False, True, True)
    registry.remove("w1")
    assert (registry.known("big"), registry.seen("big")) == (False, True)


def test_model_that_a_worker_has_put_out_is_cold_until_it_says_more() -> None:
    registry = ServiceRegistry(lease_s=LEASE)
    offer = WorkerRecord(worker_id="w1", address="tcp://h:1", models=("m", "n"))
    registry.register(offer, 0.0)
    (change,) = registry.cool("w1", "m")
    assert (change.worker.models, change.worker.cold) == (("n",), ("m",))
    assert registry.cool("w1", "m") == registry.cool("w1", "never") == registry.cool("nobody", "m") == ()
    registry.register(offer, 1.0)
    assert registry.models() == {"m": 1, "n": 1}


def test_workers_are_bounded_whoever_registers_them(
    registry: ServiceRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_registry, "MAX_WORKERS", 3)
    for name in ("w1", "w2", "w3"):
        registry.register(offer(name), now=0)
    with pytest.raises(CapacityExceeded, match="3 workers"):
        registry.register(offer("w4"), now=0)
    registry.register(offer("w3", "other"), now=1)
    registry.remove("w1")
    registry.register(offer("w4"), now=2)
    assert len(registry) == 3
