"""The cache of peers: one `Peer` an endpoint, closed when it was idle for long, bounded in number.

`hold` keeps a peer connected (an orchestrator its racks, a rack its orchestrators) and tells its owner
what happens to it; `request` is for everybody else and borrows. A held peer is never evicted.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from .. import contract, errors
from . import wire
from .body import Budget
from .call import Reply
from .client import Peer, PeerEvents
from .identity import Identity, PeerInfo
from .line import PeerLimits
from .link import Network
from .streams import Stream, Terms, open_stream


class Peers:
    """Outbound links of one process. `linger` is in seconds."""

    def __init__(
        self,
        *,
        network: Network,
        identity: Identity,
        rng: Random,
        limits: PeerLimits,
        max_peers: int,
        linger: float,
        held: Budget | None = None,
    ) -> None:
        self._network, self._identity, self._rng, self._limits = network, identity, rng, limits
        self._max_peers, self._linger = max_peers, linger
        self._process_bytes = held or Budget(limits.peer_bytes, "rpc.processBytes")
        self._loop = asyncio.get_running_loop()
        self._held: dict[str, Peer] = {}
        self._borrowed: dict[str, Peer] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False
        self.evictions = 0
        self._late_before = 0

    def __len__(self) -> int:
        return len(self._held) + len(self._borrowed)

    def hold(self, endpoint: str, events: PeerEvents, *, heartbeat: bool = True) -> Peer:
        """A peer that is dialled now and for as long as it is held; one owner an endpoint."""
        self.release(endpoint)
        peer = self._held[endpoint] = self._make(endpoint, events, keep=True, heartbeat=heartbeat)
        peer.dial()
        return peer

    def holds(self, endpoint: str) -> bool:
        """Whether somebody keeps it connected."""
        return endpoint in self._held

    def release(self, endpoint: str) -> None:
        """Close a held peer; nothing happens when there is none."""
        peer = self._held.pop(endpoint, None)
        if peer is not None:
            peer.close()
            self._late_before += peer.late_answers

    def get(self, endpoint: str) -> Peer:
        """The peer to call: the held one, or a borrowed one that goes when idle."""
        peer = self._held.get(endpoint) or self._borrowed.get(endpoint)
        if peer is None:
            if self._closed:  # a socket made now would never be closed, and its context never end
                raise errors.Unavailable("this process stops and calls nobody any more", not_started=True)
            self._make_room()
            peer = self._borrowed[endpoint] = self._make(endpoint, None, keep=False, heartbeat=True)
            peer.last_used = self._loop.time()
            self._plan_sweep()
        return peer

    async def request(self, endpoint: str, method: str, body: Any = None, *, timeout: float) -> Any:
        """Call `method` with a plain body and return the plain result; `timeout` in seconds.

        Raises `WrkError`: what the handler raised, or `Unavailable`, `DeadlineExceeded`, `BadRequest`.
        """
        if not timeout > 0:  # a NaN, too
            raise errors.DeadlineExceeded("no time is left to ask", not_started=True)
        deadline = self._loop.time() + min(timeout, wire.MAX_REMAINING_MS / 1000)
        peer = self.get(endpoint)
        fields, head, content_type, payload = _lay_out(method, body)
        call = peer.call(method, payload, deadline=deadline, head=head, content_type=content_type)
        return read_reply(await call, fields)

    def stream(
        self,
        endpoint: str,
        method: str,
        body: Any = None,
        *,
        timeout: float,
        idle: float = 60.0,
        total: float | None = None,
    ) -> Stream:
        """The items of a streaming method: `async for item in peers.stream(...)`. Seconds.

        `timeout` bounds the wait for the first item, `idle` that for each later one, `total` all of it
        (also at the handler). Raises `WrkError` from the loop. A method that does not stream gives its
        result as one item, or where that is above 256 KiB as `value` alone.
        """

        def open_() -> Any:
            if not timeout > 0:
                raise errors.DeadlineExceeded("no time is left to ask", not_started=True)
            _, head, content_type, payload = _lay_out(method, body)
            parts = (method, 0, head, content_type, payload)
            return open_stream(self.get(endpoint), self._limits, parts, Terms(timeout, idle, total))

        return Stream(open_, contract.PAYLOAD_FIELDS.get(method))

    async def answers(self, endpoint: str, timeout: float) -> bool:
        """Whether the process there answers on a connection of its own, within so many seconds."""
        peer = self._make(endpoint, None, keep=False, heartbeat=False)
        try:
            await call_with_body(peer, "ping", None, self._loop.time() + timeout)
        except errors.WrkError:
            return False
        finally:
            peer.close()
        return True

    @property
    def late_answers(self) -> int:
        """Late and duplicate answers on all links that are open now or were."""
        return self._late_before + sum(peer.late_answers for peer in self._all())

    @property
    def rescued(self) -> int:
        """Wake-ups that were lost and found by looking, on all links of this process."""
        return self._network.rescued

    def stats(self) -> dict[str, Any]:
        """As the consolidated status shows it."""
        peers = self._all()
        return {
            "active": len(peers),
            "ready": sum(peer.ready for peer in peers),
            "held": len(self._held),
            "evictions": self.evictions,
            "lateAnswers": self.late_answers,
            "peers": [
                {"endpoint": p.endpoint, "workerId": p.info.worker_id if p.info else "", "ready": p.ready}
                for p in peers[:1000]
            ],
        }

    def greet_again(self) -> None:
        """Show every peer our newest certificate."""
        for peer in self._all():
            peer.greet_again()

    def say_to_all(self, envelope: wire.Envelope) -> None:
        for peer in self._all():
            peer.say(envelope)

    def recheck(self) -> None:
        """Drop every peer that is no member any more."""
        for peer in self._all():
            peer.recheck()

    def infos(self) -> list[PeerInfo]:
        """Everybody who answers on a link of ours."""
        return [peer.info for peer in self._all() if peer.ready and peer.info is not None]

    def ready(self, role: str) -> list[Peer]:
        """Linked peers in this role."""
        return [
            peer for peer in self._all() if peer.ready and peer.info is not None and peer.info.role == role
        ]

    def _all(self) -> list[Peer]:
        return [*self._held.values(), *self._borrowed.values()]

    def close(self, linger_ms: int = 0) -> None:
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for table in (self._held, self._borrowed):
            for peer in table.values():
                peer.close(linger_ms)
            table.clear()

    def _make(self, endpoint: str, events: PeerEvents | None, *, keep: bool, heartbeat: bool) -> Peer:
        return Peer(
            endpoint,
            network=self._network,
            identity=self._identity,
            rng=self._rng,
            limits=self._limits,
            events=events,
            keep=keep,
            heartbeat=heartbeat,
            held=self._process_bytes,
        )

    def _make_room(self) -> None:
        if len(self) < self._max_peers:
            return
        idle = [peer for peer in self._borrowed.values() if peer.idle]
        if not idle:
            raise errors.CapacityExceeded(
                f"{len(self)} peers are connected and busy: the limit is rpc.maxPeers = {self._max_peers}",
                not_started=True,
                retry_after_ms=1000,
            )
        self._evict(min(idle, key=lambda peer: peer.last_used))

    def _evict(self, peer: Peer) -> None:
        peer.close()
        self._late_before += peer.late_answers
        del self._borrowed[peer.endpoint]
        self.evictions += 1

    def _plan_sweep(self) -> None:
        if self._sweep is None and self._borrowed:
            self._sweep = self._loop.call_later(self._linger / 2, self._sweep_idle)

    def _sweep_idle(self) -> None:
        self._sweep = None
        before = self._loop.time() - self._linger
        for peer in [p for p in self._borrowed.values() if p.idle and p.last_used <= before]:
            self._evict(peer)
        self._plan_sweep()


async def call_with_body(peer: Peer, method: str, body: Any, deadline: float) -> Any:
    """`Peers.request` for whoever holds the peer itself; `deadline` in the loop's time."""
    fields, head, content_type, payload = _lay_out(method, body)
    call = peer.call(method, payload, deadline=deadline, head=head, content_type=content_type)
    return read_reply(await call, fields)


def _lay_out(method: str, body: Any) -> tuple[tuple[str, str] | None, bytes | None, int, wire.Payload]:
    """(payload fields, head, content type, payload): CONTRACT's shapes are laid on the wire here alone.

    Large bytes travel as they are: packing would copy them.
    """
    fields = contract.PAYLOAD_FIELDS.get(method)
    head = None
    try:
        if fields is not None and isinstance(body, dict):
            rest = body.copy()
            body = rest.pop(fields[0], None)
            head = wire.pack_head(rest)
        if isinstance(body, bytes | bytearray) and len(body) > wire.CHUNK_BYTES:
            return fields, head, wire.OCTETS, body
        return fields, head, wire.MSGPACK, wire.pack_body(body)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise errors.BadRequest(
            f"the body of {method} cannot be encoded: {error}", not_started=True
        ) from None


def read_reply(reply: Reply, fields: tuple[str, str] | None) -> Any:
    """A reply as a plain result."""
    try:
        result = wire.unpack_body(reply.payload, reply.content_type)
        if fields is None or reply.head is None:
            return result
        head = wire.unpack_head(reply.head)
    except ValueError as error:
        raise errors.Internal(f"the answer is malformed: {error}") from None
    head[fields[1]] = result
    return head
