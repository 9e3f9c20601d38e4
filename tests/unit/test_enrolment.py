"""How a rack becomes known and stays known, told from the rack's side, with front desks for orchestrators.

A `Desk` is a server in the role of an orchestrator that writes down what it is told. In virtual time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import Any

import pytest

from tests.fakes.aio import run
from tests.fakes.network import FakeNetwork
from tests.fakes.rpc import RecordedLog
from wrk_base import contract, errors
from wrk_base.discovery import Found
from wrk_base.enrolment import DIAL_BACK_SECONDS, FORGET_SECONDS, Enrolment
from wrk_base.rpc.identity import Identity
from wrk_base.rpc.line import PeerLimits
from wrk_base.rpc.peers import Peers
from wrk_base.rpc.request import Request
from wrk_base.rpc.server import Server

LEASE_S = 30.0
SOON = 1.0


class Desk:
    """An orchestrator's ears: `registered` and `left` are what it was told, with the times."""

    def __init__(self, network: FakeNetwork, name: str, role: str = "orchestrator", port: int = 0) -> None:
        self.server = Server(Identity(name, epoch=1, role=role), log=RecordedLog())  # type: ignore[arg-type]
        self.answer: Any = {"success": True, "workerId": "r1", "registeredAt": 1, "leaseMs": LEASE_S * 1000}
        self.registered: list[tuple[float, dict[str, Any]]] = []
        self.left: list[str] = []
        self.open = asyncio.Event()
        self.open.set()
        self.server.respond("registerWorker", self._register)
        self.server.respond("unregisterWorker", self._unregister)
        self.endpoint = self.server.listen(network, f"tcp://127.0.0.1:{port}")
        self.found = Found(self.endpoint, "mdns", name, 1, role)

    @property
    def times(self) -> list[float]:
        return [round(when, 1) for when, _ in self.registered]

    async def _register(self, body: Any, request: Request) -> Any:
        self.registered.append((asyncio.get_running_loop().time(), body))
        await self.open.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def _unregister(self, body: Any) -> Any:
        await self.open.wait()
        self.left.append(body["workerId"])
        return {"success": True}


class House:
    """A rack's enrolment, and the desks it may hear of."""

    def __init__(self) -> None:
        self.network = FakeNetwork()
        self.log = RecordedLog()
        self.models = ["m1"]
        self.dialled_back = True
        self.tasks: set[asyncio.Task[Any]] = set()
        self.desks: list[Desk] = []
        self.peers = Peers(
            network=self.network,
            identity=Identity("r1", epoch=1, role="rack"),
            rng=Random(1),
            limits=PeerLimits(),
            max_peers=8,
            linger=60.0,
        )
        self.enrolment = Enrolment(
            peers=self.peers,
            offer=lambda: contract.Registration(
                "r1", "tcp://127.0.0.1:1", contract.Capabilities(models=self.models)
            ),
            dialled_back=lambda worker_id: self.dialled_back,
            spawn=self._spawn,
            log=self.log,  # type: ignore[arg-type]
        )

    def _spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name=name)
        self.tasks.add(task)
        return task

    def desk(self, name: str = "orc", **more: Any) -> Desk:
        desk = Desk(self.network, name, **more)
        self.desks.append(desk)
        return desk

    async def close_desk(self, desk: Desk) -> None:
        self.desks.remove(desk)
        desk.server.close()
        await asyncio.sleep(0.05)

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [facts for name, facts in self.log.events if name == event]

    async def end(self) -> None:
        self.enrolment.close()
        self.peers.close()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for desk in self.desks:
            desk.server.cancel_all()
            await desk.server.drained()
            desk.server.close()
        self.network.close()
        assert self.enrolment._timers == {}


def story(tell: Callable[[House], Awaitable[None]]) -> None:
    async def told() -> None:
        house = House()
        await tell(house)
        await house.end()

    run(told(), "virtual", within=1e6)


# --- registering


def test_an_orchestrator_that_is_heard_is_registered_with_at_once() -> None:
    async def told(house: House) -> None:
        desk = house.desk()
        house.enrolment.hear(desk.found)
        await asyncio.sleep(SOON)
        ((when, body),) = desk.registered
        assert when < 0.1
        assert contract.parse(contract.Registration, body).capabilities.models == ["m1"]
        assert house.enrolment.registered == {desk.endpoint: "orc"}
        assert house.logged("rack.registered") == [{"orchestrator": "orc", "endpoint": desk.endpoint}]

    story(told)


