"""Who may call which method, and who may be asked for it. Pure; the one table of it.

Rights come from the roles in a certificate, never from what a peer says of itself. Both sides look here:
a server before it runs a request, and a caller before a request leaves, so that a prompt goes only to a
process that was certified as a rack, and a registration only to an orchestrator. Methods that are not
listed are an author's own: any member may call them, wherever they are served.

A rack serves and may ask for routing; it registers nobody but itself (`OrchestratorWorker.register` sees
to that). An operator is a client that may also change what others see: `wrk` on a machine that may.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

ORCHESTRATOR, RACK, WORKER, CLIENT, OPERATOR = "orchestrator", "rack", "worker", "client", "operator"
ROLES = frozenset({ORCHESTRATOR, RACK, WORKER, CLIENT, OPERATOR})


class Rule(NamedTuple):
    """Roles of which a caller needs one, and of which whoever is asked needs one."""

    callers: frozenset[str]
    servers: frozenset[str]


_USERS = frozenset({CLIENT, OPERATOR, WORKER})
_AT_ORCHESTRATORS = frozenset({ORCHESTRATOR})
_AT_RACKS = frozenset({RACK})

_REGISTER = Rule(frozenset({RACK, OPERATOR}), _AT_ORCHESTRATORS)
_ROUTE = Rule(ROLES, _AT_ORCHESTRATORS)
_READ = Rule(ROLES, _AT_ORCHESTRATORS)
_OPERATE = Rule(frozenset({OPERATOR}), _AT_ORCHESTRATORS)
_RENEW = Rule(ROLES, _AT_ORCHESTRATORS)
_AGREE = Rule(frozenset({ORCHESTRATOR}), _AT_ORCHESTRATORS)
_INFER = Rule(_USERS | {ORCHESTRATOR}, _AT_RACKS)
_LOOK = Rule(ROLES, _AT_RACKS)
_LOAD = Rule(frozenset({OPERATOR, ORCHESTRATOR}), _AT_RACKS)

TABLE = {
    "registerWorker": _REGISTER,
    "unregisterWorker": _REGISTER,
    "registerRack": _REGISTER,
    "findAvailableWorker": _ROUTE,
    "routeInferenceRequest": _ROUTE,
    "getServiceStatus": _READ,
    "getLoadBalancingStats": _READ,
    "healthCheck": _READ,
    "listWorkers": _READ,
    "listRacks": _READ,
    "listMembers": _READ,
    "drainWorker": _OPERATE,
    "quarantineWorker": _OPERATE,
    "releaseWorker": _OPERATE,
    "forgetRacks": _OPERATE,
    "renewMachine": _RENEW,
    "compareRecords": _AGREE,
    "exchangeRecords": _AGREE,
    "runInference": _INFER,
    "getAvailableModels": _LOOK,
    "checkCapacity": _LOOK,
    "loadModel": _LOAD,
    "unloadModel": _LOAD,
}


def barred(roles: Iterable[str]) -> frozenset[str]:
    """Methods that a caller with these roles may not call."""
    mine = frozenset(roles)
    return frozenset(method for method, rule in TABLE.items() if not mine & rule.callers)


def misplaced(roles: Iterable[str]) -> frozenset[str]:
    """Methods that nobody should ask of a peer with these roles."""
    theirs = frozenset(roles)
    return frozenset(method for method, rule in TABLE.items() if not theirs & rule.servers)
