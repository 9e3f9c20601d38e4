"""Of whom news came lately: the probes of Prequal, which ride on what racks send anyway.

A rack's every answer and beat says how many requests it has in flight, and so counts as a probe of it.
What it said is kept by the candidate, together with our own requests since; a probe is the permission
to go by that for a while, and for a few requests. Only the latest of a worker counts.
"""

from __future__ import annotations

from collections import OrderedDict

from ..candidate import Candidate

MOST_PROBES = 16  # as in the paper, where more gained nothing; a LAN's racks all fit
AGE_S = 2.0  # two beats: who says nothing for longer is not known to be as free as it was
USES = 4  # between two of its reports; what other orchestrators send it meanwhile is not known


class Probe:
    __slots__ = ("at", "uses")

    def __init__(self, at: float) -> None:
        self.at, self.uses = at, 0


class Probes:
    """At most `MOST_PROBES`, oldest first."""

    __slots__ = ("_probes",)

    def __init__(self) -> None:
        self._probes: OrderedDict[Candidate, Probe] = OrderedDict()

    def __len__(self) -> int:
        return len(self._probes)

    def hear(self, candidate: Candidate, now: float) -> None:
        probe = self._probes.get(candidate)
        if probe is not None:
            probe.at, probe.uses = now, 0
            self._probes.move_to_end(candidate)
            return
        self._probes[candidate] = Probe(now)
        if len(self._probes) > MOST_PROBES:
            self._probes.popitem(last=False)

    def fresh(self, now: float) -> list[Candidate]:
        """Those that may be gone by, the one heard of longest ago first."""
        oldest = now - AGE_S
        return [c for c, probe in self._probes.items() if probe.at >= oldest and probe.uses < USES]

    def use(self, candidate: Candidate) -> None:
        """A request is sent on the strength of this probe."""
        self._probes[candidate].uses += 1

    def forget(self, candidate: Candidate) -> None:
        self._probes.pop(candidate, None)
