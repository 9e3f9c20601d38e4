"""Stories of models that judgement has left too few racks: who is let in, how slowly, and until when."""

from __future__ import annotations

import pytest

from tests.fakes.health_mesh import FULL, TICK, HealthMesh
from wrk_orchestrator.health_changes import PanicBegan, PanicEnded, SetLimit
from wrk_orchestrator.health_panic import Panic, Part
from wrk_orchestrator.health_table import Observation

O = Observation  # noqa: E741


def two_left_of_four(**policy: float) -> HealthMesh:
    """r1 and r2 in quarantine, r3 and r4 in service."""
    mesh = HealthMesh(**policy)
    mesh.racks("r1", "r2", "r3", "r4")
    for name in ("r1", "r2"):
        mesh.see(name, *[O.CALL_TIMED_OUT] * 5)
    assert [mesh.state(name) for name in ("r1", "r2", "r3", "r4")] == ["quarantined"] * 2 + ["healthy"] * 2
    mesh.log.clear()
    return mesh


def in_panic(mesh: HealthMesh) -> list[str]:
    return list(mesh.monitor.aggregate()["panic"])


def test_when_the_last_good_rack_is_lost_those_in_quarantine_get_a_call_each() -> None:
    mesh = two_left_of_four()
    mesh.see("r3", O.CONNECTION_LOST)
    assert (mesh.limits["r1"], in_panic(mesh)) == (0, [])
    mesh.see("r4", O.CONNECTION_LOST)
    assert mesh.limits == {"r1": 1, "r2": 1, "r3": 0, "r4": 0}
    assert [change for change in mesh.log if isinstance(change, PanicBegan)] == [
        PanicBegan("m", ("r1", "r2"))
    ]
    assert (in_panic(mesh), mesh.monitor.aggregate()["panics"]) == (["m"], 1)
    assert (mesh.state("r1"), mesh.fact("r1", "letIn"), mesh.fact("r1", "limit")) == ("quarantined", True, 1)


def test_panic_ends_by_itself_when_a_good_rack_is_back() -> None:
    mesh = two_left_of_four()
    mesh.see("r3", O.CONNECTION_LOST)
    mesh.see("r4", O.CONNECTION_LOST)
    mesh.log.clear()
    mesh.see("r3", O.LINK_UP)
    assert mesh.limits == {"r1": 0, "r2": 0, "r3": FULL, "r4": 0}
    assert [change for change in mesh.log if isinstance(change, PanicEnded)] == [PanicEnded("m")]
    assert (in_panic(mesh), mesh.fact("r1", "letIn")) == ([], False)


def test_a_share_of_good_racks_that_is_too_small_is_panic_too() -> None:
    mesh = two_left_of_four(panic_share=0.5)
    mesh.see("r3", O.CONNECTION_LOST)  # one of three is left
    assert (mesh.limits["r1"], mesh.limits["r4"]) == (1, FULL)


def test_racks_that_are_lost_of_themselves_make_no_panic() -> None:
    mesh = HealthMesh()
    mesh.racks("r1", "r2", "r3")
    for name in ("r1", "r2", "r3"):
        mesh.see(name, O.CONNECTION_LOST)
    assert (in_panic(mesh), set(mesh.limits.values())) == ([], {0})


def test_the_only_rack_of_a_model_goes_on_with_a_call_at_a_time() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    mesh.see(rack, *[O.CALL_TIMED_OUT] * 5)
    assert (mesh.state(rack), mesh.limits[rack]) == ("quarantined", 1)


def test_with_a_share_of_nought_nobody_is_ever_let_in() -> None:
    mesh = HealthMesh(panic_share=0.0)
    rack = mesh.rack("r1")
    mesh.see(rack, *[O.CALL_TIMED_OUT] * 5)
    assert (mesh.limits[rack], in_panic(mesh)) == (0, [])


def test_who_is_let_in_earns_more_by_answers_and_loses_it_by_failures() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    mesh.see(rack, *[O.CALL_TIMED_OUT] * 5)
    limits = []
    for seen in (O.CALL_OK, O.CALL_OK, O.CALL_TIMED_OUT, O.CALL_OK, O.CALL_OK, O.CALL_OK, O.CALL_OK):
        mesh.see(rack, seen)
        limits.append(mesh.limits[rack])
    assert limits == [2, 4, 1, 2, 4, FULL, FULL]
    assert mesh.state(rack) == "quarantined"  # which no good behaviour shortens
    assert mesh.fact(rack, "strikes") == 1
    mesh.see(rack, O.CALL_OK)
    mesh.until(lambda: mesh.state(rack) != "quarantined", within=6.0)
    assert mesh.state(rack) == "healthy"  # what it proved meanwhile counts


