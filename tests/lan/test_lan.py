"""Machines on a LAN: they become members of one mesh, and racks are found, used, lost and found again.

The machines are network namespaces on a bridge, with a state directory each. What is asked runs inside
their namespaces, through the `wrk` command, as a user there would; which network they use is left to `wrk`,
as it is where nobody says anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.machine import ORCHESTRATOR, Machine, rack_args
from tests.fakes.processes import ProcessHandle, wait_until
from tests.lan.namespaces import Lan, why_not

pytestmark = pytest.mark.lan


@pytest.fixture
def lan() -> Iterator[Lan]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with Lan("desk", "attic", "cellar") as made:
        yield made


class Site:
    """The machines on the LAN. The mesh is made on the desk."""

    def __init__(self, lan: Lan, tmp_path: Path, interface: str = "") -> None:
        self.lan = lan
        self.desk, self.attic, self.cellar = (
            Machine(tmp_path, host, interface=interface, prefix=lan.run_in(host))
            for host in ("desk", "attic", "cellar")
        )

    def everybody_joins(self) -> ProcessHandle:
        """The orchestrator on the desk, when all three are members."""
        orchestrator = self.desk.orchestrator()
        self.attic.joins(self.desk)
        self.cellar.joins(self.desk)
        return orchestrator


def rack(machine: Machine) -> ProcessHandle:
    return machine.rack(machine.name, models=f"m-{machine.name},both")


def healthy(machine: Machine, *names: str) -> Callable[[], bool]:
    """Whether these racks, and no others, are healthy as seen from there."""

    def look() -> bool:
        states = machine.states()
        return {name for name, state in states.items() if state == "healthy"} == set(names)

    return look


def asked(machine: Machine, model: str) -> Any:
    """Which worker answers."""
    return machine.wrk("infer", model, "hello", "--json").json["workerId"]


def said(process: ProcessHandle, event: str) -> list[dict[str, Any]]:
    return [line for line in process.events() if line["event"] == event]


# --- racks that come, go and come back


def test_racks_on_other_machines_are_found_used_lost_and_found_again(lan: Lan, tmp_path: Path) -> None:
    site = Site(lan, tmp_path)
    desk = site.desk
    with site.everybody_joins(), rack(site.attic) as attic, rack(site.cellar) as cellar:
        wait_until(healthy(desk, "attic", "cellar"), what="both racks found")
        workers = {worker["name"]: worker for worker in desk.wrk("workers", "--json").json["workers"]}
        assert {worker["foundBy"] for worker in workers.values()} == {"mdns"}
        assert workers["attic"]["address"].startswith(f"tcp://{lan.address('attic')}:")
        assert asked(desk, "m-attic") == attic.worker_id

        lan.unplug("attic")
        wait_until(lambda: desk.states().get("attic") not in ("healthy", "suspect"), what="attic out")
        assert asked(desk, "both") == cellar.worker_id

        lan.plug("attic")
        wait_until(healthy(desk, "attic", "cellar"), what="attic back")
        assert asked(desk, "m-attic") == attic.worker_id


def test_start_order_does_not_matter_on_a_lan(lan: Lan, tmp_path: Path) -> None:
    site = Site(lan, tmp_path)
    site.everybody_joins().stop()
    with rack(site.attic), site.desk.orchestrator(), rack(site.cellar):
        wait_until(healthy(site.desk, "attic", "cellar"), what="both racks found")


def test_the_network_can_be_named(lan: Lan, tmp_path: Path) -> None:
    site = Site(lan, tmp_path, interface="eth0")
    with site.everybody_joins(), rack(site.attic):
        wait_until(healthy(site.desk, "attic"), what="the rack is found")


# --- members and strangers


def test_machines_meet_when_one_was_invited_and_has_joined(lan: Lan, tmp_path: Path) -> None:
    site = Site(lan, tmp_path)
    desk, attic = site.desk, site.attic
    with desk.orchestrator() as orchestrator, attic.spawn(*rack_args("attic", "both")) as waiting:
        assert orchestrator.endpoint.startswith(f"tcp://{lan.address('desk')}:")
        wait_until(lambda: said(waiting, "worker.no_mesh"), what="the rack waits for a mesh")
        assert desk.states() == {}
        invited = desk.wrk("invite", "--role", "rack")
        assert "cannot reach it" not in invited.err
        assert attic.wrk("join", invited.out.strip(), "--name", "attic").code == 0
        wait_until(healthy(desk, "attic"), what="the rack goes on by itself and is found")
        wait_until(healthy(attic, "attic"), what="the orchestrator is found from the rack's machine")
        assert asked(attic, "both") == asked(desk, "both")
        members = {member["name"]: member for member in desk.wrk("mesh", "--json").json["members"]}
        assert members[orchestrator.worker_id]["machine"] != "attic"
        assert {member["machine"] for name, member in members.items() if name.startswith("attic-")} == {
            "attic"
        }

        desk.wrk("revoke", "attic")
        wait_until(healthy(desk), timeout=5.0, what="the machine is cut off")
        assert "ERR_NO_WORKERS_AVAILABLE" in desk.wrk("infer", "both", "hello").refused()
        assert "ERR_" in attic.wrk("workers").refused()
    with desk.orchestrator(), attic.spawn(*rack_args("attic", "both")) as again:
        wait_until(lambda: said(again, "rack.refused"), what="it stays out after both have started again")
        assert desk.states() == {}


def test_a_machine_that_is_no_member_sees_nothing_and_is_routed_nothing(lan: Lan, tmp_path: Path) -> None:
    site = Site(lan, tmp_path)
    desk, attic, cellar = site.desk, site.attic, site.cellar
    with desk.orchestrator() as orchestrator:
        attic.joins(desk)
        refused = cellar.wrk("workers").refused()
        assert refused.startswith(f"wrk: ERR_UNAUTHENTICATED: this machine is in no mesh '{desk.mesh}'")
        assert "`wrk join STRING`" in refused
        with rack(attic), cellar.spawn(*ORCHESTRATOR), cellar.spawn(*rack_args("cellar", "both")) as stranger:
            # By its orchestrator the third machine has a mesh of its own, of the very same name.
            wait_until(healthy(desk, "attic"), what="the member is found")
            wait_until(healthy(cellar, "cellar"), what="the stranger's own mesh works")
            wait_until(lambda: _hears_another_mesh(desk), what="the mesh hears the stranger")
            wait_until(lambda: _hears_another_mesh(cellar), what="the stranger hears the mesh")
            assert list(desk.states()) == ["attic"]
            assert list(cellar.states()) == ["cellar"]
            for _ in range(4):
                assert asked(desk, "both").startswith("attic-")
            address = f"{orchestrator.endpoint}#{orchestrator.status['publicKey']}"
            for words in (["workers"], ["infer", "both", "hello"], ["mesh"]):
                assert "ERR_UNAVAILABLE" in cellar.wrk(*words, "--peer", address).refused()
            assert stranger.running


def _hears_another_mesh(machine: Machine) -> bool:
    return bool(machine.wrk("status", "--json").json["discovery"].get("otherMesh"))
