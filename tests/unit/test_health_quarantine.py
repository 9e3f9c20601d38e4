"""Stories of quarantine: how racks get in, who may not be sent there, how they come back, who decides."""

from __future__ import annotations

import pytest

from tests.fakes.health_mesh import FULL, TICK, HealthMesh, quarantined
from wrk_orchestrator.health_changes import SetLimit
from wrk_orchestrator.health_past import MOST_KEPT, Pasts
from wrk_orchestrator.health_policy import HealthPolicy
from wrk_orchestrator.health_record import HealthRecord
from wrk_orchestrator.health_table import Observation

O = Observation  # noqa: E741


# Quarantine and probation


@pytest.mark.parametrize(
    ("off_by", "expected"), [(-0.001, "quarantined"), (0.0, "probation"), (0.001, "probation")]
)
def test_a_quarantine_ends_neither_early_nor_late(off_by: float, expected: str) -> None:
    mesh = HealthMesh()
    mesh.advance(10)
    rack = mesh.rack("r1")
    mesh.see(rack, *[O.CALL_TIMED_OUT] * 5)
    mesh.advance(4.75)
    mesh.now += 0.25 + off_by
    mesh.monitor.beat(rack, mesh.now)
    mesh.monitor.tick(mesh.now, 0.0)
    assert mesh.state(rack) == expected


def test_no_beat_probe_or_answer_shortens_a_quarantine() -> None:
    mesh, rack = quarantined()
    for _ in range(18):
        mesh.see(rack, O.PROBE_OK, O.CALL_OK, O.BEAT, O.CALL_FAILED, O.HOST_ANSWERS)
        mesh.advance(TICK)
    assert mesh.moves(rack) == ["healthy", "quarantined"]


def test_probation_starts_slowly_and_ends_with_five_successes() -> None:
    mesh, rack = quarantined()
    mesh.answering.clear()
    mesh.until(lambda: mesh.state(rack) == "probation", within=6.0)
    seen = [mesh.limits[rack]]
    for _ in range(5):
        mesh.see(rack, O.CALL_OK)
        seen.append(mesh.limits[rack])
    assert seen == [1, 2, 4, FULL, FULL, FULL]
    assert mesh.state(rack) == "healthy"


def test_an_idle_rack_recovers_by_its_probes_alone() -> None:
    mesh, rack = quarantined()
    mesh.until(lambda: mesh.state(rack) == "probation", within=6.0)
    mesh.until(lambda: mesh.state(rack) == "healthy", within=8.0)
    assert mesh.limits[rack] == FULL
    mesh.see(rack, O.CONNECTION_LOST, O.LINK_UP)  # and it has nothing left to prove
    assert mesh.limits[rack] == FULL


def test_probes_prove_nothing_while_a_call_is_stuck_in_the_rack() -> None:
    mesh, rack = quarantined()
    mesh.answering.clear()
    mesh.until(lambda: mesh.state(rack) == "probation", within=6.0)
    for _ in range(10):
        mesh.see(rack, O.PROBE_OK, busy=True)
        mesh.advance(1.0)
    assert (mesh.state(rack), mesh.limits[rack]) == ("probation", 1)
    mesh.see(rack, O.CALL_TIMED_OUT)
    assert mesh.state(rack) == "quarantined"


@pytest.mark.parametrize("failure", [O.CALL_FAILED, O.CALL_TIMED_OUT, O.PROBE_FAILED, O.CONNECTION_LOST])
def test_one_failure_on_probation_doubles_the_quarantine(failure: Observation) -> None:
    mesh, rack = quarantined()
    assert mesh.fact(rack, "quarantineLeftMs") == 5000
    mesh.until(lambda: mesh.state(rack) == "probation", within=6.0)
    mesh.see(rack, failure)
    assert mesh.limits[rack] == 0
    assert mesh.fact(rack, "quarantineLeftMs") == 10_000
    mesh.see(rack, O.LINK_UP)
    assert mesh.state(rack) == "quarantined"


