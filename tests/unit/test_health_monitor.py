"""Stories of racks that join, stop, die and hang, and of what routing is told meanwhile."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from tests.fakes.health_mesh import FULL, TICK, HealthMesh, quarantined
from wrk_base.errors import WorkerNotFound
from wrk_orchestrator.health_changes import CloseLink, ProbeNow, Redial, SetLimit, Transition
from wrk_orchestrator.health_policy import HealthPolicy
from wrk_orchestrator.health_table import IllegalMove, Observation, State

O, S = Observation, State  # noqa: E741


# Joining


def test_a_new_worker_gets_no_work_until_its_link_is_up() -> None:
    mesh = HealthMesh()
    assert mesh.monitor.add("r1", ["m"], FULL, mesh.now) == (SetLimit("r1", 0),)
    assert mesh.state("r1") == "joining"
    changes = mesh.see("r1", O.LINK_UP)
    assert changes == (SetLimit("r1", FULL), Transition("r1", S.JOINING, S.HEALTHY, "link up"))


def test_a_worker_that_cannot_be_dialled_is_listed_with_the_cause_until_it_can() -> None:
    mesh = HealthMesh()
    mesh.monitor.add("r1", ["m"], FULL, mesh.now)
    mesh.see("r1", O.CANNOT_DIAL, cause="10.0.0.7:9001 refused: a firewall?")
    assert mesh.state("r1") == "unreachable"
    assert mesh.fact("r1", "cause") == "10.0.0.7:9001 refused: a firewall?"
    mesh.see("r1", O.CANNOT_DIAL, cause="10.0.0.7:9001 timed out")
    assert mesh.fact("r1", "cause") == "10.0.0.7:9001 timed out"
    mesh.monitor.beat("r1", mesh.now)  # it reaches us, we do not reach it
    assert (mesh.state("r1"), mesh.fact("r1", "limit")) == ("unreachable", 0)
    mesh.see("r1", O.LINK_UP)
    assert (mesh.state("r1"), mesh.limits["r1"], mesh.fact("r1", "cause")) == ("healthy", FULL, "")


# Silence


def test_a_steady_rack_stays_healthy_and_is_told_nothing_new() -> None:
    mesh = HealthMesh()
    mesh.racks("r1", "r2")
    mesh.log.clear()
    mesh.advance(120)
    assert {type(change) for change in mesh.log} == {ProbeNow}


def test_a_stopped_rack_is_out_within_four_seconds_and_back_with_its_first_beat() -> None:
    mesh = HealthMesh()
    rack, other = mesh.racks("r1", "r2")
    mesh.stop(rack)
    assert mesh.until(lambda: mesh.limits[rack] == 0, within=4.0) >= 2.0
    assert mesh.state(rack) == "suspect"
    mesh.resume(rack)
    assert mesh.everyone_beats() == (SetLimit(rack, FULL), Transition(rack, S.SUSPECT, S.HEALTHY, "beat"))
    assert mesh.limits == {rack: FULL, other: FULL}


def test_a_rack_silent_for_longer_is_gone_and_its_link_closed_so_that_its_calls_move() -> None:
    mesh = HealthMesh()
    rack, _ = mesh.racks("r1", "r2")
    mesh.stop(rack)
    mesh.until(lambda: mesh.state(rack) == "gone", within=4.0)
    assert mesh.log[-3:] == [Transition(rack, S.SUSPECT, S.GONE, "silence"), CloseLink(rack), Redial(rack)]
    assert mesh.limits[rack] == 0
    mesh.resume(rack)
    mesh.see(rack, O.LINK_UP)
    assert (mesh.state(rack), mesh.limits[rack]) == ("healthy", FULL)


def test_routing_stops_before_a_link_is_closed() -> None:
    mesh = HealthMesh(heartbeat_interval=1.7)  # 3.5 s of silence come before two beats and their slack
    rack = mesh.rack("r1")
    mesh.stop(rack)
    changes = mesh.advance(4.0)
    assert mesh.moves(rack) == ["healthy", "gone"]
    assert changes.index(SetLimit(rack, 0)) < changes.index(CloseLink(rack))


def test_traffic_from_a_rack_that_is_gone_asks_for_a_dial_at_once_and_routes_nothing() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    mesh.see(rack, O.CONNECTION_LOST)
    assert mesh.monitor.beat(rack, mesh.now) == (Redial(rack),)
    assert (mesh.state(rack), mesh.limits[rack]) == ("gone", 0)


def test_any_answer_is_a_beat() -> None:
    for answer in (O.CALL_OK, O.PROBE_OK, O.BEAT):
        mesh = HealthMesh()
        rack = mesh.rack("r1")
        mesh.stop(rack)
        mesh.advance(2.5)
        assert mesh.state(rack) == "suspect"
        mesh.see(rack, answer)
        assert mesh.state(rack) == "healthy"
        assert mesh.fact(rack, "lastSeenMs") == 0


def test_a_stalled_loop_on_a_live_host_gets_no_work_but_is_not_lost() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    mesh.stop(rack)
    mesh.until(lambda: mesh.state(rack) == "suspect", within=3.0)
    mesh.probed.clear()
    for _ in range(20):
        mesh.see(rack, O.HOST_ANSWERS)
        mesh.advance(1.0)
        assert (mesh.state(rack), mesh.limits[rack]) == ("stalled", 0)
    assert mesh.probed == []
    mesh.resume(rack)
    mesh.everyone_beats()
    assert (mesh.state(rack), mesh.limits[rack]) == ("healthy", FULL)


def test_a_stalled_rack_whose_host_falls_silent_too_is_gone() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    mesh.stop(rack)
    mesh.until(lambda: mesh.state(rack) == "suspect", within=3.0)
    mesh.see(rack, O.HOST_ANSWERS)
    assert mesh.until(lambda: mesh.state(rack) == "gone", within=4.0) > 3.5


def test_a_lease_that_ends_closes_the_link_and_a_registration_brings_it_back() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    assert CloseLink(rack) in mesh.see(rack, O.LEASE_ENDED)
    assert (mesh.state(rack), mesh.limits[rack]) == ("gone", 0)
    mesh.see(rack, O.LINK_UP)
    assert mesh.limits[rack] == FULL


# Death


def test_a_killed_rack_is_out_at_once_and_back_with_its_new_link() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    changes = mesh.see(rack, O.CONNECTION_LOST)
    assert changes == (
        *(SetLimit(rack, 0), Transition(rack, S.HEALTHY, S.GONE, "connection lost"), Redial(rack)),
    )
    mesh.advance(1.0)
    mesh.see(rack, O.LINK_UP)
    assert mesh.limits[rack] == FULL


def test_the_calls_that_a_lost_link_failed_convict_nobody_whichever_is_reported_first() -> None:
    mesh = HealthMesh()
    before, after = mesh.racks("r1", "r2")
    mesh.see(before, *[O.CALL_FAILED] * 20, O.CONNECTION_LOST)
    mesh.see(after, O.CONNECTION_LOST, *[O.CALL_FAILED] * 20)
    mesh.see(before, O.LINK_UP)
    mesh.see(after, O.LINK_UP)
    assert mesh.limits == {before: FULL, after: FULL}
    assert mesh.fact(before, "callFailures") == mesh.fact(after, "callFailures") == 0


# Busy is not dead


def test_a_busy_rack_is_never_judged_for_being_slow() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    for _ in range(100):
        mesh.see(rack, O.PROBE_SLOW)
        mesh.advance(1.0)
    assert mesh.moves(rack) == ["healthy"]


def test_a_rack_that_accepts_and_never_answers_is_out_after_five_missed_deadlines() -> None:
    mesh = HealthMesh()
    rack, _ = mesh.racks("r1", "r2")
    for _ in range(4):
        mesh.see(rack, O.CALL_TIMED_OUT)
        mesh.advance(1.0)  # its beats and probes are fine meanwhile, and prove nothing
        assert mesh.limits[rack] == FULL
    mesh.see(rack, O.CALL_TIMED_OUT)
    assert (mesh.state(rack), mesh.limits[rack]) == ("quarantined", 0)
    assert mesh.fact(rack, "cause") == "5 deadlines missed in a row"


def test_one_answer_forgives_the_deadlines_before_it() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    mesh.see(rack, *([O.CALL_TIMED_OUT] * 4 + [O.CALL_OK]) * 10)
    assert mesh.moves(rack) == ["healthy"]


def test_deadlines_missed_while_beats_are_missing_are_the_silence_s_affair() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    mesh.stop(rack)
    for _ in range(8):
        mesh.advance(TICK)
        if mesh.fact(rack, "lastSeenMs") > 1250:
            mesh.see(rack, *[O.CALL_TIMED_OUT] * 5)
    mesh.resume(rack)
    mesh.everyone_beats()
    assert mesh.limits[rack] == FULL
    assert mesh.fact(rack, "deadlineMisses") == 0


def test_five_calls_failed_in_a_row_are_out_and_one_that_works_forgives_them() -> None:
    mesh = HealthMesh()
    rack, lucky = mesh.racks("r1", "r2")
    for failed in range(1, 6):
        assert mesh.state(rack) == "healthy", failed
        mesh.see(rack, O.CALL_FAILED)
        mesh.see(lucky, O.CALL_FAILED)
        mesh.advance(TICK)
        if failed == 3:
            mesh.see(lucky, O.CALL_OK)
    assert mesh.state(rack) == "quarantined"
    assert mesh.fact(rack, "cause") == "5 calls failed in a row"
    assert mesh.state(lucky) == "healthy"


def test_three_failed_probes_in_a_row_are_out_though_calls_work() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    mesh.see(rack, O.PROBE_FAILED, O.PROBE_FAILED, O.PROBE_OK, O.PROBE_FAILED, O.CALL_OK, O.PROBE_FAILED)
    assert mesh.state(rack) == "healthy"
    mesh.see(rack, O.PROBE_FAILED)
    assert (mesh.state(rack), mesh.fact(rack, "cause")) == ("quarantined", "3 probes failed in a row")


# Probes


def gaps(mesh: HealthMesh, rack: str) -> list[float]:
    times = [at for at, name in mesh.probed if name == rack]
    return [later - earlier for earlier, later in pairwise(times)]


def test_a_healthy_rack_is_probed_every_five_seconds_give_or_take_a_fifth() -> None:
    mesh = HealthMesh()
    rack, other = mesh.racks("r1", "r2")
    mesh.advance(300.0)
    found = gaps(mesh, rack)
    assert len(found) >= 45
    assert all(4.0 <= gap <= 6.0 + TICK for gap in found)
    assert len(set(found)) > 3, "not jittered"
    assert found != gaps(mesh, other)


def test_a_rack_in_doubt_is_probed_every_second() -> None:
    mesh, rack = quarantined(probation_successes=30)
    mesh.until(lambda: mesh.state(rack) == "probation", within=6.0)
    mesh.probed.clear()
    mesh.advance(10.0)
    assert all(0.75 <= gap <= 1.2 + TICK for gap in gaps(mesh, rack))
    assert len(mesh.probed) >= 7


def test_a_failure_brings_the_next_probe_forward_and_more_failures_do_not_put_it_off() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    mesh.advance(4 * TICK)
    mesh.probed.clear()
    for _ in range(6):
        mesh.see(rack, O.CALL_TIMED_OUT, O.CALL_OK)
        mesh.advance(TICK)
    assert len(mesh.probed) >= 1


def test_a_rack_has_one_probe_in_flight_until_its_report_must_be_lost() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    mesh.answering.clear()
    mesh.until(lambda: len(mesh.probed) == 1, within=7.0)
    for _ in range(15):  # 2 x probe_timeout, and doubt all the while
        mesh.see(rack, O.CALL_TIMED_OUT, O.CALL_OK)
        mesh.advance(TICK)
    assert len(mesh.probed) == 1
    mesh.until(lambda: len(mesh.probed) == 2, within=8.0)


def test_only_racks_with_a_link_are_probed() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    mesh.see(rack, O.CONNECTION_LOST)
    mesh.advance(30.0)
    assert mesh.probed == []


# Figures


def test_no_workers_at_all_is_not_unhealthy() -> None:
    figures = HealthMesh().monitor.aggregate()
    assert (figures["total"], figures["unhealthy"], figures["healthyShare"]) == (0, 0, 1.0)
    assert set(figures["states"]) == {state.value for state in State}


def test_the_aggregate_counts_every_state() -> None:
    mesh = HealthMesh()
    mesh.racks("r1", "r2", "r3", "r4")
    mesh.see("r2", O.CONNECTION_LOST)
    mesh.see("r3", O.GOODBYE)
    figures = mesh.monitor.aggregate()
    assert (figures["total"], figures["healthy"], figures["unhealthy"]) == (4, 2, 1)
    assert figures["healthyShare"] == 0.5
    counts = {state: count for state, count in figures["states"].items() if count}
    assert counts == {"healthy": 2, "gone": 1, "draining": 1}


def test_a_description_says_what_the_verdict_rests_on() -> None:
    mesh, rack = quarantined()
    mesh.advance(1.25)
    assert mesh.monitor.describe(rack, mesh.now) == {
        "state": "quarantined",
        "sinceMs": 1250,
        "cause": "5 deadlines missed in a row",
        "hold": "",
        "limit": 0,
        "letIn": False,
        "lastSeenMs": 250,
        "probeFailures": 0,
        "callFailures": 0,
        "deadlineMisses": 0,
        "quarantineLeftMs": 3750,
        "strikes": 1,
        "successes": 0,
        "flapping": False,
        "flapPercentage": 0.0,
    }


def test_a_new_capacity_reaches_routing_when_the_worker_is_routable() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    assert mesh.monitor.update(rack, ["m"], 3) == (SetLimit(rack, 3),)
    mesh.see(rack, O.CONNECTION_LOST)
    assert mesh.monitor.update(rack, ["m"], 5) == ()


def test_late_reports_about_a_forgotten_worker_change_nothing() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    mesh.monitor.remove(rack)
    mesh.monitor.remove(rack)
    assert mesh.monitor.beat(rack, mesh.now) == ()
    assert mesh.monitor.observe(rack, O.CALL_FAILED, mesh.now) == ()
    for ask in (
        lambda: mesh.monitor.state(rack),
        lambda: mesh.monitor.describe(rack, mesh.now),
        lambda: mesh.monitor.update(rack, [], 1),
    ):
        with pytest.raises(WorkerNotFound, match="r1"):
            ask()


def test_what_only_the_monitor_may_infer_cannot_be_reported() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    with pytest.raises(IllegalMove, match="condemned"):
        mesh.see(rack, O.CONDEMNED)


@pytest.mark.parametrize(
    ("policy", "named"),
    [
        ({"heartbeat_interval": 2.0}, "silence_timeout"),
        ({"quarantine_max": 1.0}, "quarantine_max"),
        ({"flap_low": 0.4}, "flap_high"),
    ],
)
def test_a_policy_that_contradicts_itself_is_refused(policy: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        HealthPolicy(**policy)
