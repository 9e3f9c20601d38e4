"""Random walks of 200 steps through the health monitor: what must hold whatever happens.

`tests/fakes/health_walk.py` says what. At the end of a walk the counts kept along the way are those
recomputed, and of every fifth walk every worker whose link is up and who behaves is healthy again within a
bounded time. A failure prints its seed. `bin/test --long` walks ten thousand of them and more.
"""

from __future__ import annotations

import pytest

from tests.fakes.health_walk import walk_all
from wrk_orchestrator.health_table import State

PARTS, WALKS_EACH = 10, 200


@pytest.mark.parametrize("part", range(PARTS))
def test_whatever_happens_the_invariants_hold_and_everybody_can_recover(part: int) -> None:
    visited, panics = walk_all(range(part * WALKS_EACH, (part + 1) * WALKS_EACH))
    assert visited == set(State), "the walks do not go everywhere"
    assert panics >= 5, "the walks hardly ever panic"