def test_what_was_proven_before_a_failure_does_not_count_after_it() -> None:
    mesh, rack = quarantined()
    mesh.answering.clear()
    mesh.until(lambda: mesh.state(rack) == "probation", within=6.0)
    mesh.see(rack, O.CALL_OK, O.CALL_OK)
    assert mesh.limits[rack] == 4
    mesh.see(rack, O.CALL_FAILED)
    mesh.until(lambda: mesh.state(rack) == "probation", within=11.0)
    assert mesh.limits[rack] == 1


def test_nothing_seen_later_hides_why_a_rack_is_in_quarantine() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    mesh.see(rack, *[O.CALL_TIMED_OUT] * 6, cause="the deadline passed")
    mesh.see(rack, O.PROBE_FAILED, O.CALL_FAILED, cause="something else")
    assert mesh.fact(rack, "cause") == "5 deadlines missed in a row"
    mesh.see(rack, O.OPERATOR_QUARANTINE, cause="bad disk")
    assert mesh.fact(rack, "cause") == "bad disk"


def test_quarantines_double_up_to_the_cap_and_a_long_calm_forgives_them() -> None:
    mesh, rack = quarantined(quarantine_max=30.0)
    lengths = [mesh.fact(rack, "quarantineLeftMs")]
    for _ in range(4):
        mesh.until(lambda: mesh.state(rack) == "probation", within=40.0)
        mesh.see(rack, O.CALL_TIMED_OUT)
        lengths.append(mesh.fact(rack, "quarantineLeftMs"))
    assert lengths == [5000, 10_000, 20_000, 30_000, 30_000]
    mesh.until(lambda: mesh.state(rack) == "healthy", within=60.0)
    mesh.advance(5 * 60.0)
    mesh.see(rack, *[O.CALL_TIMED_OUT] * 5)
    assert mesh.fact(rack, "quarantineLeftMs") == 5000


def test_a_rack_suspected_on_probation_goes_on_proving_itself_afterwards() -> None:
    mesh, rack = quarantined()
    mesh.until(lambda: mesh.state(rack) == "probation", within=6.0)
    mesh.stop(rack)
    mesh.until(lambda: mesh.state(rack) == "suspect", within=3.0)
    mesh.resume(rack)
    mesh.everyone_beats()
    assert mesh.state(rack) == "probation"


def test_a_rack_that_is_silent_when_its_quarantine_ends_gets_no_work() -> None:
    mesh, rack = quarantined()
    mesh.advance(2.5)
    mesh.stop(rack)
    mesh.log.clear()
    mesh.until(lambda: mesh.state(rack) == "suspect", within=4.0)
    assert SetLimit(rack, 1) not in mesh.log


def test_losing_its_link_does_not_end_a_quarantine() -> None:
    mesh, rack = quarantined()
    mesh.see(rack, O.CONNECTION_LOST)
    assert mesh.state(rack) == "gone"
    mesh.advance(1.0)
    mesh.see(rack, O.LINK_UP)
    assert (mesh.state(rack), mesh.limits[rack]) == ("quarantined", 0)
    mesh.see(rack, O.CONNECTION_LOST)
    mesh.advance(10.0)
    mesh.see(rack, O.LINK_UP)
    assert (mesh.state(rack), mesh.limits[rack]) == ("probation", 1)


# Share


def test_a_common_cause_takes_away_at_most_half_of_a_model_s_racks() -> None:
    mesh = HealthMesh()
    names = mesh.racks("r1", "r2", "r3", "r4")
    for name in names:
        mesh.see(name, *[O.CALL_TIMED_OUT] * 7)
    assert [mesh.state(name) for name in names] == ["quarantined", "quarantined", "healthy", "healthy"]
    assert [mesh.limits[name] for name in names] == [0, 0, FULL, FULL]
    assert "kept in service" in mesh.fact("r3", "cause")
    mesh.see("r3", O.CALL_OK)
    assert mesh.fact("r3", "cause") == ""


