"""What orchestrators agree on, and how they find out where they differ. Pure.

A `Book` holds the newest row of every record: higher (version, writer) wins, and where a copy of a store
was brought back and both are equal, a deletion, then the larger digest. That is a maximum, so rows may come
in any order, twice or not at all: whoever has seen the same rows holds the same. To compare two books their
digests are (64 sums of hashes), then the stamps in sums that differ, then rows travel, both ways.

A deletion is a row, too (a tombstone), or an old copy would bring the record back. It is kept for 7 days and
travels with its age, since clocks of machines differ; what was deleted while somebody was away for longer
comes back with him. Nothing here knows what bodies mean: they are texts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from hashlib import blake2b
from operator import xor
from typing import Annotated, NamedTuple, TypeAlias

import msgspec
from msgspec import Meta

from wrk_base.errors import CapacityExceeded

DAY_MS = 86_400_000
KEPT_MS = 7 * DAY_MS  # of a tombstone: a machine that was off over a holiday learns what was deleted
BUCKETS = 64
WORD = 8  # bytes of a hash; 2 of 10,000 rows are taken for one in a case of 3 * 10^11
VERSION_MOST = 2**53  # what JSON carries exactly; nobody writes that often
MOST_ROWS = 10_000  # of one kind, tombstones too: more racks than a mesh has, more keys than are compared
LONGEST_BODY = 1_048_576  # characters; a registration of 1,000 models with long names has a quarter
MOST_CHARACTERS = 33_554_432  # of all bodies, which are held in memory
PAGE_ROWS = 256  # rows in one message,
PAGE_CHARACTERS = 1_048_576  # or as many as fit into this, but one
PAGE_STAMPS = 4096  # some 400 kB; above it the other buckets come in a later round

Key: TypeAlias = tuple[str, str]
"""Kind and id."""


class Row(NamedTuple):
    """One version of a record. `changed` is when it was deleted, in Unix milliseconds of this machine; 0 for
    one that is alive. A tombstone has an empty body."""

    kind: str
    id: str
    version: int
    writer: str
    deleted: bool
    body: str
    changed: int = 0

    @property
    def key(self) -> Key:
        return self.kind, self.id


class Stamp(NamedTuple):
    """Which of two rows of one record is newer: the larger one."""

    version: int
    writer: str
    deleted: bool
    digest: bytes


_Kind = Annotated[str, Meta(min_length=1, max_length=32)]
_Id = Annotated[str, Meta(min_length=1, max_length=128)]
_Version = Annotated[int, Meta(ge=1, le=VERSION_MOST)]
_Body = Annotated[str, Meta(max_length=LONGEST_BODY)]
_Digest = Annotated[bytes, Meta(min_length=WORD, max_length=WORD)]


class SentRow(msgspec.Struct, frozen=True, array_like=True):
    """A row on its way. `age_ms` is since when it is deleted."""

    kind: _Kind
    id: _Id
    version: _Version
    writer: _Id
    deleted: bool
    body: _Body
    age_ms: Annotated[int, Meta(ge=0, le=VERSION_MOST)]

    def arrived(self, now: int) -> Row:
        """The row at a clock that says `now`. Raises ValueError."""
        if self.deleted and self.body:
            raise ValueError("a tombstone has no body")
        changed = now - self.age_ms if self.deleted else 0
        return Row(self.kind, self.id, self.version, self.writer, self.deleted, self.body, changed)


def sent(row: Row, now: int) -> SentRow:
    age = min(max(0, now - row.changed), VERSION_MOST) if row.deleted else 0
    return SentRow(row.kind, row.id, row.version, row.writer, row.deleted, row.body, age)


class SentStamp(msgspec.Struct, frozen=True, array_like=True):
    kind: _Kind
    id: _Id
    version: _Version
    writer: _Id
    deleted: bool
    digest: _Digest

    @property
    def key(self) -> Key:
        return self.kind, self.id

    @property
    def stamp(self) -> Stamp:
        return Stamp(self.version, self.writer, self.deleted, self.digest)


def _sent_stamp(key: Key, stamp: Stamp) -> SentStamp:
    return SentStamp(*key, stamp.version, stamp.writer, stamp.deleted, stamp.digest)


class Difference(NamedTuple):
    """What the other book has newer, and what this one has."""

    wanted: list[Key]
    offered: list[Key]


class Book:
    """The rows of one orchestrator. Times are Unix milliseconds; sums of digests are kept as rows change."""

    def __init__(self) -> None:
        self._rows: dict[Key, Row] = {}
        self._stamps: dict[Key, Stamp] = {}
        self._counts: dict[str, int] = {}
        self._characters = 0
        self._sums = [0] * BUCKETS
        self._floors: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: Key) -> Row | None:
        """The newest row, a tombstone too."""
        return self._rows.get(key)

    def alive(self, kind: str) -> list[Row]:
        return [row for row in self._rows.values() if row.kind == kind and not row.deleted]

    def all(self) -> list[Row]:
        return list(self._rows.values())

    # --- changes

    def next(self, key: Key, body: str | None, writer: str, now: int) -> Row:
        """The row that a writer here makes of a record, to be taken; None deletes it."""
        held = self._rows.get(key)
        before = self._floors.get(key[0], 0) if held is None else held.version
        if body is None:
            return Row(*key, before + 1, writer, True, "", now)
        return Row(*key, before + 1, writer, False, body)

    def is_news(self, row: Row, now: int) -> bool:
        """Whether it is newer than what is held, and no tombstone whose time is over."""
        if row.deleted and now - row.changed >= KEPT_MS:
            return False
        held = self._stamps.get(row.key)
        return held is None or stamp_of(row) > held

    def crowding(self, row: Row) -> Row | None:
        """The oldest tombstone of its kind, which goes early where there is no room beside it; None: nobody
        has to go, or all that could are newer."""
        if row.key in self._rows or self._counts.get(row.kind, 0) < MOST_ROWS:
            return None
        tombstones = (held for held in self._rows.values() if held.deleted and held.kind == row.kind)
        oldest = min(tombstones, key=lambda held: held.changed, default=None)
        return None if oldest is None or (row.deleted and row.changed <= oldest.changed) else oldest

    def check(self, row: Row) -> None:
        """Raises `CapacityExceeded` where it cannot be held."""
        if row.version > VERSION_MOST:
            written = f"{row.kind} {row.id} was written {VERSION_MOST} times"
            raise CapacityExceeded(f"{written}: it cannot be written again")
        held = self._rows.get(row.key)
        if held is None and self._counts.get(row.kind, 0) >= MOST_ROWS:
            raise CapacityExceeded(f"{MOST_ROWS} records of the kind {row.kind} are kept, and no more are")
        grows = len(row.body) - (0 if held is None else len(held.body))
        if len(row.body) > LONGEST_BODY or self._characters + max(0, grows) > MOST_CHARACTERS:
            raise CapacityExceeded(
                f"a record of {len(row.body)} characters cannot be kept: one has {LONGEST_BODY} at most, "
                f"and all of them {MOST_CHARACTERS}, of which {self._characters} are taken"
            )

    def take(self, row: Row) -> None:
        """Hold it in the place of what there was; `is_news` and `check` have said that it may."""
        self._drop(row.key)
        self._rows[row.key] = row
        self._stamps[row.key] = stamp_of(row)
        self._counts[row.kind] = self._counts.get(row.kind, 0) + 1
        self._characters += len(row.body)
        self._add_to_sum(row.key)

    def expired(self, now: int) -> list[Row]:
        """Tombstones whose time is over."""
        return [row for row in self._rows.values() if row.deleted and now - row.changed >= KEPT_MS]

    def purge(self, row: Row) -> None:
        """Forget a tombstone; a record of that kind which is made anew will be above it."""
        self._drop(row.key)
        self.raise_floor(row.kind, row.version)

    def raise_floor(self, kind: str, version: int) -> None:
        self._floors[kind] = max(self.floor(kind), version)

    def floor(self, kind: str) -> int:
        """The highest version of a row that was purged."""
        return self._floors.get(kind, 0)

    def _drop(self, key: Key) -> None:
        row = self._rows.pop(key, None)
        if row is not None:
            self._add_to_sum(key)  # what is added twice is out again
            del self._stamps[key]
            self._counts[row.kind] -= 1
            self._characters -= len(row.body)

    def _add_to_sum(self, key: Key) -> None:
        bucket = bucket_of(key)
        self._sums[bucket] = xor(self._sums[bucket], _number(key, self._stamps[key]))

    # --- comparing

    def digest(self) -> bytes:
        return b"".join(total.to_bytes(WORD, "big") for total in self._sums)

    def differing(self, digest: bytes) -> list[int]:
        """Buckets in which the book with this digest holds something else. Raises ValueError."""
        if len(digest) != BUCKETS * WORD:
            raise ValueError(f"a digest has {BUCKETS * WORD} bytes")
        own = self.digest()
        parts = (slice(start, start + WORD) for start in range(0, len(own), WORD))
        return [bucket for bucket, part in enumerate(parts) if own[part] != digest[part]]

    def stamps(self, buckets: Collection[int]) -> tuple[list[int], list[SentStamp]]:
        """The stamps in as many of these buckets as go into a message, and which buckets these are."""
        found: dict[int, list[SentStamp]] = {bucket: [] for bucket in buckets}
        for key, stamp in self._stamps.items() if found else ():
            there = found.get(bucket_of(key))
            if there is not None:
                there.append(_sent_stamp(key, stamp))
        covered: list[int] = []
        told: list[SentStamp] = []
        for bucket, stamps in found.items():
            if covered and len(told) + len(stamps) > PAGE_STAMPS:
                break
            covered.append(bucket)
            told += stamps
        return covered, told

    def compare(self, buckets: Collection[int], theirs: Iterable[SentStamp]) -> Difference:
        """`theirs` are all stamps that the other book has in these buckets."""
        told = {stamp.key: stamp.stamp for stamp in theirs}
        inside = frozenset(buckets)
        wanted = [key for key, stamp in told.items() if self._is_older(key, stamp)]
        offered = [
            key
            for key, stamp in self._stamps.items()
            if bucket_of(key) in inside and (key not in told or stamp > told[key])
        ]
        return Difference(wanted, offered)

    def _is_older(self, key: Key, stamp: Stamp) -> bool:
        own = self._stamps.get(key)
        return own is None or stamp > own

    def page(self, keys: Iterable[Key]) -> list[Row]:
        """As many of these rows as go into a message, one at least."""
        rows: list[Row] = []
        characters = 0
        for key in keys:
            row = self._rows.get(key)
            if row is None:
                continue
            characters += len(row.body)
            if rows and (len(rows) >= PAGE_ROWS or characters > PAGE_CHARACTERS):
                break
            rows.append(row)
        return rows


def stamp_of(row: Row) -> Stamp:
    return Stamp(row.version, row.writer, row.deleted, _hash(row.body.encode()))


def bucket_of(key: Key) -> int:
    return _hash("\0".join(key).encode())[0] % BUCKETS


def _number(key: Key, stamp: Stamp) -> int:
    """What a row adds to the sum of its bucket."""
    text = "\0".join((*key, str(stamp.version), stamp.writer, str(stamp.deleted)))
    return int.from_bytes(_hash(text.encode() + stamp.digest), "big")


def _hash(data: bytes) -> bytes:
    return blake2b(data, digest_size=WORD).digest()


class Allowance:
    """So many exchanges a second for one peer, and a burst for a first meeting."""

    A_SECOND = 50
    BURST = 200

    def __init__(self, now: float) -> None:
        self._left, self._at = float(self.BURST), now

    def take(self, now: float) -> bool:
        self._left = min(float(self.BURST), self._left + max(0.0, now - self._at) * self.A_SECOND)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
