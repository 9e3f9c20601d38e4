"""The attacks as stories whose size is an argument: short ones in `bin/test`, full ones in `bin/test --long`.

Each asserts what holds at any size (nobody got in, nothing that is good was lost) and returns what it
measured, for those that have the time to measure.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import zmq
import zmq.asyncio
from msgspec.structs import replace

from tests.fakes import gang
from tests.fakes.aio import closed, eventually
from tests.fakes.attackers import (
    Badge,
    attempt,
    badge,
    beyond_their_rights,
    flood,
    garbage,
    of_another_machine,
    registration,
    without_membership,
)
from tests.fakes.gang import NULL, TCP, Attempt, Orders, Told
from tests.fakes.http_house import StagedRack
from tests.fakes.mesh import MeshHouse
from tests.fakes.processes import ProcessHandle, client, start_worker, until
from tests.fakes.siege import (
    ROUTE,
    Fort,
    Lap,
    Relay,
    ask_at,
    fort,
    public_text,
    queued_for_a_core,
    resident,
    traffic,
)
from wrk_base import errors
from wrk_base.rpc import wire
from wrk_base.security import z85
from wrk_base.security.certificate import key_id
from wrk_base.security.curve_keys import ephemeral
from wrk_base.security.zap import Door

Mend = Callable[[], object]
SECRET = "the recipe of the house: "  # in every prompt, and so in every answer


@dataclass(slots=True)
class Measured:
    """Of one attack. `laps` are those of the good client, before and during each part of it; `grown` in
    bytes, `busiest` in lines of the log a second, `queued` the share of the time of the attack in which the
    loop was ready and had no core: where others use the machine, they are measured, too."""

    laps: list[tuple[Lap, Lap]]
    told: Told
    busiest: int
    grown: int
    seconds: float
    queued: float
    counters: dict[str, int]

    @property
    def slowdowns(self) -> list[float]:
        """The good client's p99 in each part, as a multiple of that just before."""
        return [under.percentile(0.99) / calm.percentile(0.99) for calm, under in self.laps]

    @property
    def slowdown(self) -> float:
        """The median of these: what else the machine does for a moment counts in one part alone."""
        return median(self.slowdowns)

    def __str__(self) -> str:
        made = sum(tale.made for tale in self.told.values())
        slowest = max((tale.slowest for tale in self.told.values()), default=0.0)
        parts = "".join(f"  before: {calm}\n  under attack: {under}\n" for calm, under in self.laps)
        return (
            f"{made} attempts of {len(self.told)} kinds in {self.seconds:.0f} s\n{parts}"
            f"  p99 {self.slowdown:.2f} x, of {', '.join(f'{each:.2f}' for each in self.slowdowns)}; "
            f"without a core {self.queued:.0%} of the time\n"
            f"  log: at most {self.busiest} lines/s; memory: {self.grown / 2**20:+.1f} MiB; "
            f"slowest end {slowest:.1f} s\n  counters: {self.counters}"
        )


