"""Who is in the mesh, as one orchestrator sees it, and how others come in.

An orchestrator on the machine that made the mesh also takes in new machines (with an invitation, the one
thing that is served to strangers) and renews the right of those that are in.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from wrk_base import contract, errors
from wrk_base.rpc.identity import BadGreeting, PeerInfo
from wrk_base.rpc.peers import Peers
from wrk_base.rpc.request import Request
from wrk_base.rpc.server import Server
from wrk_base.security import z85
from wrk_base.security.certificate import Member, Untrusted, key_id
from wrk_base.security.membership import Membership

from .service_registry import ServiceRegistry

JOINS_A_SECOND = 5  # a secret of 128 bits is not guessed; this spares the disk and the log


class Members:
    """`membership` is None on an open network, which has none to show."""

    def __init__(
        self, membership: Membership | None, server: Server, peers: Peers, registry: ServiceRegistry
    ) -> None:
        self._membership, self._server, self._peers, self._registry = membership, server, peers, registry
        self._loop = asyncio.get_running_loop()
        self._joins: deque[float] = deque(maxlen=JOINS_A_SECOND)
        if membership is not None and membership.has_root:
            server.on_join = self._take_in

    def list(self) -> dict[str, Any]:
        """`listMembers`: every process that is linked here now, its machine, and until when it may."""
        if self._membership is None:
            return {"success": True, "mesh": "", "members": []}
        shown: dict[str, dict[str, Any]] = {}
        own = self._membership.own
        shown[own.name] = _shown(own, self._server.endpoint)
        for info in [*self._peers.infos(), *self._server.infos()]:
            if info.member is not None and info.worker_id not in shown:
                shown[info.worker_id] = _shown(info.member, self._address_of(info))
        return {"success": True, "mesh": self._membership.mesh_id.hex(), "members": list(shown.values())}

    def _address_of(self, info: PeerInfo) -> str:
        record = self._registry.holder(info.worker_id)
        return record.address if record is not None else ""

    def renew(self, body: Any, request: Request) -> dict[str, Any]:
        """`renewMachine`: the next certificate of the machine that certified the caller."""
        wanted = contract.parse(contract.RenewMachine, body)
        member = request.peer.member
        if self._membership is None or not self._membership.has_root:
            raise errors.Unavailable("machines are renewed by orchestrators on the one that made the mesh")
        try:
            key = z85.decode(wanted.machine_key)
            if member is None or key_id(key) != member.issuer_id:
                raise errors.PermissionDenied("a process renews its own machine alone")
            certificate = self._membership.renew_machine(key)
        except (ValueError, Untrusted) as error:
            raise errors.PermissionDenied(f"not renewed: {error}") from None
        return contract.as_body(contract.Renewed(certificate))

    def _take_in(self, body: bytes) -> bytes:
        assert self._membership is not None
        now = self._loop.time()
        if len(self._joins) == JOINS_A_SECOND and now - self._joins[0] < 1:
            raise BadGreeting("too many machines want to join at once: try again in a second")
        self._joins.append(now)
        try:
            return self._membership.take_in(body)
        except Untrusted as reason:
            raise BadGreeting(str(reason)) from None


def _shown(member: Member, endpoint: str) -> dict[str, Any]:
    return {
        "name": member.name,
        "machine": member.issuer,
        "roles": sorted(member.roles),
        "models": None if member.models is None else sorted(member.models),
        "until": member.until,
        "address": endpoint,
        "publicKey": z85.encode(member.key),
    }