def test_the_only_rack_of_a_model_may_be_quarantined_but_not_the_last_that_is_left() -> None:
    mesh = HealthMesh()
    only, last, lost = mesh.rack("r1", ("a",)), mesh.rack("r2", ("b",)), mesh.rack("r3", ("b",))
    mesh.see(lost, O.CONNECTION_LOST)
    mesh.see(only, *[O.CALL_TIMED_OUT] * 5)
    mesh.see(last, *[O.CALL_TIMED_OUT] * 5)
    assert (mesh.state(only), mesh.state(last)) == ("quarantined", "healthy")


def test_every_model_of_a_rack_has_its_say() -> None:
    mesh = HealthMesh()
    both, _, _ = mesh.rack("r1", ("a", "b")), mesh.rack("r2", ("a",)), mesh.rack("r3", ("b",))
    rival = mesh.rack("r4", ("b",))
    mesh.see(rival, *[O.CALL_TIMED_OUT] * 5)  # one of b's three: no more
    mesh.see(both, *[O.CALL_TIMED_OUT] * 5)
    assert mesh.state(both) == "healthy"
    mesh.monitor.update(both, ["a"], FULL)
    mesh.see(both, O.CALL_TIMED_OUT)
    assert mesh.state(both) == "quarantined"


def test_a_held_or_draining_rack_does_not_use_up_the_share() -> None:
    mesh = HealthMesh()
    names = mesh.racks("r1", "r2", "r3", "r4")
    mesh.see("r1", O.OPERATOR_QUARANTINE)
    mesh.see("r2", O.OPERATOR_DRAIN)
    for name in names:
        mesh.see(name, *[O.CALL_TIMED_OUT] * 5)
    assert [mesh.state(name) for name in names] == ["quarantined", "draining", "quarantined", "healthy"]


def test_a_rack_that_returns_when_the_share_is_used_up_comes_back_on_probation() -> None:
    mesh = HealthMesh()
    away, other = mesh.racks("r1", "r2")
    mesh.see(away, *[O.CALL_TIMED_OUT] * 5, O.CONNECTION_LOST)
    mesh.rack("r3")
    mesh.see(other, *[O.CALL_TIMED_OUT] * 5)
    mesh.see(away, O.LINK_UP)
    assert (mesh.state(other), mesh.state(away)) == ("quarantined", "probation")
    assert (mesh.limits[away], mesh.fact(away, "quarantineLeftMs")) == (1, None)
    mesh.see(away, O.LINK_UP)
    assert mesh.state(away) == "probation"


def test_a_rack_lost_on_probation_has_failed_though_the_share_is_used_up() -> None:
    mesh, rack = quarantined()
    mesh.until(lambda: mesh.state(rack) == "probation", within=6.0)
    mesh.see(mesh.rack("r2"), *[O.CALL_TIMED_OUT] * 5)
    mesh.see(rack, O.CONNECTION_LOST)
    assert mesh.fact(rack, "strikes") == 2


# Flapping


def flap(mesh: HealthMesh, rack: str, times: int) -> None:
    for _ in range(times):
        mesh.see(rack, O.CONNECTION_LOST)
        mesh.advance(0.5)
        mesh.see(rack, O.LINK_UP)
        mesh.advance(0.5)


def test_a_link_that_comes_and_goes_is_damped_at_its_third_return() -> None:
    mesh = HealthMesh()
    rack, _ = mesh.racks("r1", "r2")
    flap(mesh, rack, 2)
    assert (mesh.state(rack), mesh.fact(rack, "flapping")) == ("healthy", False)
    flap(mesh, rack, 1)
    assert (mesh.state(rack), mesh.fact(rack, "flapping")) == ("quarantined", True)
    assert mesh.fact(rack, "cause") == "flapping: 36% changes"
    assert mesh.monitor.aggregate()["flapping"] == 1


