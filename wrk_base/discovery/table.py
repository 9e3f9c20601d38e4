"""What was heard by mDNS, by instance name: the decisions, without the network.

`hear` and `forget` return the changes that a listener should learn, in order. Pure.

Invariants: at most one finding per worker id is known, the one of the highest epoch (a worker that
crashes leaves a record behind for up to 75 minutes; one that crashes in a loop would leave hundreds,
and every one would be dialled). A name that is of no use (another mesh, malformed, our own, outdated)
is remembered apart, so that it is not looked at again and can push no peer out. At `limit` the one
heard longest ago goes: whoever floods the network must not keep a newcomer from being found, and
losing an old hint costs little while a live link decides.
"""

from __future__ import annotations

from typing import NamedTuple

from . import Found

# Of each kind. Reached only by a flood: the library's own cache (10,000 records) holds some 2,000 whole
# adverts. 4,096 findings are about 2 MB.
MAX_NAMES = 4096


class Change(NamedTuple):
    """`found` appeared, or went."""

    found: Found
    gone: bool = False


class AdvertTable:
    """Instance names: those that stand for a peer, and those of no use."""

    def __init__(self, limit: int = MAX_NAMES) -> None:
        self._limit = limit
        self._peers: dict[str, Found] = {}
        self._useless: dict[str, None] = {}
        self._name_of: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._peers) + len(self._useless)

    def __contains__(self, name: str) -> bool:
        return name in self._peers or name in self._useless

    def known(self) -> list[Found]:
        """One finding per worker, in the order heard."""
        return list(self._peers.values())

    def hear(self, name: str, found: Found | None) -> list[Change]:
        """`name` now stands for `found`, or for nothing of use."""
        if found is not None and self._peers.get(name) == found:
            return []
        changes = self.forget(name)
        if found is None:
            self._put_aside(name)
            return changes
        rival = self._name_of.get(found.worker_id)
        if rival is not None and self._peers[rival].epoch >= found.epoch:
            self._put_aside(name)
            return changes
        if rival is not None:
            changes += self.forget(rival)
            self._put_aside(rival)
        return changes + self._add(name, found)

    def forget(self, name: str) -> list[Change]:
        """`name` was withdrawn or ran out."""
        self._useless.pop(name, None)
        found = self._peers.pop(name, None)
        if found is None:
            return []
        del self._name_of[found.worker_id]
        return [Change(found, gone=True)]

    def clear(self) -> None:
        self._peers.clear()
        self._useless.clear()
        self._name_of.clear()

    def _add(self, name: str, found: Found) -> list[Change]:
        changes = self.forget(next(iter(self._peers))) if len(self._peers) >= self._limit else []
        self._peers[name] = found
        self._name_of[found.worker_id] = name
        return [*changes, Change(found)]

    def _put_aside(self, name: str) -> None:
        if len(self._useless) >= self._limit:
            del self._useless[next(iter(self._useless))]
        self._useless[name] = None
