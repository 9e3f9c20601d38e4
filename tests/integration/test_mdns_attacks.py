"""What somebody on the LAN who is no member can do by mDNS to those who are: make them count.

Nothing forged is ever reported, so nothing forged is dialled; nobody is hidden, and who is withdrawn in
its absence is there again. The same at full size, with seconds and bytes: tests/long/test_mdns_attacks.py.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
import uvloop
from structlog.testing import LogCapture

from tests.fakes.ear import HOST, KEY, MESH_ID, SEAL, sealed
from tests.fakes.forger import (
    Forger,
    address,
    announcement,
    flood,
    many_records,
    pointer,
    question,
    response,
    text,
)
from tests.fakes.processes import ProcessHandle, client, start_worker
from tests.fakes.processes import until as eventually
from wrk_base.discovery import Found, OtherMesh
from wrk_base.discovery.advert import Advert, short_id
from wrk_base.discovery.mdns import MdnsDiscovery
from wrk_base.security import z85
from wrk_base.security.seal import Seal

ORCHESTRATOR = "wrk_orchestrator.orchestrator:OrchestratorWorker"
PATIENCE = 20  # seconds; what is waited for takes at most 1.3


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(story())


def mesh_name() -> str:
    return f"test-{random.randrange(2**64):016x}"


def rack(mesh: str, name: str = "r1", port: int = 4000) -> Advert:
    return sealed(Advert(f"{name}-{mesh[-8:]}", 1, "rack", mesh, HOST, port, 1))


def finding(advert: Advert) -> Found:
    return Found(advert.endpoint, "mdns", advert.worker_id, advert.epoch, advert.role, z85.encode(KEY))


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110  # counters tell nobody when they change
            await asyncio.sleep(0.01)


class Member:
    """A member's discovery, with what it reported and logged, in order."""

    def __init__(self, mesh: str, mesh_id: bytes = MESH_ID, seal: Seal = SEAL) -> None:
        self.log = LogCapture()
        self.reports: asyncio.Queue[tuple[str, Found]] = asyncio.Queue()
        logger: Any = structlog.wrap_logger(
            None, processors=[self.log], wrapper_class=structlog.make_filtering_bound_logger(0)
        )
        self.discovery = MdnsDiscovery(mesh, HOST, logger, seal=seal, mesh_id=mesh_id)

    async def start(self, advert: Advert | None = None) -> None:
        await self.discovery.start(
            advert,
            lambda found: self.reports.put_nowait(("found", found)),
            lambda found: self.reports.put_nowait(("gone", found)),
        )

    async def next_report(self) -> tuple[str, Found]:
        async with asyncio.timeout(PATIENCE):
            return await self.reports.get()

    async def counts(self, kind: str, at_least: int) -> None:
        """Wait until so many were counted."""
        await until(lambda: self.discovery.counters()[kind] >= at_least)

    async def knows(self, *adverts: Advert) -> None:
        """Wait until these are known, and no others."""
        await until(lambda: set(self.discovery.known()) == {finding(advert) for advert in adverts})

    def events(self) -> list[str]:
        return [entry["event"] for entry in self.log.entries]


@asynccontextmanager
async def member(mesh: str, advert: Advert | None = None, **kind: Any) -> AsyncIterator[Member]:
    one = Member(mesh, **kind)
    await one.start(advert)
    try:
        yield one
    finally:
        await one.discovery.stop()


def test_members_find_each_other_and_their_keys() -> None:
    async def story() -> None:
        mesh = mesh_name()
        one, other = rack(mesh), rack(mesh, "r2", port=4001)
        async with member(mesh, one) as first, member(mesh, other) as second:
            assert await first.next_report() == ("found", finding(other))
            assert await second.next_report() == ("found", finding(one))
        assert len(finding(one).key) == 40

    run(story)


def test_nothing_that_is_forged_is_found() -> None:
    async def story() -> None:
        mesh = mesh_name()
        model, friend = rack(mesh, "forged"), rack(mesh, "friend")
        async with member(mesh) as listener:
            async with flood("spoofs", model, packets=800, per_second=800) as attack:
                await attack.wait()
            await listener.counts("forged", 50)
            async with member(mesh, friend):
                assert await listener.next_report() == ("found", finding(friend))
                assert listener.discovery.known() == [finding(friend)]
            assert listener.discovery.counters()["found"] == 1
            assert listener.events().count("discovery.forged") == 1

    run(story)