def test_a_rack_that_stops_flapping_is_healthy_again_by_itself() -> None:
    mesh = HealthMesh()
    rack, _ = mesh.racks("r1", "r2")
    flap(mesh, rack, 3)
    mesh.until(lambda: mesh.state(rack) == "healthy", within=60.0)
    assert mesh.moves(rack)[-4:] == ["gone", "quarantined", "probation", "healthy"]
    assert mesh.fact(rack, "flapping") is False
    assert mesh.limits[rack] == FULL


def test_who_works_again_and_only_flapped_is_not_condemned_by_one_late_call() -> None:
    mesh = HealthMesh()
    rack, _ = mesh.racks("r1", "r2")
    flap(mesh, rack, 3)
    mesh.answering.clear()
    mesh.until(lambda: mesh.state(rack) == "probation", within=60.0)
    mesh.see(rack, *[O.CALL_OK] * 5, O.CALL_TIMED_OUT)
    assert (mesh.state(rack), mesh.fact(rack, "flapping")) == ("probation", True)
    mesh.see(rack, *[O.CALL_TIMED_OUT] * 4)
    assert (mesh.state(rack), mesh.fact(rack, "cause")) == ("quarantined", "5 deadlines missed in a row")


def test_beats_that_come_and_go_are_damped_too() -> None:
    mesh = HealthMesh()
    rack, _ = mesh.racks("r1", "r2")
    for _ in range(3):
        mesh.stop(rack)
        mesh.until(lambda: mesh.state(rack) == "suspect", within=3.0)
        mesh.resume(rack)
        mesh.everyone_beats()
    assert (mesh.state(rack), mesh.fact(rack, "flapping")) == ("quarantined", True)


def test_a_link_flapping_for_two_minutes_changes_routing_only_a_few_times() -> None:
    mesh = HealthMesh()
    rack, _ = mesh.racks("r1", "r2")
    mesh.log.clear()
    for _ in range(60):
        mesh.see(rack, O.CONNECTION_LOST)
        mesh.advance(1.0)
        mesh.see(rack, O.LINK_UP)
        mesh.advance(1.0)
    assert sum(isinstance(change, SetLimit) for change in mesh.log) <= 120 / 5
    assert mesh.fact(rack, "strikes") <= 5  # 5 + 10 + 20 + 40 + 80 s: none of them lengthened while it ran


def test_a_rack_that_dies_right_after_each_start_soon_gets_next_to_nothing() -> None:
    mesh = HealthMesh(quarantine_max=60.0)
    rack, _ = mesh.racks("r1", "r2")
    served = 0
    for _ in range(300):
        served += mesh.limits[rack] == FULL
        mesh.see(rack, O.CONNECTION_LOST)
        mesh.advance(1.0)
        mesh.see(rack, O.LINK_UP)
    assert served <= 3
    assert mesh.fact(rack, "strikes") >= 5
    mesh.monitor.add(rack, ["m"], FULL, mesh.now)  # registering again washes nothing off
    assert mesh.fact(rack, "strikes") >= 5


def test_leaving_and_coming_again_washes_nothing_off() -> None:
    mesh, rack = quarantined()
    mesh.monitor.remove(rack)
    mesh.advance(2.0)
    mesh.rack(rack)
    assert (mesh.state(rack), mesh.limits[rack], mesh.fact(rack, "strikes")) == ("quarantined", 0, 1)
    assert mesh.fact(rack, "cause") == "5 deadlines missed in a row"
    mesh.monitor.remove(rack)
    mesh.advance(10.0)
    mesh.rack(rack)
    assert mesh.state(rack) == "probation"
    mesh.see(rack, O.CALL_FAILED)
    assert mesh.fact(rack, "quarantineLeftMs") == 10_000


