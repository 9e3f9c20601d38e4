"""Which of many addresses is the one: all are dialled at once, the first right greeting wins.

An address is only a hint (the record of a process that crashed, a status file that it left), so whoever
answers there has to say the right thing: a fitting role or id, and the very id that the hint named.
Likely addresses are tried alone at first, because a responder of mDNS that has just answered another
asker keeps silent for a second (RFC 6762, section 6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from wrk_base import errors
from wrk_base.discovery import Discovery, DiscoveryFailed, Found
from wrk_base.rpc.client import Peer, PeerEvents
from wrk_base.rpc.peers import Peers

LIKELY_SECONDS = 0.1  # for an address on this machine to answer, before the network is asked as well
FIND_SECONDS = 2.5  # a second of a responder's silence, half a one of its pause for others, and some
ADVICE = "start a mesh with `wrk up`, or name a peer with --peer tcp://host:port"

Fits = Callable[[str, str], bool]
"""(worker id, role) -> whether that is who is looked for."""


class Search(PeerEvents):
    """One search for one peer, `what` in words. `browse` makes a discovery; None: it is switched off."""

    def __init__(self, peers: Peers, fits: Fits, what: str, browse: Callable[[], Discovery] | None) -> None:
        self._peers, self._fits, self._what, self._browse = peers, fits, what, browse
        self._found: asyncio.Future[Peer] = asyncio.get_running_loop().create_future()
        self._tried: dict[str, Found] = {}
        self._discovery: Discovery | None = None
        self._problem = ""

    async def first(self, likely: Iterable[Found]) -> Peer:
        """The first that answers and fits, connected. Raises `Unavailable`."""
        try:
            for hint in likely:
                self._consider(hint)
            if self._tried:
                await asyncio.wait({self._found}, timeout=LIKELY_SECONDS)
            if not self._found.done():
                await self._look_around()
            hopeless = self._problem and not self._tried
            async with asyncio.timeout(0 if hopeless else FIND_SECONDS):
                return await self._found
        except TimeoutError:
            raise self._not_found() from None
        finally:
            await self._end()

    def _consider(self, hint: Found) -> None:
        """Dial it, unless it is known to be somebody else. A static peer has no id before it answers."""
        if hint.endpoint in self._tried or (hint.worker_id and not self._fits(hint.worker_id, hint.role)):
            return
        self._tried[hint.endpoint] = hint
        self._peers.hold(hint.endpoint, self)

    def on_ready(self, peer: Peer) -> None:
        assert peer.info is not None
        worker_id, hinted = peer.info.worker_id, self._tried[peer.endpoint].worker_id
        if self._fits(worker_id, peer.info.role) and hinted in ("", worker_id) and not self._found.done():
            self._found.set_result(peer)

    async def _look_around(self) -> None:
        if self._browse is None:
            self._problem = "mDNS is switched off"
            return
        self._discovery = self._browse()
        try:
            await self._discovery.start(None, self._consider, lambda gone: None)
            await self._discovery.sweep()  # asks at once, where the library would wait for up to 120 ms
        except DiscoveryFailed as failure:
            self._problem = str(failure)

    async def _end(self) -> None:
        """Hang up everywhere but at the winner."""
        winner = self._found.result() if self._found.done() and not self._found.cancelled() else None
        for endpoint in self._tried:
            if winner is None or endpoint != winner.endpoint:
                self._peers.release(endpoint)
        if self._discovery is not None:
            await self._discovery.stop()

    def _not_found(self) -> errors.Unavailable:
        reasons = [f"{end}: {self._peers.get(end).reason or 'somebody else'}" for end in self._tried]
        reasons += [self._problem] if self._problem else self._strangers()
        text = f"no {self._what} answers"
        told = f"{text} ({'; '.join(reasons)})" if reasons else text
        return errors.Unavailable(told, data={"advice": ADVICE}, not_started=True)

    def _strangers(self) -> list[str]:
        heard = self._discovery.counters() if self._discovery is not None else {}
        told = (
            ("otherMesh", "other meshes were heard: choose one with --mesh"),
            ("outOfReach", "peers were heard on another network: choose it with --interface"),
        )
        return [text for counter, text in told if heard.get(counter)]
