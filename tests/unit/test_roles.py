"""The table of rights: every method, every role, both directions."""

from __future__ import annotations

import pytest

from wrk_base.security.roles import ROLES, TABLE, barred, misplaced

ALL = "client operator orchestrator rack worker"
EXPECTED = {
    # method: who may call it, and who may be asked
    "registerWorker": ("operator rack", "orchestrator"),
    "unregisterWorker": ("operator rack", "orchestrator"),
    "registerRack": ("operator rack", "orchestrator"),
    "findAvailableWorker": (ALL, "orchestrator"),
    "routeInferenceRequest": (ALL, "orchestrator"),
    "getServiceStatus": (ALL, "orchestrator"),
    "getLoadBalancingStats": (ALL, "orchestrator"),
    "healthCheck": (ALL, "orchestrator"),
    "listWorkers": (ALL, "orchestrator"),
    "listRacks": (ALL, "orchestrator"),
    "listMembers": (ALL, "orchestrator"),
    "renewMachine": (ALL, "orchestrator"),
    "compareRecords": ("orchestrator", "orchestrator"),
    "exchangeRecords": ("orchestrator", "orchestrator"),
    "drainWorker": ("operator", "orchestrator"),
    "quarantineWorker": ("operator", "orchestrator"),
    "releaseWorker": ("operator", "orchestrator"),
    "forgetRacks": ("operator", "orchestrator"),
    "runInference": ("client operator orchestrator worker", "rack"),
    "getAvailableModels": (ALL, "rack"),
    "checkCapacity": (ALL, "rack"),
    "loadModel": ("operator orchestrator", "rack"),
    "unloadModel": ("operator orchestrator", "rack"),
}


def test_the_table_lists_these_methods() -> None:
    assert TABLE.keys() == EXPECTED.keys()


@pytest.mark.parametrize("method", sorted(EXPECTED))
@pytest.mark.parametrize("role", sorted(ROLES))
def test_who_may_call_and_who_may_be_asked(method: str, role: str) -> None:
    callers, servers = EXPECTED[method]
    assert (method not in barred([role])) == (role in callers.split())
    assert (method not in misplaced([role])) == (role in servers.split())


def test_several_roles_add_up() -> None:
    assert "drainWorker" in barred(["rack", "client"])
    assert "drainWorker" not in barred(["rack", "operator"])
    assert misplaced(["rack", "orchestrator"]) == frozenset()


def test_without_a_role_nothing_of_the_table_is_allowed() -> None:
    assert barred([]) == misplaced([]) == frozenset(TABLE)