def test_a_flood_of_records_hides_nobody() -> None:
    async def story() -> None:
        mesh = mesh_name()
        friend = rack(mesh, "friend")
        async with (
            member(mesh) as listener,
            flood("records", friend, packets=2000, per_second=100),
        ):
            await listener.counts("dropped", 20)
            async with member(mesh, friend):
                assert await listener.next_report() == ("found", finding(friend))

    run(story)


def test_a_flood_leaves_nothing_in_the_librarys_cache() -> None:
    async def story() -> None:
        mesh = mesh_name()
        friend = rack(mesh, "friend")
        rng = random.Random(1)
        async with member(mesh) as listener, member(mesh, friend):
            assert await listener.next_report() == ("found", finding(friend))
            with Forger() as forger:
                for _ in range(50):
                    forger.send_packet(many_records(30, rng))
                    forger.send(*announcement(friend), address(b"x" * 10, HOST))
            await listener.counts("malformed", 1000)
            core = listener.discovery._zeroconf
            assert core is not None
            names = core.zeroconf.cache.names()
            assert [name for name in names if name.endswith("._wrk._tcp.local.")] == []
            assert "xxxxxxxxxx.local." not in names

    run(story)


def test_any_bytes_are_a_packet_or_none() -> None:
    """Nothing but the honest advert is found, however it is altered, and reading it raises nothing."""

    async def story() -> None:
        mesh, rng = mesh_name(), random.Random(7)
        friend = rack(mesh, "friend")
        honest = response(*announcement(friend))
        async with member(mesh) as listener:
            for number in range(4000):
                packet = bytearray(honest)
                for _ in range(rng.randrange(1, 4)):
                    packet[rng.randrange(2, len(packet))] = rng.choice(
                        (0, 1, 0x3F, 0xC0, 0xFF, rng.randrange(256))
                    )
                made_up = bytes(packet[: rng.randrange(len(packet))] if number % 4 == 0 else packet)
                list(listener.discovery._admit(made_up, f"10.0.{number % 7}.{number // 7 % 250}"))
            assert set(listener.discovery.known()) <= {finding(friend)}

    run(story)


def test_a_forged_goodbye_is_taken_back_without_a_sweep() -> None:
    async def story() -> None:
        mesh = mesh_name()
        victim = rack(mesh, "victim")
        async with member(mesh) as listener, member(mesh, victim):
            assert await listener.next_report() == ("found", finding(victim))
            with Forger() as forger:
                forger.say_goodbye_for(victim)
            assert await listener.next_report() == ("gone", finding(victim))
            assert await listener.next_report() == ("found", finding(victim))

    run(story)


def test_after_many_forged_goodbyes_everybody_is_known() -> None:
    async def story() -> None:
        mesh = mesh_name()
        victim, other = rack(mesh, "victim"), rack(mesh, "other", port=4001)
        async with member(mesh) as listener, member(mesh, victim), member(mesh, other):
            for _ in range(2):
                assert (await listener.next_report())[0] == "found"
            async with flood("goodbyes", victim, packets=300, per_second=200) as attack:
                await attack.wait()
            await listener.knows(victim, other)
            told = [listener.reports.get_nowait()[1] for _ in range(listener.reports.qsize())]
            assert finding(other) not in told

    run(story)


def test_a_record_in_anothers_name_changes_nothing() -> None:
    async def story() -> None:
        mesh = mesh_name()
        victim, friend = rack(mesh, "victim"), rack(mesh, "friend", port=4002)
        elsewhere = dataclasses.replace(victim, port=6666)
        other_mesh = dataclasses.replace(victim, mesh="other", mesh_id="")
        async with member(mesh) as listener, member(mesh, victim):
            assert await listener.next_report() == ("found", finding(victim))
            label = victim.label.encode()
            with Forger() as forger:
                forger.announce(elsewhere)
                forger.announce(other_mesh)
                forger.send(pointer(label), text(label, b"v=1"))
                forger.send(address(label, "127.0.0.66"))
            await listener.counts("forged", 1)
            async with member(mesh, friend):
                assert await listener.next_report() == ("found", finding(friend))
            assert listener.discovery.counters()["gone"] == 0 or listener.discovery.known() == [
                finding(victim)
            ]

    run(story)


