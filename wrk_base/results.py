"""What a rack keeps of requests that carry an idempotency key: what runs, what came of it, what was let go.
Pure.

An entry is found by its caller and its key. Once stored it stays for `keep` seconds, within `max_bytes` for
all; where there is no room, the oldest gives way. What gives way, or never had room, leaves a mark that it
ran, so that who must not run it twice is told. Nothing here looks into a result: `work` is the owner's.

Invariants: the bytes of all entries together never exceed `max_bytes`; what runs or is being read is never
let go; what is stored is let go before its time only where there is no room.
"""

from __future__ import annotations

from enum import Enum
from typing import Generic, TypeVar

from .errors import CapacityExceeded, IdempotencyKeyReused

ENTRY_BYTES = 3072  # of one entry beside its result, by measurement: names, digest, and the books around it
ITEM_BYTES = 64  # of one item of a stream beside its own bytes
MARKS_SHARE = 8  # marks have at most an eighth of the bytes: 2,730 in 64 MiB

Name = tuple[str, str]
"""Whose request it is (callers.py), and its key."""

T = TypeVar("T")


class State(Enum):
    RUNNING = "running"
    PASSING = "passing"  # it runs, and is passed on to who reads it without being kept
    STORED = "stored"
    SPENT = "spent"  # it ran, and only that is known


class Entry(Generic[T]):
    """One key of one caller. `bytes` are what it is counted with, `at` is when it was stored or spent."""

    __slots__ = ("at", "bytes", "digest", "name", "readers", "state", "work")

    def __init__(self, name: Name, digest: bytes, work: T) -> None:
        self.name, self.digest = name, digest
        self.work: T | None = work
        self.state = State.RUNNING
        self.bytes = ENTRY_BYTES
        self.readers = 0
        self.at = 0.0

    @property
    def firm(self) -> bool:
        """Whether it has to stay."""
        return self.state in (State.RUNNING, State.PASSING) or (
            self.state is State.STORED and self.readers > 0
        )


class Results(Generic[T]):
    """All entries of one rack. Times are seconds of one clock that never goes back."""

    def __init__(self, keep: float, max_bytes: int) -> None:
        self._keep, self._max_bytes = keep, max_bytes
        self._most_marks = max_bytes // MARKS_SHARE // ENTRY_BYTES
        self._known: dict[Name, Entry[T]] = {}
        self._stored: dict[Entry[T], None] = {}  # the oldest first, as in the next
        self._spent: dict[Entry[T], None] = {}
        self._firm_bytes = 0
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._known)

    def find(self, name: Name, digest: bytes, now: float) -> Entry[T] | None:
        """What is known of a request; raises `IdempotencyKeyReused` where another one had the key."""
        self.expire(now)
        entry = self._known.get(name)
        if entry is not None and entry.digest != digest:
            raise IdempotencyKeyReused(
                f"the idempotency key {name[1][:100]!r} came with another request before: "
                "another input, model, task or way of answering; each request has a key of its own",
                data={"field": "options.idempotencyKey"},
            )
        return entry

    def begin(self, name: Name, digest: bytes, work: T, now: float) -> Entry[T]:
        """A request begins that is not running, nor stored; raises `CapacityExceeded` where none may."""
        if not self._make_room(ENTRY_BYTES, now):
            raise CapacityExceeded(
                f"{self._firm_bytes} bytes of answers with idempotency keys are being made or read "
                "(idempotency.keepBytes)",
                not_started=True,
                retry_after_ms=1000,
            )
        before = self._known.get(name)
        if before is not None and before.state is State.SPENT:
            self._drop(before)
        entry = self._known[name] = Entry(name, digest, work)
        self._add(entry, ENTRY_BYTES)
        return entry

    def grow(self, entry: Entry[T], size: int, now: float) -> bool:
        """What runs holds so many bytes more, if there is room for them."""
        if not self._make_room(size, now):
            return False
        entry.bytes += size
        self._add(entry, size)
        return True

    def shrink(self, entry: Entry[T], size: int) -> None:
        """What runs holds so many bytes less."""
        entry.bytes -= size
        self._add(entry, -size)

    def pass_on(self, entry: Entry[T]) -> None:
        """There is no room to keep what runs: nobody can be given all of it from now on."""
        entry.state = State.PASSING

    def store(self, entry: Entry[T], size: int, now: float) -> None:
        """It ended, with so many bytes more. Where they do not fit, or it is not kept, a mark stays."""
        if entry.state is not State.RUNNING or not self.grow(entry, size, now):
            self.spend(entry, now)
            return
        self._firm_bytes -= entry.bytes
        entry.state, entry.at = State.STORED, now
        self._firm_bytes += entry.bytes if entry.firm else 0
        self._stored[entry] = None

    def spend(self, entry: Entry[T], now: float) -> None:
        """What ran, or was stored, is kept no longer: a mark stays, from now on for its time."""
        known = self._known.get(entry.name) is entry
        self._drop(entry)
        entry.state, entry.work, entry.at, entry.bytes = State.SPENT, None, now, ENTRY_BYTES
        if known and self._most_marks:
            if len(self._spent) >= self._most_marks:
                self._drop(next(iter(self._spent)))
            self._known[entry.name] = entry
            self._spent[entry] = None
            self._add(entry, ENTRY_BYTES)  # it held as many before

    def forget(self, entry: Entry[T]) -> None:
        """What runs has not run at all."""
        self._drop(entry)

    def open(self, entry: Entry[T]) -> None:
        """Somebody reads it: until `close`, it stays."""
        self._firm_bytes += entry.bytes if entry.state is State.STORED and not entry.readers else 0
        entry.readers += 1

    def close(self, entry: Entry[T]) -> None:
        entry.readers -= 1
        self._firm_bytes -= entry.bytes if entry.state is State.STORED and not entry.readers else 0

    def expire(self, now: float) -> None:
        """Let go of what had its time, unless somebody reads it."""
        for aged in (self._stored, self._spent):
            due: list[Entry[T]] = []
            for entry in aged:
                if entry.at + self._keep > now:
                    break
                due.append(entry)
            for entry in due:
                if not entry.firm:
                    self._drop(entry)

    def _make_room(self, size: int, now: float) -> bool:
        """Whether `size` more bytes fit; results give way to them, and when there are none left, marks."""
        if self._firm_bytes + size > self._max_bytes:
            return False
        while self.bytes + size > self._max_bytes:
            oldest = next((entry for entry in self._stored if not entry.firm), None)
            if oldest is not None:
                self.spend(oldest, now)
            else:
                self._drop(next(iter(self._spent)))
        return True

    def _add(self, entry: Entry[T], size: int) -> None:
        self.bytes += size
        self._firm_bytes += size if entry.firm else 0

    def _drop(self, entry: Entry[T]) -> None:
        self._add(entry, -entry.bytes)
        if self._known.get(entry.name) is entry:
            del self._known[entry.name]
        self._stored.pop(entry, None)
        self._spent.pop(entry, None)
