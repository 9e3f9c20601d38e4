"""The orchestrators that a client knows: heard or given, dialled at once, linked for as long as they live.

An address is a hint: who answers there has to say that it is an orchestrator, and the one that was heard.
So calls meet live links only, a loss is known before the next call, and who comes back is dialled by its
own link, ever more slowly. A withdrawn address goes when its link does. Whom to take among those that are
there, and whether a call may go on to the next, is decided in `failover.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from random import Random
from typing import TypeVar

from . import errors
from .discovery import Discovery, DiscoveryFailed, Found
from .failover import Attempts, Preference, Process, at_fault
from .rpc.client import Peer, PeerEvents
from .rpc.peers import Peers

SWEEP_SECONDS = 10.0  # as processes of the mesh do by default
# A mesh has a handful. Anybody on the network can announce thousands, and each is a socket and its dials.
MAX_ORCHESTRATORS = 32
ORCHESTRATOR = "orchestrator"

T = TypeVar("T")

_WAYS_OUT = {
    "otherMesh": "other meshes were heard: choose one with mesh=",
    "outOfReach": "peers were heard on another network: choose it with interface=",
}


class Orchestrators(PeerEvents):
    """Links to the `addresses`, and to what `discovery` hears. A call waits `patience` seconds for one;
    `complaint` and `advice` are what it says when nobody came."""

    def __init__(
        self,
        peers: Peers,
        addresses: Sequence[str],
        discovery: Discovery | None,
        *,
        patience: float,
        complaint: str,
        advice: str,
        rng: Random,
    ) -> None:
        self._peers, self._discovery = peers, discovery
        self._patience, self._nobody, self._advice = patience, complaint, advice
        self._preference = Preference(rng)
        self._links: dict[str, Peer] = {}
        self._hinted: dict[str, str] = {}  # endpoint -> the worker id that was heard
        self._withdrawn: set[str] = set()
        self._problem = ""
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        for rank, endpoint in enumerate(addresses):
            self._know(endpoint, "", rank)
        self._looking = None if discovery is None else self._loop.create_task(self._look(discovery))

    async def close(self) -> None:
        """Look no more; who waits for an orchestrator is told. The links belong to `peers`."""
        self._closed = True
        self._tell()
        if self._looking is not None and self._discovery is not None:
            self._looking.cancel()
            await asyncio.wait((self._looking,))
            await self._discovery.stop()

    async def ask(
        self, attempt: Callable[[str, float], Awaitable[T]], seconds: float, *, repeatable: bool
    ) -> T:
        """The outcome of `attempt(endpoint, seconds left)` at the first orchestrator where it has one.

        Raises `WrkError`: what the one said that was asked last, or that nobody is there.
        """
        begun = self._loop.time()
        deadline = begun + seconds
        attempts = Attempts(repeatable=repeatable)
        while (left := deadline - self._loop.time()) > 0:
            peer = await self._next(attempts.tried, min(self._patience, left) if attempts.may_wait else 0.0)
            if peer is None:
                raise attempts.error or self._nobody_there(self._loop.time() - begun)
            process = _process(peer)
            try:
                outcome = await attempt(peer.endpoint, deadline - self._loop.time())
            except errors.WrkError as error:
                self._judge(peer, error)
                if not attempts.failed(process, error):
                    break
            else:
                self._preference.worked(peer.endpoint)
                return outcome
        raise attempts.error or errors.DeadlineExceeded("no time is left to ask", not_started=True)

    def _judge(self, peer: Peer, error: errors.WrkError) -> None:
        """Others are preferred for a while to one that failed; a refusal is an answer like any other."""
        if at_fault(error):
            self._preference.failed(peer.endpoint, self._loop.time())
        else:
            self._preference.worked(peer.endpoint)

    # --- who is there

    def usable(self, tried: Collection[Process] = ()) -> dict[str, Peer]:
        """Those that take calls now."""
        return {
            endpoint: peer
            for endpoint, peer in self._links.items()
            if not self._complaint(peer) and _process(peer) not in tried
        }

    def heard(self, worker_id: str) -> str:
        """The endpoint of a worker of any role that is linked or was heard; empty if there is none."""
        for endpoint, peer in self.usable().items():
            if peer.info is not None and peer.info.worker_id == worker_id:
                return endpoint
        known = self._discovery.known() if self._discovery is not None else ()
        found = [found for found in known if found.worker_id == worker_id]
        return max(found, key=lambda found: found.epoch).endpoint if found else ""

    async def _next(self, tried: Collection[Process], wait: float) -> Peer | None:
        """Whom to ask; waits up to so many seconds for one that was not tried. None: nobody is there."""
        until = self._loop.time() + wait
        while not self._closed:
            usable = self.usable(tried)
            endpoint = self._preference.pick(usable, self._loop.time())
            if endpoint is not None:
                return usable[endpoint]
            if self._problem and not self._links:
                return None  # nothing can be heard, so nothing is waited for
            try:
                async with asyncio.timeout_at(until):
                    await self._news.wait()
            except TimeoutError:
                return None
        return None

    def _nobody_there(self, waited: float) -> errors.Unavailable:
        """The error that says what was searched, and what can be done."""
        if self._closed:
            return errors.Unavailable("the client was closed", not_started=True)
        reasons = [f"{endpoint}: {self._complaint(peer)}" for endpoint, peer in self._links.items()]
        reasons += [self._problem] if self._problem else self._strangers()
        told = f" ({'; '.join(reasons)})" if reasons else ""
        return errors.Unavailable(
            f"{self._nobody}, after {waited:.3g} s{told}; {self._advice}",
            data={"advice": self._advice},
            not_started=True,
        )

    # --- links

    def on_ready(self, peer: Peer) -> None:
        self._tell()

    def on_down(self, peer: Peer, reason: str) -> None:
        self._preference.left(peer.endpoint)
        if peer.endpoint in self._withdrawn:
            self._forget(peer.endpoint)

    def _know(self, endpoint: str, worker_id: str, rank: float | None = None) -> None:
        if endpoint not in self._links:
            if not self._has_room():
                return
            self._preference.add(endpoint, rank)
            self._links[endpoint] = self._peers.hold(endpoint, self)
        self._hinted[endpoint] = worker_id
        self._withdrawn.discard(endpoint)
        self._tell()  # who answers there may be the right one now

    def _has_room(self) -> bool:
        """At the limit one that does not answer goes; where all answer, there are enough."""
        if len(self._links) >= MAX_ORCHESTRATORS:
            silent = next((end for end, peer in self._links.items() if not peer.ready), None)
            if silent is None:
                return False
            self._forget(silent)
        return True

    def _forget(self, endpoint: str) -> None:
        self._links.pop(endpoint, None)
        self._hinted.pop(endpoint, None)
        self._withdrawn.discard(endpoint)
        self._preference.drop(endpoint)
        self._peers.release(endpoint)

    def _complaint(self, peer: Peer) -> str:
        """Why it takes no calls; empty if it does."""
        info = peer.info
        if not peer.ready or info is None:
            return peer.reason
        if info.role != ORCHESTRATOR:
            return f"{info.worker_id} answers there, which is a {info.role}"
        if self._hinted.get(peer.endpoint, "") not in ("", info.worker_id):
            return f"{info.worker_id} answers there, which is somebody else"
        return ""

    def _tell(self) -> None:
        """Wake who waits; whoever waits from now on waits for the next time."""
        self._news.set()
        self._news = asyncio.Event()

    # --- hearing

    async def _look(self, discovery: Discovery) -> None:
        """Listen for as long as the client lives; a network that is not there yet is tried again."""
        while True:
            try:
                await discovery.start(None, self._hear, self._unhear)
                while True:
                    await discovery.sweep()  # asks at once, where the library would wait for up to 120 ms
                    self._problem = ""
                    await asyncio.sleep(SWEEP_SECONDS)
            except (DiscoveryFailed, OSError) as failure:
                self._problem = str(failure)
                self._tell()
                await discovery.stop()
            await asyncio.sleep(SWEEP_SECONDS)

    def _hear(self, found: Found) -> None:
        if found.role == ORCHESTRATOR:
            self._know(found.endpoint, found.worker_id)

    def _unhear(self, found: Found) -> None:
        """A hint, too: whoever still answers stays."""
        link = self._links.get(found.endpoint)
        if link is None or self._hinted.get(found.endpoint) != found.worker_id:
            return
        self._withdrawn.add(found.endpoint)
        if not link.ready:
            self._forget(found.endpoint)

    def _strangers(self) -> list[str]:
        heard: Mapping[str, int] = self._discovery.counters() if self._discovery is not None else {}
        return [text for counter, text in _WAYS_OUT.items() if heard.get(counter)]


def _process(peer: Peer) -> Process:
    assert peer.info is not None
    return peer.info.worker_id, peer.info.epoch
