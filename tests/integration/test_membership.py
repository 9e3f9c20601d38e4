"""Who is in the mesh and who is not, with real processes and the commands of a terminal.

Machines are state directories on loopback: to each other they are as far away as two computers, because
neither sees the other's files.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.aio import run
from tests.fakes.machine import ORCHESTRATOR, Machine, rack_args
from tests.fakes.processes import ProcessHandle, client, ready, wait_until
from wrk_base import Client, SyncClient, errors
from wrk_base.security.invitation import Invitation

NO_MESH = "worker.no_mesh"


@pytest.fixture
def desk(tmp_path: Path) -> Machine:
    """Where the mesh is made."""
    return Machine(tmp_path, "desk")


@pytest.fixture
def attic(tmp_path: Path) -> Machine:
    """Another machine, which is in no mesh yet."""
    return Machine(tmp_path, "attic")


def events(process: ProcessHandle, name: str) -> list[dict[str, Any]]:
    return [event for event in process.events() if event["event"] == name]


def waiting(machine: Machine, *args: str) -> ProcessHandle:
    """A process that waits for a mesh."""
    process = machine.spawn(*args)
    wait_until(lambda: events(process, NO_MESH), what="it says that there is no mesh")
    return process


def sees(machine: Machine, **wanted: str) -> Callable[[], bool]:
    """Whether the racks are in these states; "" means not listed."""

    def look() -> bool:
        states = machine.states()
        return all(states.get(name, "") == state for name, state in wanted.items())

    return look


# --- a machine without a mesh


@pytest.mark.parametrize("way", ["an orchestrator is started", "it joins"])
def test_a_rack_waits_for_a_mesh_and_goes_on_by_itself(desk: Machine, attic: Machine, way: str) -> None:
    here = attic if way == "it joins" else desk
    with waiting(here, *rack_args("r1")) as rack:
        (said,) = events(rack, NO_MESH)
        assert said["mesh"] == here.mesh
        for advice in ("start an orchestrator here", "`wrk invite --role rack`", "`wrk join STRING` here"):
            assert advice in said["advice"]
        with desk.orchestrator():
            if here is attic:
                attic.joins(desk)
            ready(rack)
            wait_until(sees(desk, r1="healthy"), what="the rack is in the mesh")
            assert desk.wrk("infer", "m1", "hello", "--json").json["workerId"] == rack.worker_id
            assert len(events(rack, NO_MESH)) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_rack_that_waits_for_a_mesh_ends_when_told(attic: Machine, number: int) -> None:
    with waiting(attic, *rack_args("r1")) as rack:
        rack.signal(number)
        assert rack.wait() == 0
    assert not attic.files.exists()


def test_orchestrators_that_start_at_once_make_one_mesh(desk: Machine) -> None:
    starting = [desk.spawn(*ORCHESTRATOR, "--rack", f"o{number}") for number in range(10)]
    ids = set()
    try:
        made = [ready(process) for process in starting]

        async def meet_all() -> None:
            async with client(made[0]) as caller:
                for process in made:
                    told = await caller.request(process.endpoint, "listMembers", {}, timeout=20.0)
                    ids.add(told["mesh"])

        run(meet_all())
        assert ids == {desk.files.load().mesh.hex()}
        for process in made:
            process.signal(signal.SIGTERM)
        assert [process.wait() for process in made] == [0] * 10
    finally:
        for process in starting:
            process.kill()


def test_a_client_where_no_mesh_is_says_what_to_do(attic: Machine) -> None:
    async def ask() -> None:
        async with Client(mesh=attic.mesh, state_dir=attic.state):
            raise AssertionError("it is in no mesh")

    with pytest.raises(errors.Unauthenticated) as refused:
        asyncio.run(ask())
    for advice in (str(attic.state), "start an orchestrator here", "`wrk join STRING`", "`wrk invite`"):
        assert advice in refused.value.message
    with pytest.raises(errors.Unauthenticated, match="is in no mesh"):
        SyncClient(mesh=attic.mesh, state_dir=attic.state)


# --- coming in


def test_a_machine_is_invited_joins_and_is_listed(desk: Machine, attic: Machine) -> None:
    with desk.orchestrator() as orchestrator:
        invited = desk.wrk("invite", "--role", "rack", "--role", "client")
        assert "good once, for 24h" in invited.err
        joined = attic.wrk("join", invited.out.strip(), "--name", "attic")
        assert (joined.code, joined.err) == (0, "")
        assert f"this machine is 'attic' in mesh '{desk.mesh}', as client, rack" in joined.out
        with attic.rack("r1") as rack:
            wait_until(sees(desk, r1="healthy"), what="the rack is in the mesh")
            told = desk.wrk("mesh", "--json").json
            members = {member["name"]: member for member in told["members"]}
            assert members[rack.worker_id]["machine"] == "attic"
            assert members[rack.worker_id]["roles"] == ["rack"]
            assert members[rack.worker_id]["publicKey"] == rack.status["publicKey"]
            assert members[orchestrator.worker_id]["address"] == orchestrator.endpoint
            assert {machine["name"] for machine in told["machines"]} == {_first(desk), "attic"}
            assert told["mesh"] == desk.files.load().mesh.hex()
            shown = desk.wrk("mesh").out
            assert f"{rack.endpoint}#{rack.status['publicKey']}" in shown
            assert "attic" in shown
            # There the machines are not known, and the processes are.
            there = attic.wrk("mesh", "--json").json
            assert rack.worker_id in {member["name"] for member in there["members"]}
            assert there["machines"] == []
            with SyncClient(mesh=attic.mesh, state_dir=attic.state, interface="127.0.0.1") as caller:
                assert caller.models() == ["m1"]


def _first(machine: Machine) -> str:
    """What the first machine calls itself."""
    return machine.files.load().issuer.name


def test_an_invitation_is_good_for_one_machine(desk: Machine, attic: Machine, tmp_path: Path) -> None:
    cellar = Machine(tmp_path, "cellar")
    with desk.orchestrator():
        invitation = desk.invite()
        assert attic.wrk("join", invitation, "--name", "attic").code == 0
        refused = cellar.wrk("join", invitation, "--name", "cellar").refused()
        assert "ERR_PERMISSION_DENIED: this invitation is unknown, or was used already" in refused
        assert not cellar.files.exists()
        assert "in this mesh already" in cellar.wrk("join", desk.invite(), "--name", "attic").refused()
        assert "needs no invitation" in desk.wrk("join", desk.invite()).refused()


def test_a_name_that_is_taken_leaves_the_invitation_open(desk: Machine, attic: Machine) -> None:
    with desk.orchestrator():
        invitation = desk.invite()
        refused = attic.wrk("join", invitation, "--name", _first(desk)).refused()
        assert "choose another name with --name" in refused
        assert attic.wrk("join", invitation, "--name", "attic").code == 0


def test_an_invitation_that_is_out_of_date_is_refused_by_both_sides(desk: Machine, attic: Machine) -> None:
    with desk.orchestrator():
        now = Invitation.decode(desk.invite())
        old = desk.files.invite(
            roles=frozenset({"rack"}),
            name="",
            models=None,
            expires_s=3600,
            now=time.time() - 7200,
            addresses=now.addresses,
            key=now.key,
        )
        assert "out of date" in attic.wrk("join", old.encode(), "--name", "attic").refused()
        forged = replace(old, expires=int(time.time()) + 3600)
        assert "this invitation ended" in attic.wrk("join", forged.encode(), "--name", "attic").refused()
        assert not attic.files.exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--role", "king"], "--role king: there are client, operator, orchestrator, rack, worker"),
        ([], "--role"),
        (["--role", "rack", "--expires", "soon"], "--expires soon: write it as 30m, 24h or 7d"),
    ],
)
def test_an_invitation_that_makes_no_sense_is_wrong_usage(desk: Machine, words: list[str], says: str) -> None:
    assert says in desk.wrk("invite", *words).misused()


def test_a_string_that_is_no_invitation_is_wrong_usage(desk: Machine, attic: Machine) -> None:
    with desk.orchestrator():
        whole = desk.invite()
    assert "one begins with wrk-join-" in attic.wrk("join", "hello").misused()
    assert "cut off: copy all of it" in attic.wrk("join", whole[:-5]).misused()
    swapped = whole[:40] + ("a" if whole[40] != "a" else "b") + whole[41:]
    assert "damaged" in attic.wrk("join", swapped).misused()


def test_a_machine_that_is_set_to_another_mesh_is_told_how_to_take_part(
    desk: Machine, attic: Machine
) -> None:
    with desk.orchestrator():
        joined = attic.wrk("join", desk.invite(), "--name", "attic", WRK_DISCOVERY__MESH="other")
    assert joined.code == 0
    assert f"processes are set to mesh 'other': start them with --discovery.mesh={desk.mesh}" in joined.out
    assert attic.files.exists()


def test_a_machine_with_a_mesh_of_its_own_is_told_how_to_leave_it(desk: Machine, attic: Machine) -> None:
    own = attic.files.create("attic", time.time())
    with desk.orchestrator():
        refused = attic.wrk("join", desk.invite(), "--name", "attic").refused()
    assert f"this machine is in another mesh called {desk.mesh} already" in refused
    assert f"remove {attic.files.directory} to leave that one" in refused
    assert attic.files.load().mesh == own.mesh


def test_who_cannot_invite_or_join_is_told_what_is_missing(desk: Machine, attic: Machine) -> None:
    assert "is in no mesh called" in attic.wrk("invite", "--role", "rack").refused()
    with desk.orchestrator():
        invitation, late = desk.invite(), desk.invite()
        assert attic.wrk("join", invitation, "--name", "attic").code == 0
        for command in (["invite", "--role", "rack"], ["revoke", "desk"]):
            assert "only the first machine of mesh" in attic.wrk(*command).refused()
    nobody_here = desk.wrk("invite", "--role", "rack").refused()
    assert "no orchestrator of mesh" in nobody_here
    assert "start it (`wrk orchestrator`) and invite again" in nobody_here
    nobody_there = attic.wrk("join", late, "--name", "attic").refused()
    assert "nobody could be asked to let this machine in" in nobody_there


def test_a_machine_does_no_more_than_it_was_invited_for(desk: Machine, attic: Machine) -> None:
    with desk.orchestrator():
        attic.joins(desk, "--models", "m1,m2")
        with attic.rack("greedy", models="m1,m3") as greedy, attic.rack("modest", models="m1"):
            wait_until(sees(desk, modest="healthy", greedy=""), what="the modest rack is in the mesh")
            (refused, *_) = wait_until(lambda: events(greedy, "rack.registration_refused"))
            assert "was invited for m1, m2, and not for m3" in refused["reason"]
            with SyncClient(mesh=desk.mesh, state_dir=desk.state) as caller:
                assert caller.models() == ["m1"]
        with attic.spawn(*ORCHESTRATOR) as orchestrator:
            assert orchestrator.wait() == 1
            assert "was invited to mesh" in orchestrator.log()
            assert "as rack only" in orchestrator.log()


# --- going out


def test_a_machine_that_is_revoked_is_cut_off_and_stays_out(desk: Machine, attic: Machine) -> None:
    with desk.orchestrator() as orchestrator:
        attic.joins(desk)
        with attic.rack("r1") as rack, desk.rack("r2"):
            wait_until(sees(desk, r1="healthy", r2="healthy"), what="both racks are in the mesh")
            said = desk.wrk("revoke", "attic")
            assert (said.code, said.err) == (0, "")
            assert "machine attic is revoked (list 1); told tcp://" in said.out
            wait_until(lambda: desk.states().get("r1") != "healthy", timeout=5.0, what="the rack is cut off")
            wait_until(lambda: events(rack, "rack.refused"), what="the rack is told why")
            assert "was revoked" in events(rack, "rack.refused")[0]["reason"]
            for _ in range(4):
                assert desk.wrk("infer", "m1", "hello", "--json").json["workerId"] != rack.worker_id
            assert "ERR_" in attic.wrk("workers").refused()
        with attic.rack("r1") as again:
            wait_until(lambda: events(again, "rack.refused"), what="it is refused after its restart")
            assert desk.states().get("r1") != "healthy"
            assert orchestrator.stop() == 0
            with desk.orchestrator() as restarted:
                wait_until(
                    lambda: events(restarted, "rpc.stranger"), what="it knocks at the next orchestrator"
                )
                assert desk.states().get("r1", "gone") != "healthy"
        assert {machine.name for machine in desk.files.machines()} == {_first(desk)}


def test_a_machine_that_was_revoked_can_be_invited_again(desk: Machine, attic: Machine) -> None:
    with desk.orchestrator():
        attic.joins(desk)
        assert desk.wrk("revoke", "attic").code == 0
        attic.joins(desk)
        with attic.rack("r1"):
            wait_until(sees(desk, r1="healthy"), what="the rack is in the mesh")


def test_a_process_is_revoked_by_its_id_and_returns_with_another_key(desk: Machine, attic: Machine) -> None:
    with desk.orchestrator():
        attic.joins(desk)
        with attic.rack("bad") as bad, attic.rack("good"):
            wait_until(sees(desk, bad="healthy", good="healthy"), what="both racks are in the mesh")
            said = desk.wrk("revoke", bad.worker_id, "--json").json
            assert (said["revoked"], said["serial"]) == (bad.worker_id, 1)
            wait_until(lambda: desk.states().get("bad") != "healthy", timeout=5.0, what="it is cut off")
            wait_until(lambda: events(bad, "membership.revoked"), what="it knows")
            assert desk.states()["good"] == "healthy"
            assert bad.stop() == 0
            with attic.rack("bad") as again:
                assert events(again, "membership.new_key")
                assert again.worker_id == bad.worker_id
                assert again.status["publicKey"] != bad.status["publicKey"]
                wait_until(sees(desk, bad="healthy", good="healthy"), what="it is back with another key")


def test_a_process_that_is_alone_and_revoked_is_told_so_and_helped_by_a_new_key(
    desk: Machine, attic: Machine
) -> None:
    """Nobody brings it the list: what it hears is that the handshake is refused."""
    with desk.orchestrator():
        attic.joins(desk)
        with attic.rack("r1") as rack:
            wait_until(sees(desk, r1="healthy"), what="the rack is in the mesh")
            assert desk.wrk("revoke", rack.worker_id).code == 0
            (refused, *_) = wait_until(lambda: events(rack, "rack.refused"), what="it is refused")
            assert refused["reason"] == "our key was revoked"
            assert "`wrk rotate`" in refused["advice"]
            prefix = str(rack.status["prefix"])
        with attic.rack("r1") as again:
            wait_until(lambda: events(again, "rack.refused"), what="it is refused after its restart")
        assert attic.wrk("rotate", prefix).code == 0
        with attic.rack("r1"):
            wait_until(sees(desk, r1="healthy"), what="the rack is back")


def test_what_cannot_be_revoked_is_said(desk: Machine) -> None:
    with desk.orchestrator():
        refused = desk.wrk("revoke", "somebody").refused()
        assert "no machine or linked process is called 'somebody'" in refused
        assert f"machines: {_first(desk)}" in refused
        assert "it cannot be revoked" in desk.wrk("revoke", _first(desk)).refused()


# --- whose a worker id is


def test_a_worker_id_belongs_to_the_machine_that_had_it_first(desk: Machine, attic: Machine) -> None:
    with desk.orchestrator() as orchestrator:
        attic.joins(desk)
        with desk.rack("r1") as mine:
            wait_until(sees(desk, r1="healthy"), what="the rack is in the mesh")
        for copied in desk.state.glob(f"{mine.status['prefix']}.id.json"):
            (attic.state / copied.name).write_bytes(copied.read_bytes())
        with attic.rack("r1") as thief:
            assert thief.worker_id == mine.worker_id
            (refused, *_) = wait_until(lambda: events(thief, "rack.registration_refused"))
            assert (
                f"the worker id {mine.worker_id} belongs to another machine than attic" in refused["reason"]
            )
            free = json.dumps({"ids": [mine.worker_id]})
            assert f"an operator can free it with `wrk call forgetRacks '{free}'`" in refused["reason"]
            assert sees(desk, r1="")()
            assert orchestrator.stop() == 0
            with desk.orchestrator() as restarted:  # which remembers
                wait_until(lambda: _refused_by(thief, restarted), what="the next one refuses it, too")
                assert desk.wrk("call", "forgetRacks", free).json["forgotten"] == 1
                wait_until(sees(desk, r1="healthy"), what="the freed id is the other machine's")


def _refused_by(rack: ProcessHandle, orchestrator: ProcessHandle) -> bool:
    refusals = events(rack, "rack.registration_refused")
    return any(event["endpoint"] == orchestrator.endpoint for event in refusals)


# --- keys and files


def test_a_rotated_key_is_another_one_of_the_same_worker(desk: Machine) -> None:
    with desk.orchestrator():
        with desk.rack("r1") as before:
            wait_until(sees(desk, r1="healthy"), what="the rack is in the mesh")
            said = desk.wrk("rotate", str(before.status["prefix"]))
            assert "makes a new key when it is started again" in said.out
            assert desk.states()["r1"] == "healthy"
        with desk.rack("r1") as after:
            assert after.worker_id == before.worker_id
            assert after.status["publicKey"] != before.status["publicKey"]
            wait_until(sees(desk, r1="healthy"), what="it is in the mesh again")
            assert desk.wrk("infer", "m1", "hello", "--json").json["workerId"] == after.worker_id


def test_only_the_key_of_a_process_is_rotated(desk: Machine) -> None:
    with desk.start("--wtype", "wrk-orchestrator-http", "--rpc.port", "0", "--port", "0"):
        assert (desk.state / "admin.key").exists()
        refused = desk.wrk("rotate", "admin").refused()
        assert "no process here has the prefix 'admin'; there are: wrk-orchestrator-http-main" in refused
        assert (desk.state / "admin.key").exists()


@pytest.mark.parametrize("which", ["of the machine", "of the process"])
def test_a_key_that_others_could_read_stops_the_start(desk: Machine, which: str) -> None:
    with desk.orchestrator() as orchestrator:
        own = desk.state / f"{orchestrator.status['prefix']}.key"
    key = desk.files.directory / "issuer.key" if which == "of the machine" else own
    key.chmod(0o640)
    with desk.spawn(*ORCHESTRATOR) as again:
        assert again.wait() == 1
        (line,) = [line for line in again.log().splitlines() if line.startswith("wrk: ")]
        assert f"{key} is open to other users (mode 640): chmod 600 {key}" in line
        assert "if one of them may have read it" in line
    key.chmod(0o600)
    with desk.orchestrator():
        """Following the advice is enough."""


# --- two meshes of one name


def test_two_meshes_of_one_name_have_nothing_to_do_with_each_other(desk: Machine, attic: Machine) -> None:
    """Both on one network, each with an orchestrator and a rack for the same model."""
    with desk.orchestrator(), attic.orchestrator(), desk.rack("r1") as r1, attic.rack("r2") as r2:
        wait_until(sees(desk, r1="healthy"), what="the first mesh is complete")
        wait_until(sees(attic, r2="healthy"), what="the second mesh is complete")
        for here, mine, theirs in ((desk, r1, r2), (attic, r2, r1)):
            # Long before this, each has heard the other: what it hears of it is a mesh, and no worker.
            heard = wait_until(lambda m=here: m.wrk("status", "--json").json["discovery"]["otherMesh"])  # type: ignore[misc]
            assert heard > 0
            assert list(here.states()) == [mine.status["prefix"].rpartition("-")[2]]
            for _ in range(4):
                assert here.wrk("infer", "m1", "hello", "--json").json["workerId"] == mine.worker_id
            stolen = f"{theirs.endpoint}#{theirs.status['publicKey']}"
            refused = here.wrk("call", "getInfo", "--peer", stolen, "--timeout", "3").refused()
            assert "ERR_UNAVAILABLE" in refused
        assert desk.files.load().mesh != attic.files.load().mesh
