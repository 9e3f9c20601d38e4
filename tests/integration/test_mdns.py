"""Multicast DNS over loopback, with real sockets: who is found, what a restart, a crash, a goodbye and
a forged packet change, and that a stop leaves nothing behind.

Every test has a mesh of its own, so other processes of this machine are strangers to it.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
import uvloop
from structlog.testing import LogCapture

from tests.fakes.forger import Forger, announcement, dns_name, pointer, record, response, text
from wrk_base.discovery import DiscoveryFailed, Found
from wrk_base.discovery.advert import Advert
from wrk_base.discovery.mdns import MdnsDiscovery, question_every

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
PATIENCE = 15  # seconds; what is waited for takes at most 1.3
PTR = 12


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(story())


def mesh_name() -> str:
    return f"test-{random.randrange(2**64):016x}"


def rack(mesh: str, name: str = "r1", epoch: int = 1, port: int = 4000) -> Advert:
    """With an id that no other process of this machine announces."""
    return Advert(f"{name}-{mesh[-8:]}", epoch, "rack", mesh, HOST, port, 1)


def finding(advert: Advert) -> Found:
    return Found(advert.endpoint, "mdns", advert.worker_id, advert.epoch, advert.role)


class Member:
    """A `MdnsDiscovery` with what it reported and logged, in order."""

    def __init__(self, mesh: str, interface: str = HOST) -> None:
        self.log = LogCapture()
        self.reports: asyncio.Queue[tuple[str, Found]] = asyncio.Queue()
        logger: Any = structlog.wrap_logger(
            None, processors=[self.log], wrapper_class=structlog.make_filtering_bound_logger(0)
        )
        self.discovery = MdnsDiscovery(mesh, interface, logger)

    async def start(self, advert: Advert | None = None) -> None:
        await self.discovery.start(
            advert,
            lambda found: self.reports.put_nowait(("found", found)),
            lambda found: self.reports.put_nowait(("gone", found)),
        )

    async def next_report(self) -> tuple[str, Found]:
        async with asyncio.timeout(PATIENCE):
            return await self.reports.get()

    def named(self, event: str, **facts: str) -> int:
        return sum(entry["event"] == event and facts.items() <= entry.items() for entry in self.log.entries)

    def seconds_later(self) -> None:
        """Forget what was asked lately: nobody asks the same twice in a second."""
        zeroconf = self.discovery._zeroconf
        assert zeroconf is not None
        zeroconf.zeroconf.question_history.clear()


@asynccontextmanager
async def member(mesh: str, advert: Advert | None = None) -> AsyncIterator[Member]:
    one = Member(mesh)
    await one.start(advert)
    try:
        yield one
    finally:
        await one.discovery.stop()


@asynccontextmanager
async def process(advert: Advert) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process that announces `advert` and never says goodbye by itself."""
    code = (
        "import asyncio, structlog\n"
        "from wrk_base.discovery.advert import Advert\n"
        "from wrk_base.discovery.mdns import MdnsDiscovery\n"
        "async def main():\n"
        f"    discovery = MdnsDiscovery({advert.mesh!r}, {HOST!r}, structlog.get_logger())\n"
        f"    await discovery.start({advert!r}, lambda found: None, lambda found: None)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    running = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=ROOT)
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.wait()


def open_files() -> set[str]:
    """What the open descriptors are; a number alone may have been used again."""
    names = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            names.add(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            pass  # the one that listed
    return names


def test_a_worker_is_found_by_those_who_listen_and_by_those_who_come_later() -> None:
    async def story() -> None:
        mesh = mesh_name()
        advert = rack(mesh)
        async with member(mesh) as early, member(mesh, advert) as announcer, member(mesh) as late:
            assert await early.next_report() == ("found", finding(advert))
            assert await late.next_report() == ("found", finding(advert))
            assert early.discovery.known() == late.discovery.known() == [finding(advert)]
            assert announcer.discovery.known() == []

    run(story)


def test_a_worker_announces_itself_without_asking_whether_it_may() -> None:
    """Probing for a conflict of names would cost 1.2 s, and ours cannot meet."""

    async def story() -> None:
        mesh = mesh_name()
        advert = rack(mesh)
        with Forger() as ear:
            async with member(mesh) as listener, member(mesh, advert):
                assert await listener.next_report() == ("found", finding(advert))
                about_it = [packet for packet in ear.heard() if advert.label.encode() in packet]
                assert about_it[0][2] & 0x80, "the first that was heard is a question"

    run(story)


def test_workers_find_each_other() -> None:
    async def story() -> None:
        mesh = mesh_name()
        one, other = rack(mesh), rack(mesh, "r2", port=4001)
        async with member(mesh, one) as first, member(mesh, other) as second:
            assert await first.next_report() == ("found", finding(other))
            assert await second.next_report() == ("found", finding(one))

    run(story)


def test_a_goodbye_is_reported() -> None:
    async def story() -> None:
        mesh = mesh_name()
        advert = rack(mesh)
        async with member(mesh) as listener:
            async with member(mesh, advert):
                assert await listener.next_report() == ("found", finding(advert))
            assert await listener.next_report() == ("gone", finding(advert))
            assert listener.discovery.known() == []
            assert {"found": 1, "gone": 1}.items() <= listener.discovery.counters().items()

    run(story)


def test_another_mesh_is_ignored_and_named_once() -> None:
    async def story() -> None:
        mesh, elsewhere = mesh_name(), mesh_name()
        friend = rack(mesh, "friend")
        async with (
            member(mesh) as listener,
            member(elsewhere, rack(elsewhere, "stranger1")),
            member(elsewhere, rack(elsewhere, "stranger2")),
            member(mesh, friend),
        ):
            assert await listener.next_report() == ("found", finding(friend))
            assert listener.discovery.known() == [finding(friend)]
            assert listener.discovery.counters()["otherMesh"] >= 2
            assert listener.named("discovery.other_mesh", mesh=elsewhere) == 1

    run(story)


def test_a_worker_that_restarts_is_found_again_under_its_id() -> None:
    async def story() -> None:
        mesh = mesh_name()
        before, after = rack(mesh, epoch=1), rack(mesh, epoch=2)
        async with member(mesh) as listener:
            async with member(mesh, before):
                assert await listener.next_report() == ("found", finding(before))
            async with member(mesh, after):
                assert await listener.next_report() == ("gone", finding(before))
                assert await listener.next_report() == ("found", finding(after))

    run(story)


def test_one_object_may_start_again_after_its_stop() -> None:
    async def story() -> None:
        mesh = mesh_name()
        async with member(mesh) as listener:
            one = Member(mesh)
            for epoch in (1, 2):
                await one.start(rack(mesh, epoch=epoch))
                assert await listener.next_report() == ("found", finding(rack(mesh, epoch=epoch)))
                await one.discovery.stop()
                assert await listener.next_report() == ("gone", finding(rack(mesh, epoch=epoch)))

    run(story)


def test_a_worker_that_was_killed_stays_known_until_its_next_start() -> None:
    """Nobody says goodbye for it, and mDNS would believe in it for 75 minutes: it is only a hint."""

    async def story() -> None:
        mesh = mesh_name()
        before, other, after = rack(mesh, epoch=1), rack(mesh, "r2"), rack(mesh, epoch=2)
        async with member(mesh) as listener:
            async with process(before) as victim:
                assert await listener.next_report() == ("found", finding(before))
                victim.kill()
                await victim.wait()
            async with process(other):
                assert await listener.next_report() == ("found", finding(other))
                assert listener.discovery.known() == [finding(before), finding(other)]
            async with process(after):
                assert await listener.next_report() == ("gone", finding(before))
                assert await listener.next_report() == ("found", finding(after))

    run(story)


def test_a_sweep_asks_for_those_who_are_not_known() -> None:
    async def story() -> None:
        mesh = mesh_name()
        victim, other = rack(mesh, "Victim"), rack(mesh, "other")
        async with member(mesh) as listener, member(mesh, victim), member(mesh, other):
            assert await listener.next_report() == ("found", finding(victim))
            assert await listener.next_report() == ("found", finding(other))
            with Forger() as forger:
                in_small_letters = victim.label.lower().encode()
                forger.send(pointer(in_small_letters, ttl=0))
                assert await listener.next_report() == ("gone", finding(victim))

                listener.seconds_later()
                list(forger.heard())
                await listener.discovery.sweep()

                # A question holds what its asker knows. This one was sent within the sweep: nothing
                # else of this process ran meanwhile, and no other process knows this mesh.
                questions = [packet for packet in forger.heard() if not packet[2] & 0x80]
                ours = [packet for packet in questions if other.label.encode() in packet]
                assert len(ours) == 1
                assert in_small_letters not in ours[0].lower()
            assert await listener.next_report() == ("found", finding(victim))

    run(story)


def test_a_crowd_that_arrives_at_once_is_found_to_the_last() -> None:
    async def story() -> None:
        mesh = mesh_name()
        crowd = [rack(mesh, f"w{number}", port=4000 + number) for number in range(90)]
        async with member(mesh) as listener:
            with Forger() as forger:
                for first in range(0, len(crowd), 3):
                    some = crowd[first : first + 3]
                    forger.send(*(entry for one in some for entry in announcement(one)))
            reports = [await listener.next_report() for _ in crowd]
            assert reports == [("found", finding(advert)) for advert in crowd]

    run(story)


def test_what_strangers_forge_is_counted_and_nobody_is_missed() -> None:
    async def story() -> None:
        mesh = mesh_name()
        friend, nobody = rack(mesh, "friend"), rack(mesh, "no-text-of-ours")
        async with member(mesh) as listener:
            with Forger() as forger:
                for label in (b"\xff" * 63, b"a\x01b", b".", b"pointer-to-nothing"):
                    forger.send(pointer(label))
                    forger.send(*announcement(nobody, label=label))
                    forger.send_packet(random.randbytes(40) + label)
                forger.send(pointer(b"x"), record((b"x", b"_http"), PTR, dns_name(b"y", b"local")))
                service, address, _, host = announcement(nobody)
                forger.send(service, address, text(nobody.label.encode(), b"\xffabc"), host)
                whole = response(*announcement(nobody))
                for length in range(0, len(whole) - 4, 5):  # without an address in the end
                    forger.send_packet(whole[:length])
            async with member(mesh, friend):
                assert await listener.next_report() == ("found", finding(friend))
                listener.seconds_later()
                await listener.discovery.sweep()
                assert listener.discovery.known() == [finding(friend)]
                assert listener.discovery.counters()["malformed"] >= 10
            assert await listener.next_report() == ("gone", finding(friend))

    run(story)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/self/fd to see every descriptor")
@pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def test_a_stop_leaves_no_task_and_no_descriptor(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def story() -> None:
        mesh = mesh_name()
        advert = rack(mesh)
        listener, announcer = Member(mesh), Member(mesh)
        files, tasks = open_files(), asyncio.all_tasks()

        await listener.start()
        await announcer.start(advert)
        assert await listener.next_report() == ("found", finding(advert))
        with Forger() as forger:  # somebody who will be asked about
            forger.send(pointer(advert.label.encode(), ttl=0))
            assert await listener.next_report() == ("gone", finding(advert))
            await listener.discovery.sweep()
        assert open_files() > files

        await announcer.discovery.stop()
        await listener.discovery.stop()
        await listener.discovery.stop()
        assert asyncio.all_tasks() == tasks
        assert open_files() == files

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(story())


def test_a_stop_right_behind_the_start_still_ends_in_a_goodbye() -> None:
    async def story() -> None:
        mesh = mesh_name()
        advert = rack(mesh)
        async with member(mesh) as listener:
            hasty = Member(mesh)
            async with asyncio.TaskGroup() as group:
                group.create_task(hasty.start(advert))
                group.create_task(hasty.discovery.stop())
            assert await listener.next_report() == ("found", finding(advert))
            assert await listener.next_report() == ("gone", finding(advert))

    run(story)


def test_before_the_start_there_is_nothing_to_sweep_or_stop() -> None:
    async def story() -> None:
        one = Member(mesh_name())
        await one.discovery.sweep()
        await one.discovery.stop()
        assert one.discovery.known() == []

    run(story)


def test_an_interface_that_is_not_there_is_a_failure_that_says_so() -> None:
    async def story() -> None:
        one = Member(mesh_name(), interface="nosuch0")
        with pytest.raises(DiscoveryFailed, match="multicast DNS: --interface nosuch0: no interface"):
            await one.start(None)
        await one.discovery.stop()

    run(story)


def test_questions_thin_out_as_the_mesh_grows() -> None:
    assert [question_every(known) for known in (0, 1, 256, 257, 1000, 100_000)] == [1, 1, 1, 16, 60, 60]