def test_who_was_announced_by_a_stranger_first_is_found_all_the_same() -> None:
    """Neither the wrong records nor addresses of others stand in the way of the right ones."""

    async def story() -> None:
        mesh = mesh_name()
        victim = rack(mesh, "victim")
        label = victim.label.encode()
        async with member(mesh) as listener:
            with Forger() as forger:
                forger.announce(dataclasses.replace(victim, port=6666))
                forger.send(pointer(label))
                forger.announce(dataclasses.replace(victim, mesh="other", mesh_id="0" * 16, key=""))
                forger.send(*announcement(victim)[:3], *(address(label, f"127.0.0.{n}") for n in (6, 7)))
            await listener.counts("otherMesh", 1)
            async with member(mesh, victim):
                assert await listener.next_report() == ("found", finding(victim))

    run(story)


def test_a_mesh_of_the_same_name_is_told_apart_and_how_to_join_it_is_said() -> None:
    async def story() -> None:
        mesh = mesh_name()
        other_id = b"the id of others"
        theirs = Seal(b"a secret that other people have.", other_id)
        stranger = sealed(Advert("r1-theirs", 1, "rack", mesh, HOST, 4000, 1), theirs, other_id)
        friend = rack(mesh, "friend")
        async with (
            member(mesh) as listener,
            member(mesh, stranger, mesh_id=other_id, seal=theirs),
            member(mesh, friend),
        ):
            assert await listener.next_report() == ("found", finding(friend))
            await listener.counts("otherMesh", 1)
            assert OtherMesh(mesh, short_id(other_id)) in listener.discovery.strangers()
            (entry,) = [entry for entry in listener.log.entries if entry.get("mesh") == mesh]
            assert (entry["event"], entry["mesh_id"]) == ("discovery.other_mesh", short_id(other_id))
            assert "wrk join STRING" in entry["advice"]
            assert listener.discovery.counters()["forged"] == 0

    run(story)


def test_questions_that_only_we_are_sent_do_not_keep_us_silent() -> None:
    async def story() -> None:
        mesh = mesh_name()
        async with member(mesh) as listener, member(mesh) as other:
            with Forger() as ear:
                for _ in range(6):
                    await other.discovery.sweep()
                    list(ear.heard())
                    await listener.discovery.sweep()
                    asked = [packet for packet in ear.heard() if not packet[2] & 0x80]
                assert asked

    run(story)


def test_forged_goodbyes_take_no_rack_out_of_a_registry(tmp_path: Path) -> None:
    """Real processes: a live link decides, and no rumour ends one."""

    async def story(desk: ProcessHandle, one: ProcessHandle) -> None:
        async with client(desk) as mesh:

            async def states() -> dict[str, str]:
                told = await mesh.request(desk.endpoint, "listWorkers", {}, timeout=10)
                return {worker["workerId"]: worker["state"] for worker in told["workers"]}

            async def healthy() -> bool:
                return await states() == {one.worker_id: "healthy"}

            await eventually(healthy, what="the rack is registered")
            with Forger() as forger:
                goodbye = pointer(await label_of(one.worker_id, forger), ttl=0)
                for number in range(1000):
                    forger.send(goodbye)
                    if number % 100 == 0:
                        assert await healthy()
                assert await healthy()

    with (
        start_worker(["--wtype", ORCHESTRATOR, "--rack", "desk", "--rpc.port", "0"], tmp_path) as desk,
        start_worker(["--wtype", "racks.sim:SimRack", "--rack", "r1"], tmp_path) as one,
    ):
        run(lambda: story(desk, one))


async def label_of(worker_id: str, forger: Forger) -> bytes:
    """The name under which it is announced, as it answers everybody who asks."""
    wanted = re.compile(worker_id.encode() + rb"-[0-9a-f]+")

    async def told() -> bytes | None:
        forger.send_packet(question(0, random.Random(1)))
        names = (wanted.search(packet) for packet in forger.heard())
        return next((name.group() for name in names if name), None)

    label = await eventually(told, what="it is announced")
    assert label is not None
    return label