def test_an_operator_s_quarantine_is_never_panicked_away() -> None:
    mesh = HealthMesh()
    held, judged = mesh.racks("r1", "r2")
    mesh.see(held, O.OPERATOR_QUARANTINE)
    mesh.see(judged, *[O.CALL_TIMED_OUT] * 5)
    assert mesh.state(judged) == "healthy"  # the last one left
    mesh.see(judged, O.CONNECTION_LOST)
    assert (mesh.limits, in_panic(mesh)) == ({held: 0, judged: 0}, [])


def test_a_word_of_the_operator_ends_what_panic_allowed() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    mesh.see(rack, *[O.CALL_TIMED_OUT] * 5)
    mesh.see(rack, O.OPERATOR_QUARANTINE)
    assert (mesh.limits[rack], in_panic(mesh)) == (0, [])


def test_a_silent_rack_is_not_let_in_and_with_its_next_beat_it_is() -> None:
    mesh = HealthMesh(quarantine_min=60.0)
    rack = mesh.rack("r1")
    mesh.see(rack, *[O.CALL_TIMED_OUT] * 5)
    mesh.stop(rack)
    mesh.until(lambda: mesh.limits[rack] == 0, within=2.75)
    assert (mesh.state(rack), in_panic(mesh)) == ("quarantined", [])
    mesh.resume(rack)
    mesh.everyone_beats()
    assert (mesh.state(rack), mesh.limits[rack]) == ("quarantined", 1)
    mesh.stop(rack)
    mesh.until(lambda: mesh.state(rack) == "gone", within=4.0)


def test_a_rack_that_is_condemned_for_its_missing_beats_is_not_let_in_before_the_next_one() -> None:
    mesh = HealthMesh(flap_high=0.17, flap_low=0.1)
    rack = mesh.rack("r1")
    mesh.see(rack, O.CONNECTION_LOST, O.LINK_UP)
    mesh.stop(rack)
    mesh.until(lambda: mesh.limits[rack] == 0, within=3.0)
    assert (mesh.state(rack), mesh.fact(rack, "cause")) == ("quarantined", "flapping: 18% changes")
    mesh.resume(rack)
    mesh.everyone_beats()
    assert (mesh.state(rack), mesh.limits[rack]) == ("quarantined", 1)


def test_a_quarantine_that_ends_ends_the_panic() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    mesh.see(rack, *[O.CALL_TIMED_OUT] * 5)
    mesh.until(lambda: mesh.state(rack) == "probation", within=6.0)
    assert (mesh.limits[rack], in_panic(mesh)) == (1, [])


def test_a_good_rack_that_leaves_for_good_begins_a_panic() -> None:
    mesh = two_left_of_four()
    mesh.see("r3", O.CONNECTION_LOST)
    changes = mesh.monitor.remove("r4")
    assert changes == (PanicBegan("m", ("r1", "r2")), SetLimit("r1", 1), SetLimit("r2", 1))


def test_a_rack_of_two_models_is_let_in_where_one_of_them_panics() -> None:
    mesh = HealthMesh()
    both = mesh.rack("r1", ("a", "b"))
    mesh.rack("r2", ("b",))
    mesh.see(both, *[O.CALL_TIMED_OUT] * 5)
    assert (mesh.limits[both], in_panic(mesh)) == (1, ["a"])
    mesh.monitor.update(both, ["b"], FULL)
    mesh.advance(TICK)
    assert (mesh.fact(both, "limit"), in_panic(mesh)) == (0, [])


@pytest.mark.parametrize(("routable", "panics"), [(0, True), (1, False), (2, False)])
def test_nothing_is_kept_of_models_that_nobody_serves(routable: int, panics: bool) -> None:
    panic = Panic(0.25)
    parts = {"out": Part.SHUT_OUT, "none": Part.NONE} | {f"in{n}": Part.ROUTABLE for n in range(routable)}
    for name, part in parts.items():
        panic.enter(name, ["m"], part)
    assert bool(panic.review()) is panics is panic.lets_in(["x", "m"])
    for name, part in parts.items():
        panic.leave(name, ["m"], part)
    panic.review()
    assert (panic._crowds, panic.models(), panic.shut_out("m")) == ({}, [], ())
