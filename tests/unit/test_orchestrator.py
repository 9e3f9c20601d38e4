"""The orchestrator and its racks in one process: how they meet, what is listed, what drives routing.

Real workers on a fake network, a bus for multicast and a virtual clock: seconds pass at once, and every
story ends with a look at what was left behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.aio import eventually, run
from tests.fakes.context import FakeRack, Offer, Site
from wrk_base import errors
from wrk_base.discovery import Found
from wrk_base.rpc.peers import Peers
from wrk_base.worker import Worker
from wrk_orchestrator.orchestrator import OrchestratorWorker

NOBODY = "tcp://127.0.0.1:9"
SOON = 2.0  # virtual seconds: what is promised at once is there by then


class Mesh(Site):
    """A site with one orchestrator, `orc`, and somebody who asks it."""

    orc: OrchestratorWorker
    asker: Peers

    async def __aenter__(self) -> Mesh:
        self.orc = await self.orchestrator()
        self.asker = self.caller()
        return self

    async def ask(self, method: str, body: Any = None, timeout: float = 60.0, **also: Any) -> Any:
        of: OrchestratorWorker = also.pop("of", self.orc)
        return await self.asker.request(of.endpoint, method, body, timeout=timeout)

    async def infer(self, text: str = "hello", timeout: float = 60.0, **options: Any) -> Any:
        body = {"modelId": "m1", "inputData": text, "options": options}
        return await self.ask("routeInferenceRequest", body, timeout)

    async def register(self, worker_id: str, address: str, *models: str, **more: Any) -> Any:
        capabilities = {"models": list(models or ("m1",)), "capacity": {"maxConcurrent": 4}}
        body = {"workerId": worker_id, "address": address, "capabilities": capabilities, **more}
        return await self.ask("registerWorker", body)

    def listed(self, of: OrchestratorWorker | None = None) -> dict[str, dict[str, Any]]:
        return {worker["workerId"]: worker for worker in (of or self.orc).list_workers({})["workers"]}

    def states(self, of: OrchestratorWorker | None = None) -> dict[str, str]:
        return {name: worker["state"] for name, worker in self.listed(of).items()}

    async def see(self, within: float = SOON, of: OrchestratorWorker | None = None, **states: str) -> None:
        """Wait until exactly these workers are listed, in these states."""
        wanted = {name.replace("_", "-"): state for name, state in states.items()}
        try:
            await until(lambda: self.states(of) == wanted, within)
        except TimeoutError:
            raise AssertionError(f"not within {within} s: {wanted}, but {self.listed(of)}") from None

    async def asked(self, times: int = 6) -> set[str]:
        """The workers that answer a few requests."""
        return {(await self.infer())["workerId"] for _ in range(times)}

    def dials(self, worker: Worker) -> int:
        return self.network.dials.count(worker.endpoint)

    def alias(self, worker: Worker, address: str) -> str:
        """A second way to the same process, as a gateway or another host name is."""
        self.network.listeners[address] = self.network.listeners[worker.endpoint]
        return address

    def facts(self, event: str) -> list[dict[str, Any]]:
        return [facts for name, facts in self.log.events if name == event]


async def until(holds: Callable[[], object], within: float = SOON) -> None:
    await eventually(holds, within)


def story(tell: Callable[[Mesh], Awaitable[None]], directory: Path) -> None:
    async def told() -> None:
        async with Mesh(directory) as mesh:
            await tell(mesh)
        nothing_is_left()

    run(told(), "virtual", within=1e6)


def nothing_is_left() -> None:
    """No timer; `run` looks for tasks, the site for sockets."""
    loop = asyncio.get_running_loop()
    timers = [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
    own = [timer for timer in timers if "timeout" not in repr(timer).lower()]
    assert own == []


@asynccontextmanager
async def under_way(rack: FakeRack, work: Awaitable[Any]) -> AsyncIterator[asyncio.Future[Any]]:
    """A request that waits in the rack until the block ends."""
    before = len(rack.seen)
    rack.hold()
    task = asyncio.ensure_future(work)
    await until(lambda: len(rack.seen) > before)
    try:
        yield task
    finally:
        rack.let_go()
        await asyncio.wait((task,))


# --- how a rack becomes known


def test_rack_that_hears_the_orchestrator_registers_and_is_dialled_back(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1", Offer(models=("m1", "m2"), capacity=3))
        await mesh.see(r1="healthy")
        worker = mesh.listed()["r1"]
        assert worker["address"] == rack.endpoint
        assert worker["capabilities"] == {
            "models": ["m1", "m2"],
            "cold": [],
            "tags": [],
            "capacity": {"maxConcurrent": 3},
            "facts": {},
            "resumable": False,
        }
        assert (worker["name"], worker["type"]) == ("r1", "fake-rack")
        assert (worker["instanceId"], worker["manual"]) == ("r1", False)
        assert rack.registrations() == ["orc"]
        answer = await mesh.infer()
        assert answer["result"] == {"from": "r1"}
        assert (answer["success"], answer["workerId"], answer["attempts"]) == (True, "r1", 1)
        assert rack.seen == ["hello"]

    story(told, tmp_path)


def test_rack_that_hears_nobody_is_found_and_asked_what_it_offers(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        offer = Offer(models=("m1",), capacity=2, tags=("gpu",), labels=(("room", "3"),))
        rack = await mesh.rack("r1", offer, heard=mesh.bus.join("test-mesh", deaf=True))
        await mesh.see(r1="healthy")
        worker = mesh.listed()["r1"]
        assert worker["foundBy"] == "mdns"
        assert worker["capabilities"]["tags"] == ["gpu"]
        assert worker["labels"] == {"room": "3"}
        assert worker["type"] == "fake-rack"
        assert rack.registrations() == []
        assert (await mesh.infer())["workerId"] == "r1"

    story(told, tmp_path)


def test_rack_that_nobody_hears_registers_and_is_listed_as_such(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        await mesh.rack("r1", heard=mesh.bus.join("test-mesh", mute=True))
        await mesh.see(r1="healthy")
        assert mesh.listed()["r1"]["foundBy"] == "rpc"

    story(told, tmp_path)


def test_heard_and_registered_at_once_is_one_entry_and_one_link(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1")
        await mesh.see(r1="healthy")
        await asyncio.sleep(60.0)
        assert mesh.states() == {"r1": "healthy"}
        assert mesh.dials(rack) == 1
        assert len(mesh.facts("worker.joined")) == 1

    story(told, tmp_path)


def test_rack_of_another_mesh_is_not_heard(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        await mesh.rack("stranger", flags={"discovery.mesh": "elsewhere"})
        await asyncio.sleep(30.0)
        assert mesh.states() == {}

    story(told, tmp_path)


def test_rack_that_settings_name_is_dialled_without_any_multicast(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1", heard=mesh.bus.join("nobody-else"))
        lonely = mesh.bus.join("nobody-at-all")
        other = await mesh.orchestrator("other", peers=(rack.endpoint,), heard=lonely)
        await mesh.see(of=other, r1="healthy")
        assert mesh.listed(other)["r1"]["foundBy"] == "static"

    story(told, tmp_path)


def test_static_peers_that_are_no_racks_are_not_listed(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        plain = await mesh.start(Worker(mesh.context("plain", "worker")))
        peers = (plain.endpoint, mesh.orc.endpoint)
        other = await mesh.orchestrator("other", peers=peers)
        await asyncio.sleep(28.0)  # between two sweeps
        assert mesh.states(other) == {}
        assert [peer["workerId"] for peer in other.peers.stats()["peers"]] == ["orc"]

    story(told, tmp_path)


def test_orchestrator_that_starts_late_or_again_gets_every_rack(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        await mesh.rack("r1")
        await mesh.see(r1="healthy")
        await mesh.crash(mesh.orc)
        mesh.orc = await mesh.orchestrator(epoch=2)
        await mesh.see(r1="healthy")
        assert await mesh.asked() == {"r1"}

    story(told, tmp_path)


def test_several_orchestrators_each_get_every_rack(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        first = await mesh.rack("r1")
        second = await mesh.orchestrator("orc-2")
        await mesh.rack("r2")
        for orchestrator in (mesh.orc, second):
            await mesh.see(of=orchestrator, r1="healthy", r2="healthy")
            body = {"modelId": "m1", "inputData": "x"}
            assert (await mesh.ask("routeInferenceRequest", body, of=orchestrator))["success"] is True
        assert first.registrations() == ["orc", "orc-2"]

    story(told, tmp_path)


def test_one_rack_under_two_addresses_is_one_entry_that_stays_where_it_is(tmp_path: Path) -> None:
    """Settings may name a rack by its host's name, which then registers by its address."""

    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1", flags={"discovery.mesh": "late"})
        name = mesh.alias(rack, "tcp://rack-host:1")
        other = await mesh.orchestrator("other", peers=(name,), flags={"discovery.mesh": "late"})
        await mesh.see(of=other, r1="healthy")
        await asyncio.sleep(0.5)
        settled_at = mesh.listed(other)["r1"]["address"]
        joined = len(mesh.facts("worker.joined"))
        await asyncio.sleep(60.0)
        assert mesh.states(other) == {"r1": "healthy"}
        assert mesh.listed(other)["r1"]["address"] == settled_at
        assert rack.registrations() == ["other"]
        assert mesh.facts("rack.registration_refused") == []
        assert mesh.facts("worker.state")[-1]["new"] == "healthy"
        assert len(mesh.facts("worker.joined")) == joined
        del mesh.network.listeners[name]

    story(told, tmp_path)


