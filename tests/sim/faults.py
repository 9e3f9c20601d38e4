"""What each kind of fault does to a world, and how it is taken back; what bit is written into the history."""

from __future__ import annotations

from collections.abc import Callable

from tests.sim.people import SimulatedRack
from tests.sim.plan import Mishap, address
from tests.sim.world import Member, World
from wrk_orchestrator.chaos.history import Fault

Undo = Callable[[], None]


def stage(world: World, mishap: Mishap) -> None:
    """Have it happen when its time comes."""
    world.loop.at(mishap.at, None, _begin, world, mishap)


def _begin(world: World, mishap: Mishap) -> None:
    undo = DEEDS[mishap.kind](world, mishap)
    world.say("----", f"{mishap.kind} {mishap.target}", until=f"{mishap.until:.3f}", bit=undo is not None)
    world.note(
        Fault(kind=mishap.kind, target=mishap.target, at=mishap.at, until=mishap.until, bit=undo is not None)
    )
    if undo is not None:
        world.loop.at(mishap.until, None, _end, world, mishap, undo)


def _end(world: World, mishap: Mishap, undo: Undo) -> None:
    world.say("----", f"{mishap.kind} {mishap.target} is over")
    undo()


def _kill(world: World, mishap: Mishap) -> Undo | None:
    member = world.members[mishap.target]
    if member.running is None:
        return None
    world.kill(member)
    return lambda: world.start(member)


def _terminate(world: World, mishap: Mishap) -> Undo | None:
    member = world.members[mishap.target]
    process = member.running
    if process is None or (member.worker is not None and member.worker.stopping):
        return None
    world.terminate(member)

    def start() -> None:
        """It is started again when it has ended, which takes as long as its requests do."""
        if process.alive and member.process is process:
            world.loop.at(world.now() + 0.1, None, start)
        else:
            world.start(member)

    return start


def _hold(stop: bool) -> Callable[[World, Mishap], Undo | None]:
    def hold(world: World, mishap: Mishap) -> Undo | None:
        process = world.hold(world.members[mishap.target], stop=stop)
        return None if process is None else lambda: world.release(process, stop=stop)

    return hold


def _hang(world: World, mishap: Mishap) -> Undo | None:
    worker = world.members[mishap.target].worker
    if not isinstance(worker, SimulatedRack):
        return None
    worker.hangs = True

    def go_on() -> None:
        worker.hangs = False

    return go_on


def _block(*, out: bool, back: bool) -> Callable[[World, Mishap], Undo]:
    def block(world: World, mishap: Mishap) -> Undo:
        host = _host(world, mishap.target)
        others = [other for other in world.hosts if other != host]
        if out:
            world.wires.block((host,), others)
        if back:
            world.wires.block(others, (host,))

        def heal() -> None:
            if out:
                world.wires.unblock((host,), others)
            if back:
                world.wires.unblock(others, (host,))

        return heal

    return block


def _split(world: World, mishap: Mishap) -> Undo:
    side = [address(host) for host in mishap.hosts]
    others = [host for host in world.hosts if host not in side]
    world.wires.block(side, others)
    world.wires.block(others, side)

    def heal() -> None:
        world.wires.unblock(side, others)
        world.wires.unblock(others, side)

    return heal


def _slow(world: World, mishap: Mishap) -> Undo:
    host = _host(world, mishap.target)
    world.wires.slow(host, mishap.delay, mishap.jitter)
    return lambda: world.wires.quicken(host)


def _reset(world: World, mishap: Mishap) -> Undo | None:
    wires = world.wires_of(world.members[mishap.target])
    world.wires.reset(wires)
    return _nothing if wires else None


def _half_open(world: World, mishap: Mishap) -> Undo | None:
    wires = world.wires_of(world.members[mishap.target])
    if not wires:
        return None
    world.wires.deafen([world.wires.rng.choice(wires)])
    return _nothing


def _silence(world: World, mishap: Mishap) -> Undo | None:
    if world.air.dead:
        return None
    world.air.dead = True

    def heal() -> None:
        world.air.dead = False

    return heal


def _nothing() -> None:
    """What was done once is over at once."""


def _host(world: World, target: str) -> str:
    """A swizzle names hosts, all others name members."""
    member: Member | None = world.members.get(target)
    return address(target) if member is None else member.host


DEEDS: dict[str, Callable[[World, Mishap], Undo | None]] = {
    "kill": _kill,
    "terminate": _terminate,
    "freeze": _hold(stop=True),
    "stall": _hold(stop=False),
    "hang": _hang,
    "isolate": _block(out=True, back=True),
    "clog": _block(out=True, back=True),
    "mute": _block(out=True, back=False),
    "deaf": _block(out=False, back=True),
    "split": _split,
    "slow": _slow,
    "reset": _reset,
    "half-open": _half_open,
    "silence": _silence,
}
