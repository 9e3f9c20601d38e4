"""One worker as the balancer sees it: its load, its room, and who waits to hear of a change.

`open` says whether it takes one more call; nothing but `open` candidates is ever picked. Orders
(strategies) may lag behind in one direction only: they may think a candidate freer than it is, and
find out when they are about to choose it; an order that has set a candidate aside, or thinks it
busier than idle, stands in `behind` and is told whenever load falls. So a change of load costs
nothing in the many orders that do not care at the moment.
"""

from __future__ import annotations

from typing import Protocol

from .affinity import place
from .records import WorkerRecord

SIZE_OF_ONE = 1_000_000  # sizes are whole numbers, so that sums of them stay exact; the least is 1


class Order(Protocol):
    """What a candidate tells: its load fell, or it has room again."""

    def relieved(self, candidate: Candidate) -> None: ...


class Candidate:
    """A registered worker. Not routable (limit 0) until somebody sets a limit."""

    __slots__ = (
        "behind",
        "capacity",
        "failures",
        "foreign",
        "last_at",
        "life",
        "limit",
        "load",
        "open",
        "own",
        "place",
        "record",
        "requests",
        "room",
        "size",
        "successes",
        "total_s",
        "turn",
        "weight",
        "worker_id",
    )

    def __init__(self, record: WorkerRecord, turn: int) -> None:
        self.record = record
        self.worker_id = record.worker_id
        self.weight = record.weight  # None unless set by hand
        self.size = _size(record)  # what it can do, as far as it is known without measuring
        self.life = (record.worker_id, record.epoch)
        self.place = _place(record)  # on the circle of consistent hashing
        self.turn = turn  # grows with every pick: the lowest has waited longest
        self.own = 0  # leases that this process holds
        self.foreign = 0  # what others have running there, as far as the rack has said
        self.load = 0
        self.limit = 0  # health's word
        self.capacity: int | None = None  # the rack's word, when it has said one
        self.room = 0
        self.open = False
        self.behind: dict[Order, None] = {}
        self.requests = self.successes = self.failures = 0
        self.total_s = 0.0
        self.last_at: float | None = None

    def take(self, now: float, turn: int) -> None:
        self.turn = turn
        self.own += 1
        self.load += 1
        self.open = self.load < self.room
        self.requests += 1
        self.last_at = now

    def give_back(self) -> None:
        self.own -= 1
        self.settle()

    def settle(self) -> None:
        """Works out load and room anew; tells whoever waits."""
        self.load = self.own + self.foreign
        self.room = self.limit if self.capacity is None else min(self.limit, self.capacity)
        self.open = self.load < self.room
        if self.open and self.behind:
            for order in tuple(self.behind):
                order.relieved(self)

    def hear_load(self, in_flight: int, capacity: int | None) -> None:
        """The rack's own figures; whatever goes beyond our leases belongs to others."""
        self.foreign = max(0, in_flight - self.own)
        self.capacity = capacity
        self.settle()

    def replace(self, record: WorkerRecord) -> None:
        """A new registration; what a process said of its load ends with that process."""
        if record.epoch != self.record.epoch:
            self.foreign = 0
            self.capacity = None
        self.record = record
        self.weight = record.weight
        self.size = _size(record)
        self.place = _place(record)
        self.life = (record.worker_id, record.epoch)
        self.settle()

    def count(self, ok: bool, elapsed_s: float) -> None:
        if ok:
            self.successes += 1
        else:
            self.failures += 1
        self.total_s += elapsed_s

    def stats(self, wall_ms_at_zero: float) -> dict[str, float | int | None]:
        """Contract shape; the argument is the Unix time (ms) at which the monotonic clock read 0."""
        finished = self.successes + self.failures
        total_ms = self.total_s * 1000
        return {
            "requestCount": self.requests,
            "successCount": self.successes,
            "failureCount": self.failures,
            "averageProcessingTime": total_ms / finished if finished else 0.0,
            "totalProcessingTime": total_ms,
            "lastRequestTime": None if self.last_at is None else round(wall_ms_at_zero + self.last_at * 1000),
            "currentLoad": self.load,
        }


def _place(record: WorkerRecord) -> float:
    """Of the process that answers there: who registered it by which name is different elsewhere."""
    return place(record.instance_id or record.worker_id)


def _size(record: WorkerRecord) -> int:
    by_hand = record.weight
    return max(1, round(SIZE_OF_ONE * (record.max_concurrent if by_hand is None else by_hand)))
