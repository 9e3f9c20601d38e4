"""What a seed stands for: how large the mesh is, what is asked of it, and which faults come when. Pure.

The same seed is the same plan. Every fault is taken back before `HEALED`, so that the end of a run shows
whether all came back. A fifth of the seeds swizzle: hosts are cut off one after the other, in any order,
and come back in another. A fifth is gentle: one rack of several at a time dies, stops or is asked to end, and
nobody may notice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

SECONDS = 60.0
FIRST_FAULT, HEALED = 5.0, 45.0
SWIZZLED, GENTLE = 0.2, 0.2  # of the seeds
STRATEGIES = (
    "round-robin",
    "least-connections",
    "weighted",
    "random",
    "power-of-two",
    "peak-ewma",
    "prequal",
    "consistent-hash",
    "prefix-aware",
)

RACK_FAULTS = {
    "kill": 4,
    "terminate": 2,
    "freeze": 4,
    "stall": 2,
    "hang": 2,
    "isolate": 3,
    "deaf": 2,
    "mute": 2,
    "slow": 2,
    "reset": 2,
    "half-open": 2,
}
ORCHESTRATOR_FAULTS = {"kill": 2, "terminate": 1, "freeze": 3, "stall": 1, "isolate": 2, "deaf": 1, "mute": 1}
CLIENT_FAULTS = {"isolate": 1, "slow": 1, "reset": 1, "half-open": 1}
MESH_FAULTS = {"silence": 2, "split": 1}
MESH_WIDE = frozenset({"split"})  # what may touch everybody
WHO = {"rack": 10, "orchestrator": 4, "client": 1, "mesh": 1}

LASTS: dict[str, tuple[float, float]] = {
    "kill": (0.05, 4.0),
    "terminate": (0.05, 2.0),
    "freeze": (0.2, 10.0),
    "stall": (0.2, 6.0),
    "hang": (0.5, 5.0),
    "isolate": (0.3, 10.0),
    "deaf": (0.3, 8.0),
    "mute": (0.3, 8.0),
    "slow": (2.0, 15.0),
    "reset": (0.0, 0.0),
    "half-open": (8.0, 8.0),
    "silence": (2.0, 20.0),
    "split": (0.5, 8.0),
}
"""Seconds, least and most; of a kill and a termination until the process is started again, of a connection
that is half-open until ZeroMQ's heartbeats must have noticed."""


@dataclass(frozen=True)
class Mishap:
    """One fault: `delay` and `jitter` are those of a slow host, `hosts` one side of a split."""

    kind: str
    target: str
    at: float
    until: float
    delay: float = 0.0
    jitter: float = 0.0
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True)
class RackPlan:
    name: str
    host: str
    capacity: int
    pace: float  # how much longer than the others it takes


@dataclass(frozen=True)
class Plan:
    seed: int
    racks: tuple[RackPlan, ...]
    orchestrators: tuple[str, ...]
    clients: tuple[str, ...]
    given: tuple[bool, ...]  # which clients are given addresses; the others listen
    strategy: str
    rate: float  # requests a second
    loss: float  # of multicast packets
    resumable: bool  # whether racks go on with streams that others began
    swizzled: bool
    gentle: bool
    mishaps: tuple[Mishap, ...]

    @property
    def healed(self) -> float:
        return max((mishap.until for mishap in self.mishaps), default=0.0)


def address(host: str) -> str:
    """Of `h3`, `o1` or `c2`: racks, orchestrators and clients have hosts of their own."""
    return f"10.0.{'hoc'.index(host[0])}.{host[1:]}"


def plan(seed: int, rate: float = 50.0) -> Plan:
    dice = Random(f"plan {seed}")
    chance = dice.random()
    swizzled, gentle = chance < SWIZZLED, chance >= 1 - GENTLE
    racks = tuple(_equal_racks(dice) if gentle else _racks(dice))
    orchestrators = tuple(f"o{number}" for number in range(1, dice.choice((1, 1, 2, 2, 3)) + 1))
    clients = tuple(f"c{number}" for number in range(1, dice.choice((1, 2, 3)) + 1))
    hosts = (*dict.fromkeys(rack.host for rack in racks), *orchestrators, *clients)
    if swizzled:
        mishaps = _swizzle(dice, hosts)
    else:
        mishaps = _one_by_one(dice, racks) if gentle else _mishaps(dice, racks, orchestrators, clients)
    mishaps = sorted(mishaps, key=lambda mishap: mishap.at)
    return Plan(
        seed=seed,
        racks=racks,
        orchestrators=orchestrators,
        clients=clients,
        given=tuple(dice.random() < 0.5 for _ in clients),
        strategy=dice.choice(STRATEGIES),
        rate=rate,
        loss=dice.choice((0.0, 0.02, 0.1)),
        resumable=dice.random() < 0.5,
        swizzled=swizzled,
        gentle=gentle,
        mishaps=tuple(mishaps),
    )