def test_what_is_offered_anew_is_told_at_once_to_everybody() -> None:
    async def told(house: House) -> None:
        desks = [house.desk(name) for name in ("a", "b")]
        for desk in desks:
            house.enrolment.hear(desk.found)
        await asyncio.sleep(SOON)
        house.models = ["m1", "m2"]
        house.enrolment.renew()
        await asyncio.sleep(SOON)
        for desk in desks:
            assert [body["capabilities"]["models"] for _, body in desk.registered] == [["m1"], ["m1", "m2"]]
            assert desk.times[1] == SOON

    story(told)


def test_an_offer_that_changes_while_it_is_told_is_told_again() -> None:
    async def told(house: House) -> None:
        desk = house.desk()
        desk.open.clear()
        house.enrolment.hear(desk.found)
        await asyncio.sleep(SOON)
        house.models = ["m2"]
        house.enrolment.renew()
        await asyncio.sleep(SOON)
        desk.open.set()
        await asyncio.sleep(SOON)
        assert [body["capabilities"]["models"] for _, body in desk.registered] == [["m1"], ["m2"]]

    story(told)


def test_every_orchestrator_that_is_heard_is_registered_with() -> None:
    async def told(house: House) -> None:
        for name in ("a", "b", "c"):
            house.enrolment.hear(house.desk(name).found)
        await asyncio.sleep(SOON)
        assert sorted(house.enrolment.registered.values()) == ["a", "b", "c"]

    story(told)


def test_one_that_is_heard_again_is_not_dialled_again() -> None:
    async def told(house: House) -> None:
        desk = house.desk()
        for _ in range(5):
            house.enrolment.hear(desk.found)
            await asyncio.sleep(SOON)
        assert len(desk.registered) == 1
        assert house.network.dials == [desk.endpoint]

    story(told)


def test_orchestrator_that_comes_later_is_dialled_until_it_is_there() -> None:
    async def told(house: House) -> None:
        house.enrolment.hear(Found("tcp://127.0.0.1:8004", "static"))
        await asyncio.sleep(60.0)
        desk = house.desk(port=8004)
        await asyncio.sleep(SOON + 0.1)
        assert len(desk.registered) == 1

    story(told)


def test_registration_is_renewed_at_a_third_of_the_lease_with_what_is_offered_then() -> None:
    async def told(house: House) -> None:
        desk = house.desk()
        house.enrolment.hear(desk.found)
        await asyncio.sleep(SOON)
        house.models = ["m1", "m2"]
        await asyncio.sleep(3 * LEASE_S / 3)
        assert desk.times == [0.0, 10.0, 20.0, 30.0]
        assert [body["capabilities"]["models"] for _, body in desk.registered][1:] == [["m1", "m2"]] * 3
        assert len(house.logged("rack.registered")) == 1

    story(told)


def test_tiny_lease_makes_no_storm_of_renewals() -> None:
    async def told(house: House) -> None:
        desk = house.desk()
        desk.answer = {**desk.answer, "leaseMs": 1}
        house.enrolment.hear(desk.found)
        await asyncio.sleep(5.5)
        assert len(desk.registered) == 6

    story(told)


def test_orchestrator_that_was_lost_is_registered_with_again_at_once() -> None:
    async def told(house: House) -> None:
        desk = house.desk()
        house.enrolment.hear(desk.found)
        await asyncio.sleep(5.0)
        house.network.cut(desk.endpoint)
        await asyncio.sleep(0.05)
        assert house.enrolment.registered == {}
        assert house.logged("rack.orchestrator_lost")[0]["endpoint"] == desk.endpoint
        await asyncio.sleep(SOON)
        assert house.enrolment.registered == {desk.endpoint: "orc"}
        assert len(desk.registered) == 2
        await asyncio.sleep(LEASE_S / 3)
        assert len(desk.registered) == 3

    story(told)


