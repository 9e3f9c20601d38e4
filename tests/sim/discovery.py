"""Multicast that loses packets and stops at the edges of a partition, behind the interface of discovery.

What is announced is said three times, who begins to listen asks three times, a sweep asks once more; each
packet reaches each host by itself, late or never. As with mDNS a finding is told once, a crash leaves its
record with everybody, and only a goodbye that arrives takes it away.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.sim.loop import Process
from tests.sim.network import Wires
from wrk_base.discovery import Found, OnFound
from wrk_base.discovery.advert import Advert

SAID_AFTER = (0.0, 0.225, 0.45)  # seconds
ASKED_AFTER = (0.0, 1.0, 4.0)


class Multicast:
    """The air between all of them; `loss` is the share of packets that a host does not hear."""

    def __init__(self, wires: Wires, loss: float) -> None:
        self.wires, self.loss = wires, loss
        self.dead = False
        self.ears: dict[SimDiscovery, None] = {}

    def say(self, sender: SimDiscovery, tell: Callable[[SimDiscovery], Callable[[], None]]) -> None:
        """One packet to everybody else."""
        loop, wires = self.wires.loop, self.wires
        for ear in self.ears:
            if ear is sender or self.dead or wires.rng.random() < self.loss:
                continue
            if wires.passes(sender.host, ear.host):
                loop.at(loop.now + wires.delay(sender.host, ear.host), ear.process, tell(ear))


class SimDiscovery:
    """What one process announces and hears."""

    name = "mdns"

    def __init__(self, air: Multicast, host: str, process: Process) -> None:
        self._air, self.host, self.process = air, host, process
        self._own: Found | None = None
        self._known: dict[tuple[str, int], Found] = {}
        self._on_found: OnFound = _nobody
        self._on_gone: OnFound = _nobody

    async def start(self, advert: Advert | None, on_found: OnFound, on_gone: OnFound) -> None:
        self._on_found, self._on_gone = on_found, on_gone
        if advert is not None:
            self._own = Found(advert.endpoint, "mdns", advert.worker_id, advert.epoch, advert.role)
        self._air.ears[self] = None
        for pause in SAID_AFTER:
            self._later(pause, self._announce)
        for pause in ASKED_AFTER:
            self._later(pause, self._ask)

    async def sweep(self) -> None:
        self._ask()

    async def stop(self) -> None:
        own, self._own = self._own, None
        if self in self._air.ears and own is not None:
            self._air.say(self, lambda ear: lambda: ear.forget(own))
        self.vanish()

    def vanish(self) -> None:
        """It is gone without a word."""
        self._air.ears.pop(self, None)
        self._known.clear()

    def known(self) -> list[Found]:
        return list(self._known.values())

    def counters(self) -> dict[str, int]:
        return {"found": len(self._known)}

    def hear(self, found: Found) -> None:
        if self in self._air.ears and (found.worker_id, found.epoch) not in self._known:
            self._known[found.worker_id, found.epoch] = found
            self._on_found(found)

    def forget(self, found: Found) -> None:
        if self in self._air.ears and self._known.pop((found.worker_id, found.epoch), None) is not None:
            self._on_gone(found)

    def _announce(self) -> None:
        own = self._own
        if own is not None and self in self._air.ears:
            self._air.say(self, lambda ear: lambda: ear.hear(own))

    def _ask(self) -> None:
        if self in self._air.ears:
            self._air.say(self, lambda ear: ear._announce)

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        loop = self._air.wires.loop
        loop.at(loop.now + seconds, self.process, action)


def _nobody(found: Found) -> None:
    """Not started yet."""
