"""The records that all orchestrators share, as one of them keeps them: in its store, and in a book beside.

Whoever follows a kind hears of each change that comes from elsewhere (what is written here, its writer knows
of); `on_change` hears of every change, to pass it on. A row that another orchestrator sends is checked like
any input: one that cannot be is refused, counted, and not asked for again.

Invariant: what the book holds is on the disk, and what followers hear is what the book holds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import msgspec
import structlog

from wrk_base import clock, errors
from wrk_base.store import Store

from .replication import Book, Key, Row, SentRow, Stamp, stamp_of
from .shared_kinds import READERS

FLOOR = "replica-floor"  # kind of the local record that keeps the versions of purged tombstones
MOST_REFUSED = 1000  # stamps that are remembered so as not to be asked for again
LOG_EVERY_S = 10.0  # a peer with bad records sends them every two seconds

Follower: TypeAlias = Callable[[str, Any], None]
"""Told an id and what is read of its body; None: it was deleted."""


class SharedRecords:
    """`writer` is this orchestrator's worker id; `wall_ms` tells Unix milliseconds, `now` seconds."""

    def __init__(
        self,
        writer: str,
        log: structlog.typing.FilteringBoundLogger,
        now: Callable[[], float],
        wall_ms: Callable[[], int] = clock.wall_ms,
    ) -> None:
        self.book = Book()
        self.counters = {"taken": 0, "refused": 0, "purged": 0}
        self.on_change: Callable[[list[Row], str], None] = _nobody
        self._writer, self._log, self._now, self._wall_ms = writer, log, now, wall_ms
        self._store: Store | None = None
        self._followers: dict[str, Follower] = {}
        self._refused: OrderedDict[tuple[Key, Stamp], None] = OrderedDict()
        self._log_again_at = float("-inf")

    def open(self, store: Store) -> None:
        """Read what is kept there. What cannot be read is left out, and logged."""
        self._store = store
        for record in store.all(FLOOR):
            self.book.raise_floor(record.id, int(record.body.get("version", 0)))
        for kind in READERS:
            for raw in store.rows(kind):
                row = Row(*raw)
                try:
                    _read(row)
                    self.book.check(row)
                except (ValueError, errors.WrkError) as problem:
                    self._log.warning("records.unreadable", kind=kind, id=row.id, reason=str(problem))
                    continue
                self.book.take(row)
        self.purge()

    def follow(self, kind: str, follower: Follower) -> None:
        """Tell `follower` what others change in this kind."""
        self._followers[kind] = follower

    # --- this orchestrator's own words

    def get(self, kind: str, id: str) -> Any:
        """What is kept under this id; None if nothing is, or it was deleted."""
        row = self.book.get((kind, id))
        return None if row is None or row.deleted else _read(row)

    def was_deleted(self, kind: str, id: str) -> bool:
        row = self.book.get((kind, id))
        return row is not None and row.deleted

    def all(self, kind: str) -> dict[str, Any]:
        """Id -> what is kept."""
        return {row.id: _read(row) for row in sorted(self.book.alive(kind))}

    def put(self, kind: str, id: str, body: msgspec.Struct) -> None:
        """Raises `CapacityExceeded`, and `Internal` where the store fails."""
        if self.get(kind, id) != body:
            self._write((kind, id), msgspec.json.encode(body).decode())

    def delete(self, kind: str, id: str) -> bool:
        """Whether there was something. Raises `Internal`."""
        if self.get(kind, id) is None:
            return False
        self._write((kind, id), None)
        return True

    def _write(self, key: Key, body: str | None) -> None:
        row = self.book.next(key, body, self._writer, self._wall_ms())
        self._keep(row)
        self.on_change([row], self._writer)

    def _keep(self, row: Row) -> None:
        """Raises `CapacityExceeded`, and `Internal` where the store fails."""
        crowding = self.book.crowding(row)
        if crowding is not None:
            self._purge(crowding)
        self.book.check(row)
        if self._store is not None:
            self._store.write(row)
        self.book.take(row)

    # --- the others' words

    def take(self, sent: Iterable[SentRow], source: str) -> int:
        """Keep what is newer of what another orchestrator sent; the number of rows that were."""
        now = self._wall_ms()
        news: list[Row] = []
        for item in sent:
            try:
                row = item.arrived(now)
                if not self.book.is_news(row, now):
                    continue
                _read(row)
                self._keep(row)
            except (ValueError, errors.WrkError) as problem:
                self._refuse(item, source, problem)
                continue
            news.append(row)
        self.counters["taken"] += len(news)
        for row in news:
            self._tell(row)
        if news:
            self.on_change(news, source)
        return len(news)

    def is_refused(self, key: Key, stamp: Stamp) -> bool:
        return (key, stamp) in self._refused

    def _tell(self, row: Row) -> None:
        follower = self._followers.get(row.kind)
        if follower is None:
            return
        try:
            follower(row.id, None if row.deleted else _read(row))
        except errors.WrkError as error:
            self._log.warning("records.not_followed", kind=row.kind, id=row.id, reason=error.message)

    def _refuse(self, item: SentRow, source: str, problem: Exception) -> None:
        self.counters["refused"] += 1
        row = Row(item.kind, item.id, item.version, item.writer, item.deleted, item.body)
        self._refused[row.key, stamp_of(row)] = None
        if len(self._refused) > MOST_REFUSED:
            self._refused.popitem(last=False)
        if self._now() >= self._log_again_at:
            self._log_again_at = self._now() + LOG_EVERY_S
            self._log.warning(
                "records.refused", source=source, kind=item.kind, id=item.id, reason=str(problem)[:200]
            )

    # --- upkeep

    def purge(self) -> None:
        """Forget tombstones whose time is over."""
        for row in self.book.expired(self._wall_ms()):
            self._purge(row)

    def _purge(self, row: Row) -> None:
        self.book.purge(row)
        self.counters["purged"] += 1
        if self._store is not None:
            self._store.put(FLOOR, row.kind, {"version": self.book.floor(row.kind)}, writer=self._writer)
            self._store.forget(row.kind, row.id)


def _read(row: Row) -> Any:
    """What the body says; None of a tombstone. Raises ValueError."""
    reader = READERS.get(row.kind)
    if reader is None:
        raise ValueError(f"there is no kind {row.kind!r}")
    try:
        return None if row.deleted else reader(row.id, msgspec.json.decode(row.body))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _nobody(rows: list[Row], source: str) -> None:
    """Not connected yet."""
