"""Stories of an orchestrator that was away itself, and of racks that must not pay for it."""

from __future__ import annotations

import pytest

from tests.fakes.health_mesh import FULL, TICK, HealthMesh
from wrk_orchestrator.health_changes import ProbeNow, Redial
from wrk_orchestrator.health_table import Observation

O = Observation  # noqa: E741


@pytest.mark.parametrize("seconds", [1.0, 3.0, 10.0])
def test_nobody_is_judged_for_our_own_pause(seconds: float) -> None:
    mesh = HealthMesh()
    names = mesh.racks("r1", "r2", "r3")
    mesh.advance(30.0)
    mesh.log.clear()
    mesh.pause_ourselves(seconds)
    for name in names:  # what the loop finds first, before the tick
        mesh.see(name, *[O.CALL_TIMED_OUT] * 9, *[O.CALL_FAILED] * 9, *[O.PROBE_FAILED] * 3)
    mesh.advance(30.0)
    assert [change for change in mesh.log if not isinstance(change, ProbeNow)] == []
    assert mesh.monitor.aggregate()["ownPauses"] == 1


def test_links_lost_in_our_own_pause_bring_no_penalty() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    for _ in range(10):
        mesh.pause_ourselves(5.0)
        mesh.see(rack, O.CONNECTION_LOST)
        assert (mesh.state(rack), mesh.limits[rack]) == ("joining", 0)
        assert Redial(rack) in mesh.log
        mesh.see(rack, O.LINK_UP)
        assert (mesh.state(rack), mesh.limits[rack]) == ("healthy", FULL)
        mesh.advance(TICK)
    assert mesh.fact(rack, "flapPercentage") == 0.0


def test_links_lost_just_after_a_pause_are_its_doing_too() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    mesh.pause_ourselves(5.0)
    mesh.advance(1.0)
    mesh.see(rack, O.CONNECTION_LOST)
    assert mesh.state(rack) == "joining"
    mesh.see(rack, O.LINK_UP)
    mesh.advance(1.5)
    mesh.see(rack, O.CONNECTION_LOST)
    assert mesh.state(rack) == "gone"


def test_under_a_hog_that_starves_our_loop_nobody_is_quarantined_or_lost() -> None:
    mesh = HealthMesh()
    names = mesh.racks("r1", "r2")
    mesh.stop(*names)
    for _ in range(240):
        mesh.advance(TICK, lag=0.6)
        mesh.see("r1", O.CALL_TIMED_OUT)
        mesh.see("r2", O.PROBE_FAILED)
    assert set(mesh.limits.values()) == {FULL}
    assert mesh.monitor.aggregate()["ownPauses"] == 1


def test_a_rack_that_died_in_our_pause_is_found_out_as_soon_as_ever() -> None:
    mesh = HealthMesh()
    dead, _ = mesh.racks("r1", "r2")
    mesh.stop(dead)
    mesh.pause_ourselves(60.0)
    mesh.advance(TICK)
    assert mesh.limits[dead] == FULL
    mesh.until(lambda: mesh.state(dead) == "gone", within=4.0)


def test_a_rack_that_dies_after_its_last_beats_were_read_late_is_found_out_as_soon_as_ever() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    mesh.pause_ourselves(60.0)
    mesh.everyone_beats()  # what had arrived meanwhile is read before the tick
    mesh.stop(rack)
    mesh.until(lambda: mesh.limits[rack] == 0, within=4.0)


def test_an_operator_s_release_right_after_a_pause_is_not_answered_by_a_verdict() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    mesh.see(rack, O.OPERATOR_DRAIN)
    mesh.pause_ourselves(10.0)
    mesh.see(rack, O.OPERATOR_RELEASE)
    mesh.advance(10.0)
    assert mesh.moves(rack) == ["healthy", "draining", "healthy"]


def test_a_pause_does_not_make_all_probes_due_at_once() -> None:
    mesh = HealthMesh()
    names = mesh.racks(*(f"r{i}" for i in range(100)))
    mesh.advance(20.0)
    mesh.probed.clear()
    mesh.pause_ourselves(30.0)
    mesh.advance(2 * TICK)
    assert len(mesh.probed) < len(names) / 4
