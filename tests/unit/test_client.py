"""`Client` on a mesh in one process: how it finds orchestrators, and what becomes of calls when they fail.

Real orchestrators and racks on a fake network, a bus for multicast and a virtual clock, so that a test may
tell how long something took; every story ends with a look at what was left behind.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.fakes.aio import eventually, run
from tests.fakes.context import MESH, FakeRack, Offer, Site
from tests.fakes.discovery import BusDiscovery
from wrk_base import Client, Final, contract, errors
from wrk_base.client import CONNECT_TIMEOUT, REDIAL_MAX, TIMEOUT
from wrk_base.discovery import DiscoveryFailed, Found
from wrk_base.orchestrators import MAX_ORCHESTRATORS, SWEEP_SECONDS
from wrk_base.worker import Worker
from wrk_orchestrator.orchestrator import OrchestratorWorker

ROOT = Path(__file__).resolve().parents[2]
NOBODY = "tcp://127.0.0.1:9"
AT_ONCE = 0.1  # virtual seconds: nothing was waited for
ONE, TWO = "tcp://127.0.0.1:8101", "tcp://127.0.0.1:8102"


class Mesh(Site):
    """A site where clients are made, and orchestrators by the address that they have."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._clients: list[Client] = []
        self._deaths: list[asyncio.Future[None]] = []

    def client(self, *addresses: str, heard: BusDiscovery | None = None, **more: Any) -> Client:
        """One that is closed with the site. Without addresses it listens on the bus."""
        discovery = None if addresses else heard or self.bus.join(MESH)
        given = {"mesh": MESH, "rng": Random(len(self._clients)), **more}
        made = Client(*addresses, network=self.network, discovery=discovery, **given)
        self._clients.append(made)
        return made

    async def at(self, address: str, name: str, epoch: int = 1) -> OrchestratorWorker:
        port = address.rpartition(":")[2]
        return await self.orchestrator(name, epoch=epoch, flags={"rpc.port": port})

    async def two(self) -> tuple[OrchestratorWorker, OrchestratorWorker, FakeRack]:
        """Two orchestrators and a rack that both know."""
        first, second = await self.at(ONE, "orc-1"), await self.at(TWO, "orc-2")
        rack = await self.rack("r1")
        await served(first, second)
        return first, second, rack

    async def kill(self, worker: Worker) -> None:
        """It is gone when this returns; what its own end takes is waited for at the end."""
        self._deaths.append(asyncio.ensure_future(self.crash(worker)))
        await asyncio.sleep(0)

    async def end(self) -> None:
        for client in self._clients:
            await client.close()
        await asyncio.gather(*self._deaths)


async def served(*orchestrators: OrchestratorWorker, by: int = 1) -> None:
    """Wait until each can route to so many racks."""
    for orchestrator in orchestrators:
        await eventually(lambda o=orchestrator: o.health_monitor.aggregate()["healthy"] == by, 20.0)


def story(tell: Callable[[Mesh], Awaitable[None]], directory: Path) -> None:
    async def told() -> None:
        async with Mesh(directory) as mesh:
            await tell(mesh)
            await mesh.end()
        nothing_is_left()

    run(told(), "virtual", within=1e6)


