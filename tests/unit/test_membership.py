"""One process's membership: who is admitted, what is renewed when, and what changed files bring."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.mesh import MeshHouse
from wrk_base.errors import StartError
from wrk_base.rpc.identity import BadGreeting
from wrk_base.security.certificate import key_id
from wrk_base.security.curve_keys import ephemeral
from wrk_base.security.membership import Membership, visitor

DAY = 86_400.0


@pytest.fixture
def house(tmp_path: Path) -> MeshHouse:
    return MeshHouse(tmp_path / "first")


def admit(judge: Membership, one: Membership, name: str, role: str, key: bytes | None = None) -> str:
    return judge.admit(name, role, one.proof, one.public_key if key is None else key).name


def test_members_of_one_machine_know_each_other(house: MeshHouse) -> None:
    rack, orchestrator = house.member("r", "rack"), house.member("o", "orchestrator")
    assert admit(orchestrator, rack, "r", "rack") == "r"
    assert admit(rack, orchestrator, "o", "orchestrator") == "o"


def test_a_machine_that_was_invited_is_known_too(house: MeshHouse, tmp_path: Path) -> None:
    rack = house.invited(tmp_path / "second", "second", "rack").member("r", "rack")
    member = house.member("o", "orchestrator").admit("r", "rack", rack.proof, rack.public_key)
    assert (member.issuer, member.roles) == ("second", {"rack"})


@pytest.mark.parametrize(
    ("name", "role", "reason"),
    [("other", "rack", "is for r, not for other"), ("r", "orchestrator", "for the roles rack, not for")],
)
def test_who_says_what_the_certificate_does_not_is_refused(
    house: MeshHouse, name: str, role: str, reason: str
) -> None:
    judge, rack = house.member("o", "orchestrator"), house.member("r", "rack")
    with pytest.raises(BadGreeting, match=reason):
        admit(judge, rack, name, role)


def test_every_member_may_call_as_a_client(house: MeshHouse) -> None:
    judge, rack = house.member("o", "orchestrator"), house.member("r", "rack")
    assert judge.admit("r", "client", rack.proof, rack.public_key).roles == {"rack"}


def test_another_key_another_mesh_and_nonsense_are_refused(house: MeshHouse, tmp_path: Path) -> None:
    judge, rack = house.member("o", "orchestrator"), house.member("r", "rack")
    stranger = MeshHouse(tmp_path / "elsewhere").member("r", "rack")
    with pytest.raises(BadGreeting, match="another key"):
        admit(judge, rack, "r", "rack", key=ephemeral().public)
    with pytest.raises(BadGreeting, match="another mesh"):
        admit(judge, stranger, "r", "rack")
    with pytest.raises(BadGreeting):
        judge.admit("r", "rack", b"nonsense", rack.public_key)


def test_a_process_gets_no_role_that_its_machine_has_not(house: MeshHouse, tmp_path: Path) -> None:
    second = house.invited(tmp_path / "second", "second", "rack")
    with pytest.raises(StartError, match="as rack only"):
        second.member("o", "orchestrator")


def test_a_visitor_is_an_operator_where_that_is_allowed(house: MeshHouse, tmp_path: Path) -> None:
    second = house.invited(tmp_path / "second", "second", "rack")
    for machine, roles in ((house, {"operator", "client"}), (second, {"rack"})):
        log = machine.log
        visit = visitor(machine.folder, machine.files.name, "v", wall=machine.wall, log=log)  # type: ignore[arg-type]
        assert visit.own.roles == roles


def test_a_certificate_is_renewed_at_two_thirds_of_its_life(house: MeshHouse) -> None:
    rack, shown = house.member("r", "rack"), []
    rack.on_proof = lambda: shown.append(rack.proof)
    before = rack.proof
    house.wall.now += 20 * DAY - 1
    assert not rack.tick()
    assert rack.proof == before
    house.wall.now += 2
    assert not rack.tick()
    assert shown == [rack.proof] != [before]
    assert house.member("o", "orchestrator").admit("r", "rack", rack.proof, rack.public_key)


def test_the_first_machine_renews_its_own_right(house: MeshHouse) -> None:
    rack = house.member("r", "rack")
    until = rack.machine_until
    house.wall.now += 61 * DAY
    assert not rack.tick()
    assert rack.machine_until > until


def test_another_machine_asks_for_renewal_and_warns(house: MeshHouse, tmp_path: Path) -> None:
    second = house.invited(tmp_path / "second", "second", "rack")
    rack, orchestrator = second.member("r", "rack"), house.member("o", "orchestrator")
    house.wall.now += 61 * DAY
    assert rack.tick()
    assert rack.tick()
    assert second.log.names().count("membership.runs_out") == 1
    orchestrator.tick()
    rack.renewed(orchestrator.renew_machine(rack.machine_key))
    assert not rack.tick()
    assert rack.own.until > house.wall.now + 29 * DAY


def test_a_revocation_is_followed_by_all_processes_of_the_machine(house: MeshHouse) -> None:
    rack, orchestrator = house.member("r", "rack"), house.member("o", "orchestrator")
    heard: list[int] = []
    orchestrator.on_revocations = lambda: heard.append(orchestrator.serial)
    member = orchestrator.admit("r", "rack", rack.proof, rack.public_key)
    assert orchestrator.stays(member)
    assert orchestrator.lets_in(rack.public_key)
    house.files.revoke_key(key_id(rack.public_key), "r", member.until, house.wall.now)
    orchestrator.tick()
    rack.tick()
    assert heard == [1]
    assert not orchestrator.stays(member)
    assert not orchestrator.lets_in(rack.public_key)
    with pytest.raises(BadGreeting, match="revoked"):
        admit(orchestrator, rack, "r", "rack")
    assert "membership.revoked" in house.log.names()


def test_a_revoked_machine_takes_its_processes_along(house: MeshHouse, tmp_path: Path) -> None:
    rack = house.invited(tmp_path / "second", "second", "rack").member("r", "rack")
    orchestrator = house.member("o", "orchestrator")
    member = orchestrator.admit("r", "rack", rack.proof, rack.public_key)
    house.files.revoke("second", house.wall.now)
    orchestrator.tick()
    assert not orchestrator.stays(member)


def test_a_list_from_another_member_is_kept_and_an_older_one_is_not(house: MeshHouse, tmp_path: Path) -> None:
    rack = house.invited(tmp_path / "second", "second", "rack").member("r", "rack")
    orchestrator = house.member("o", "orchestrator")
    old = orchestrator.revocations()
    house.files.revoke_key(bytes(16), "somebody", int(house.wall.now + DAY), house.wall.now)
    orchestrator.tick()
    assert rack.hear_revocations(orchestrator.revocations())
    assert rack.serial == 1
    assert not rack.hear_revocations(orchestrator.revocations())
    assert not rack.hear_revocations(old)
    assert not rack.hear_revocations(b"nonsense")
    assert rack.serial == 1


def test_a_member_that_runs_out_is_one_no_longer(house: MeshHouse) -> None:
    rack, orchestrator = house.member("r", "rack"), house.member("o", "orchestrator")
    member = orchestrator.admit("r", "rack", rack.proof, rack.public_key)
    house.wall.now = member.until + 600.0
    assert orchestrator.stays(member)
    house.wall.now += 1
    assert not orchestrator.stays(member)


def test_the_first_machine_comes_back_after_any_time(house: MeshHouse) -> None:
    house.wall.now += 400 * DAY
    rack = house.member("r", "rack")
    assert rack.own.until > house.wall.now + 29 * DAY
    assert house.member("o", "orchestrator").admit("r", "rack", rack.proof, rack.public_key)


def test_a_process_that_was_stopped_for_long_renews_everything_at_its_next_look(house: MeshHouse) -> None:
    rack = house.member("r", "rack")
    house.wall.now += 400 * DAY
    assert not rack.tick()
    assert house.member("o", "orchestrator").admit("r", "rack", rack.proof, rack.public_key)


def test_another_machine_that_was_away_for_too_long_says_so(house: MeshHouse, tmp_path: Path) -> None:
    second = house.invited(tmp_path / "second", "second", "rack")
    house.wall.now += 91 * DAY
    with pytest.raises(StartError, match="right to certify ended"):
        second.member("r", "rack")