def test_what_is_forgiven_to_one_that_stayed_is_forgiven_to_one_that_left() -> None:
    mesh, rack = quarantined()
    mesh.monitor.remove(rack)
    mesh.advance(620.0)
    mesh.rack(rack)
    assert (mesh.state(rack), mesh.limits[rack], mesh.fact(rack, "strikes")) == ("healthy", FULL, 0)


def test_a_rack_that_registers_dies_and_is_forgotten_again_and_again_reaches_the_cap() -> None:
    mesh = HealthMesh(quarantine_max=40.0)
    mesh.rack("well")
    lengths = []
    for _ in range(200):
        mesh.rack("r1")
        mesh.see("r1", O.CONNECTION_LOST)
        mesh.stop("r1")
        lengths.append(mesh.fact("r1", "quarantineLeftMs") or 0)
        mesh.advance(1.0)
        if mesh.fact("r1", "strikes"):  # its lease ends while it is away
            mesh.monitor.remove("r1")
    assert max(lengths) == 40_000


def test_of_very_many_that_left_the_oldest_are_forgotten() -> None:
    policy = HealthPolicy()
    pasts = Pasts(policy)
    for n in range(MOST_KEPT + 100):
        record = HealthRecord(f"r{n}", policy, ("m",), 1, since=0.0)
        record.sentence("it failed", 0.0)
        pasts.keep(record)
    assert len(pasts) == MOST_KEPT


def test_rare_failures_of_a_busy_rack_are_not_flapping() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    for _ in range(300):
        mesh.see(rack, *[O.CALL_OK] * 19, O.CALL_FAILED)  # one in twenty
        mesh.advance(1.0)
    assert mesh.moves(rack) == ["healthy"]


def test_a_call_that_works_only_every_other_time_is_flapping() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    mesh.answering.clear()
    for _ in range(8):
        mesh.see(rack, O.CALL_FAILED)
        mesh.advance(5.0)
        mesh.see(rack, O.CALL_OK)
        mesh.advance(5.0)
    assert "quarantined" in mesh.moves(rack)


# The operator's word and the worker's own


def test_a_drained_rack_gets_nothing_until_it_is_released_even_over_a_restart() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    mesh.see(rack, O.OPERATOR_DRAIN)
    mesh.advance(60.0)
    assert (mesh.state(rack), mesh.limits[rack], mesh.fact(rack, "hold")) == ("draining", 0, "drain")
    mesh.see(rack, O.CONNECTION_LOST)
    mesh.see(rack, O.LINK_UP)
    assert (mesh.state(rack), mesh.limits[rack]) == ("draining", 0)
    mesh.see(rack, O.OPERATOR_RELEASE)
    assert (mesh.state(rack), mesh.limits[rack], mesh.fact(rack, "hold")) == ("healthy", FULL, "")


def test_a_hold_that_is_restored_before_the_link_is_up_bites_when_it_is() -> None:
    for word, state in ((O.OPERATOR_DRAIN, "draining"), (O.OPERATOR_QUARANTINE, "quarantined")):
        mesh = HealthMesh()
        mesh.monitor.add("r1", ["m"], FULL, mesh.now)
        mesh.see("r1", word)
        assert mesh.state("r1") == "joining"
        mesh.see("r1", O.LINK_UP)
        assert (mesh.state("r1"), mesh.fact("r1", "limit")) == (state, 0)


def test_an_operator_s_quarantine_has_no_end_but_his_word() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    mesh.see(rack, O.OPERATOR_QUARANTINE, cause="bad disk")
    mesh.advance(1000.0)
    assert (mesh.state(rack), mesh.fact(rack, "cause"), mesh.limits[rack]) == ("quarantined", "bad disk", 0)
    mesh.see(rack, O.CONNECTION_LOST, O.LINK_UP)
    assert (mesh.state(rack), mesh.fact(rack, "cause"), mesh.limits[rack]) == ("quarantined", "bad disk", 0)
    mesh.see(rack, O.OPERATOR_RELEASE)
    assert (mesh.state(rack), mesh.limits[rack]) == ("probation", 1)
    mesh.until(lambda: mesh.state(rack) == "healthy", within=8.0)


