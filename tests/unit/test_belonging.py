"""A running worker stays a member: what it shows, what it passes on, whom it throws out. Over real links."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.fakes.aio import closed, eventually, run
from tests.fakes.mesh import MeshHouse
from tests.fakes.rpc import ANY_PORT, RecordedLog
from wrk_base import errors
from wrk_base.belonging import Belonging
from wrk_base.rpc.identity import Identity
from wrk_base.rpc.line import PeerLimits
from wrk_base.rpc.peers import Peers
from wrk_base.rpc.server import Server
from wrk_base.rpc.zmq_link import ZmqNetwork
from wrk_base.security import z85

DAY = 86_400.0


class Member:
    """A process of the mesh, as far as links go: it serves `echo` and `renewMachine`, and calls."""

    def __init__(self, house: MeshHouse, name: str, role: str) -> None:
        self.membership = house.member(name, role)
        log: Any = RecordedLog()
        identity = Identity(name, epoch=1, role=role)
        self.network = ZmqNetwork(asyncio.get_running_loop(), membership=self.membership)
        self.server = Server(identity, log=log)
        self.server.respond("echo", lambda body: body)
        self.server.respond("renewMachine", self._renew)
        self.peers = Peers(
            network=self.network,
            identity=identity,
            rng=Random(1),
            limits=PeerLimits(redial_max=0.2),
            max_peers=9,
            linger=60.0,
        )
        self.belonging = Belonging(self.membership, self.server, self.peers, self._spawn, log)
        self.endpoint = self.server.listen(self.network, ANY_PORT)
        self._tasks: set[asyncio.Task[Any]] = set()
        self.belonging.start()

    def _renew(self, body: Any) -> Any:
        key = self.membership.machine_key if body is None else body["machineKey"]
        return {"success": True, "certificate": self.membership.renew_machine(z85.decode(key))}

    def _spawn(self, work: Any, name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def ask(self, other: Member) -> Any:
        self.membership.book.learn(other.endpoint, other.membership.public_text)
        return await self.peers.request(other.endpoint, "echo", 1, timeout=10.0)

    def hears(self, other: Member) -> bool:
        """Whether the other is linked here as a caller."""
        return any(info.worker_id == other.membership.own.name for info in self.server.infos())

    def close(self) -> None:
        self.belonging.stop()
        self.peers.close()
        self.server.close()


@asynccontextmanager
async def people(*members: Member) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for member in members:
            member.close()
        await asyncio.sleep(0)
        for member in members:
            await closed(member.network)


def test_a_revocation_goes_from_neighbour_to_neighbour_and_cuts_live_links(tmp_path: Path) -> None:
    async def story() -> None:
        first = MeshHouse(tmp_path / "first")
        far = first.invited(tmp_path / "far", "far", "rack", "client", "orchestrator")
        bad = first.invited(tmp_path / "bad", "bad", "client")
        root, middle = Member(first, "root", "orchestrator"), Member(far, "middle", "orchestrator")
        thief = Member(bad, "thief", "client")
        async with people(root, middle, thief):
            await middle.ask(root)
            assert await thief.ask(middle) == 1
            first.files.revoke("bad", first.wall.now)  # as the command line does; root looks once a second
            await eventually(lambda: middle.membership.serial == 1)
            await eventually(lambda: not middle.hears(thief))
            with pytest.raises(errors.WrkError):
                await thief.peers.request(middle.endpoint, "echo", 1, timeout=0.5)
            assert await middle.ask(root) == 1

    run(story())


def test_who_was_away_learns_of_it_in_the_greeting(tmp_path: Path) -> None:
    async def story() -> None:
        first = MeshHouse(tmp_path / "first")
        far = first.invited(tmp_path / "far", "far", "rack", "client")
        first.files.revoke_key(bytes(16), "gone", int(first.wall.now + DAY), first.wall.now)
        root, caller, server = (
            Member(first, "root", "orchestrator"),
            Member(far, "caller", "client"),
            Member(far, "server", "rack"),
        )
        async with people(root, caller, server):
            await caller.ask(root)
            await eventually(lambda: caller.membership.serial == 1)
            await eventually(lambda: server.membership.serial == 1)  # by the files of their machine

    run(story())


def test_a_renewed_certificate_is_shown_on_live_links(tmp_path: Path) -> None:
    async def story() -> None:
        house = MeshHouse(tmp_path)
        caller, server = Member(house, "caller", "client"), Member(house, "server", "rack")
        async with people(caller, server):
            await caller.ask(server)
            peer = caller.peers.get(server.endpoint)
            house.wall.now += 21 * DAY

            def all_new() -> bool:
                (info,) = server.server.infos()
                assert info.member is not None
                assert peer.info is not None
                assert peer.info.member is not None
                return min(info.member.until, peer.info.member.until) > house.wall.now + 29 * DAY

            await eventually(all_new)
            assert peer.ready
            assert await caller.ask(server) == 1

    run(story())


def test_a_link_does_not_outlive_its_certificate(tmp_path: Path) -> None:
    async def story() -> None:
        house = MeshHouse(tmp_path)
        caller, server = Member(house, "caller", "client"), Member(house, "server", "rack")
        async with people(caller, server):
            await caller.ask(server)
            caller.belonging.stop()
            server.belonging.stop()
            house.wall.now += 31 * DAY
            server.server.recheck()
            assert not server.server.infos()

    run(story())


def test_a_machine_has_its_right_renewed_by_the_first_one(tmp_path: Path) -> None:
    async def story() -> None:
        first = MeshHouse(tmp_path / "first")
        far = first.invited(tmp_path / "far", "far", "rack")
        root, rack = Member(first, "root", "orchestrator"), Member(far, "rack", "rack")
        async with people(root, rack):
            await rack.ask(root)
            until = rack.membership.machine_until
            first.wall.now += 61 * DAY
            await eventually(lambda: rack.membership.machine_until > until)
            assert await rack.ask(root) == 1

    run(story())
