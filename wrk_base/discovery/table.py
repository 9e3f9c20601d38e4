"""What was heard by mDNS, by instance name: the decisions, without the network.

`hear` and `forget` return the changes that a listener should learn, in order. Pure.

Invariants: at most one finding per worker id is known, the one of the highest epoch (a worker that
crashes leaves a record behind for up to 75 minutes; one that crashes in a loop would leave hundreds,
and every one would be dialled). A name that is honest as far as one can see and of no use (another mesh,
out of reach, outdated) is put aside: it can push no peer out, and questions list it as known, so that its
owner keeps silent. At `limit` the peer heard longest ago goes: a newcomer must be found, and losing an old
hint costs little while a live link decides. Who is not put aside for want of room answers more often.
"""

from __future__ import annotations

from typing import NamedTuple

from . import Found

# Peers. Where keys are sealed only members can fill it, with 4,096 workers on one LAN: about 2 MB.
MAX_NAMES = 4096
MAX_ASIDE = 256  # names; each is some 40 bytes of every question, and anybody can make them up


class Change(NamedTuple):
    """`found` appeared, or went."""

    found: Found
    gone: bool = False


class AdvertTable:
    """Instance names: those that stand for a peer, and those put aside."""

    def __init__(self, limit: int = MAX_NAMES, aside: int = MAX_ASIDE) -> None:
        self._limit, self._room_aside = limit, aside
        self._peers: dict[str, Found] = {}
        self._aside: set[str] = set()
        self._name_of: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._peers) + len(self._aside)

    def __contains__(self, name: str) -> bool:
        return name in self._peers or name in self._aside

    def known(self) -> list[Found]:
        """One finding per worker, in the order heard."""
        return list(self._peers.values())

    def hear(self, name: str, found: Found) -> list[Change]:
        """`name` now stands for `found`."""
        if self.stands_for(name, found):
            return []
        changes = self.forget(name)
        rival = self._name_of.get(found.worker_id)
        if rival is not None and self._peers[rival].epoch >= found.epoch:
            self.put_aside(name)
            return changes
        if rival is not None:
            changes += self.forget(rival)
            self.put_aside(rival)
        return changes + self._add(name, found)

    def stands_for(self, name: str, found: Found) -> bool:
        return self._peers.get(name) == found

    def put_aside(self, name: str) -> bool:
        """`name` is of no use, whoever said so: a peer stays a peer. Whether it was put aside."""
        if name not in self._peers and len(self._aside) < self._room_aside:
            self._aside.add(name)
        return name in self._aside

    def forget_aside(self) -> None:
        """Hear them all afresh: the word of strangers must not silence anybody for long."""
        self._aside.clear()

    def forget(self, name: str) -> list[Change]:
        """`name` was withdrawn or ran out."""
        self._aside.discard(name)
        found = self._peers.pop(name, None)
        if found is None:
            return []
        del self._name_of[found.worker_id]
        return [Change(found, gone=True)]

    def clear(self) -> None:
        self._peers.clear()
        self._aside.clear()
        self._name_of.clear()

    def _add(self, name: str, found: Found) -> list[Change]:
        changes = self.forget(next(iter(self._peers))) if len(self._peers) >= self._limit else []
        self._peers[name] = found
        self._name_of[found.worker_id] = name
        return [*changes, Change(found)]