@pytest.mark.parametrize(
    "answer",
    [
        errors.PermissionDenied("identity r1 is in use"),
        errors.CapacityExceeded("maxWorkersPerModel"),
        {"success": True},
        {"leaseMs": "long"},
        {"leaseMs": None},
        None,
        "yes",
    ],
)
def test_refusal_or_nonsense_is_logged_and_tried_again_in_a_second(answer: Any) -> None:
    async def told(house: House) -> None:
        desk = house.desk()
        good, desk.answer = desk.answer, answer
        house.enrolment.hear(desk.found)
        await asyncio.sleep(2.5)
        assert desk.times == [0.0, 1.0, 2.0]
        assert house.enrolment.registered == {}
        refusals = house.logged("rack.registration_refused")
        assert [facts["endpoint"] for facts in refusals] == [desk.endpoint] * 3
        assert str(answer.args[0] if isinstance(answer, Exception) else "") in refusals[0]["reason"]
        desk.answer = good
        await asyncio.sleep(SOON)
        assert house.enrolment.registered == {desk.endpoint: "orc"}

    story(told)


def test_desk_that_never_answers_is_asked_again_on_another_link() -> None:
    async def told(house: House) -> None:
        desk = house.desk()
        desk.open.clear()
        house.enrolment.hear(desk.found)
        await asyncio.sleep(13.0)
        assert desk.times == [0.0, 5.1, 10.2]
        assert house.network.dials.count(desk.endpoint) == 3
        desk.open.set()
        await asyncio.sleep(10.0)
        assert house.enrolment.registered == {desk.endpoint: "orc"}

    story(told)


def test_link_that_is_lost_while_it_registers_makes_one_registration_more() -> None:
    async def told(house: House) -> None:
        desk = house.desk()
        desk.open.clear()
        house.enrolment.hear(desk.found)
        await asyncio.sleep(SOON)
        desk.open.set()
        house.network.cut(desk.endpoint)
        await asyncio.sleep(5.0)
        assert len(desk.registered) == 2
        assert house.enrolment.registered == {desk.endpoint: "orc"}

    story(told)


# --- who is no orchestrator


@pytest.mark.parametrize("role", ["rack", "worker", "client"])
def test_whoever_says_that_it_is_no_orchestrator_is_not_dialled(role: str) -> None:
    async def told(house: House) -> None:
        house.enrolment.hear(Found("tcp://127.0.0.1:7", "mdns", "w", 1, role))
        await asyncio.sleep(SOON)
        assert house.network.dials == []

    story(told)


def test_static_peer_that_turns_out_to_be_a_rack_is_let_go() -> None:
    async def told(house: House) -> None:
        rack = house.desk("r2", role="rack")
        house.enrolment.hear(Found(rack.endpoint, "static"))
        await asyncio.sleep(10.0)
        assert rack.registered == []
        assert len(house.peers) == 0
        assert house.network.dials == [rack.endpoint]

    story(told)


# --- goodbyes are hints


def gone(desk: Desk) -> Found:
    return desk.found


def test_goodbye_of_an_orchestrator_that_answers_changes_nothing() -> None:
    async def told(house: House) -> None:
        desk = house.desk()
        house.enrolment.hear(desk.found)
        await asyncio.sleep(SOON)
        house.enrolment.unhear(gone(desk))
        await asyncio.sleep(3 * FORGET_SECONDS)
        assert house.enrolment.registered == {desk.endpoint: "orc"}

    story(told)


def test_orchestrator_that_left_and_does_not_answer_is_forgotten_in_the_end() -> None:
    async def told(house: House) -> None:
        desk = house.desk()
        house.enrolment.hear(desk.found)
        await asyncio.sleep(SOON)
        await house.close_desk(desk)
        house.enrolment.unhear(gone(desk))
        await asyncio.sleep(FORGET_SECONDS - 5.0)
        assert house.logged("rack.orchestrator_forgotten") == []
        await asyncio.sleep(10.0)
        assert house.logged("rack.orchestrator_forgotten") == [{"endpoint": desk.endpoint}]
        dials = len(house.network.dials)
        await asyncio.sleep(60.0)
        assert len(house.network.dials) == dials
        assert len(house.peers) == 0
        house.enrolment.hear(desk.found)
        assert len(house.network.dials) == dials + 1

    story(told)


