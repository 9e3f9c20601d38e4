"""Connections whose peer has not said yet who it is: for how long, and how many. Pure.

ZeroMQ's own handshake timer ends connections that never finish the handshake. One that finishes it and
is silent then, or says nothing that counts, would stay for ever; here its time is counted.
"""

from __future__ import annotations

MOST_FROM_ONE_ADDRESS = 64  # a machine's racks that start at once; further ones dial again a moment later
MOST = 4096

Where = tuple[str, int]


class Lobby:
    """By file descriptor. `patience` is in seconds."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._waiting: dict[int, tuple[Where, float]] = {}
        self._from: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, fd: int, where: Where, now: float) -> bool:
        """A connection from `where` was accepted; False when there are too many already."""
        self.leave(fd)  # the number was somebody else's before
        host = where[0]
        here = self._from.get(host, 0)
        if len(self._waiting) >= MOST or (here >= MOST_FROM_ONE_ADDRESS and not host.startswith("127.")):
            return False
        self._waiting[fd] = (where, now)
        self._from[host] = here + 1
        return True

    def leave(self, fd: int) -> None:
        """It said who it is, or is gone."""
        waiting = self._waiting.pop(fd, None)
        if waiting is None:
            return
        host = waiting[0][0]
        self._from[host] -= 1
        if not self._from[host]:
            del self._from[host]

    def overdue(self, now: float) -> list[tuple[int, Where]]:
        """Take out those who were silent for too long."""
        before = now - self._patience
        late = [(fd, where) for fd, (where, since) in self._waiting.items() if since <= before]
        for fd, _ in late:
            self.leave(fd)
        return late
