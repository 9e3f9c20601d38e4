"""A small store of records in one SQLite file: what must survive a restart and is not a setting.

A record is {kind, id, version, writer, deleted, body}. Versions rise by one with every change and a
deletion leaves a tombstone, so that copies of a store can be told newer from older. It must not know what
the bodies mean. One process (the holder of the lock) writes a file, from one thread; each change is one
statement and thus all or nothing.

Kinds of which several processes hold copies are written and read as whole rows, whose versions come from
whoever keeps the copies alike.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from .errors import Internal, StartError

LAYOUT = 2  # PRAGMA user_version; 0 is a new file, 1 has no column `changed`
BUSY_MS = 1000  # for a backup that reads meanwhile; longer would stall the event loop for longer

_TABLE = """
CREATE TABLE IF NOT EXISTS records (
    kind TEXT NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL, writer TEXT NOT NULL,
    deleted INTEGER NOT NULL, body TEXT NOT NULL, changed INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (kind, id)
) WITHOUT ROWID
"""
_WITH_CHANGED = "ALTER TABLE records ADD COLUMN changed INTEGER NOT NULL DEFAULT 0"
_COLUMNS = "kind, id, version, writer, deleted, body"
_PUT = f"""
INSERT INTO records ({_COLUMNS}) VALUES (?, ?, 1, ?, 0, ?) ON CONFLICT (kind, id) DO UPDATE
SET version = version + 1, writer = excluded.writer, deleted = 0, body = excluded.body RETURNING {_COLUMNS}
"""
_DELETE = f"""
UPDATE records SET version = version + 1, writer = ?, deleted = 1, body = '{{}}'
WHERE kind = ? AND id = ? AND NOT deleted RETURNING {_COLUMNS}
"""
_GET = f"SELECT {_COLUMNS} FROM records WHERE kind = ? AND id = ?"
_ALL = f"SELECT {_COLUMNS} FROM records WHERE kind = ? AND NOT deleted ORDER BY id"
_ROWS = f"SELECT {_COLUMNS}, changed FROM records WHERE kind = ?"
_WRITE = f"INSERT OR REPLACE INTO records ({_COLUMNS}, changed) VALUES (?, ?, ?, ?, ?, ?, ?)"
_FORGET = "DELETE FROM records WHERE kind = ? AND id = ?"

WholeRow: TypeAlias = tuple[str, str, int, str, bool, str, int]
"""kind, id, version, writer, deleted, body as text, changed (Unix ms, of a tombstone)"""


class Record(msgspec.Struct, frozen=True):
    """One version of a record. A tombstone is `deleted` and has an empty body."""

    kind: str
    id: str
    version: int
    writer: str
    deleted: bool
    body: dict[str, Any]


class Store:
    """The file at `path`, made with mode 0600 if it is missing. Raises `StartError` if it is unusable.

    After that, whatever SQLite refuses (a full disk) is an `Internal` that says so.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._db = sqlite3.connect(path, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._db.close()
            raise self._unusable(error) from error

    def put(self, kind: str, id: str, body: Mapping[str, Any], *, writer: str) -> Record:
        """Write `body`; a tombstone becomes a record again. The version is the previous one + 1."""
        text = msgspec.json.encode(body).decode()
        with self._translated():
            return _record(self._db.execute(_PUT, (kind, id, writer, text)).fetchone())

    def delete(self, kind: str, id: str, *, writer: str) -> Record | None:
        """Leave a tombstone and return it; one that is there already stays as it is. None: never heard of."""
        with self._translated():
            row = self._db.execute(_DELETE, (writer, kind, id)).fetchone()
        return _record(row) if row else self.get(kind, id)

    def get(self, kind: str, id: str) -> Record | None:
        """The record or its tombstone."""
        with self._translated():
            row = self._db.execute(_GET, (kind, id)).fetchone()
            return _record(row) if row else None

    def all(self, kind: str) -> list[Record]:
        """The live records of this kind, by id."""
        with self._translated():
            return [_record(row) for row in self._db.execute(_ALL, (kind,))]

    # --- copies

    def rows(self, kind: str) -> list[WholeRow]:
        """Every row of this kind, tombstones too."""
        with self._translated():
            return [(*row[:4], bool(row[4]), *row[5:]) for row in self._db.execute(_ROWS, (kind,))]

    def write(self, row: WholeRow) -> None:
        """Keep this row in the place of what there was, newer or older."""
        with self._translated():
            self._db.execute(_WRITE, row)

    def forget(self, kind: str, id: str) -> None:
        """Leave no trace, not even a tombstone."""
        with self._translated():
            self._db.execute(_FORGET, (kind, id))

    def close(self) -> None:
        """Idempotent."""
        self._db.close()

    def _prepare(self) -> None:
        self._db.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        (verdict,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(" ".join(verdict.split()))
        (layout,) = self._db.execute("PRAGMA user_version").fetchone()
        if layout not in range(LAYOUT + 1):
            raise sqlite3.DatabaseError(f"its layout {layout} is of a newer version than this one: upgrade")
        self._db.execute(_TABLE)
        if layout == 1:
            self._db.execute(_WITH_CHANGED)
        self._db.execute(f"PRAGMA user_version = {LAYOUT}")  # a write: shows now that there can be one

    def _unusable(self, error: Exception) -> StartError:
        return StartError(
            f"store {self.path} cannot be used ({error}): make it readable and writable for this user; "
            "if it is damaged, restore it from a copy, or move it away and start without its records"
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, msgspec.DecodeError) as error:
            raise Internal(f"the store failed: {error}") from error


def _record(row: tuple[str, str, int, str, int, str]) -> Record:
    kind, id, version, writer, deleted, body = row
    return Record(kind, id, version, writer, bool(deleted), msgspec.json.decode(body, type=dict[str, Any]))
