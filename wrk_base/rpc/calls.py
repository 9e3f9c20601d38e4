"""The books of the RPC layer, pure: which calls are open, until when, and how long a message lay in buffers.

No clock, no socket, no task: `now` is an argument and entries are whatever the shell hands in. The
invariant of `CallTable`: an entry leaves it exactly once, so a call has exactly one outcome and a late
or duplicate answer finds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

INFINITY = float("inf")
DELAY_WINDOW_MS = 120_000  # minutes, not hours: clocks of two machines drift by some ms an hour


class HasDeadline(Protocol):
    deadline: float


K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=HasDeadline)


class CallTable(Generic[K, V]):
    """Open calls by id, with the earliest deadline known but nothing kept in order.

    `wake_at` is a lower bound of all deadlines. It is exact after `expire` and may lie too early once
    the call that set it has ended: then one look finds nothing and moves it on. So a call costs two
    dict operations and no timer, and a table of equal time-outs is searched once a time-out.
    """

    __slots__ = ("entries", "unmatched", "wake_at")

    def __init__(self) -> None:
        self.entries: dict[K, V] = {}
        self.wake_at = INFINITY
        self.unmatched = 0

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, key: K, entry: V) -> bool:
        """True when `wake_at` moved to an earlier time, so that the shell must set its timer anew."""
        self.entries[key] = entry
        if entry.deadline < self.wake_at:
            self.wake_at = entry.deadline
            return True
        return False

    def pop(self, key: K) -> V | None:
        """The open call, which is now closed; None for a late or duplicate answer, which is counted."""
        entry = self.entries.pop(key, None)
        if entry is None:
            self.unmatched += 1
        return entry

    def discard(self, key: K) -> None:
        """Close a call without an answer, if it is open."""
        self.entries.pop(key, None)

    def take(self, which: Callable[[V], bool]) -> list[V]:
        """Close and return the calls that `which` picks."""
        taken = [(key, entry) for key, entry in self.entries.items() if which(entry)]
        for key, _ in taken:
            del self.entries[key]
        return [entry for _, entry in taken]

    def expire(self, now: float) -> list[tuple[K, V]]:
        """Close and return what is due at `now`; `wake_at` is exact afterwards."""
        due = [(key, entry) for key, entry in self.entries.items() if entry.deadline <= now]
        for key, _ in due:
            del self.entries[key]
        self.wake_at = min((entry.deadline for entry in self.entries.values()), default=INFINITY)
        return due

    def close_all(self) -> list[tuple[K, V]]:
        """Close and return everything, as when the link is lost."""
        entries, self.entries, self.wake_at = self.entries, {}, INFINITY
        return list(entries.items())


class OneWayDelay:
    """How much longer than usual a message took from its sender, in milliseconds.

    The clocks of both ends differ by an unknown constant, so only the excess over the least
    (receive - send) of the last minutes says something: it is the time that the message lay in buffers
    while one side was stopped or stuck. Two windows in turn give a sliding minimum for two numbers.
    """

    __slots__ = ("_current", "_previous", "_turn_at")

    def __init__(self) -> None:
        self._current = INFINITY
        self._previous = INFINITY
        self._turn_at = -INFINITY

    def excess(self, sent_ms: int, received_ms: float) -> float:
        """Milliseconds above the least delay that this link has shown; 0 for its first message."""
        delay = received_ms - sent_ms
        if received_ms >= self._turn_at:
            self._turn(received_ms)
        if delay < self._current:
            self._current = delay
        least = self._current if self._current < self._previous else self._previous
        return delay - least

    def _turn(self, received_ms: float) -> None:
        # After a long pause both windows are stale together; the last known minimum still beats none.
        if self._current != INFINITY:
            self._previous = self._current
        self._current = INFINITY
        self._turn_at = received_ms + DELAY_WINDOW_MS


def redial_delay(attempt: int, least: float, most: float, chance: float) -> float:
    """Seconds before dial number `attempt` (1 = first redial): doubling from `least` to `most`.

    `chance` in [0, 1) takes up to a quarter off, so that many peers of one restarted process do not
    come back in step.
    """
    doubled = least * 2.0 ** min(max(attempt, 1) - 1, 60)
    return min(doubled, most) * (1.0 - 0.25 * chance)
