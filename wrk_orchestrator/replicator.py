"""The other orchestrators: found, dialled, and kept in agreement with this one. There is no leader.

Each of them is compared with every two seconds and when it is met; what changes here goes to all of them at
once. One exchange brings both sides what they lack, so it is enough that one of two can dial the other, and
what one learns it passes on. Who falls silent is dialled until it is forgotten; nothing waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Annotated, Any

import msgspec
import structlog
from msgspec import Meta

from wrk_base import clock, contract, errors
from wrk_base.discovery import Found
from wrk_base.rpc.client import Peer, PeerEvents
from wrk_base.rpc.peers import Peers, call_with_body
from wrk_base.rpc.request import Request
from wrk_base.security.roles import ORCHESTRATOR

from .replication import (
    BUCKETS,
    PAGE_ROWS,
    PAGE_STAMPS,
    WORD,
    Allowance,
    Difference,
    Key,
    Row,
    SentRow,
    SentStamp,
    sent,
)
from .shared_records import SharedRecords

COMPARE, EXCHANGE = "compareRecords", "exchangeRecords"
EVERY_S = 2.0
CALL_S = 2.0
FORGET_S = 600.0  # a machine that restarts takes minutes; a record of one that crashed is heard for an hour
MOST_OTHERS = 32  # a mesh has a handful, and each is a link that everything goes over
ROUNDS = 64  # comparisons in a row until the next beat: one a bucket
MOST_STAMPS = 20 * PAGE_STAMPS  # one bucket is never cut; it would have to hold what all kinds may have


class Compare(contract.Shape, frozen=True):
    """`compareRecords`: the digest of the caller's records."""

    digest: Annotated[bytes, Meta(min_length=BUCKETS * WORD, max_length=BUCKETS * WORD)]


class Compared(contract.Shape, frozen=True):
    """Its result: all stamps in those of the buckets that differ; no bucket: there is no difference."""

    buckets: Annotated[list[Annotated[int, Meta(ge=0, lt=BUCKETS)]], Meta(max_length=BUCKETS)]
    stamps: Annotated[list[SentStamp], Meta(max_length=MOST_STAMPS)]


class Exchange(contract.Shape, frozen=True):
    """`exchangeRecords`: rows that are newer at the caller, and names of some that it lacks."""

    rows: Annotated[list[SentRow], Meta(max_length=PAGE_ROWS)] = []
    wanted: Annotated[list[tuple[str, str]], Meta(max_length=PAGE_ROWS)] = []


class Exchanged(contract.Shape, frozen=True):
    """Its result: as many of the rows that were asked for as fit."""

    rows: Annotated[list[SentRow], Meta(max_length=PAGE_ROWS)] = []


class Other(PeerEvents):
    """One endpoint at which an orchestrator is, or was."""

    def __init__(self, replicator: Replicator, now: float) -> None:
        self._replicator = replicator
        self.silent_since = now
        self.peer: Peer | None = None
        self.due = False
        self.news: dict[Key, Row] = {}
        self.task: asyncio.Task[None] | None = None

    @property
    def worker_id(self) -> str:
        """Who answers there now; empty if nobody does."""
        peer = self.peer
        return peer.info.worker_id if peer is not None and peer.ready and peer.info is not None else ""

    def on_ready(self, peer: Peer) -> None:
        self._replicator.met(self, peer)

    def on_down(self, peer: Peer, reason: str) -> None:
        self.due, self.news = False, {}  # when it is met again, all is compared


