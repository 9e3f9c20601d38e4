"""Every observation in every state of the whole monitor: it is taken, and routing is told what follows."""

from __future__ import annotations

import itertools

import pytest

from tests.fakes.health_mesh import FULL, HealthMesh, quarantined
from wrk_orchestrator.health_table import REPORTED, Observation, State

O, S = Observation, State  # noqa: E741
PAIRS = list(itertools.product(State, sorted(REPORTED)))
ROUTABLE = {"healthy", "probation"}


def brought_to(state: State) -> HealthMesh:
    """A mesh whose rack r1 is in this state, beside one that is well."""
    if state in (S.QUARANTINED, S.PROBATION):
        mesh, _ = quarantined()
        if state is S.PROBATION:
            mesh.until(lambda: mesh.state("r1") == "probation", within=6.0)
        return mesh
    mesh = HealthMesh()
    mesh.rack("well")
    if state in (S.JOINING, S.UNREACHABLE):
        mesh._carry_out(mesh.monitor.add("r1", ["m"], FULL, mesh.now))
        if state is S.UNREACHABLE:
            mesh.see("r1", O.CANNOT_DIAL)
        return mesh
    mesh.rack("r1")
    if state in (S.SUSPECT, S.STALLED):
        mesh.stop("r1")
        mesh.until(lambda: mesh.state("r1") == "suspect", within=3.0)
    after = {
        S.STALLED: O.HOST_ANSWERS,
        S.UNHEALTHY: O.SAYS_UNHEALTHY,
        S.DRAINING: O.OPERATOR_DRAIN,
        S.GONE: O.CONNECTION_LOST,
    }
    if state in after:
        mesh.see("r1", after[state])
    return mesh


@pytest.mark.parametrize(("state", "seen"), PAIRS)
def test_it_is_taken_and_the_limit_told_is_what_the_state_allows(state: State, seen: Observation) -> None:
    mesh = brought_to(state)
    assert mesh.state("r1") == state
    mesh.see("r1", seen, cause="a test")
    for seconds in (0.0, 0.25, 4.0):
        mesh.advance(seconds)
        assert (mesh.limits["r1"] > 0) is (mesh.state("r1") in ROUTABLE)
        assert mesh.limits["r1"] == mesh.fact("r1", "limit")
    mesh.resume("r1")
    mesh.see("r1", O.OPERATOR_RELEASE, O.LINK_UP)
    mesh.until(lambda: mesh.state("r1") == "healthy", within=10.0)
    assert mesh.limits["r1"] == FULL