def test_of_two_holds_the_later_one_counts() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    mesh.see(rack, O.OPERATOR_QUARANTINE, O.OPERATOR_DRAIN)
    assert (mesh.state(rack), mesh.fact(rack, "hold")) == ("draining", "drain")
    mesh.see(rack, O.OPERATOR_DRAIN, O.OPERATOR_QUARANTINE, O.CONNECTION_LOST, O.LINK_UP)
    assert (mesh.state(rack), mesh.fact(rack, "hold")) == ("quarantined", "quarantine")
    mesh.see(rack, O.OPERATOR_DRAIN, O.CONNECTION_LOST, O.LINK_UP)
    assert mesh.state(rack) == "draining"
    assert mesh.monitor.aggregate()["states"]["quarantined"] == 0


def test_a_release_wipes_out_what_judgement_held_against_a_rack() -> None:
    mesh = HealthMesh()
    rack, _ = mesh.racks("r1", "r2")
    flap(mesh, rack, 3)
    mesh.see(rack, O.OPERATOR_RELEASE)
    assert mesh.state(rack) == "probation"
    assert (mesh.fact(rack, "flapping"), mesh.fact(rack, "strikes")) == (False, 0)
    assert mesh.fact(rack, "flapPercentage") == 0.0
    mesh.see(rack, O.CONNECTION_LOST)
    assert mesh.fact(rack, "quarantineLeftMs") == 5000


def test_releasing_a_silent_rack_does_not_route_to_it() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    mesh.see(rack, O.OPERATOR_DRAIN)
    mesh.stop(rack)
    mesh.advance(3.0)
    changes = mesh.see(rack, O.OPERATOR_RELEASE)
    assert mesh.state(rack) == "suspect"
    assert not any(isinstance(change, SetLimit) for change in changes)


def test_releasing_a_stalled_rack_does_not_route_to_it() -> None:
    for word in (O.OPERATOR_DRAIN, O.OPERATOR_QUARANTINE):
        mesh = HealthMesh()
        rack = mesh.rack("r1")
        mesh.stop(rack)
        mesh.until(lambda mesh=mesh, rack=rack: mesh.state(rack) == "suspect", within=3.0)  # type: ignore[misc]
        mesh.see(rack, O.HOST_ANSWERS, word, O.OPERATOR_RELEASE)
        assert (mesh.state(rack), mesh.limits[rack]) == ("suspect", 0), word


def test_a_rack_that_says_goodbye_drains_and_comes_back_without_a_mark() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    for _ in range(30):  # a rolling restart, again and again
        mesh.see(rack, O.GOODBYE)
        assert (mesh.state(rack), mesh.limits[rack]) == ("draining", 0)
        mesh.see(rack, O.CONNECTION_LOST)
        mesh.advance(0.5)
        mesh.see(rack, O.LINK_UP)
        assert mesh.limits[rack] == FULL
    assert mesh.fact(rack, "flapPercentage") == 0.0


def test_an_operator_cannot_release_a_rack_from_its_own_goodbye() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    mesh.see(rack, O.GOODBYE, O.OPERATOR_RELEASE)
    assert (mesh.state(rack), mesh.limits[rack]) == ("draining", 0)
    mesh.see(rack, O.OPERATOR_QUARANTINE, O.OPERATOR_RELEASE)
    assert mesh.state(rack) == "draining"
    mesh.see(rack, O.LINK_UP)  # its successor, before the loss of the old link was seen
    assert mesh.limits[rack] > 0
    mesh.see(rack, O.OPERATOR_DRAIN, O.OPERATOR_RELEASE)
    assert mesh.limits[rack] > 0