class Replicator:
    """Keeps `records` alike at all orchestrators; `own_id` is this one's worker id."""

    def __init__(
        self,
        records: SharedRecords,
        peers: Peers,
        own_id: str,
        *,
        spawn: Callable[[Coroutine[Any, Any, Any], str], asyncio.Task[Any]],
        rng: Random,
        log: structlog.typing.FilteringBoundLogger,
        wall_ms: Callable[[], int] = clock.wall_ms,
    ) -> None:
        self._records, self._peers, self._own_id = records, peers, own_id
        self._spawn, self._rng, self._log, self._wall_ms = spawn, rng, log, wall_ms
        self._loop = asyncio.get_running_loop()
        self._others: dict[str, Other] = {}
        self._own_endpoints: set[str] = set()
        self._allowances: dict[str, Allowance] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self.counters = {"compared": 0, "differed": 0, "failed": 0, "refused": 0}
        records.on_change = self._pass_on

    # --- life

    def start(self) -> None:
        self._beat()

    def stop(self) -> None:
        """Begin no exchange any more; what others ask is still answered."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _beat(self) -> None:
        self._timer = self._loop.call_later(EVERY_S * (0.9 + 0.1 * self._rng.random()), self._beat)
        try:
            self._records.purge()
        except errors.WrkError as error:
            self._log.error("records.not_purged", reason=error.message)
        self._forget_the_silent()
        for other in self._partners():
            other.due = True
            self._attend(other)

    # --- who is there

    def hear(self, found: Found) -> bool:
        """Discovery named an endpoint; whether it is one for this to dial, and for nobody else."""
        if found.endpoint in self._own_endpoints or found.endpoint in self._others:
            return True
        if found.role != ORCHESTRATOR:
            return False
        if found.worker_id not in (self._own_id, *self.linked()):
            self.dial(found.endpoint)
        return True

    def dial(self, endpoint: str) -> None:
        """Link to the orchestrator that is said to be there."""
        if self._stopped or endpoint in self._others or self._peers.holds(endpoint) or not self._has_room():
            return
        other = self._others[endpoint] = Other(self, self._loop.time())
        other.peer = self._peers.hold(endpoint, other)

    def met(self, other: Other, peer: Peer) -> None:
        assert peer.info is not None
        if peer.info.worker_id == self._own_id:
            self._own_endpoints.add(peer.endpoint)
            self._let_go(peer.endpoint)
        elif peer.info.role != ORCHESTRATOR:
            self._let_go(peer.endpoint)
        else:
            self._log.info("records.met", orchestrator=peer.info.worker_id, endpoint=peer.endpoint)
            other.peer, other.due = peer, True
            self._attend(other)

    def linked(self) -> list[str]:
        """The orchestrators that answer on links of ours."""
        return sorted({other.worker_id for other in self._others.values()} - {""})

    def _partners(self) -> list[Other]:
        """One endpoint of each orchestrator that answers."""
        by_id = {other.worker_id: other for other in self._others.values()}
        return [other for worker_id, other in by_id.items() if worker_id]

    def _has_room(self) -> bool:
        """At the limit one that does not answer goes; where all answer, there are enough."""
        if len(self._others) < MOST_OTHERS:
            return True
        silent = next((end for end, other in self._others.items() if not other.worker_id), None)
        if silent is not None:
            self._let_go(silent)
        return silent is not None

    def _forget_the_silent(self) -> None:
        now = self._loop.time()
        for endpoint, other in list(self._others.items()):
            if other.worker_id:
                other.silent_since = now
            elif other.peer is None or other.peer.closed:  # a rack was registered at this address
                del self._others[endpoint]
            elif now - other.silent_since >= FORGET_S:
                self._let_go(endpoint)

    def _let_go(self, endpoint: str) -> None:
        if self._others.pop(endpoint, None) is not None:
            self._peers.release(endpoint)

    # --- agreeing

    def _pass_on(self, rows: list[Row], source: str) -> None:
        for other in self._partners():
            if other.worker_id != source:
                other.news.update((row.key, row) for row in rows)
                if len(other.news) > PAGE_ROWS:
                    other.due, other.news = True, {}
                self._attend(other)

    def _attend(self, other: Other) -> None:
        if not self._stopped and (other.task is None or other.task.done()):
            other.task = self._spawn(self._agree(other), "agree")

    async def _agree(self, other: Other) -> None:
        """Say what is new, compare what is due, until there is neither."""
        peer = other.peer
        assert peer is not None
        try:
            while peer.ready and (other.news or other.due):
                if other.news:
                    await self._tell(other, peer)
                else:
                    other.due = False
                    await self._reconcile(peer)
        except (errors.WrkError, msgspec.ValidationError) as error:
            self.counters["failed"] += 1
            other.due, other.news = False, {}  # the next beat compares again
            self._log.debug("records.not_compared", endpoint=peer.endpoint, reason=str(error))

    async def _tell(self, other: Other, peer: Peer) -> None:
        news, other.news = other.news, {}
        rows = self._records.book.page(news)
        other.due = other.due or len(rows) < len(news)
        await self._swap(peer, rows, [])

    async def _reconcile(self, peer: Peer) -> None:
        for _ in range(ROUNDS):
            difference = await self._compare(peer)
            if not (difference.wanted or difference.offered):
                return
            self.counters["differed"] += 1
            moved = await self._swap(
                peer, self._records.book.page(difference.offered), difference.wanted[:PAGE_ROWS]
            )
            if not moved:
                return

    async def _compare(self, peer: Peer) -> Difference:
        self.counters["compared"] += 1
        records = self._records
        body = contract.as_body(Compare(records.book.digest()))
        said = contract.parse(Compared, await self._call(peer, COMPARE, body), what=COMPARE)
        stamps = {told.key: told.stamp for told in said.stamps}
        difference = records.book.compare(said.buckets, said.stamps)
        wanted = [key for key in difference.wanted if not records.is_refused(key, stamps[key])]
        return Difference(wanted, difference.offered)

    async def _swap(self, peer: Peer, rows: list[Row], wanted: list[Key]) -> bool:
        """Whether anything moved, either way."""
        assert peer.info is not None
        now = self._wall_ms()
        body = contract.as_body(Exchange([sent(row, now) for row in rows], wanted))
        said = await self._call(peer, EXCHANGE, body)
        got = contract.parse(Exchanged, said, what=EXCHANGE)
        taken = self._records.take(got.rows, peer.info.worker_id)
        return bool(taken or said.get("taken"))

    async def _call(self, peer: Peer, method: str, body: Any) -> Any:
        return await call_with_body(peer, method, body, self._loop.time() + CALL_S)

    # --- what others ask

    def compare(self, body: Any, request: Request) -> dict[str, Any]:
        """`compareRecords`. Raises `BadRequest`, `CapacityExceeded`."""
        self._charge(request)
        theirs = contract.parse(Compare, body, what=COMPARE)
        book = self._records.book
        return contract.as_body(Compared(*book.stamps(book.differing(theirs.digest))))

    def exchange(self, body: Any, request: Request) -> dict[str, Any]:
        """`exchangeRecords`. Raises `BadRequest`, `CapacityExceeded`."""
        self._charge(request)
        theirs = contract.parse(Exchange, body, what=EXCHANGE)
        taken = self._records.take(theirs.rows, request.peer.worker_id)
        now = self._wall_ms()
        rows = [sent(row, now) for row in self._records.book.page(theirs.wanted)]
        return {**contract.as_body(Exchanged(rows)), "taken": taken}

    def _charge(self, request: Request) -> None:
        """Raises `CapacityExceeded` for one that asks without end."""
        caller, now = request.peer.worker_id, self._loop.time()
        allowance = self._allowances.pop(caller, None) or Allowance(now)
        self._allowances[caller] = allowance
        if len(self._allowances) > MOST_OTHERS:
            del self._allowances[next(iter(self._allowances))]
        if not allowance.take(now):
            self.counters["refused"] += 1
            raise errors.CapacityExceeded(
                f"{caller} compares records more than {Allowance.A_SECOND} times a second",
                not_started=True,
                retry_after_ms=1000,
            )