async def registrations(
    tmp_path: Path, each: int, calm: int, *, parts: int = 1, all_machines: bool = True
) -> Measured:
    """Registrations and calls by those who may not, `each` of every kind; `calm` requests before them."""
    async with fort(tmp_path) as f:
        other = MeshHouse(tmp_path / "other")
        attempts = without_membership(f.mesh, other, tmp_path, f.target)
        attempts += without_membership(f.mesh, other, tmp_path / "r", f.rack_target)[:8]
        attempts += beyond_their_rights(f.mesh, f.target, f.rack_target)
        attempts.append(await _replay(f))
        if all_machines:
            second = f.mesh.invited(tmp_path / "second", "second", "rack", models={"m2"})
            attempts += of_another_machine(second, f.target, f.rack_target)
        named = _numbered(attempts)
        measured = await _under(f, [Orders(named, each * len(named) // parts)] * parts, calm)
        assert not (got := gang.accepted(measured.told)), got
        assert not (wrong := gang.astray(measured.told, named)), wrong
        assert f.listed == ["r1-1"]
        assert f.routable
        joined = [facts["worker"] for event, facts in f.log.events if event == "worker.joined"]
        assert joined == ["r1-1"], "nobody else was there, not even for a moment"
        assert "worker.left" not in f.log.names()
    return measured


async def another_machine(tmp_path: Path) -> Told:
    """A machine of the mesh whose processes take the worker id of another machine's rack."""
    async with fort(tmp_path) as f:
        second = f.mesh.invited(tmp_path / "second", "second", "rack", models={"m2"})
        attempts = tuple(of_another_machine(second, f.target, f.rack_target))
        told = await gang.attack(Orders(attempts, 2 * len(attempts)))
        assert not (got := gang.accepted(told)), got
        assert not (wrong := gang.astray(told, attempts)), wrong
        assert f.listed == ["r1-1"]
        assert await f.ask("still there") == "still there"
    return told


async def trash(
    tmp_path: Path, count: int, silent: int, calm: int, *, parts: int = 1, patience_ms: int = 3000
) -> Measured:
    """Bytes of other protocols, and handshakes that lead to nothing, beside connections that are silent.

    `patience_ms` is `rpc.handshakeTimeout`.
    """
    async with fort(tmp_path, patience_ms=patience_ms) as f:
        attempts = tuple(garbage(f.target))
        orders = Orders(attempts, count // parts, silent=silent)
        measured = await _under(f, [orders] * parts, calm)
        assert not (got := gang.accepted(measured.told)), got
        for kind, tale in measured.told.items():
            assert tale.ended == tale.made, f"{kind}: {tale.made - tale.ended} of {tale.made} may stay"
        await eventually(lambda: _connections(f) == 2)  # the good client and the rack
        assert f.log.names().count("rpc.caller_expelled") == 0
    return measured


async def malformed(tmp_path: Path, count: int, calm: int, *, parts: int = 1) -> Measured:
    """A member that says anything at all."""
    async with fort(tmp_path) as f:
        floods = [flood(f.mesh, f.target, count // parts, seed) for seed in range(parts)]
        measured = await _under(f, [Orders(flood=each) for each in floods], calm)
        (tale,) = measured.told.values()
        assert tale.said == count
        assert f.orchestrator.server.counters["malformed"] > count / 4, "it did bite"
        assert f.listed == ["r1-1"]
    return measured


async def shut_doors(tmp_path: Path, peers: int, rounds: int) -> list[float]:
    """The door is broken while `peers` connect at once, each time in another way; a third were revoked.

    Returns the seconds after which somebody new was let in, each time.
    """
    back: list[float] = []
    async with fort(tmp_path) as f, f.traffic() as good:
        network = f.orchestrator.context.network
        door: Door = network._door  # type: ignore[attr-defined]
        callers = _callers(f)
        await known_everywhere(f)
        for number in range(rounds):
            way, stays_shut = WAYS[number % len(WAYS)]
            mend = way(door)
            crowd = asyncio.create_task(gang.attack(Orders(callers, peers, rate=2000.0)))
            while not stays_shut and not crowd.done():  # it repairs itself: once more, then
                await asyncio.sleep(0.3)
                mend = way(door)
            told = await crowd
            assert "HELLO_OK" not in told["revoked"].heard
            assert "HELLO_OK" not in told["by NULL"].heard
            assert "HELLO_OK" not in told["certified"].heard or not stays_shut, f"{way.__name__}: open"
            mend()
            begun, late = time.monotonic(), f.peers(f"late-{number}", "client")
            assert await ask_at(late, f.orchestrator.endpoint, number) == number
            back.append(time.monotonic() - begun)
            late.close()
            await closed(f.networks.pop())
        await good.until(1)
        assert not (troubles := good.lap().troubles), troubles[:5]  # of who was in before
    return back


def _callers(f: Fort) -> tuple[Attempt, ...]:
    mesh, target = f.mesh, f.target
    shown, gone = badge(mesh, "c", "client"), badge(mesh, "gone", "client")
    mesh.files.revoke_key(key_id(gone.keys.public), "gone", int(mesh.wall.now) + 1000, mesh.wall.now)
    greeted = attempt("certified", target, shown, shown.hello("c", "client"), hears=frozenset())
    barred = attempt("revoked", target, gone, gone.hello("gone", "client"), hears=frozenset())
    made = (greeted, barred, replace(greeted, kind="by NULL", mechanism=NULL))
    return tuple(replace(each, stays=0.5) for each in made)


def _cannot_open(door: Door) -> Mend:
    """It lost its socket, and cannot have another."""

    def fail() -> Any:
        raise zmq.ZMQError(zmq.EADDRINUSE)

    return _instead(door, "_open", fail, lambda: door._sock.close(0))


def _judgement_fails(door: Door) -> Mend:
    def fail(key: bytes) -> bool:
        raise RuntimeError("broken")

    return _instead(door, "_lets_in", fail)


def _is_mute(door: Door) -> Mend:
    return _instead(door, "_answer", lambda request: None)


def _is_never_asked(door: Door) -> Mend:
    """Its reader is gone, and so is who would look after it."""
    door._loop.remove_reader(door._fd)
    return _instead(door, "_drain", lambda: None)


def _loses_its_reader(door: Door) -> Mend:
    door._loop.remove_reader(door._fd)
    return lambda: None


def _loses_its_socket(door: Door) -> Mend:
    door._leave_loop()  # else another socket's reader, of the same number, would be lost in the repair
    door._sock.close(0)
    return lambda: None


def _instead(door: Door, name: str, broken: Any, then: Mend = lambda: None) -> Mend:
    """The door does `broken` instead of its own method, until it is mended."""
    sound = getattr(door, name)
    setattr(door, name, broken)
    then()
    return lambda: setattr(door, name, sound)


WAYS: tuple[tuple[Callable[[Door], Mend], bool], ...] = (
    (_cannot_open, True),
    (_loses_its_reader, False),
    (_judgement_fails, True),
    (_loses_its_socket, False),
    (_is_mute, True),
    (_is_never_asked, True),
)
"""How a door breaks, and whether it stays so until it is mended."""


async def overheard(tmp_path: Path, *, encrypted: bool) -> bytes:
    """All bytes between a client, the orchestrator and a rack, which said `SECRET` back and forth."""
    async with (
        fort(tmp_path, encrypted=encrypted) as f,
        Relay(f.orchestrator.endpoint) as front,
        Relay(f.rack.endpoint) as back,
    ):
        f.orchestrator.unregister("r1-1")
        where = {**registration("by-hand", back.endpoint), "publicKey": public_text(f.rack)}
        f.orchestrator.register(where, source="test")
        await eventually(lambda: f.orchestrator.health_monitor.state("by-hand") == "healthy")
        client = f.peers("chatty", "client", at=front.endpoint)
        assert await ask_at(client, front.endpoint, SECRET * 20) == SECRET * 20
        client.close()
        assert len(front.heard) == len(back.heard) == 1
        return front.bytes + back.bytes


async def revocations(tmp_path: Path, rounds: int) -> list[float]:
    """Members are revoked while others work: in turn a client's key, the machine of one, and that of a rack.

    Returns how long each was still linked to anybody. There are racks on two machines, so that half of the
    news has to travel.
    """
    lasted: list[float] = []
    async with fort(tmp_path) as f:
        away = f.mesh.invited(tmp_path / "away", "away", "rack")
        second = f.new_rack("r2", away)
        await second.start()
        await eventually(lambda: f.is_routable("r2-1"))
        async with f.traffic() as good:
            for number in range(rounds):
                machine = f.mesh.invited(tmp_path / f"m{number}", f"m{number}", "client", "rack")
                lasted.append(await _revoked(f, second, machine, number))
            await good.until(100)
        assert not (troubles := good.lap().troubles), troubles[:5]
        await second.stop()
    return lasted


async def _revoked(f: Fort, second: StagedRack, machine: MeshHouse, number: int) -> float:
    """One member that is everywhere is revoked; returns after how many seconds it is nowhere."""
    mesh, now = f.mesh, int(f.mesh.wall.now)
    rack = f.new_rack(f"bad{number}", machine) if number % 3 == 2 else None
    name = f"bad{number}-1" if rack is not None else f"bad{number}"
    bad = rack.peers if rack is not None else f.peers(name, "client", machine=machine)
    if rack is not None:
        await rack.start()
        await eventually(lambda: f.is_routable(name))
    everybody: tuple[Any, ...] = (f.orchestrator, f.rack, second)
    book = f.networks[-1].membership.book  # type: ignore[union-attr]
    for worker in everybody:
        book.learn(worker.endpoint, public_text(worker))
        await bad.request(worker.endpoint, "echo", 1, timeout=5)
    assert all(name in _heard_by(worker) for worker in everybody)
    if number % 3 == 0:
        member = f.networks[-1].membership
        assert member is not None
        mesh.files.revoke_key(key_id(member.public_key), name, now + 1000, now)
    else:
        mesh.files.revoke(f"m{number}", now)
    begun = time.monotonic()
    await eventually(lambda: not any(name in _heard_by(worker) for worker in everybody))
    lasted = time.monotonic() - begun
    with pytest.raises(errors.WrkError):
        await bad.request(f.orchestrator.endpoint, "echo", 1, timeout=0.5)
    if rack is not None:
        assert not f.is_routable(name)
        await rack.stop()
    bad.close()
    await closed(f.networks.pop())
    return lasted


def _heard_by(worker: Any) -> set[str]:
    """Everybody who is linked to it, either way."""
    return {info.worker_id for info in (*worker.server.infos(), *worker.peers.infos())}


async def rotations(tmp_path: Path, rounds: int) -> Lap:
    """A rack stops, loses its key file and starts again, with another beside it; in turn, as processes."""
    orchestrator = ["--wtype", "wrk_orchestrator.orchestrator:OrchestratorWorker", "--rpc.port", "0"]

    def rack(name: str) -> ProcessHandle:
        words = ["--wtype", "racks.sim:SimRack", "--rack", name, "--models", "m1", "--latency", "10"]
        return start_worker([*words, "--capacity", "100"], tmp_path)

    with ExitStack() as stack:
        boss = stack.enter_context(start_worker(orchestrator, tmp_path))
        racks = {name: stack.enter_context(rack(name)) for name in ("r1", "r2")}
        async with client(boss) as peers:

            async def ask(number: int) -> int:
                answer = await peers.request(
                    boss.endpoint, ROUTE, {"modelId": "m1", "inputData": "hello"}, timeout=10
                )
                assert answer["result"]["simulated"] is True
                return number

            async def keys() -> set[str]:
                listed = await peers.request(boss.endpoint, "listWorkers", {}, timeout=10)
                return {each["publicKey"] for each in listed["workers"] if each["state"] == "healthy"}

            async def routable() -> bool:
                return await keys() == {each.status["publicKey"] for each in racks.values()}

            await until(routable, what="both racks")
            async with traffic(ask) as good:
                for number in range(rounds):
                    name = ("r1", "r2")[number % 2]
                    old = racks[name]
                    old.signal(signal.SIGTERM)
                    assert await old.ended() == 0
                    (old.state / f"{old.status['prefix']}.key").unlink()
                    racks[name] = stack.enter_context(await asyncio.to_thread(rack, name))
                    assert racks[name].worker_id == old.worker_id
                    assert racks[name].status["publicKey"] != old.status["publicKey"]
                    await until(routable, what=f"{name} with its new key")
                await good.until(20)
            lap = good.lap()
            assert not lap.troubles, lap.troubles[:5]
    return lap


async def stolen_numbers(tmp_path: Path, rounds: int, storm: int) -> int:
    """Operators whose connections break, and strangers who claim the ROUTER's numbers of these right then.

    The strangers are told the numbers, which they could otherwise only guess. Returns how many of their
    requests were answered.
    """
    answered = 0
    async with fort(tmp_path) as f:
        server, context = f.orchestrator.server, zmq.asyncio.Context()
        for turn in range(rounds):
            shown, before = badge(f.mesh, f"op{turn}", "operator"), set(server.callers)
            victim = _dialled(context, f, shown)
            await victim.send(shown.hello(f"op{turn}", "operator"))
            await victim.recv()
            (number,) = set(server.callers) - before
            thieves = []
            for each in range(storm):
                thieves.append(_dialled(context, f, Badge(ephemeral(), b""), number))
                await thieves[-1].send(f.target.asks("listWorkers", {}))
                await asyncio.sleep(0.0005)
                if each == storm // 3:
                    victim.close(0)  # without a goodbye
            await asyncio.sleep(0.3)
            for thief in thieves:
                while await thief.poll(0):
                    envelopes = wire.decode(await thief.recv())[1]
                    answered += any(envelope[0] in (wire.REPLY, wire.ERROR) for envelope in envelopes)
                thief.close(0)
        context.destroy(0)
    return answered


def _dialled(context: zmq.asyncio.Context, f: Fort, shown: Badge, number: bytes = b"") -> Any:
    sock = context.socket(zmq.DEALER)
    sock.linger, sock.reconnect_ivl = 0, -1
    sock.curve_publickey, sock.curve_secretkey = shown.keys.public_z85, shown.keys.secret_z85
    sock.curve_serverkey = z85.encode(f.target.key).encode()
    if number:
        sock.setsockopt(zmq.ROUTING_ID, number)
    sock.connect(f.target.endpoint)
    return sock


async def _under(f: Fort, orders: Sequence[Orders], calm: int) -> Measured:
    """What the good client, the log and the memory show while the orders are carried out one by one."""
    await known_everywhere(f)
    laps: list[tuple[Lap, Lap]] = []
    told: Told = {}
    seconds = queued = 0.0
    async with f.traffic() as good:
        await good.until(20)  # everything is warm
        good.lap()
        memory, since = _Memory(), time.monotonic()
        async with memory.watched():
            for part in orders:
                await good.until(calm)
                before, begun, waited = good.lap(), time.monotonic(), queued_for_a_core()
                gang.add(told, await gang.attack(part))
                seconds += time.monotonic() - begun
                queued += queued_for_a_core() - waited
                laps.append((before, good.lap()))
        await good.until(20)
    troubles = [trouble for pair in [*laps, (good.lap(),)] for lap in pair for trouble in lap.troubles]
    assert not troubles, troubles[:5]
    counters = {name: count for name, count in f.orchestrator.server.counters.items() if count}
    return Measured(laps, told, f.log.busiest(since), memory.grown, seconds, queued / seconds, counters)


async def known_everywhere(f: Fort) -> None:
    """Orchestrator and rack follow the list of revocations that lies in the first machine's files."""
    serial = f.mesh.files.load().revocations.serial
    own = [worker.membership for worker in (f.orchestrator, f.rack)]
    await eventually(lambda: all(member is not None and member.serial == serial for member in own))


class _Memory:
    """By how much the process grew at most."""

    def __init__(self) -> None:
        self._before = self._most = resident()

    @property
    def grown(self) -> int:
        return self._most - self._before

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        looking = asyncio.create_task(self._look())
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.wait({looking})

    async def _look(self) -> None:
        while True:
            self._most = max(self._most, resident())
            await asyncio.sleep(0.05)


async def _replay(f: Fort) -> Attempt:
    """The bytes of a good session, to be said again."""
    async with Relay(f.orchestrator.endpoint) as relay:
        visitor = f.peers("visitor", "client", at=relay.endpoint)
        assert await ask_at(visitor, relay.endpoint, "once") == "once"
        visitor.close()
        await eventually(lambda: len(relay.heard) == 1)
        return Attempt("a session once more", f.orchestrator.endpoint, TCP, says=(bytes(relay.heard[0][0]),))


def _numbered(attempts: list[Attempt]) -> tuple[Attempt, ...]:
    """With names that differ, since some are made at two ports."""
    return tuple(replace(each, kind=f"{number} {each.kind}") for number, each in enumerate(attempts, 1))


def _connections(f: Fort) -> int:
    listener: Any = f.orchestrator.server._listener
    return len(listener._fd_of)
