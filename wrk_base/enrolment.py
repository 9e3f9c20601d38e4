"""How a rack becomes known: it registers with every orchestrator that it hears of, and stays registered.

Each orchestrator is a held peer: it is dialled until it answers, registered with at once, again after
every reconnection, and again at a third of the lease, so that a change of what the rack offers reaches
it too. An orchestrator that discovery no longer hears and that does not answer is forgotten in the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from . import contract, errors
from .discovery import Found
from .rpc.client import Peer, PeerEvents
from .rpc.link import REFUSED
from .rpc.peers import Peers, call_with_body

REGISTER_SECONDS = 5.0
RETRY_SECONDS = 1.0
DIAL_BACK_SECONDS = 5.0  # until an orchestrator that accepted a registration should have dialled back
FORGET_SECONDS = 600.0  # a router that reboots takes minutes; an address that is gone for good costs a dial/s
LEAST_RENEWAL_SECONDS = 1.0


class Enrolment(PeerEvents):
    """Keeps one rack registered. `offer` makes the registration anew each time."""

    def __init__(
        self,
        *,
        peers: Peers,
        offer: Callable[[], contract.Registration],
        dialled_back: Callable[[str], bool],
        spawn: Callable[[Coroutine[Any, Any, Any], str], asyncio.Task[Any]],
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._peers, self._offer, self._dialled_back, self._spawn, self._log = (
            peers,
            offer,
            dialled_back,
            spawn,
            log,
        )
        self._loop = asyncio.get_running_loop()
        self._heard: dict[str, Found] = {}
        self._timers: dict[tuple[str, str], asyncio.TimerHandle] = {}
        self._registering: dict[str, asyncio.Task[Any]] = {}
        self._refused: dict[str, str] = {}  # endpoint -> the reason last heard there
        self._closed = False
        self._changes = 0  # of the offer: one that changes while it is registered is registered again
        self.registered: dict[str, str] = {}

    def hear(self, found: Found) -> None:
        """Discovery named an endpoint that may be an orchestrator."""
        if self._closed or found.role not in ("orchestrator", ""):
            return
        known = found.endpoint in self._heard
        self._heard[found.endpoint] = found
        self._cancel(found.endpoint, "forget")
        if not known:
            self._peers.hold(found.endpoint, self)

    def unhear(self, found: Found) -> None:
        """Discovery says it left: a hint that counts only if the link agrees for long."""
        if found.endpoint in self._heard and found.source != "static":
            self._later(found.endpoint, "forget", FORGET_SECONDS, self._forget_if_gone)

    def renew(self) -> None:
        """Register anew wherever this rack is registered, because what it offers has changed."""
        self._changes += 1
        for endpoint in tuple(self.registered):
            self._renew(endpoint)

    def close(self) -> None:
        """Register no more; what is registered stays so until `unregister`."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    async def unregister(self, worker_id: str, timeout: float) -> None:
        """Tell every orchestrator that this rack leaves; none of them is waited for longer than `timeout`."""
        deadline = self._loop.time() + timeout
        body = contract.as_body(contract.WorkerRef(worker_id))
        calls = [
            call_with_body(self._peers.get(endpoint), "unregisterWorker", body, deadline)
            for endpoint in self.registered
            if self._peers.get(endpoint).ready
        ]
        await asyncio.gather(*calls, return_exceptions=True)

    def on_ready(self, peer: Peer) -> None:
        assert peer.info is not None
        self._refused.pop(peer.endpoint, None)
        if peer.info.role != "orchestrator":
            self._peers.release(peer.endpoint)
            return
        self._start_registering(peer)

    def on_down(self, peer: Peer, reason: str) -> None:
        if self.registered.pop(peer.endpoint, None) is not None:
            self._log.warning("rack.orchestrator_lost", endpoint=peer.endpoint, reason=reason)
        if reason.startswith(REFUSED) and self._refused.get(peer.endpoint) != reason:
            self._refused[peer.endpoint] = reason
            self._log.warning(
                "rack.refused",
                endpoint=peer.endpoint,
                reason=reason.removeprefix(REFUSED),
                advice="where a key was revoked, `wrk rotate` and a new start make another one; a machine "
                "that was revoked has to be invited again",
            )
        self._cancel(peer.endpoint, "renew")

    def _start_registering(self, peer: Peer) -> None:
        running = self._registering.get(peer.endpoint)
        if not self._closed and (running is None or running.done()):
            self._registering[peer.endpoint] = self._spawn(self._register(peer), "register")

    async def _register(self, peer: Peer) -> None:
        assert peer.info is not None
        deadline = self._loop.time() + REGISTER_SECONDS
        changes = self._changes
        try:
            offer = contract.as_body(self._offer())
            answer = await call_with_body(peer, "registerWorker", offer, deadline)
            lease = answer["leaseMs"] / 1000
        except errors.DeadlineExceeded:
            peer.drop("the registration was not answered")  # a link that may be dead is not kept
            return
        except (errors.WrkError, KeyError, TypeError) as error:
            self._log.warning("rack.registration_refused", endpoint=peer.endpoint, reason=str(error))
            self._later(peer.endpoint, "renew", RETRY_SECONDS, self._renew)
            return
        if peer.endpoint not in self.registered:
            self.registered[peer.endpoint] = peer.info.worker_id
            self._log.info("rack.registered", orchestrator=peer.info.worker_id, endpoint=peer.endpoint)
            self._later(peer.endpoint, "dial-back", DIAL_BACK_SECONDS, self._check_dial_back)
        pause = max(lease / 3, LEAST_RENEWAL_SECONDS) if changes == self._changes else 0
        self._later(peer.endpoint, "renew", pause, self._renew)

    def _renew(self, endpoint: str) -> None:
        peer = self._peers.get(endpoint)
        if peer.ready:
            self._start_registering(peer)

    def _check_dial_back(self, endpoint: str) -> None:
        orchestrator = self.registered.get(endpoint)
        if orchestrator is not None and not self._dialled_back(orchestrator):
            self._log.warning(
                "rack.unreachable",
                orchestrator=orchestrator,
                address=self._offer().address,
                advice="it accepted the registration but cannot dial this address: check the firewall "
                "of this machine, and that --interface names an address the orchestrator can reach",
            )

    def _forget_if_gone(self, endpoint: str) -> None:
        if self._peers.get(endpoint).ready:
            self._later(endpoint, "forget", FORGET_SECONDS, self._forget_if_gone)
            return
        for table in (self._heard, self._registering, self._refused):
            table.pop(endpoint, None)
        self._peers.release(endpoint)
        self._log.info("rack.orchestrator_forgotten", endpoint=endpoint)

    def _later(self, endpoint: str, what: str, seconds: float, action: Callable[[str], None]) -> None:
        self._cancel(endpoint, what)
        if not self._closed:
            self._timers[endpoint, what] = self._loop.call_later(seconds, action, endpoint)

    def _cancel(self, endpoint: str, what: str) -> None:
        timer = self._timers.pop((endpoint, what), None)
        if timer is not None:
            timer.cancel()