def test_orchestrator_that_goes_long_after_its_goodbye_is_forgotten_too() -> None:
    async def told(house: House) -> None:
        desk = house.desk()
        house.enrolment.hear(desk.found)
        await asyncio.sleep(SOON)
        house.enrolment.unhear(gone(desk))
        await asyncio.sleep(FORGET_SECONDS + 60.0)
        await house.close_desk(desk)
        await asyncio.sleep(FORGET_SECONDS)
        assert house.logged("rack.orchestrator_forgotten") == [{"endpoint": desk.endpoint}]

    story(told)


def test_orchestrator_that_is_heard_again_is_not_forgotten() -> None:
    async def told(house: House) -> None:
        desk = house.desk()
        house.enrolment.hear(desk.found)
        await asyncio.sleep(SOON)
        await house.close_desk(desk)
        house.enrolment.unhear(gone(desk))
        await asyncio.sleep(FORGET_SECONDS / 2)
        house.enrolment.hear(desk.found)
        await asyncio.sleep(FORGET_SECONDS)
        assert house.logged("rack.orchestrator_forgotten") == []

    story(told)


def test_peer_that_settings_name_is_never_forgotten() -> None:
    async def told(house: House) -> None:
        static = Found("tcp://127.0.0.1:8004", "static")
        house.enrolment.hear(static)
        house.enrolment.unhear(static)
        await asyncio.sleep(2 * FORGET_SECONDS)
        assert house.logged("rack.orchestrator_forgotten") == []
        desk = house.desk(port=8004)
        await asyncio.sleep(2.0)
        assert len(desk.registered) == 1

    story(told)


# --- the dial-back


@pytest.mark.parametrize("comes", [True, False])
def test_rack_that_is_not_dialled_back_learns_why(comes: bool) -> None:
    async def told(house: House) -> None:
        house.dialled_back = comes
        desk = house.desk()
        house.enrolment.hear(desk.found)
        await asyncio.sleep(DIAL_BACK_SECONDS + 1.0)
        said = house.logged("rack.unreachable")
        assert len(said) == (0 if comes else 1)
        if said:
            assert (said[0]["orchestrator"], said[0]["address"]) == ("orc", "tcp://127.0.0.1:1")
            assert "firewall" in said[0]["advice"]

    story(told)


# --- the end


def test_every_orchestrator_is_told_that_the_rack_leaves() -> None:
    async def told(house: House) -> None:
        desks = [house.desk(name) for name in ("a", "b")]
        for desk in desks:
            house.enrolment.hear(desk.found)
        await asyncio.sleep(SOON)
        house.enrolment.close()
        await house.enrolment.unregister("r1", 0.5)
        assert [desk.left for desk in desks] == [["r1"], ["r1"]]

    story(told)


def test_orchestrators_that_do_not_answer_are_not_waited_for() -> None:
    async def told(house: House) -> None:
        loop = asyncio.get_running_loop()
        good, stuck, cut = (house.desk(name) for name in ("good", "stuck", "cut"))
        for desk in (good, stuck, cut):
            house.enrolment.hear(desk.found)
        await asyncio.sleep(SOON)
        stuck.open.clear()
        house.network.refuse(cut.endpoint)
        house.network.cut(cut.endpoint)
        before = loop.time()
        await house.enrolment.unregister("r1", 0.5)
        assert good.left == ["r1"]
        assert loop.time() - before == pytest.approx(0.5, abs=0.01)

    story(told)


def test_nothing_is_registered_or_planned_after_the_close() -> None:
    async def told(house: House) -> None:
        busy, other = house.desk("busy"), house.desk("other")
        busy.open.clear()
        for desk in (busy, other):
            house.enrolment.hear(desk.found)
        await asyncio.sleep(SOON)
        house.enrolment.close()
        busy.open.set()  # its answer is on the way
        house.network.cut(other.endpoint)
        house.enrolment.hear(house.desk("late").found)
        house.enrolment.unhear(other.found)
        await asyncio.sleep(60.0)
        assert [len(desk.registered) for desk in house.desks] == [1, 1, 0]
        assert house.enrolment.registered == {busy.endpoint: "busy"}  # and can be told that the rack leaves
        assert house.enrolment._timers == {}

    story(told)
