"""Discovery in memory: one `Bus` is the multicast of a test, with meshes that do not hear each other.

A `BusDiscovery` is one process's ear and voice on it and keeps every promise of `Discovery`. Findings
are delivered by `call_soon`, in order. Faults are named after what happens on a network: a process is
`deaf` (hears nobody), `mute` (nobody hears it), or leaves by `vanish`, without a goodbye. On a bus with a
`seal` all are members: what they find has the key that was sealed, and who sealed none is not heard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from wrk_base.discovery import Found, OnFound, OtherMesh
from wrk_base.discovery.advert import Advert, facts_of
from wrk_base.security import z85
from wrk_base.security.seal import Seal


class Bus:
    """All processes of a test that announce and listen."""

    def __init__(self, seal: Seal | None = None) -> None:
        self.seal = seal
        self.members: list[BusDiscovery] = []

    def join(self, mesh: str, *, deaf: bool = False, mute: bool = False) -> BusDiscovery:
        """One process's discovery; it is heard once it was started."""
        return BusDiscovery(self, mesh, deaf=deaf, mute=mute)

    def others(self, member: BusDiscovery) -> list[BusDiscovery]:
        return [other for other in self.members if other is not member and other.mesh == member.mesh]


class BusDiscovery:
    """What one process announces and hears."""

    name = "mdns"

    def __init__(self, bus: Bus, mesh: str, *, deaf: bool, mute: bool) -> None:
        self.mesh, self.deaf, self.mute = mesh, deaf, mute
        self.sweeps = 0
        self._bus = bus
        self._own: Found | None = None
        self._known: dict[tuple[str, int], Found] = {}
        self._on_found: OnFound = _nobody
        self._on_gone: OnFound = _nobody
        self._counters = {"found": 0, "gone": 0}

    async def start(self, advert: Advert | None, on_found: OnFound, on_gone: OnFound) -> None:
        self._on_found, self._on_gone = on_found, on_gone
        self._own = None if advert is None else _found(advert, self._bus.seal)
        self._bus.members.append(self)
        for other in self._bus.others(self):
            other.announce_to(self)
            self.announce_to(other)

    async def sweep(self) -> None:
        self.sweeps += 1
        for other in self._bus.others(self):
            other.announce_to(self)

    async def stop(self) -> None:
        """Says goodbye to everybody."""
        if self in self._bus.members:
            for other in self._bus.others(self):
                other.forget(self._own)
            self.vanish()

    def vanish(self) -> None:
        """The process is gone, and what it announced stays in the others' memory."""
        if self in self._bus.members:
            self._bus.members.remove(self)
            self._known.clear()

    def known(self) -> list[Found]:
        return list(self._known.values())

    def counters(self) -> dict[str, int]:
        return dict(self._counters)

    def strangers(self) -> list[OtherMesh]:
        """Nobody: meshes on a bus do not hear each other."""
        return []

    def announce_to(self, other: BusDiscovery) -> None:
        if self._own is not None and not self.mute:
            other.hear(self._own)

    def hear(self, found: Found) -> None:
        """A finding, whoever made it up; it is reported again when it is heard again."""
        if not self.deaf:
            self._known[found.worker_id, found.epoch] = found
            self._tell("found", found, lambda: self._on_found(found))

    def forget(self, found: Found | None) -> None:
        if found is not None and self._known.pop((found.worker_id, found.epoch), None) is not None:
            self._tell("gone", found, lambda: self._on_gone(found))

    def _tell(self, what: str, found: Found, tell: Callable[[], None]) -> None:
        self._counters[what] += 1
        asyncio.get_running_loop().call_soon(lambda: tell() if self in self._bus.members else None)


def _found(advert: Advert, seal: Seal | None) -> Found | None:
    found = Found(advert.endpoint, "mdns", advert.worker_id, advert.epoch, advert.role)
    if seal is None:
        return found
    key = seal.open(advert.key, facts_of(advert))
    return None if key is None else replace(found, key=z85.encode(key))


def _nobody(found: Found) -> None:
    """Not started yet."""
