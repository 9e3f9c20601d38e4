"""Which public key answers at which endpoint: what a dial needs to know. Pure.

What is written here is never a reason to trust: a wrong key is a handshake that fails. A key that a
person gave (`tcp://host:port#KEY`) stays; one that was heard or told gives way to the next, since a port
may be another process's by now.
"""

from __future__ import annotations

from . import z85

MOST = 16_384  # endpoints; beyond it the one learnt longest ago goes


class KeyBook:
    """Endpoint -> public key, 32 bytes."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._pinned: dict[str, bytes] = {}
        self._learnt: dict[str, bytes] = {}

    def __len__(self) -> int:
        return len(self._pinned) + len(self._learnt)

    def key_of(self, endpoint: str) -> bytes | None:
        return self._pinned.get(endpoint) or self._learnt.get(endpoint)

    def pin(self, endpoint: str, key: str) -> None:
        """A person says so. `key` is Z85; raises ValueError."""
        self._pinned[endpoint] = z85.decode(key)

    def learn(self, endpoint: str, key: str) -> None:
        """Somebody says so. What is no key is passed over."""
        try:
            raw = z85.decode(key)
        except ValueError:
            return
        if len(raw) != 32:
            return
        self._learnt.pop(endpoint, None)
        if len(self._learnt) >= self._most:
            del self._learnt[next(iter(self._learnt))]
        self._learnt[endpoint] = raw