def _equal_racks(dice: Random) -> Iterator[RackPlan]:
    """So many and so able that one of them is not missed."""
    for number in range(1, dice.randint(4, 8) + 1):
        yield RackPlan(f"r{number}", f"h{number}", 8, 1.0)


def _racks(dice: Random) -> Iterator[RackPlan]:
    """Two to sixteen, rather few; some share a host."""
    shared = dice.random() < 0.3
    for number in range(1, dice.choice((2, 2, 3, 3, 4, 4, 5, 6, 8, 16)) + 1):
        host = f"h{(number + 1) // 2}" if shared else f"h{number}"
        yield RackPlan(f"r{number}", host, dice.choice((4, 8, 8, 16)), dice.choice((1.0, 1.0, 1.0, 2.0)))


def _mishaps(
    dice: Random, racks: tuple[RackPlan, ...], orchestrators: tuple[str, ...], clients: tuple[str, ...]
) -> Iterator[Mishap]:
    """At a rate that the seed draws; they may overlap, on one target, too."""
    host_of = {rack.name: rack.host for rack in racks}
    pause = dice.uniform(1.0, 8.0)
    at = FIRST_FAULT + dice.expovariate(1 / pause)
    while at < HEALED - 1.0:
        who = _draw(dice, WHO)
        if who == "mesh":
            kind = _draw(dice, MESH_FAULTS)
            everybody = [*dict.fromkeys(host_of.values()), *orchestrators, *clients]
            side = tuple(host for host in everybody if dice.random() < 0.5) if kind == "split" else ()
            yield Mishap(kind, "mesh", at, _until(dice, kind, at), hosts=side)
        elif who == "rack":
            yield _one(dice, _draw(dice, RACK_FAULTS), dice.choice(racks).name, at)
        elif who == "orchestrator":
            yield _one(dice, _draw(dice, ORCHESTRATOR_FAULTS), dice.choice(orchestrators), at)
        else:
            yield _one(dice, _draw(dice, CLIENT_FAULTS), dice.choice(clients), at)
        at += dice.expovariate(1 / pause)


def _one(dice: Random, kind: str, target: str, at: float) -> Mishap:
    delay = dice.choice((0.01, 0.075, 0.3))
    if at + LASTS[kind][0] > HEALED:
        kind = "reset"
    return Mishap(kind, target, at, _until(dice, kind, at), delay, delay * dice.choice((0.2, 0.7, 1.0)))


def _until(dice: Random, kind: str, at: float) -> float:
    least, most = LASTS[kind]
    return min(at + dice.uniform(least, most), HEALED)


def _one_by_one(dice: Random, racks: tuple[RackPlan, ...]) -> Iterator[Mishap]:
    """One rack after the other, with time to come back between them."""
    at = FIRST_FAULT
    while at < HEALED - 8.0:
        kind = dice.choice(("kill", "kill", "freeze", "stall", "terminate"))
        until = at + dice.uniform(*(0.0, 2.0) if kind in ("kill", "terminate") else (0.5, 8.0))
        yield Mishap(kind, dice.choice(racks).name, at, until)
        at = until + dice.uniform(1.5, 5.0)


def _swizzle(dice: Random, hosts: tuple[str, ...]) -> Iterator[Mishap]:
    """Clog some hosts one by one, then unclog them one by one in another order."""
    clogged = [host for host in hosts if dice.random() < 0.6] or [dice.choice(hosts)]
    dice.shuffle(clogged)
    starts, at = {}, FIRST_FAULT
    for host in clogged:
        at += dice.uniform(0.0, 3.0)
        starts[host] = min(at, HEALED - 10.0)
    dice.shuffle(clogged)
    at = max(at, max(starts.values())) + dice.uniform(0.0, 5.0)
    for host in clogged:
        at += dice.uniform(0.0, 2.0)
        yield Mishap("clog", host, starts[host], min(max(at, starts[host] + 0.1), HEALED))


def _draw(dice: Random, weights: dict[str, int]) -> str:
    return dice.choices(tuple(weights), tuple(weights.values()))[0]
