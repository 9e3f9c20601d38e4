"""How often racks are probed: sooner in doubt, rarer when long well, and never more a second than allowed."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from tests.fakes.health_mesh import TICK, HealthMesh
from wrk_orchestrator.health_table import Observation

O = Observation  # noqa: E741


def most_in_a_second(mesh: HealthMesh) -> int:
    return max(sum(at <= later < at + 1.0 for later, _ in mesh.probed) for at, _ in mesh.probed)


def gaps(mesh: HealthMesh, rack: str) -> list[float]:
    times = [at for at, name in mesh.probed if name == rack]
    return [later - earlier for earlier, later in pairwise(times)]


def test_a_rack_that_was_well_for_ten_minutes_is_probed_half_as_often_until_something_is_amiss() -> None:
    mesh = HealthMesh()
    rack = mesh.rack("r1")
    mesh.advance(620.0)
    mesh.probed.clear()
    mesh.advance(300.0)
    assert all(8.0 <= gap <= 12.0 + TICK for gap in gaps(mesh, rack))
    mesh.see(rack, O.CALL_FAILED, O.CALL_OK)
    mesh.advance(1.5)
    mesh.probed.clear()
    mesh.advance(60.0)
    assert all(4.0 <= gap <= 6.0 + TICK for gap in gaps(mesh, rack))


def test_a_large_fleet_is_probed_as_fast_as_the_rate_allows_and_everybody_in_turn() -> None:
    mesh = HealthMesh(max_probe_rate=10.0)
    names = mesh.racks(*(f"r{n}" for n in range(200)))  # at five seconds each it would be 40 a second
    mesh.advance(40.0)
    mesh.probed.clear()
    mesh.advance(60.0)
    assert most_in_a_second(mesh) <= 12.5
    assert 6.0 <= len(mesh.probed) / 60.0 <= 10.0
    probes = Counter(name for _, name in mesh.probed)
    assert set(probes) == set(names)
    assert max(probes.values()) - min(probes.values()) <= 2


def test_when_all_of_a_large_fleet_is_in_doubt_the_rate_holds_too_and_nobody_is_left_out() -> None:
    mesh = HealthMesh(max_probe_rate=10.0)
    names = mesh.racks(*(f"r{n}" for n in range(60)))
    for name in names:
        mesh.see(name, O.CALL_FAILED)
    mesh.probed.clear()
    mesh.advance(15.0)
    assert most_in_a_second(mesh) <= 12.5
    assert {name for _, name in mesh.probed} == set(names)


def test_one_in_doubt_goes_before_a_crowd_that_was_never_probed() -> None:
    mesh = HealthMesh(max_probe_rate=2.0)
    doubtful = mesh.rack("doubtful")
    mesh.until(lambda: bool(mesh.probed), within=7.0)
    mesh.racks(*(f"r{n}" for n in range(100)))  # due within 20 s of each other, which takes 50
    mesh.advance(50.0)
    mesh.see(doubtful, O.CALL_FAILED)
    mesh.probed.clear()
    mesh.until(lambda: any(name == doubtful for _, name in mesh.probed), within=2.0)


def test_a_rate_below_one_burst_still_probes() -> None:
    mesh = HealthMesh(max_probe_rate=1.0)
    rack = mesh.rack("r1")
    mesh.advance(60.0)
    assert len(gaps(mesh, rack)) >= 9
