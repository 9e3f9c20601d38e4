"""The books of a stream, pure: what may be sent, what was read, and which envelope may follow which.

Credit is a total since the stream began, in items and in bytes, so that a grant says the same however
often it arrives. A stream starts with `FIRST_ITEMS` and `FIRST_BYTES` on both sides; the reader grants
what it has consumed plus its window, and doubles the window while it keeps up with what was granted.
"""

from __future__ import annotations

from enum import IntEnum

from . import wire

FIRST_ITEMS = 32  # what a sender may send before it has heard of its reader
FIRST_BYTES = 256 * 1024


class Credit:
    """The sender's side. The last item may go beyond the bytes: an item is never cut."""

    __slots__ = ("bytes", "items", "sent_bytes", "sent_items")

    def __init__(self, items: int = FIRST_ITEMS, size: int = FIRST_BYTES) -> None:
        self.items, self.bytes = items, size
        self.sent_items = self.sent_bytes = 0

    @property
    def open(self) -> bool:
        return self.sent_items < self.items and self.sent_bytes < self.bytes

    def spend(self, size: int) -> None:
        self.sent_items += 1
        self.sent_bytes += size

    def grant(self, items: int, size: int) -> None:
        """New totals; a grant is never taken back."""
        if items > self.items:
            self.items = items
        if size > self.bytes:
            self.bytes = size


class Window:
    """The reader's side: `received` says whether items were allowed, `consumed` what to grant now."""

    __slots__ = (
        "_items",
        "_max_bytes",
        "_max_items",
        "_size",
        "_turn_bytes",
        "_turn_items",
        "granted_bytes",
        "granted_items",
        "read_bytes",
        "read_items",
        "received_bytes",
        "received_items",
    )

    def __init__(self, max_items: int, max_bytes: int) -> None:
        self._max_items, self._max_bytes = max(max_items, FIRST_ITEMS), max(max_bytes, FIRST_BYTES)
        self._items, self._size = FIRST_ITEMS, FIRST_BYTES
        self.granted_items, self.granted_bytes = FIRST_ITEMS, FIRST_BYTES
        self.received_items = self.received_bytes = 0
        self.read_items = self.read_bytes = 0
        self._turn_items, self._turn_bytes = FIRST_ITEMS // 2, FIRST_BYTES // 2

    def received(self, first: int, sizes: int, count: int) -> bool:
        """Take in `count` items of `sizes` bytes; False when they are out of order or were never granted."""
        allowed = (
            first == self.received_items
            and first + count <= self.granted_items
            and self.received_bytes < self.granted_bytes
            and self.received_bytes + sizes < self.granted_bytes + wire.CHUNK_BYTES  # beyond by one item
        )
        self.received_items += count
        self.received_bytes += sizes
        return allowed

    def consumed(self, size: int) -> tuple[int, int] | None:
        """One item was read; the totals to grant when half of a window was used up, else None."""
        self.read_items += 1
        self.read_bytes += size
        if self.read_items < self._turn_items and self.read_bytes < self._turn_bytes:
            return None
        if self.received_items - self.read_items <= self._items // 8:  # it keeps up: nearly nothing waits
            self._items = min(2 * self._items, self._max_items)
            self._size = min(2 * self._size, self._max_bytes)
        self.granted_items = self.read_items + self._items
        self.granted_bytes = self.read_bytes + self._size
        self._turn_items = self.read_items + self._items // 2
        self._turn_bytes = self.read_bytes + self._size // 2
        return self.granted_items, self.granted_bytes


class Phase(IntEnum):
    """How far an answer has come, as its caller sees it."""

    WAITING = 0
    STREAMING = 1
    DONE = 2


NEXT: dict[tuple[Phase, int], Phase] = {
    (Phase.WAITING, wire.REPLY): Phase.DONE,
    (Phase.WAITING, wire.ERROR): Phase.DONE,
    (Phase.WAITING, wire.REJECT): Phase.DONE,
    (Phase.WAITING, wire.ITEM): Phase.STREAMING,
    (Phase.WAITING, wire.END): Phase.DONE,
    (Phase.STREAMING, wire.ITEM): Phase.STREAMING,
    (Phase.STREAMING, wire.END): Phase.DONE,
    (Phase.STREAMING, wire.ERROR): Phase.DONE,
}
"""(phase, kind that arrives) -> next phase; anything else is a violation and ends the call."""


def diagram() -> str:
    """The table as a Mermaid state diagram; moves between the same two phases share an arrow."""
    arrows: dict[tuple[Phase, Phase], list[str]] = {}
    for (phase, kind), after in NEXT.items():
        arrows.setdefault((phase, after), []).append(wire.NAMES[kind])
    lines = [
        f"    {old.name.lower()} --> {new.name.lower()}: {' / '.join(k)}" for (old, new), k in arrows.items()
    ]
    return "\n".join(["stateDiagram-v2", "    [*] --> waiting: REQUEST", *lines, "    done --> [*]"]) + "\n"
