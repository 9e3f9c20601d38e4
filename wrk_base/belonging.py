"""Keeps a running worker a member: looks after its certificate and spreads what it learns to its links.

A renewed certificate is shown on all links, so that none of them outlives the old one. A newer list of
revocations reaches every process that is linked in any way, from neighbour to neighbour, and whoever is on
it is thrown out at once. A machine that did not make the mesh asks an orchestrator to renew its right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from . import contract, errors
from .rpc import wire
from .rpc.peers import Peers, call_with_body
from .rpc.server import Server
from .security import z85
from .security.certificate import Untrusted
from .security.membership import Membership

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

LOOK_SECONDS = 1.0
RECHECK_EVERY = 30  # looks between two searches for links whose certificate has expired
RENEW_EVERY = 600  # looks between two requests to renew the machine's certificate
RENEW_SECONDS = 5.0


class Belonging:
    """Of one worker, from `start` to `stop`."""

    def __init__(
        self,
        membership: Membership,
        server: Server,
        peers: Peers,
        spawn: Callable[[Coroutine[Any, Any, Any], str], asyncio.Task[Any]],
        log: FilteringBoundLogger,
    ) -> None:
        self._membership, self._server, self._peers = membership, server, peers
        self._spawn, self._log = spawn, log
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._looks = 0
        self._renew_at = 0

    def start(self) -> None:
        self._membership.on_proof = self._show
        self._membership.on_revocations = self._spread
        self._look()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = self._loop.call_later(LOOK_SECONDS, self._look)
        self._looks += 1
        try:
            wants_renewal = self._membership.tick()
        except (errors.StartError, errors.WrkError, Untrusted, OSError) as error:
            self._log.warning("membership.files_unusable", reason=str(error))
            return
        if wants_renewal and self._looks >= self._renew_at:
            self._renew_at = self._looks + RENEW_EVERY
            self._spawn(self._renew(), "renew membership")
        if self._looks % RECHECK_EVERY == 0:
            self._recheck()

    def _show(self) -> None:
        self._server.greet_again()
        self._peers.greet_again()

    def _spread(self) -> None:
        self._recheck()
        news = (wire.REVOKED, 0, 0, self._membership.revocations())
        self._server.say_to_all(news)
        self._peers.say_to_all(news)

    def _recheck(self) -> None:
        self._server.recheck()
        self._peers.recheck()

    async def _renew(self) -> None:
        """Ask the orchestrators in turn: one on the machine that made the mesh can."""
        body = {"machineKey": z85.encode(self._membership.machine_key)}
        for peer in self._peers.ready("orchestrator"):
            try:
                deadline = self._loop.time() + RENEW_SECONDS
                answer = await call_with_body(peer, "renewMachine", body, deadline)
                self._membership.renewed(contract.parse(contract.Renewed, answer).certificate)
                self._log.info("membership.renewed", until=self._membership.machine_until)
                return
            except (errors.WrkError, errors.StartError, Untrusted) as error:
                self._log.debug("membership.not_renewed", endpoint=peer.endpoint, reason=str(error))
