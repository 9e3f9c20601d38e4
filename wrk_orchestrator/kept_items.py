"""What was delivered of a stream, still packed, for the worker that may have to go on with it. Pure.

Nobody here looks into an item. A stream keeps `limit` bytes at most, all of them together what their budget
allows; where either is reached this stream's copy is freed for good, and it can not move any more. Counted
is what the items cost here, so that many small ones are no way around the bounds.
"""

from __future__ import annotations

from wrk_base.contract import Progress
from wrk_base.rpc.body import Budget

ITEM_COST = 48  # bytes of a packed item besides its content: the object and its place in a list


class KeptItems:
    """Of one stream. `count` and `size` are of all that was delivered, kept or not."""

    __slots__ = ("_all", "_items", "_limit", "_used", "complete", "content_type", "count", "size")

    def __init__(self, limit: int, all_streams: Budget) -> None:
        self._limit, self._all = limit, all_streams
        self._items: list[bytes] = []
        self._used = self.count = self.size = 0
        self.content_type = 0
        self.complete = True

    def add(self, content_type: int, payloads: tuple[bytes, ...]) -> None:
        size = sum(map(len, payloads))
        self.count += len(payloads)
        self.size += size
        if not self.complete:
            return
        cost = size + ITEM_COST * len(payloads)
        if self._used + cost > self._limit or self._all.used + cost > self._all.limit:
            self.free()
            return
        self._all.used += cost
        self._used += cost
        self.content_type = content_type
        self._items += payloads

    def fits(self, content_type: int) -> bool:
        """Whether items of this type may follow: all of one stream have one."""
        return not self.count or content_type == self.content_type

    def free(self) -> None:
        """Give the memory back; harmless when repeated."""
        self._all.used -= self._used
        self._used, self._items, self.complete = 0, [], False

    def progress(self, granted_items: int, granted_bytes: int) -> Progress:
        """For the worker that goes on, of what its caller has granted in all."""
        return Progress(
            self.content_type,
            self._items,
            max(0, granted_items - self.count),
            max(0, granted_bytes - self.size),
        )