# --- what cannot be had


def test_registered_worker_that_cannot_be_dialled_is_listed_with_its_cause(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        assert (await mesh.register("ghost", NOBODY))["success"] is True
        await mesh.see(ghost="unreachable")
        ghost = mesh.listed()["ghost"]
        assert NOBODY in ghost["cause"]
        assert "refused" in ghost["cause"]
        with pytest.raises(errors.NoWorkersAvailable, match="m1"):
            await mesh.infer()

    story(told, tmp_path)


def test_worker_that_comes_up_at_last_is_dialled_and_asked(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        await mesh.register("by-hand", "tcp://127.0.0.1:8010")
        await mesh.see(by_hand="unreachable")
        unheard = mesh.bus.join("nobody")
        await mesh.rack("r1", Offer(models=("m1", "m7")), flags={"rpc.port": "8010"}, heard=unheard)
        await mesh.see(by_hand="healthy")
        await until(lambda: mesh.listed()["by-hand"]["capabilities"]["models"] == ["m1", "m7"])
        assert mesh.listed()["by-hand"]["instanceId"] == "r1"

    story(told, tmp_path)


def test_rumour_that_nobody_answers_is_dropped_and_heard_again(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        mesh.orc.on_found(Found(NOBODY, "mdns", "rumour", 1, "rack"))
        await asyncio.sleep(8.0)
        assert mesh.states() == {}
        assert mesh.orc.peers.stats()["held"] == 0
        dialled = mesh.network.dials.count(NOBODY)
        mesh.orc.on_found(Found(NOBODY, "mdns", "rumour", 1, "rack"))
        assert mesh.network.dials.count(NOBODY) == dialled + 1

    story(told, tmp_path)


def test_registration_at_the_address_of_an_orchestrator_says_so(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        await mesh.register("slip", mesh.orc.endpoint)
        await mesh.see(slip="unreachable")
        assert "orchestrator" in mesh.listed()["slip"]["cause"]

    story(told, tmp_path)


def test_address_that_cannot_be_one_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        for address in ("nonsense", "http://h:1", "tcp://h", "tcp://*:1", "tcp://h:0", "tcp://224.0.0.1:1"):
            with pytest.raises(errors.BadRequest, match="address") as refused:
                await mesh.register("w", address)
            assert refused.value.data["field"] == "address"
        assert mesh.states() == {}

    story(told, tmp_path)


def test_cap_on_workers_of_a_model_is_kept(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        capped = await mesh.orchestrator("capped", flags={"maxWorkersPerModel": "1"})
        await mesh.rack("r1")
        await mesh.see(of=capped, r1="healthy")
        await mesh.rack("r2")
        await mesh.see(r1="healthy", r2="healthy")
        await asyncio.sleep(15.0)
        assert mesh.states(capped) == {"r1": "healthy"}
        body = {"workerId": "r3", "address": NOBODY, "capabilities": {"models": ["m1"]}}
        with pytest.raises(errors.CapacityExceeded, match="maxWorkersPerModel"):
            await mesh.ask("registerWorker", body, of=capped)

    story(told, tmp_path)


# --- one identity, one entry


def test_second_process_with_a_live_identity_is_refused(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        first = await mesh.rack("r1")
        await mesh.see(r1="healthy")
        second = await mesh.rack("r1", epoch=2)
        await until(lambda: mesh.facts("rack.registration_refused"))
        assert first.endpoint in mesh.facts("rack.registration_refused")[0]["reason"]
        assert mesh.listed()["r1"]["address"] == first.endpoint
        assert second.registrations() == []
        assert await mesh.asked() == {"r1"}
        assert second.seen == []

    story(told, tmp_path)


def test_restart_at_another_port_takes_over_the_entry(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        first = await mesh.rack("r1")
        await mesh.see(r1="healthy")
        await mesh.crash(first)
        await mesh.see(r1="gone")
        second = await mesh.rack("r1", epoch=2)
        await mesh.see(r1="healthy")
        assert mesh.listed()["r1"]["address"] == second.endpoint
        assert await mesh.asked() == {"r1"}
        assert len(second.seen) == 6

    story(told, tmp_path)


def test_restart_at_the_same_port_is_known_again(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        flags = {"rpc.port": "8010"}
        first = await mesh.rack("r1", flags=flags)
        await mesh.see(r1="healthy")
        await mesh.crash(first)
        second = await mesh.rack("r1", Offer(models=("m1", "new")), epoch=2, flags=flags)
        await mesh.see(r1="healthy")
        await until(lambda: mesh.listed()["r1"]["capabilities"]["models"] == ["m1", "new"])
        await mesh.infer()
        assert second.seen == ["hello"]

    story(told, tmp_path)


def test_other_process_at_an_old_address_is_another_worker(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        flags = {"rpc.port": "8010"}
        first = await mesh.rack("r1", Offer(models=("old",)), flags=flags)
        await mesh.see(r1="healthy")
        await mesh.crash(first)
        await mesh.rack("r2", Offer(models=("m1",)), flags=flags)
        await until(lambda: mesh.states().get("r2") == "healthy")
        assert mesh.states().get("r1", "gone") == "gone"
        assert mesh.listed()["r2"]["capabilities"]["models"] == ["m1"]
        assert (await mesh.infer())["workerId"] == "r2"
        await mesh.see(r2="healthy", within=40.0)

    story(told, tmp_path)


def test_worker_that_claims_the_address_of_another_is_refused(tmp_path: Path) -> None:
    """Containers of two hosts may have the same private address."""

    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1")
        await mesh.see(r1="healthy")
        async with under_way(rack, mesh.infer()) as work:
            claimant = mesh.caller("r9")
            body = {"workerId": "r9", "address": rack.endpoint, "capabilities": {"models": ["m9"]}}
            with pytest.raises(errors.PermissionDenied, match="r1"):
                await claimant.request(mesh.orc.endpoint, "registerWorker", body, timeout=5.0)
            await asyncio.sleep(5.0)
            assert mesh.states() == {"r1": "healthy"}
            assert mesh.dials(rack) == 1
        assert (await work)["workerId"] == "r1"

    story(told, tmp_path)


# --- registrations by hand


def test_known_rack_that_is_registered_by_hand_is_listed_under_the_new_name_alone(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1")
        await mesh.see(r1="healthy")
        async with under_way(rack, mesh.infer()) as work:
            await mesh.register("by-hand", rack.endpoint)
            await mesh.see(by_hand="healthy")
            await asyncio.sleep(20.0)
            assert mesh.states() == {"by-hand": "healthy"}
            assert mesh.dials(rack) == 1
        assert (await work)["workerId"] == "r1"
        assert await mesh.asked() == {"by-hand"}

    story(told, tmp_path)


def test_registration_by_hand_and_by_itself_while_the_link_is_dialled_is_one_entry(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        endpoint = "tcp://127.0.0.1:8010"
        rack = FakeRack(mesh.context("r1", "rack", flags={"rpc.port": "8010"}))
        mesh.network.refuse(endpoint)
        await mesh.register("by-hand", endpoint)
        await mesh.see(by_hand="unreachable")
        await mesh.start(rack)
        await until(lambda: rack.registrations() == ["orc"])
        mesh.network.allow(endpoint)
        await mesh.see(by_hand="healthy")
        assert mesh.listed()["by-hand"]["instanceId"] == "r1"
        await asyncio.sleep(30.0)
        assert mesh.states() == {"by-hand": "healthy"}
        assert await mesh.asked() == {"by-hand"}

    story(told, tmp_path)


def test_two_names_for_one_rack_become_the_later_one(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1", heard=mesh.bus.join("nobody"))
        await mesh.register("a", rack.endpoint)
        await mesh.register("b", rack.endpoint)
        await until(lambda: list(mesh.states().values()) == ["healthy"])
        await asyncio.sleep(20.0)
        (name,) = mesh.states()
        assert mesh.states() == {name: "healthy"}
        assert await mesh.asked() == {name}

    story(told, tmp_path)


def test_operators_address_outlives_what_the_rack_says_of_itself(tmp_path: Path) -> None:
    """A gateway leads there, of which the rack knows nothing."""

    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1", flags={"discovery.mesh": "late"})
        gateway = mesh.alias(rack, "tcp://gateway:1")
        await mesh.register("by-hand", gateway)
        await mesh.see(by_hand="healthy")
        other = mesh.bus.join("late")
        await other.start(None, mesh.orc.on_found, lambda found: None)
        body = {"workerId": "r1", "address": rack.endpoint, "capabilities": {"models": ["m1", "m2"]}}
        await mesh.caller("r1").request(mesh.orc.endpoint, "registerWorker", body, timeout=5.0)
        assert mesh.listed()["by-hand"]["capabilities"]["models"] == ["m1", "m2"]
        await asyncio.sleep(30.0)
        assert mesh.states() == {"by-hand": "healthy"}
        assert mesh.listed()["by-hand"]["address"] == gateway
        await other.stop()
        del mesh.network.listeners[gateway]

    story(told, tmp_path)


def test_registration_by_hand_survives_a_restart_of_the_orchestrator(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1", heard=mesh.bus.join("nobody"))
        await mesh.register("by-hand", rack.endpoint, labels={"room": "3"}, weight=2.5)
        await mesh.see(by_hand="healthy")
        await mesh.crash(mesh.orc)
        mesh.orc = await mesh.orchestrator(epoch=2)
        await mesh.see(by_hand="healthy")
        worker = mesh.listed()["by-hand"]
        assert (worker["manual"], worker["foundBy"]) == (True, "rpc")
        assert (worker["labels"], worker["weight"]) == ({"room": "3"}, 2.5)
        assert await mesh.asked() == {"by-hand"}

    story(told, tmp_path)


def test_what_was_unregistered_stays_away_after_a_restart(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        await mesh.register("one", NOBODY)
        await mesh.register("two", NOBODY.replace("9", "10"))
        assert await mesh.ask("unregisterWorker", {"workerId": "one"}) == {"success": True}
        await mesh.crash(mesh.orc)
        mesh.orc = await mesh.orchestrator(epoch=2)
        assert list(mesh.states()) == ["two"]

    story(told, tmp_path)


def test_name_that_was_replaced_does_not_return_after_a_restart(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1", heard=mesh.bus.join("nobody"))
        await mesh.register("z", rack.endpoint)
        await mesh.see(z="healthy")
        await mesh.register("a", rack.endpoint)
        await mesh.see(a="healthy")
        for epoch in (2, 3):
            await mesh.crash(mesh.orc)
            mesh.orc = await mesh.orchestrator(epoch=epoch)
            await mesh.see(a="healthy")
        await mesh.ask("unregisterWorker", {"workerId": "a"})
        await mesh.crash(mesh.orc)
        mesh.orc = await mesh.orchestrator(epoch=4)
        assert mesh.states() == {}

    story(told, tmp_path)


def test_what_a_rack_registered_of_itself_is_not_kept(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1")
        await mesh.see(r1="healthy")
        await mesh.crash(rack)
        await mesh.crash(mesh.orc)
        mesh.orc = await mesh.orchestrator(epoch=2)
        assert mesh.states() == {}

    story(told, tmp_path)


def test_kept_registration_that_cannot_be_read_is_named_and_costs_nothing_else(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        await mesh.register("good", NOBODY)
        assert mesh.orc._store is not None
        mesh.orc._store.put("registration", "bad", {"offer": {"workerId": 5}, "source": "rpc"}, writer="x")
        mesh.orc._store.put("registration", "worse", {"something": "else"}, writer="x")
        await mesh.crash(mesh.orc)
        mesh.orc = await mesh.orchestrator(epoch=2)
        assert list(mesh.states()) == ["good"]
        assert sorted(facts["id"] for facts in mesh.facts("records.unreadable")) == ["bad", "worse"]

    story(told, tmp_path)


def test_rack_that_stops_leaves_the_operators_entry_listed(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1")
        await mesh.register("by-hand", rack.endpoint)
        await mesh.see(by_hand="healthy")
        await rack.stop()
        await mesh.see(by_hand="gone")
        await asyncio.sleep(120.0)
        assert list(mesh.states()) == ["by-hand"]

    story(told, tmp_path)


# --- what a registration says can change


def test_registering_again_leaves_nothing_of_the_old_offer(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1", Offer(models=("m1",), tags=("gpu",)))
        await mesh.see(r1="healthy")
        rack.offer = Offer(models=("m2",), capacity=1)
        await until(lambda: mesh.listed()["r1"]["capabilities"]["models"] == ["m2"], within=15.0)
        assert (await mesh.ask("listWorkers", {"modelId": "m1"}))["total"] == 0
        assert (await mesh.ask("listWorkers", {"modelId": "m2"}))["total"] == 1
        assert (await mesh.ask("getServiceStatus"))["registry"]["models"] == {"m2": 1}
        with pytest.raises(errors.NoWorkersAvailable) as gone:
            await mesh.infer()
        assert gone.value.data["modelSeen"] is True
        with pytest.raises(errors.NoWorkersMatch):
            await mesh.ask(
                "findAvailableWorker", {"modelId": "m2", "requirements": {"capabilities": ["gpu"]}}
            )
        assert mesh.orc.balancer.limit("r1") == 1
        assert mesh.states() == {"r1": "healthy"}

    story(told, tmp_path)


def test_registering_again_without_news_changes_nothing(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1")
        await mesh.see(r1="healthy")
        await asyncio.sleep(1.0)
        record = mesh.orc.registry.get("r1")
        await asyncio.sleep(60.0)
        assert rack.server.handlers["getInfo"].stats.requests == 1
        assert mesh.orc.registry.get("r1") is record

    story(told, tmp_path)


def test_rack_that_does_not_serve_a_model_any_more_is_asked_anew_and_once(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        changed = await mesh.rack("r1", Offer(capacity=50))
        await mesh.rack("r2", Offer(capacity=50))
        await mesh.see(r1="healthy", r2="healthy")
        await asyncio.sleep(1.0)
        asked = changed.server.handlers["getInfo"].stats.requests
        changed.offer = Offer(models=("m2",))
        answers = await asyncio.gather(*(mesh.infer() for _ in range(20)))
        assert {answer["workerId"] for answer in answers} == {"r2"}
        await until(lambda: mesh.listed()["r1"]["capabilities"]["models"] == ["m2"])
        assert changed.server.handlers["getInfo"].stats.requests == asked + 1

    story(told, tmp_path)


def test_healthy_worker_that_is_moved_gets_no_work_before_it_was_dialled_there(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1", heard=mesh.bus.join("nobody"))
        await mesh.register("by-hand", rack.endpoint)
        await mesh.see(by_hand="healthy")
        await mesh.register("by-hand", NOBODY)
        assert mesh.orc.balancer.limit("by-hand") == 0
        assert mesh.states()["by-hand"] != "healthy"
        with pytest.raises(errors.NoWorkersAvailable):
            await mesh.infer()
        await mesh.register("by-hand", rack.endpoint)
        await mesh.see(by_hand="healthy")
        assert await mesh.asked() == {"by-hand"}

    story(told, tmp_path)


def test_entry_at_the_address_of_a_rack_that_drains_gets_no_work(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1")
        await mesh.see(r1="healthy")
        async with under_way(rack, mesh.infer()) as work:
            stop = asyncio.ensure_future(rack.stop())
            await mesh.see(r1="draining")
            await mesh.register("by-hand", rack.endpoint)
            await mesh.see(by_hand="draining")
            with pytest.raises(errors.NoWorkersAvailable):
                await mesh.infer()
        await work
        await stop

    story(told, tmp_path)


def test_forged_goodbye_changes_nothing(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1")
        await mesh.see(r1="healthy")
        mesh.orc.on_gone(Found(rack.endpoint, "mdns", "r1", 1, "rack"))
        await asyncio.sleep(60.0)
        assert mesh.states() == {"r1": "healthy"}
        assert mesh.dials(rack) == 1

    story(told, tmp_path)


def test_work_of_a_worker_that_is_unregistered_moves_to_another(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        unheard = mesh.bus.join("nobody")
        rack = await mesh.rack("r1", heard=unheard)
        await mesh.register("by-hand", rack.endpoint)
        await mesh.see(by_hand="healthy")
        rack.hold()
        work = asyncio.ensure_future(mesh.infer())
        await until(lambda: rack.seen)
        await mesh.rack("r2")
        await mesh.see(by_hand="healthy", r2="healthy")
        await mesh.ask("unregisterWorker", {"workerId": "by-hand"})
        assert ((await work)["workerId"], (await work)["attempts"]) == ("r2", 2)
        await until(lambda: rack.cancelled == 1)
        assert mesh.orc.balancer.leases == 0
        assert mesh.states() == {"r2": "healthy"}

    story(told, tmp_path)


# --- leaving


def test_rack_that_stops_finishes_its_work_gets_no_more_and_is_unregistered(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        leaving, staying = await mesh.rack("r1"), await mesh.rack("r2")
        await mesh.see(r1="healthy", r2="healthy")
        leaving.hold()
        staying.hold()
        works = [asyncio.ensure_future(mesh.infer(f"{n}")) for n in range(2)]
        await until(lambda: leaving.seen and staying.seen)
        staying.let_go()
        stop = asyncio.ensure_future(leaving.stop())
        await mesh.see(r1="draining", r2="healthy")
        assert await mesh.asked() == {"r2"}
        assert len(leaving.seen) == 1
        leaving.let_go()
        assert {(await work)["workerId"] for work in works} == {"r1", "r2"}
        await stop
        assert mesh.states() == {"r2": "healthy"}
        assert [facts["reason"] for facts in mesh.facts("worker.left")] == ["unregistered"]

    story(told, tmp_path)


def test_killed_rack_is_out_at_once_and_its_work_moves(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        doomed = await mesh.rack("r1")
        await mesh.see(r1="healthy")
        doomed.hold()
        work = asyncio.ensure_future(mesh.infer())
        await until(lambda: doomed.seen)
        await mesh.rack("r2")
        await mesh.see(r1="healthy", r2="healthy")
        mesh.network.refuse(doomed.endpoint)
        mesh.network.cut(doomed.endpoint)
        answer = await work
        assert (answer["workerId"], answer["attempts"]) == ("r2", 2)
        assert mesh.states()["r1"] == "gone"
        assert mesh.orc.balancer.load("r1") == 0
        await until(lambda: doomed.cancelled == 1)
        assert mesh.orc.load_balancing_stats()["workers"]["r1"]["failureCount"] == 1
        mesh.network.allow(doomed.endpoint)
        doomed.let_go()
        await mesh.see(r1="healthy", r2="healthy")

    story(told, tmp_path)


def test_stopped_process_is_out_after_its_silence_and_back_when_it_goes_on(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1")
        await mesh.see(r1="healthy")
        mesh.network.pause(rack.endpoint)
        await mesh.see(r1="suspect", within=2.6)
        with pytest.raises(errors.NoWorkersAvailable):
            await mesh.infer()
        await mesh.see(r1="gone", within=2.0)
        mesh.network.resume(rack.endpoint)
        await mesh.see(r1="healthy", within=5.0)
        assert await mesh.asked() == {"r1"}

    story(told, tmp_path)


def test_lease_of_a_rack_that_stays_away_ends(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1", heard=mesh.bus.join("test-mesh", mute=True))
        await mesh.see(r1="healthy")
        await asyncio.sleep(120.0)
        assert mesh.states() == {"r1": "healthy"}
        await mesh.crash(rack)
        await asyncio.sleep(29.0)
        assert mesh.states() == {"r1": "gone"}
        await asyncio.sleep(2.0)
        assert mesh.states() == {}
        assert [facts["reason"] for facts in mesh.facts("worker.left")] == ["lease ended"]
        dials = mesh.dials(rack)
        await asyncio.sleep(60.0)
        assert mesh.dials(rack) == dials

    story(told, tmp_path)


def test_late_goodbye_of_an_earlier_start_does_not_remove_the_later_one(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        await mesh.rack("r1", epoch=2)
        await mesh.see(r1="healthy")
        earlier = mesh.caller("r1")  # its epoch is 1
        answer = await earlier.request(mesh.orc.endpoint, "unregisterWorker", {"workerId": "r1"}, timeout=5.0)
        assert answer == {"success": True}
        assert mesh.states() == {"r1": "healthy"}

    story(told, tmp_path)


def test_unregistering_nobody_is_not_found(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        with pytest.raises(errors.WorkerNotFound, match="nobody") as unknown:
            await mesh.ask("unregisterWorker", {"workerId": "nobody"})
        assert unknown.value.data == {"workerId": "nobody"}
        itself = mesh.caller("w1")
        answer = await itself.request(mesh.orc.endpoint, "unregisterWorker", {"workerId": "w1"}, timeout=5.0)
        assert answer == {"success": True}

    story(told, tmp_path)


# --- the family's names


def test_register_rack_is_the_same_registration(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        info = {"address": NOBODY, "capabilities": {"models": ["m1"]}, "labels": {"a": "b"}, "weight": 2.0}
        answer = await mesh.ask("registerRack", {"id": "w1", "type": "some-kind", "info": info})
        assert answer.keys() == {"success", "workerId", "registeredAt", "leaseMs"}
        assert (answer["success"], answer["workerId"], answer["leaseMs"]) == (True, "w1", 30_000)
        worker = mesh.listed()["w1"]
        assert (worker["type"], worker["labels"], worker["weight"]) == ("some-kind", {"a": "b"}, 2.0)
        assert (await mesh.ask("listRacks"))["workers"] == (await mesh.ask("listWorkers"))["workers"]

    story(told, tmp_path)


def test_forget_racks_by_id_or_all(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        for number in range(4):
            await mesh.register(f"w{number}", f"tcp://127.0.0.1:{number + 10}")
        assert await mesh.ask("forgetRacks", {"ids": ["w0"]}) == {"success": True, "forgotten": 1}
        assert list(mesh.states()) == ["w1", "w2", "w3"]
        with pytest.raises(errors.WorkerNotFound, match="w9"):
            await mesh.ask("forgetRacks", {"ids": ["w1", "w9"]})
        assert list(mesh.states()) == ["w1", "w2", "w3"]
        assert (await mesh.ask("forgetRacks", {"ids": ["w1", "w1"]}))["forgotten"] == 1
        assert (await mesh.ask("forgetRacks", {}))["forgotten"] == 0
        assert (await mesh.ask("forgetRacks", {"all": True}))["forgotten"] == 2
        assert mesh.states() == {}

    story(told, tmp_path)


# --- who is listed


def test_list_is_narrowed_by_model_state_and_labels(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        await mesh.rack("r1", Offer(models=("m1", "m2"), labels=(("room", "3"), ("os", "linux"))))
        await mesh.rack("r2", Offer(models=("m2",), labels=(("room", "4"),)))
        await mesh.see(r1="healthy", r2="healthy")
        await mesh.ask("drainWorker", {"workerId": "r2"})

        async def names(**want: Any) -> list[str]:
            answer = await mesh.ask("listWorkers", want)
            assert answer["total"] == len(answer["workers"])
            return sorted(worker["workerId"] for worker in answer["workers"])

        assert await names() == ["r1", "r2"]
        assert await names(modelId="m1") == ["r1"]
        assert await names(modelId="m2") == ["r1", "r2"]
        assert await names(modelId="m9") == []
        assert await names(state="draining") == ["r2"]
        assert await names(labels={"room": "3"}) == ["r1"]
        assert await names(labels={"room": "3", "os": "mac"}) == []
        assert await names(modelId="m2", state="healthy", labels={"room": "3"}) == ["r1"]

    story(told, tmp_path)


def test_finding_a_worker_names_one_to_talk_to_directly(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1", Offer(tags=("gpu",)))
        await mesh.rack("r2")
        await mesh.see(r1="healthy", r2="healthy")
        wanted = {"modelId": "m1", "requirements": {"capabilities": ["gpu"]}}
        found = await mesh.ask("findAvailableWorker", wanted)
        assert (found["success"], found["worker"]["workerId"]) == (True, "r1")
        body = {"modelId": "m1", "inputData": "direct"}
        address = found["worker"]["address"]
        answer = await mesh.asker.request(address, "runInference", body, timeout=5.0)
        assert answer["result"] == {"from": "r1"}
        assert rack.seen == ["direct"]
        for body, kind in (
            ({"modelId": "m9"}, errors.NoWorkersAvailable),
            ({"modelId": "m1", "requirements": {"labels": {"a": "b"}}}, errors.NoWorkersMatch),
            ({}, errors.BadRequest),
        ):
            with pytest.raises(kind):
                await mesh.ask("findAvailableWorker", body)

    story(told, tmp_path)


# --- the operator's word


@pytest.mark.parametrize(
    ("method", "state", "after"),
    [("drainWorker", "draining", "healthy"), ("quarantineWorker", "quarantined", "probation")],
)
def test_operators_word_drives_routing(tmp_path: Path, method: str, state: str, after: str) -> None:
    async def told(mesh: Mesh) -> None:
        await mesh.rack("r1")
        await mesh.rack("r2")
        await mesh.see(r1="healthy", r2="healthy")
        answer = await mesh.ask(method, {"workerId": "r1"})
        assert answer == {"success": True, "workerId": "r1", "state": state}
        assert await mesh.asked() == {"r2"}
        await asyncio.sleep(60.0)
        assert mesh.states() == {"r1": state, "r2": "healthy"}
        assert await mesh.asked() == {"r2"}
        assert (await mesh.ask("releaseWorker", {"workerId": "r1"}))["state"] == after
        assert await mesh.asked() == {"r1", "r2"}
        await mesh.see(r1="healthy", r2="healthy", within=30.0)

    story(told, tmp_path)


@pytest.mark.parametrize("method", ["drainWorker", "quarantineWorker", "releaseWorker"])
def test_operators_word_about_nobody_is_not_found(tmp_path: Path, method: str) -> None:
    async def told(mesh: Mesh) -> None:
        with pytest.raises(errors.WorkerNotFound, match="nobody"):
            await mesh.ask(method, {"workerId": "nobody"})
        with pytest.raises(errors.BadRequest, match="workerId"):
            await mesh.ask(method, {})

    story(told, tmp_path)


def test_hold_outlives_a_restart_of_the_rack(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1", flags={"rpc.port": "8010"})
        await mesh.see(r1="healthy")
        await mesh.ask("drainWorker", {"workerId": "r1"})
        await mesh.crash(rack)
        await mesh.see(r1="gone")
        await mesh.rack("r1", epoch=2, flags={"rpc.port": "8010"})
        await mesh.see(r1="draining")
        with pytest.raises(errors.NoWorkersAvailable):
            await mesh.infer()

    story(told, tmp_path)


# --- health


def test_rack_that_answers_nothing_is_quarantined_whatever_clock_ends_the_waiting(tmp_path: Path) -> None:
    """The caller's deadline, its CANCEL and the server's clock all come at once; each is a miss."""

    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1", Offer(capacity=50))
        await mesh.see(r1="healthy")
        rack.hold()
        for _ in range(5):
            with pytest.raises(errors.DeadlineExceeded):
                await mesh.infer(timeout=1.0)
        await mesh.see(r1="quarantined")
        assert mesh.orc.load_balancing_stats()["workers"]["r1"]["failureCount"] == 5
        rack.let_go()
        await mesh.see(r1="probation", within=10.0)
        await mesh.see(r1="healthy", within=30.0)

    story(told, tmp_path)


def test_only_rack_of_a_model_gets_a_call_at_a_time_while_it_is_in_quarantine(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1", Offer(capacity=50))
        await mesh.see(r1="healthy")
        rack.hold()
        for _ in range(5):
            with pytest.raises(errors.DeadlineExceeded):
                await mesh.infer(timeout=1.0)
        worker = mesh.listed()["r1"]
        assert (worker["state"], worker["limit"], worker["letIn"]) == ("quarantined", 1, True)
        assert (await mesh.ask("getServiceStatus"))["health"]["panic"] == ["m1"]
        works = [asyncio.ensure_future(mesh.infer()) for _ in range(3)]
        await until(lambda: mesh.listed()["r1"]["currentLoad"] == 1)
        assert (await mesh.ask("getServiceStatus"))["loadBalancer"]["waiting"] == 2
        rack.let_go()
        await asyncio.gather(*works)
        assert mesh.states() == {"r1": "quarantined"}
        await mesh.see(r1="healthy", within=15.0)
        assert (await mesh.ask("getServiceStatus"))["health"]["panic"] == []
        (begun,), (over,) = mesh.facts("model.panic"), mesh.facts("model.panic_over")
        assert (begun["model"], begun["let_in"], over["model"]) == ("m1", ["r1"], "m1")

    story(told, tmp_path)


def test_rack_that_comes_and_goes_does_not_fill_the_log_and_its_last_state_is_told(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1")
        await mesh.see(r1="healthy")
        link = mesh.orc.fleet.peer("r1")
        assert link is not None
        for _ in range(100):
            link.drop("a test")
            await asyncio.sleep(1.0)
        lines = mesh.facts("worker.state")
        assert len(lines) <= 5 + 100 / 5
        assert sum(line.get("unsaid", 0) for line in lines) > 50
        await asyncio.sleep(400.0)
        assert mesh.facts("worker.state")[-1]["new"] == mesh.states()["r1"] == "healthy"
        assert rack.endpoint == mesh.listed()["r1"]["address"]

    story(told, tmp_path)


def test_callers_haste_is_not_held_against_a_rack(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1", Offer(capacity=50))
        await mesh.see(r1="healthy")
        rack.hold()
        for _ in range(10):
            with pytest.raises(errors.DeadlineExceeded):
                await mesh.infer(timeoutMs=20)
        assert mesh.states() == {"r1": "healthy"}
        rack.let_go()

    story(told, tmp_path)


def test_errors_of_the_handler_are_the_answer_and_say_nothing_of_its_health(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1")
        await mesh.rack("r2")
        await mesh.see(r1="healthy", r2="healthy")
        rack.failure = errors.BadRequest("too long", data={"field": "prompt"})
        seen = []
        for _ in range(12):
            try:
                await mesh.infer()
            except errors.BadRequest as error:
                seen.append((error.message, error.data["field"], error.origin, error.data["attempts"]))
        assert seen == [("too long", "prompt", "r1", 1)] * 6
        assert mesh.states() == {"r1": "healthy", "r2": "healthy"}

    story(told, tmp_path)


def test_rack_that_says_that_it_is_not_healthy_is_left_alone_and_returns_at_once(tmp_path: Path) -> None:
    """However often it was unhealthy, and for however long: its own word is no verdict."""

    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1")
        await mesh.see(r1="healthy")
        sick: dict[str, Any] = {}
        rack.respond("getHealth", lambda _: sick)
        for times in range(5):
            sick.update({"healthy": False, "reason": f"the GPU is too hot: {times}"})
            await mesh.see(r1="unhealthy", within=8.0)
            with pytest.raises(errors.NoWorkersAvailable):
                await mesh.infer()
            await asyncio.sleep(100.0)
            (shown,) = (await mesh.ask("listWorkers"))["workers"]
            assert (shown["state"], shown["cause"]) == ("unhealthy", f"the GPU is too hot: {times}")
            sick["healthy"] = True
            await mesh.see(r1="healthy", within=2.0)
            assert await mesh.asked() == {"r1"}

    story(told, tmp_path)


def test_rack_that_does_not_say_how_it_is_has_failed_its_probe(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1")
        await mesh.see(r1="healthy")
        rack.respond("getHealth", lambda _: {"healthy": "perhaps"})
        await mesh.see(r1="quarantined", within=15.0)
        assert any("probes failed" in facts["cause"] for facts in mesh.facts("worker.state"))

    story(told, tmp_path)


def test_zero_workers_are_healthy(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        health = await mesh.ask("healthCheck")
        assert (health["success"], health["healthy"]) == (True, True)
        assert all(part["healthy"] for part in health["components"].values())
        with pytest.raises(errors.NoWorkersAvailable, match="no model is"):
            await mesh.infer()
        assert (await mesh.ask("getLoadBalancingStats"))["workers"] == {}
        assert (await mesh.ask("listWorkers")) == {"success": True, "workers": [], "total": 0}
        await mesh.rack("r1")
        await mesh.see(r1="healthy")
        assert await mesh.asked() == {"r1"}

    story(told, tmp_path)


# --- load


def test_current_load_moves_and_returns_to_zero(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1", Offer(capacity=3))
        await mesh.see(r1="healthy")
        rack.hold()
        works = [asyncio.ensure_future(mesh.infer()) for _ in range(3)]
        await until(lambda: len(rack.seen) == 3)
        assert mesh.listed()["r1"]["currentLoad"] == 3
        assert (await mesh.ask("getLoadBalancingStats"))["workers"]["r1"]["currentLoad"] == 3
        with pytest.raises(errors.QueueTimeout):
            await mesh.infer(timeoutMs=5000)
        assert mesh.listed()["r1"]["currentLoad"] == 3
        rack.let_go()
        await asyncio.gather(*works)
        assert mesh.listed()["r1"]["currentLoad"] == 0
        await asyncio.sleep(5.0)
        assert mesh.listed()["r1"]["currentLoad"] == 0

    story(told, tmp_path)


def test_what_a_rack_carries_for_others_is_learnt_from_its_beats(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1", Offer(capacity=1))
        await mesh.see(r1="healthy")
        body = {"modelId": "m1", "inputData": "direct"}
        direct = mesh.asker.request(rack.endpoint, "runInference", body, timeout=60.0)
        async with under_way(rack, direct):
            await until(lambda: mesh.listed()["r1"]["currentLoad"] == 1)
            with pytest.raises(errors.QueueTimeout):
                await mesh.infer(timeoutMs=1000)
        await until(lambda: mesh.listed()["r1"]["currentLoad"] == 0)
        assert await mesh.asked() == {"r1"}

    story(told, tmp_path)


def test_request_that_waits_gets_a_slot_that_others_give_back(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        patient = await mesh.orchestrator("patient", flags={"routing.queueTimeout": "60000"})
        rack = await mesh.rack("r1", Offer(capacity=1))
        await mesh.see(of=patient, r1="healthy")
        body = {"modelId": "m1", "inputData": "x"}
        async with under_way(rack, mesh.asker.request(rack.endpoint, "runInference", body, timeout=60.0)):
            await until(lambda: mesh.listed(patient)["r1"]["currentLoad"] == 1)
            waits = [
                asyncio.ensure_future(mesh.ask("routeInferenceRequest", body, of=patient)) for _ in range(3)
            ]
            await until(lambda: patient.service_status()["loadBalancer"]["waiting"] == 3)
        async with asyncio.timeout(5.0):
            answers = await asyncio.gather(*waits)
        assert {answer["workerId"] for answer in answers} == {"r1"}

    story(told, tmp_path)


def test_request_that_waits_gets_a_worker_that_changes_what_it_offers(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        patient = await mesh.orchestrator("patient", flags={"routing.queueTimeout": "60000"})
        full = await mesh.rack("r1", Offer(capacity=1))
        other = await mesh.rack("r2", Offer(models=("m2",), capacity=1))
        await mesh.see(of=patient, r1="healthy", r2="healthy")
        body = {"modelId": "m1", "inputData": "x"}
        async with under_way(full, mesh.ask("routeInferenceRequest", body, of=patient)):
            waiting = asyncio.ensure_future(mesh.ask("routeInferenceRequest", body, of=patient))
            await until(lambda: patient.service_status()["loadBalancer"]["waiting"] == 1)
            other.offer = Offer(models=("m1",), capacity=1)
            async with asyncio.timeout(15.0):
                assert (await waiting)["workerId"] == "r2"

    story(told, tmp_path)


# --- what it tells


def test_figures_per_worker_have_the_names_that_users_know(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1")
        await mesh.see(r1="healthy")
        await mesh.infer()
        rack.failure = errors.Internal("broken")
        with pytest.raises(errors.Internal):
            await mesh.infer()
        stats = await mesh.ask("getLoadBalancingStats")
        assert (stats["success"], stats["strategy"]) == (True, "round-robin")
        figures = stats["workers"]["r1"]
        assert figures.keys() == {
            "requestCount",
            "successCount",
            "failureCount",
            "averageProcessingTime",
            "totalProcessingTime",
            "lastRequestTime",
            "currentLoad",
        }
        assert (figures["requestCount"], figures["successCount"], figures["failureCount"]) == (2, 1, 1)

    story(told, tmp_path)


def test_status_tells_of_registry_balancer_health_and_links(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        await mesh.rack("r1")
        await mesh.see(r1="healthy")
        await mesh.infer()
        status = await mesh.ask("getServiceStatus")
        assert (status["success"], status["status"]) == (True, "ok")
        assert (status["workerId"], status["mesh"]) == ("orc", "test-mesh")
        assert status["endpoint"] == mesh.orc.endpoint
        assert status["registry"] == {"workers": 1, "models": {"m1": 1}, "aliases": {}, "leaseMs": 30_000}
        assert status["loadBalancer"].keys() == {
            "strategy",
            "workers",
            "waiting",
            "queues",
            "loading",
        }
        assert (status["health"]["total"], status["health"]["healthy"]) == (1, 1)
        assert (status["rpcClients"]["held"], status["rpcClients"]["ready"]) == (1, 1)
        counts = {"routed": 1, "failed": 0, "retried": 0, "moved": 0, "hedged": 0}
        assert status["routing"] == counts
        assert status["discovery"]["found"] >= 1
        assert isinstance(status["timestamp"], int)

    story(told, tmp_path)


def test_simulated_request_needs_no_rack(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        body = {"modelId": "m9", "inputData": "x"}
        for more in ({"simulate": True}, {"options": {"simulate": True}}):
            answer = await mesh.ask("routeInferenceRequest", {**body, **more})
            assert (answer["simulated"], answer["result"]["simulated"]) == (True, True)

    story(told, tmp_path)


def test_request_that_makes_no_sense_names_the_field(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        for body, field in (
            ({"inputData": "x"}, "modelId"),
            ({"modelId": "", "inputData": "x"}, "modelId"),
            ({"modelId": "m1", "options": {"timeoutMs": -1}}, "timeoutMs"),
            ({"modelId": "m1", "options": {"requirements": {"labels": {"a": 1}}}}, "labels"),
        ):
            with pytest.raises(errors.BadRequest, match=field):
                await mesh.ask("routeInferenceRequest", body)

    story(told, tmp_path)


# --- limits


def test_worker_for_which_no_link_is_left_says_so_until_there_is_one(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        small = await mesh.orchestrator("small", flags={"rpc.maxPeers": "1"}, heard=mesh.bus.join("alone"))
        rack = await mesh.rack("r1", heard=mesh.bus.join("nobody"))
        body = {"workerId": "first", "address": NOBODY}
        await mesh.ask("registerWorker", body, of=small)
        second = {"workerId": "second", "address": rack.endpoint, "capabilities": {"models": ["m1"]}}
        await mesh.ask("registerWorker", second, of=small)
        await mesh.see(of=small, first="unreachable", second="unreachable")
        assert "rpc.maxPeers = 1" in mesh.listed(small)["second"]["cause"]
        await mesh.ask("unregisterWorker", {"workerId": "first"}, of=small)
        await mesh.ask("registerWorker", second, of=small)
        await mesh.see(of=small, second="healthy")

    story(told, tmp_path)


def test_request_that_no_link_can_carry_says_nothing_of_a_worker(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        limits = {"rpc.maxMessageSize": "524288"}
        await mesh.rack("r1", flags=limits)
        await mesh.see(r1="healthy")
        before = mesh.orc.health_monitor.describe("r1", 0.0)["successes"]
        body = {"modelId": "m1", "inputData": "x", "note": "x" * 600_000}
        with pytest.raises(errors.BadRequest, match="limit") as refused:
            await mesh.ask("routeInferenceRequest", body)
        assert refused.value.data["attempts"] == 1
        assert mesh.states() == {"r1": "healthy"}
        assert mesh.orc.health_monitor.describe("r1", 0.0)["successes"] == before

    story(told, tmp_path)


# --- its life


def test_settings_that_never_were_read_elsewhere_are_read_here(tmp_path: Path) -> None:
    """The ancestor had retries in its configuration and none in its code."""

    async def told(mesh: Mesh) -> None:
        eager = await mesh.orchestrator("eager", flags={"maxRetries": "2"})
        plain = await mesh.orchestrator("plain", flags={"enableFailover": "false"})
        racks = [await mesh.rack(f"r{number}") for number in range(1, 6)]
        for orchestrator in (eager, plain):
            await until(lambda o=orchestrator: list(mesh.states(o).values()) == ["healthy"] * 5)  # type: ignore[misc]
        for rack in racks:
            rack.failure = errors.Unavailable("it drains", not_started=True)
        body = {"modelId": "m1", "inputData": "x"}
        for orchestrator, attempts in ((eager, 3), (plain, 1)):
            with pytest.raises(errors.Unavailable) as lost:
                await mesh.ask("routeInferenceRequest", body, of=orchestrator)
            assert lost.value.data["attempts"] == attempts

    story(told, tmp_path)


def test_sweeps_heal_what_was_missed(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        deaf = mesh.bus.join("test-mesh", deaf=True)
        unlucky = await mesh.orchestrator("unlucky", heard=deaf)
        await mesh.rack("r1", heard=mesh.bus.join("test-mesh", deaf=True))
        await asyncio.sleep(5.0)
        assert mesh.states(unlucky) == {}
        deaf.deaf = False
        await mesh.see(of=unlucky, r1="healthy", within=11.0)
        assert deaf.sweeps >= 1

    story(told, tmp_path)


def test_stopping_orchestrator_refuses_new_work_and_finishes_the_old(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1")
        await mesh.see(r1="healthy")
        async with under_way(rack, mesh.infer()) as work:
            stop = asyncio.ensure_future(mesh.orc.stop())
            await asyncio.sleep(0.5)
            assert mesh.orc.not_ready() == "it is draining"
            assert mesh.orc.service_status()["status"] == "draining"
            with pytest.raises(errors.Unavailable) as refused:
                await mesh.infer()
            assert refused.value.not_started
        assert (await work)["workerId"] == "r1"
        await stop
        assert rack.registrations() == []

    story(told, tmp_path)


def test_stop_can_be_asked_for_often_and_leaves_nothing(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        await mesh.rack("r1")
        await mesh.see(r1="healthy")
        await asyncio.gather(mesh.orc.stop(), mesh.orc.stop())
        await mesh.orc.stop()
        assert mesh.orc.endpoint not in mesh.network.listeners
        assert mesh.orc._tasks == set()

    story(told, tmp_path)


def test_stop_during_the_start_leaves_nothing(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        heard = mesh.bus.join("test-mesh")
        begin = heard.start

        async def slow_start(*arguments: Any) -> None:
            await begin(*arguments)
            await asyncio.sleep(3.0)

        heard.start = slow_start  # type: ignore[method-assign]
        await mesh.rack("r1")
        await mesh.see(r1="healthy")
        late = OrchestratorWorker(mesh.context("late", "orchestrator", heard=heard))
        starting = asyncio.ensure_future(late.start())
        await until(lambda: mesh.states(late) == {"r1": "healthy"})
        await late.stop()
        with pytest.raises(errors.StartError):
            await starting
        assert late.endpoint not in mesh.network.listeners
        assert heard not in mesh.bus.members

    story(told, tmp_path)


def test_nothing_that_happens_during_the_stop_starts_anything_new(tmp_path: Path) -> None:
    """Racks come, go and answer while the goodbye is on its way."""

    async def told(mesh: Mesh) -> None:
        rack = await mesh.rack("r1")
        await mesh.see(r1="healthy")

        async def slow_diagnosis(endpoint: str) -> str:
            await asyncio.sleep(10.0)
            return "nobody knows"

        async def slow_goodbye() -> None:
            await asyncio.sleep(1.0)
            mesh.network.refuse(rack.endpoint)
            mesh.network.cut(rack.endpoint)
            mesh.orc.on_found(Found(NOBODY, "mdns", "late", 1, "rack"))
            await asyncio.sleep(1.0)

        mesh.network.diagnose = slow_diagnosis  # type: ignore[method-assign]
        mesh.orc.context.discovery.stop = slow_goodbye  # type: ignore[method-assign]
        await mesh.orc.stop()
        await asyncio.sleep(0)
        assert mesh.orc._tasks == set()

    story(told, tmp_path)


def test_names_of_models_that_contradict_themselves_stop_the_start(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        with pytest.raises(errors.SettingsError, match=r"routing\.aliases: a -> b -> a: "):
            await mesh.orchestrator("odd", flags={"routing.aliases": "a=b,b=a"})

    story(told, tmp_path)