def nothing_is_left() -> None:
    """No timer; `run` looks for tasks, the site for sockets."""
    loop = asyncio.get_running_loop()
    timers = [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
    assert [timer for timer in timers if "timeout" not in repr(timer).lower()] == []


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """What takes longer fails."""
    begun = now()
    yield
    assert now() - begun <= seconds


@asynccontextmanager
async def under_way(rack: FakeRack, work: Awaitable[Any]) -> AsyncIterator[asyncio.Future[Any]]:
    """A request that waits in the rack until the block ends."""
    before = len(rack.seen)
    rack.hold()
    task = asyncio.ensure_future(work)
    await eventually(lambda: len(rack.seen) > before)
    try:
        yield task
    finally:
        rack.let_go()
        await asyncio.wait((task,))


def now() -> float:
    return asyncio.get_running_loop().time()


def routed(orchestrator: OrchestratorWorker) -> int:
    return orchestrator.router.counters["routed"]


# --- how orchestrators are found


def test_an_orchestrator_is_heard_and_asked(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        orchestrator = await mesh.orchestrator()
        rack = await mesh.rack("r1", Offer(models=("m1", "m2")))
        await served(orchestrator)
        async with mesh.client() as client, within(AT_ONCE):
            assert await client.infer("m1", {"prompt": "hello"}) == {"from": "r1"}
            assert await client.models() == ["m1", "m2"]
            (worker,) = await client.workers()
        assert rack.seen == [{"prompt": "hello"}]
        assert (worker["workerId"], worker["address"]) == ("r1", rack.endpoint)

    story(told, tmp_path)


def test_it_needs_no_with_and_opens_at_the_first_call(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        await mesh.orchestrator()
        client = mesh.client()
        assert (await client.request("healthCheck"))["healthy"]
        await client.close()

    story(told, tmp_path)


def test_an_orchestrator_that_starts_meanwhile_is_waited_for(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        async with mesh.client() as client:
            asking = asyncio.ensure_future(client.request("getInstanceId"))
            await asyncio.sleep(CONNECT_TIMEOUT - 1.0)
            await mesh.orchestrator("late")
            async with within(AT_ONCE):
                assert await asking == {"instanceId": "late"}

    story(told, tmp_path)


def test_where_nobody_is_a_call_ends_in_time_and_says_what_was_searched(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        async with mesh.client() as client:
            with pytest.raises(errors.Unavailable) as caught:
                await client.infer("m1", "hello")
            assert now() == pytest.approx(CONNECT_TIMEOUT)
            assert caught.value.not_started
            for fact in (MESH, "auto", "5 s", "mesh=", "interface=", "tcp://host:port"):
                assert fact in caught.value.message
            with pytest.raises(errors.Unavailable, match=r"after 0\.5 s"):
                await client.infer("m1", "hello", timeout=0.5)
            async with within(0.0):
                with pytest.raises(errors.DeadlineExceeded):
                    await client.infer("m1", "hello", timeout=0.0)

    story(told, tmp_path)


def test_strangers_are_named_as_a_way_out(tmp_path: Path) -> None:
    class Elsewhere(BusDiscovery):
        def counters(self) -> dict[str, int]:
            return {"otherMesh": 3, "outOfReach": 1}

    async def told(mesh: Mesh) -> None:
        client = mesh.client(heard=Elsewhere(mesh.bus, MESH, deaf=True, mute=True))
        with pytest.raises(errors.Unavailable, match=r"other meshes were heard.*on another network"):
            await client.models()

    story(told, tmp_path)


def test_without_multicast_nobody_waits_and_it_is_tried_again(tmp_path: Path) -> None:
    class Broken(BusDiscovery):
        broken = True

        async def start(self, *arguments: Any) -> None:
            if self.broken:
                raise DiscoveryFailed("no multicast here")
            await super().start(*arguments)

    async def told(mesh: Mesh) -> None:
        await mesh.orchestrator()
        ear = Broken(mesh.bus, MESH, deaf=False, mute=False)
        client = mesh.client(heard=ear)
        async with within(0.0):
            with pytest.raises(errors.Unavailable, match="no multicast here"):
                await client.models()
        ear.broken = False
        await asyncio.sleep(SWEEP_SECONDS + AT_ONCE)
        assert await client.models() == []

    story(told, tmp_path)


def test_a_network_that_goes_and_comes_is_listened_to_again(tmp_path: Path) -> None:
    class Flaky(BusDiscovery):
        async def sweep(self) -> None:
            await super().sweep()
            if self.sweeps == 2:
                raise DiscoveryFailed("the network is down")

    async def told(mesh: Mesh) -> None:
        ear = Flaky(mesh.bus, MESH, deaf=False, mute=False)
        async with mesh.client(heard=ear) as client:
            await asyncio.sleep(SWEEP_SECONDS + AT_ONCE)
            with pytest.raises(errors.Unavailable, match="the network is down"):
                await client.models()
            await asyncio.sleep(SWEEP_SECONDS)
            assert mesh.bus.members.count(ear) == 1
            await mesh.orchestrator()
            assert await client.models() == []

    story(told, tmp_path)


def test_who_stays_long_listens_on(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        ear = mesh.bus.join(MESH)
        async with mesh.client(heard=ear):
            await asyncio.sleep(10.5 * SWEEP_SECONDS)
            assert ear.sweeps == 11

    story(told, tmp_path)


def test_addresses_are_taken_in_their_order_and_nothing_is_announced_or_heard(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        first, second, _ = await mesh.two()
        members = len(mesh.bus.members)
        async with mesh.client(TWO, ONE, TWO) as client:
            for _ in range(5):
                await client.infer("m1", "hello")
            assert len(mesh.bus.members) == members
        assert (routed(first), routed(second)) == (0, 5)
        assert mesh.network.dials.count(TWO) == 1 + 1 + 1  # the rack's, its sibling's, the client's

    story(told, tmp_path)


def test_an_address_where_somebody_else_answers_is_named(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1")
        async with mesh.client(rack.endpoint, NOBODY) as client:
            with pytest.raises(errors.Unavailable) as caught:
                await client.models()
            assert f"{rack.endpoint}: r1 answers there, which is a rack" in caught.value.message
            assert f"{NOBODY}: nothing accepts connections there" in caught.value.message

    story(told, tmp_path)


@pytest.mark.parametrize("address", ["127.0.0.1", "http://127.0.0.1:8004", "tcp://127.0.0.1", ""])
def test_an_address_that_cannot_be_read_is_refused_at_once(address: str) -> None:
    with pytest.raises(ValueError, match="tcp://host:port"):
        Client(address)


def test_what_a_crash_left_behind_misleads_nobody(tmp_path: Path) -> None:
    """The port of an orchestrator that is still announced is another one's by now, of another mesh."""

    async def told(mesh: Mesh) -> None:
        await mesh.kill(await mesh.at(ONE, "orc-1"))
        ear = mesh.bus.join(MESH)
        async with mesh.client(heard=ear, connect_timeout=1.0) as client:
            await mesh.at(ONE, "stranger")
            for name in ("orc-1", "orc-0"):
                ear.hear(Found(ONE, "mdns", name, 1, "orchestrator"))
            with pytest.raises(errors.Unavailable, match="stranger answers there, which is somebody else"):
                await client.models()
            waiting = asyncio.ensure_future(client.request("getInstanceId"))
            await asyncio.sleep(0.5)
            ear.hear(Found(ONE, "mdns", "stranger", 1, "orchestrator"))
            async with within(AT_ONCE):
                assert await waiting == {"instanceId": "stranger"}

    async def deaf_to_the_stranger(mesh: Mesh) -> None:
        original = mesh.bus.others
        mesh.bus.others = lambda member: [  # type: ignore[method-assign]
            other for other in original(member) if other._own is None or other._own.worker_id != "stranger"
        ]
        await told(mesh)

    story(deaf_to_the_stranger, tmp_path)


def test_of_a_flood_of_announcements_a_bounded_number_is_dialled(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        orchestrator = await mesh.orchestrator()
        ear = mesh.bus.join(MESH)
        async with mesh.client(heard=ear) as client:
            assert await client.models() == []
            before = len(mesh.network.dials)
            for number in range(10 * MAX_ORCHESTRATORS):
                ear.hear(Found(f"tcp://127.0.0.1:{number + 1}", "mdns", f"fake-{number}", 1, "orchestrator"))
            await asyncio.sleep(60.0)
            assert client._opened is not None
            assert len(client._opened.peers) == MAX_ORCHESTRATORS
            dials = 60 / (0.75 * REDIAL_MAX) + 5  # the first ones come sooner
            assert len(mesh.network.dials) - before < (10 + dials) * MAX_ORCHESTRATORS
            assert await client.request("getInstanceId") == {"instanceId": orchestrator.identity.worker_id}

    story(told, tmp_path)


def test_at_the_limit_a_newcomer_takes_the_place_of_one_that_does_not_answer(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        ear = mesh.bus.join(MESH)
        async with mesh.client(heard=ear) as client:
            for number in range(MAX_ORCHESTRATORS):
                ear.hear(Found(f"tcp://127.0.0.1:{number + 1}", "mdns", f"fake-{number}", 1, "orchestrator"))
            await asyncio.sleep(1.0)
            await mesh.orchestrator("real")
            async with within(AT_ONCE):
                assert await client.request("getInstanceId") == {"instanceId": "real"}

    story(told, tmp_path)


# --- any method, any peer


def test_a_worker_is_reached_by_its_address_its_id_or_its_name(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        orchestrator = await mesh.at(ONE, "orc")
        rack = await mesh.rack("r1")
        await served(orchestrator)
        for client in (mesh.client(ONE), mesh.client()):
            for peer in (rack.endpoint, "r1"):
                assert await client.request("getInstanceId", peer=peer) == {"instanceId": "r1"}
            before = orchestrator.server.handlers["listWorkers"].stats.requests
            assert await client.request("ping", [1, "x"], peer="orc") == [1, "x"]
            assert orchestrator.server.handlers["listWorkers"].stats.requests == before
            with pytest.raises(errors.WorkerNotFound, match="'r9'"):
                await client.request("ping", peer="r9")
        assert await mesh.client(NOBODY).request("getInstanceId", peer=rack.endpoint) == {"instanceId": "r1"}

    story(told, tmp_path)


def test_without_an_orchestrator_a_worker_that_was_heard_is_reached(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        await mesh.rack("r1")
        client = mesh.client()
        with pytest.raises(errors.Unavailable):
            await client.models()
        async with within(AT_ONCE):
            assert await client.request("getInstanceId", peer="r1") == {"instanceId": "r1"}

    story(told, tmp_path)


def test_a_call_to_a_peer_goes_to_nobody_else(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        await mesh.two()
        client = mesh.client(connect_timeout=1.0)
        with pytest.raises(errors.Unavailable, match=NOBODY):
            await client.request("ping", peer=NOBODY)
        with pytest.raises(ValueError, match="tcp://host:port"):
            await client.request("ping", peer="http://127.0.0.1:1")

    story(told, tmp_path)


# --- options


def test_options_have_the_names_of_python_or_those_of_the_wire(tmp_path: Path) -> None:
    seen: list[contract.Options] = []

    class Curious(FakeRack):
        async def infer(self, model_id: str, input_data: Any, options: contract.Options) -> Any:
            seen.append(options)

    async def told(mesh: Mesh) -> None:
        orchestrator = await mesh.orchestrator()
        await mesh.start(Curious(mesh.context("r1", "rack"), Offer(tags=("gpu",))))
        await served(orchestrator)
        client = mesh.client()
        needs = {"capabilities": ["gpu"], "min_capacity": 2}
        await client.infer("m1", "x", task="chat", session_id="s", repeatable=False, requirements=needs)
        await client.infer("m1", "x", **{"sessionId": "s", "idempotencyKey": "k"})  # type: ignore[typeddict-item]
        assert seen == [
            contract.RackOptions(
                task="chat",
                session_id="s",
                repeatable=False,
                requirements=contract.Requirements(capabilities=["gpu"], min_capacity=2),
            ),
            contract.RackOptions(session_id="s", idempotency_key="k"),
        ]

    story(told, tmp_path)


@pytest.mark.parametrize(
    ("options", "kind", "told"),
    [
        ({"repeatble": False}, TypeError, "repeatble"),
        ({"timeout_ms": 5}, TypeError, "timeout_ms"),
        ({"timeoutMs": 5}, TypeError, "timeoutMs"),
        ({"requirements": {"min_capasity": 1}}, TypeError, "min_capasity"),
        ({"requirements": 5}, errors.BadRequest, "requirements"),
        ({"repeatable": "no"}, errors.BadRequest, "repeatable"),
    ],
)
def test_a_misspelt_option_is_refused_before_anything_is_sent(
    tmp_path: Path, options: dict[str, Any], kind: type[Exception], told: str
) -> None:
    async def ask(mesh: Mesh) -> None:
        client = mesh.client()
        with pytest.raises(kind, match=told):
            await client.infer("m1", "x", **options)
        with pytest.raises(kind, match=told):
            client.stream("m1", "x", **options)
        assert now() == 0.0

    story(ask, tmp_path)


def test_an_orchestrator_can_answer_by_itself(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        await mesh.orchestrator()
        assert (await mesh.client().infer("any", "x", simulate=True))["simulated"]

    story(told, tmp_path)


# --- when orchestrators fail


def test_calls_stay_with_one_orchestrator_and_several_clients_spread(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        first, second, _ = await mesh.two()
        clients = [mesh.client() for _ in range(12)]
        for client in clients:
            await client.models()
            await asyncio.sleep(1.0)  # it knows both now
            before = (routed(first), routed(second))
            for _ in range(3):
                await client.infer("m1", "x")
            assert sorted((routed(first) - before[0], routed(second) - before[1])) == [0, 3]
        assert routed(first)
        assert routed(second)

    story(told, tmp_path)


def test_when_one_is_dead_the_next_one_answers_at_once(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        first, second, _ = await mesh.two()
        async with mesh.client(ONE, TWO) as client:
            await client.infer("m1", "x")
            await mesh.kill(first)
            async with within(AT_ONCE):
                for _ in range(5):
                    assert await client.infer("m1", "x") == {"from": "r1"}
            assert (routed(first), routed(second)) == (1, 5)

    story(told, tmp_path)


def test_a_request_that_was_lost_on_the_way_runs_again_at_the_next(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        first, second, rack = await mesh.two()
        async with mesh.client(ONE, TWO) as client:
            async with under_way(rack, client.infer("m1", "x")) as asking:
                await mesh.kill(first)
                await eventually(lambda: len(rack.seen) == 2)
                rack.let_go()
                async with within(AT_ONCE):
                    assert await asking == {"from": "r1"}
            assert (len(rack.seen), routed(second)) == (2, 1)

    story(told, tmp_path)


@pytest.mark.parametrize("way", ["infer", "request", "body"])
def test_what_must_not_be_repeated_is_not_and_the_caller_is_told(tmp_path: Path, way: str) -> None:
    body = {"modelId": "m1", "inputData": "x"}
    once = {**body, "options": {"repeatable": False}}

    async def told(mesh: Mesh) -> None:
        first, second, rack = await mesh.two()
        async with mesh.client(ONE, TWO) as client:
            ask = {
                "infer": lambda: client.infer("m1", "x", repeatable=False),
                "request": lambda: client.request("routeInferenceRequest", body, repeatable=False),
                "body": lambda: client.request("routeInferenceRequest", once),
            }[way]
            async with under_way(rack, ask()) as asking:
                await mesh.kill(first)
                async with within(AT_ONCE):
                    with pytest.raises(errors.Unavailable) as caught:
                        await asking
                assert not caught.value.not_started
            assert len(rack.seen) == 1
            await ask()
            assert routed(second) == 1, "what has not begun may go anywhere"

    story(told, tmp_path)


def test_one_that_stops_hands_over_what_it_did_not_begin_and_finishes_the_rest(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        first, second, rack = await mesh.two()
        async with mesh.client(ONE, TWO) as client:
            async with under_way(rack, client.infer("m1", "old", repeatable=False)) as old:
                stopping = asyncio.ensure_future(first.stop())
                await asyncio.sleep(0.1)
                new = asyncio.ensure_future(client.infer("m1", "new", repeatable=False))
                await eventually(lambda: len(rack.seen) == 2)
                rack.let_go()
                assert await asyncio.gather(old, new) == [{"from": "r1"}] * 2
                await stopping
            assert (routed(first), routed(second)) == (1, 1)

    story(told, tmp_path)


def test_a_call_outlives_the_restart_of_the_only_orchestrator(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        orchestrator = await mesh.at(ONE, "orc")
        rack = await mesh.rack("r1")
        await served(orchestrator)
        async with mesh.client(ONE) as client, under_way(rack, client.infer("m1", "x")) as asking:
            await mesh.kill(orchestrator)
            await asyncio.sleep(1.0)
            await mesh.at(ONE, "orc", epoch=2)
            await eventually(lambda: len(rack.seen) == 2)
            rack.let_go()
            assert await asking == {"from": "r1"}

    story(told, tmp_path)


def test_when_the_last_one_is_gone_the_call_ends_with_what_it_knows(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        first, second, rack = await mesh.two()
        async with mesh.client(ONE, TWO) as client:
            async with under_way(rack, client.infer("m1", "x")) as asking:
                await mesh.kill(first)
                await eventually(lambda: len(rack.seen) == 2)
                await mesh.kill(second)
                async with within(CONNECT_TIMEOUT + AT_ONCE):
                    with pytest.raises(errors.Unavailable, match=f"lost {TWO}") as caught:
                        await asking
            assert caught.value.data["orchestrators"] == ["orc-1", "orc-2"]
            assert not caught.value.not_started
            with pytest.raises(errors.Unavailable, match="no orchestrator answers at") as refused:
                await client.infer("m1", "x")
            assert refused.value.not_started

    story(told, tmp_path)


def test_a_call_ends_at_its_deadline_however_many_are_left(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        first, _, rack = await mesh.two()
        async with mesh.client(ONE, TWO) as client:
            begun = now()
            async with under_way(rack, client.infer("m1", "x", timeout=3.0)) as asking:
                await asyncio.sleep(2.0)
                await mesh.kill(first)
                with pytest.raises(errors.DeadlineExceeded):
                    await asking
                assert now() - begun == pytest.approx(3.0, abs=0.01)

    story(told, tmp_path)


def test_a_frozen_orchestrator_costs_one_call_and_not_all_of_them(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        first, second, _ = await mesh.two()
        async with mesh.client(ONE, TWO) as client:
            await client.infer("m1", "x")
            mesh.network.pause(first.endpoint)
            with pytest.raises(errors.DeadlineExceeded):
                await client.infer("m1", "x", timeout=1.0)
            async with within(AT_ONCE):
                assert await client.infer("m1", "x", timeout=1.0) == {"from": "r1"}
            assert routed(second) == 1
            mesh.network.resume(first.endpoint)

    story(told, tmp_path)


def test_who_was_set_aside_comes_back_by_itself(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        first, second, _ = await mesh.two()
        async with mesh.client(ONE, TWO) as client:
            await client.infer("m1", "x")
            await mesh.kill(first)
            await asyncio.sleep(1.0)
            await client.infer("m1", "x")
            again = await mesh.at(ONE, "orc-1", epoch=2)
            await served(again)
            await asyncio.sleep(10.0)
            await client.infer("m1", "x")
            assert (routed(again), routed(second)) == (0, 2), "nobody moves without need"
            await mesh.kill(second)
            async with within(AT_ONCE):
                await client.infer("m1", "x")
            assert routed(again) == 1

    story(told, tmp_path)


def test_a_newcomer_that_knows_no_rack_yet_does_not_have_the_last_word(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        empty = await mesh.at(ONE, "orc-1", epoch=1)
        deaf = mesh.bus.join(MESH, deaf=True)
        full = await mesh.orchestrator("orc-2", flags={"rpc.port": "8102"}, heard=deaf)
        await mesh.start(
            FakeRack(
                mesh.context("r1", "rack", heard=mesh.bus.join(MESH, mute=True, deaf=True), peers=(TWO,))
            )
        )
        await served(full)
        async with mesh.client(ONE, TWO) as client:
            async with within(AT_ONCE):
                assert await client.infer("m1", "x", repeatable=False) == {"from": "r1"}
                with pytest.raises(errors.NoWorkersAvailable, match="never seen here") as caught:
                    await client.infer("m9", "x")
            assert caught.value.data["orchestrators"] == ["orc-1", "orc-2"]
            assert routed(empty) == 0

    story(told, tmp_path)


def test_what_an_orchestrator_says_after_it_has_tried_racks_is_the_answer(tmp_path: Path) -> None:
    """The next one would try the same racks again: a request that kills racks would kill twice as many."""

    async def told(mesh: Mesh) -> None:
        _, second, rack = await mesh.two()
        rack.failure = errors.Unavailable("the model crashed")
        async with mesh.client(ONE, TWO) as client:
            for asked in (1, 2):
                with pytest.raises(errors.Unavailable, match="the model crashed"):
                    await client.infer("m1", "x")
                assert len(rack.seen) == asked
            assert second.router.counters["failed"] == 0, "and it is not the orchestrator's fault"

    story(told, tmp_path)


def test_a_hundred_calls_that_one_loss_ended_all_get_their_answers(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        first, second = await mesh.at(ONE, "orc-1"), await mesh.at(TWO, "orc-2")
        rack = await mesh.rack("r1", Offer(capacity=1000))
        await served(first, second)
        async with mesh.client() as client:
            rack.hold()
            asking = [asyncio.ensure_future(client.infer("m1", n)) for n in range(100)]
            await eventually(lambda: len(rack.seen) == 100)
            busy = max((first, second), key=lambda o: o.server.in_flight)
            await mesh.kill(busy)
            rack.let_go()
            async with within(AT_ONCE):
                assert await asyncio.gather(*asking) == [{"from": "r1"}] * 100

    story(told, tmp_path)


def test_one_that_says_goodbye_is_forgotten_and_one_that_is_only_withdrawn_is_not(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        first, second, _ = await mesh.two()
        ear = mesh.bus.join(MESH)
        async with mesh.client(heard=ear) as client:
            await client.models()
            await asyncio.sleep(0.1)
            ear.forget(Found(second.endpoint, "mdns", "orc-2", 1, "orchestrator"))
            await mesh.kill(first)
            async with within(AT_ONCE):
                assert await client.request("getInstanceId") == {"instanceId": "orc-2"}
            await second.stop()
            await asyncio.sleep(0.1)
            assert client._opened is not None
            linked = {peer["endpoint"] for peer in client._opened.peers.stats()["peers"]}
            assert linked == {ONE}, "whose record is still there: it crashed"

    story(told, tmp_path)


# --- streams


class Counter(FakeRack):
    """Counts to what it is asked; `free` holds it up before the first item, `gate` before each later one."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.gate = asyncio.Event()
        self.gate.set()
        self.stopped = 0

    async def infer(self, model_id: str, input_data: Any, options: contract.Options) -> Any:  # type: ignore[override]
        self.seen.append(input_data)
        try:
            await self.free.wait()
            for number in range(input_data):
                yield number
                await self.gate.wait()
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        yield Final(input_data, counted=True)


async def two_and_a_counter(mesh: Mesh) -> tuple[OrchestratorWorker, OrchestratorWorker, Counter]:
    first, second = await mesh.at(ONE, "orc-1"), await mesh.at(TWO, "orc-2")
    counter = await mesh.start(Counter(mesh.context("c1", "rack")))
    await served(first, second)
    return first, second, counter


def test_a_stream_is_read_item_by_item_and_ends_with_its_final_value(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        await two_and_a_counter(mesh)
        stream = mesh.client().stream("m1", 1000)
        assert (stream.value, stream.facts, stream.received) == (None, {}, 0)
        assert [item async for item in stream] == list(range(1000))
        assert (stream.value, stream.received) == (1000, 1000)
        assert (stream.facts["workerId"], stream.facts["counted"]) == ("c1", True)
        with pytest.raises(RuntimeError, match="read once"):
            aiter(stream)
        empty = mesh.client().stream("m1", 0)
        assert [item async for item in empty] == []
        assert empty.value == 0

    story(told, tmp_path)


@pytest.mark.parametrize("way", ["break", "with", "aclose", "cancel"])
def test_whoever_leaves_a_stream_stops_the_rack(tmp_path: Path, way: str) -> None:
    async def told(mesh: Mesh) -> None:
        _, _, counter = await two_and_a_counter(mesh)
        counter.gate.clear()
        stream = mesh.client().stream("m1", 10)
        items = []

        async def read() -> None:
            async for item in stream:
                items.append(item)
                if way == "break":
                    break

        reading = asyncio.ensure_future(read())
        await eventually(lambda: items)
        if way == "with":
            async with stream:
                pass
        elif way == "aclose":
            await stream.aclose()
            await stream.aclose()
        elif way == "cancel":
            reading.cancel()
        async with within(AT_ONCE):
            await asyncio.wait((reading,))
            await eventually(lambda: counter.stopped == 1)
        assert items == [0]

    story(told, tmp_path)


def test_closing_a_stream_that_has_not_begun_yet_ends_whoever_waits_for_it(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        client = mesh.client()
        early = client.stream("m1", 3)
        waiting = asyncio.ensure_future(anext(aiter(early), "nothing"))
        await asyncio.sleep(0.1)
        await early.aclose()
        _, _, counter = await two_and_a_counter(mesh)
        assert await waiting == "nothing"
        late = client.stream("m1", 3)
        async with under_way(counter, anext(aiter(late), "nothing")) as asking, within(AT_ONCE):
            await late.aclose()
            assert await asking == "nothing"
            await eventually(lambda: counter.stopped == 1)

    story(told, tmp_path)


def test_who_is_cancelled_before_the_first_item_stops_the_rack(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        _, _, counter = await two_and_a_counter(mesh)
        client = mesh.client()
        async with under_way(counter, anext(aiter(client.stream("m1", 3)))) as asking:
            asking.cancel()
            await eventually(lambda: counter.stopped == 1)
        async with under_way(counter, client.infer("m1", 3)) as asking:
            asking.cancel()
            await eventually(lambda: counter.stopped == 2)

    story(told, tmp_path)


@pytest.mark.parametrize("repeatable", [True, False])
def test_before_its_first_item_a_stream_moves_if_it_may(tmp_path: Path, repeatable: bool) -> None:
    async def told(mesh: Mesh) -> None:
        first, second, counter = await two_and_a_counter(mesh)
        stream = mesh.client(ONE, TWO).stream("m1", 3, repeatable=repeatable)

        async def read() -> list[Any]:
            return [item async for item in stream]

        async with under_way(counter, read()) as reading:
            await mesh.kill(first)
            if repeatable:
                await eventually(lambda: len(counter.seen) == 2)
                counter.let_go()
                assert await reading == [0, 1, 2]
                assert (stream.value, stream.received) == (3, 3)
                assert routed(second) == 1
            else:
                with pytest.raises(errors.Unavailable, match=f"lost {ONE}"):
                    await reading
                assert len(counter.seen) == 1

    story(told, tmp_path)


def test_after_its_first_item_a_stream_ends_where_it_is_and_says_how_far_it_came(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        first, second, counter = await two_and_a_counter(mesh)
        counter.gate.clear()
        stream = mesh.client(ONE, TWO).stream("m1", 3)
        items = aiter(stream)
        assert await anext(items) == 0
        await mesh.kill(first)
        with pytest.raises(errors.Unavailable, match=f"lost {ONE}") as caught:
            await anext(items)
        assert caught.value.data["items"] == 1
        await eventually(lambda: counter.stopped == 1)
        assert (len(counter.seen), second.router.counters["failed"]) == (1, 0)

    story(told, tmp_path)


def test_a_stream_that_nobody_serves_says_so_once(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        await mesh.orchestrator()
        items = aiter(mesh.client().stream("m9", 3))
        with pytest.raises(errors.NoWorkersAvailable):
            await anext(items)
        with pytest.raises(StopAsyncIteration):
            await anext(items)

    story(told, tmp_path)


def test_a_stream_has_a_deadline_for_its_first_item_and_one_for_each_later_one(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        _, _, counter = await two_and_a_counter(mesh)
        client = mesh.client()
        counter.hold()
        begun = now()
        with pytest.raises(errors.DeadlineExceeded):
            await anext(aiter(client.stream("m1", 3, timeout=2.0)))
        assert now() - begun == pytest.approx(2.0, abs=0.01)
        counter.let_go()
        counter.gate.clear()
        items = aiter(client.stream("m1", 3, timeout=2.0, idle=7.0))
        assert await anext(items) == 0
        begun = now()
        with pytest.raises(errors.DeadlineExceeded):
            await anext(items)
        assert now() - begun == pytest.approx(7.0, abs=0.01)
        items = aiter(client.stream("m1", 3, timeout=2.0, total=4.0))
        begun = now()
        assert await anext(items) == 0
        with pytest.raises(errors.DeadlineExceeded):
            await anext(items)
        assert now() - begun == pytest.approx(4.0, abs=0.01)
        counter.gate.set()
        assert [item async for item in client.stream("m1", 3, timeout=2.0, total=4.0)] == [0, 1, 2]
        with pytest.raises(errors.DeadlineExceeded):
            await anext(aiter(client.stream("m1", 3, total=0.0)))

    story(told, tmp_path)


def test_what_a_stream_may_take_in_all_is_not_given_anew_at_the_next_orchestrator(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        first, _, counter = await two_and_a_counter(mesh)
        counter.gate.clear()
        begun = now()
        items = aiter(mesh.client(ONE, TWO).stream("m1", 3, total=10.0))
        async with under_way(counter, anext(items)) as asking:
            await asyncio.sleep(6.0)
            await mesh.kill(first)
            await eventually(lambda: len(counter.seen) == 2)
            counter.let_go()
            assert await asking == 0
        with pytest.raises(errors.DeadlineExceeded):
            await anext(items)
        assert now() - begun == pytest.approx(10.0, abs=0.01)

    story(told, tmp_path)


def test_a_model_that_does_not_stream_gives_its_answer_as_one_item(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        await mesh.two()
        stream = mesh.client().stream("m1", "x")
        assert [item async for item in stream] == [{"from": "r1"}]
        assert stream.value == {"from": "r1"}

    story(told, tmp_path)


# --- the end


def test_closing_ends_what_is_under_way_and_what_waits_and_nothing_comes_after(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        _, _, rack = await mesh.two()
        client, lonely = mesh.client(), mesh.client(NOBODY)
        waiting = asyncio.ensure_future(lonely.models())
        async with under_way(rack, client.infer("m1", "x")) as asking:
            async with within(AT_ONCE):
                await client.close()
                await lonely.close()
                for ended in (asking, waiting):
                    with pytest.raises(errors.Unavailable, match="closed"):
                        await ended
            await eventually(lambda: rack.cancelled == 1)
        await client.close()
        with pytest.raises(RuntimeError, match="closed"):
            await client.models()
        with pytest.raises(RuntimeError, match="closed"):
            await anext(aiter(client.stream("m1", "x")))

    story(told, tmp_path)


def test_one_that_was_never_opened_closes_too() -> None:
    run(Client().close())


def test_what_it_says_of_itself_is_short_and_its_own(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        orchestrator = await mesh.orchestrator()
        for name in ("report", "report", "x" * 500):
            await mesh.client(name=name).models()
        callers = [caller.info for caller in orchestrator.server.callers.values() if caller.info]
        clients = {caller.worker_id: caller.name for caller in callers if caller.role == "client"}
        assert len(clients) == 3
        assert sorted(clients.values())[:2] == ["report", "report"]

    story(told, tmp_path)


def test_defaults_are_those_of_the_settings() -> None:
    from wrk_base.client import INTERFACE, LINGER_SECONDS, MAX_PEERS
    from wrk_base.client import MESH as DEFAULT_MESH
    from wrk_base.config import Settings

    settings = Settings()
    assert (settings.discovery.mesh, settings.interface) == (DEFAULT_MESH, INTERFACE)
    assert (settings.request_timeout / 1000, settings.pool_linger / 1000) == (TIMEOUT, LINGER_SECONDS)
    assert (settings.rpc.max_peers, settings.service_discovery_interval / 1000) == (MAX_PEERS, SWEEP_SECONDS)


def test_importing_the_package_costs_nothing_until_something_is_asked_for() -> None:
    script = (
        "import sys, wrk_base; before = set(sys.modules)\n"
        "assert not {'asyncio', 'msgspec', 'zmq', 'typing'} & before, before\n"
        "from wrk_base import Client, Final, SyncClient\n"
        "assert {'Client', 'Final', 'SyncClient'} <= set(dir(wrk_base))\n"
        "assert not {'zmq', 'zeroconf'} & set(sys.modules)\n"
        "try: wrk_base.Klient\n"
        "except AttributeError as error: assert 'Klient' in str(error)\n"
        "else: raise SystemExit(1)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
