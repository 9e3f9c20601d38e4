"""A machine's membership on disk: a mesh is made once, machines are invited, renewed and revoked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from wrk_base.errors import StartError
from wrk_base.security.certificate import Certificate, Member, Trust, Untrusted, key_id, public_bytes
from wrk_base.security.invitation import MAX_JOIN, Invitation, JoinGrant, JoinRequest
from wrk_base.security.ledger import MAX_MACHINES, MAX_OPEN, Invited, Ledger, Machine, digest_of
from wrk_base.security.mesh_files import MachineMembership, MeshFiles
from wrk_base.security.revocations import Entry, Revocations
from wrk_base.security.roles import ROLES

ROOT_DIR = Path(__file__).parents[2]
NOW = 1_800_000_000.5
DAY = 86_400
CURVE = bytes(range(32))
RACK = frozenset({"rack"})
ADDRESSES = ("tcp://192.0.2.1:8004",)
FILES = {"member.json", "issuer.key", "root.key", "ledger.json", "lock"}
OTHER_USER = 12_345


def signing_key(seed: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)


class Machines:
    """A few state directories on one disk; `first` made the mesh."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.first = self.files("first")
        self.first.create("m1", NOW)

    def files(self, directory: str, mesh: str = "default") -> MeshFiles:
        return MeshFiles(self._path / directory, mesh, Random(f"{directory} {mesh}").randbytes)

    def invite(self, **changed: Any) -> Invitation:
        wanted: dict[str, Any] = {
            "roles": RACK,
            "name": "",
            "models": None,
            "expires_s": 3600,
            "now": NOW,
            "addresses": ADDRESSES,
            "key": CURVE,
        }
        return self.first.invite(**{**wanted, **changed})

    def join(self, host: str, seed: int = 2, **invited: Any) -> MeshFiles:
        """A machine that went all the way, over the words and bytes that travel."""
        invitation = Invitation.decode(self.invite(**invited).encode())
        asked = JoinRequest(invitation.secret, public_bytes(signing_key(seed)), host).pack()
        granted = self.first.redeem(JoinRequest.unpack(asked), NOW).pack()
        files = self.files(host)
        files.install(invitation, JoinGrant.unpack(granted), signing_key(seed))
        return files


@pytest.fixture
def machines(tmp_path: Path) -> Machines:
    return Machines(tmp_path)


def verdict(own: MachineMembership, proof: bytes, now: float = NOW, key: bytes = CURVE) -> Member:
    """What a member of this mesh, with what it knows, says to a proof."""
    return Trust(own.mesh, own.root).check(proof, key, now, own.revocations)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


# --- a new mesh


def test_the_first_machine_may_do_everything(machines: Machines) -> None:
    own = machines.first.load()
    assert own.mesh == key_id(own.root) == own.issuer.mesh
    assert (own.name, own.issuer.name, own.issuer.roles, own.issuer.models) == ("default", "m1", ROLES, None)
    assert (own.issuer.since, own.issuer.until) == (int(NOW), int(NOW) + 90 * DAY)
    assert own.has_root
    assert own.revocations == Revocations.empty()
    assert len(own.discovery_secret) == 32
    own.issuer.verify(own.root)


def test_all_is_for_this_user_alone(machines: Machines) -> None:
    directory = machines.first.directory
    assert {path.name for path in directory.iterdir()} == FILES
    assert {mode(path) for path in directory.iterdir()} == {0o600}
    assert mode(directory) == mode(directory.parent) == 0o700


def test_a_mesh_that_is_there_is_not_made_again(machines: Machines) -> None:
    before = machines.first.load()
    again = MeshFiles(machines.first.directory.parents[1], "default").create("other", NOW + DAY)
    assert (again.mesh, again.issuer) == (before.mesh, before.issuer)


def test_secrets_are_not_shown_by_accident(machines: Machines) -> None:
    own = machines.first.load()
    shown = repr(own)
    assert repr(own.discovery_secret) not in shown
    assert "issuer_key" not in shown


def test_chance_is_taken_where_it_was_given(tmp_path: Path) -> None:
    made = [Machines(tmp_path / str(n)).first.load() for n in range(2)]
    assert made[0].mesh == made[1].mesh
    assert MeshFiles(tmp_path / "3", "default").create("m1", NOW).mesh != made[0].mesh


def test_meshes_of_different_names_live_side_by_side(machines: Machines) -> None:
    other = machines.files("first", "other").create("m1", NOW)
    assert other.mesh != machines.first.load().mesh
    assert other.name == "other"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "a\n", "m" * 64])
def test_a_mesh_name_never_leads_out_of_the_directory(name: str, tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot be a mesh"):
        MeshFiles(tmp_path, name)


def test_a_machine_with_an_impossible_name_makes_no_mesh(tmp_path: Path) -> None:
    files = MeshFiles(tmp_path, "default")
    with pytest.raises(StartError, match="a name has 1 to 128 printable"):
        files.create("a\nb", NOW)
    assert not files.exists()


def test_a_start_that_was_cut_short_goes_on_with_its_keys(machines: Machines) -> None:
    before = machines.first.load()
    (machines.first.directory / "member.json").unlink()
    assert not machines.first.exists()
    again = machines.first.create("m1", NOW)
    assert (again.mesh, again.issuer) == (before.mesh, before.issuer)
    assert [machine.name for machine in machines.first.machines()] == ["m1"]


STARTER = """
import sys
from pathlib import Path
from wrk_base.security.mesh_files import MeshFiles
files = MeshFiles(Path(sys.argv[1]), "default")
print("ready", flush=True)
sys.stdin.readline()
made = files.create("m1", 1_800_000_000)
print(made.mesh.hex(), made.discovery_secret.hex(), made.issuer.key.hex())
"""


def test_ten_processes_that_start_at_once_make_one_mesh(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARTER, str(tmp_path)]
    pipe = subprocess.PIPE
    started = [subprocess.Popen(command, cwd=ROOT_DIR, stdin=pipe, stdout=pipe, text=True) for _ in range(10)]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    made = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0] * 10
    assert len(set(made)) == 1
    assert made[0].split()[0] == MeshFiles(tmp_path, "default").load().mesh.hex()


# --- certificates for processes


def test_a_process_of_a_member_machine_is_a_member(machines: Machines) -> None:
    own = machines.first.load()
    proof = machines.first.certify(CURVE, "r1-00000001", RACK, NOW)
    assert verdict(own, proof) == Member(
        *("r1-00000001", CURVE, RACK, None, int(NOW) + 30 * DAY, "m1", key_id(own.issuer.key)),
    )


def test_a_process_gets_what_its_machine_may_give(machines: Machines) -> None:
    files = machines.join("m2", roles=frozenset({"rack", "client"}), models=frozenset({"a"}))
    proof = files.certify(CURVE, "w", frozenset({"rack", "operator"}), NOW)
    member = verdict(machines.first.load(), proof)
    assert (member.roles, member.models, member.issuer) == (RACK, frozenset({"a"}), "m2")

    with pytest.raises(StartError) as caught:
        files.certify(CURVE, "o1-00000001", frozenset({"orchestrator"}), NOW)
    assert str(caught.value) == (
        "this machine was invited to mesh default as client, rack only, and o1-00000001 needs to be "
        "orchestrator: have it invited again with that role"
    )


@pytest.mark.parametrize(
    ("days", "valid_days"), [(0, 30), (59, 30), (60, 30), (61, 29), (89, 1), (90, None), (91, None)]
)
def test_no_certificate_outlasts_its_machine(days: int, valid_days: int | None, machines: Machines) -> None:
    now = NOW + days * DAY
    if valid_days is None:
        with pytest.raises(StartError, match=r"right to certify ended .* ago: check its clock"):
            machines.first.certify(CURVE, "w", RACK, now)
        return
    member = verdict(machines.first.load(), machines.first.certify(CURVE, "w", RACK, now), now)
    assert member.until == int(now) + valid_days * DAY


def test_what_cannot_be_certified_is_said(machines: Machines) -> None:
    for key, name in ((b"short", "w"), (CURVE, "a\nb")):
        with pytest.raises(StartError, match=r"a key has 32 bytes|a name has 1 to 128"):
            machines.first.certify(key, name, RACK, NOW)


# --- another machine


def test_an_invited_machine_becomes_a_member(machines: Machines) -> None:
    files = machines.join("m2")
    first, own = machines.first.load(), files.load()
    assert (own.mesh, own.root, own.discovery_secret) == (first.mesh, first.root, first.discovery_secret)
    assert (own.issuer.name, own.issuer.roles, own.issuer.until) == ("m2", RACK, int(NOW) + 90 * DAY)
    assert not own.has_root
    assert {path.name for path in files.directory.iterdir()} == {"member.json", "issuer.key", "lock"}
    assert {mode(path) for path in files.directory.iterdir()} == {0o600}
    verdict(first, files.certify(CURVE, "w", RACK, NOW))
    verdict(own, machines.first.certify(CURVE, "w", RACK, NOW))
    assert [machine.name for machine in machines.first.machines()] == ["m1", "m2"]


def test_the_inviter_may_choose_the_name(machines: Machines) -> None:
    assert machines.join("host", name="gpu1").load().issuer.name == "gpu1"


def ask(invitation: Invitation, name: str = "m2", seed: int = 2) -> JoinRequest:
    return JoinRequest(invitation.secret, public_bytes(signing_key(seed)), name)


def test_an_invitation_works_once_and_a_used_one_is_like_an_unknown_one(machines: Machines) -> None:
    invitation = machines.invite()
    machines.first.redeem(ask(invitation), NOW)
    used = refusal(lambda: machines.first.redeem(ask(invitation, "m3", 3), NOW))
    unknown = refusal(lambda: machines.first.redeem(JoinRequest(bytes(16), bytes(32), "m3"), NOW))
    assert used == unknown == "this invitation is unknown, or was used already: ask for a new one"


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(Untrusted) as caught:
        act()
    return str(caught.value)


def test_no_secret_is_kept(machines: Machines) -> None:
    invitation = machines.invite()
    text = (machines.first.directory / "ledger.json").read_bytes()
    assert msgspec.json.encode(digest_of(invitation.secret)) in text
    assert msgspec.json.encode(invitation.secret) not in text


@pytest.mark.parametrize(("after", "open_still"), [(3599, True), (3599.5, True), (3600.5, False)])
def test_an_invitation_ends(after: float, open_still: bool, machines: Machines) -> None:
    invitation = machines.invite()
    assert invitation.expires == int(NOW) + 3600
    if open_still:
        machines.first.redeem(ask(invitation), NOW + after)
        return
    with pytest.raises(Untrusted, match="this invitation ended 1 seconds ago: ask for a new one"):
        machines.first.redeem(ask(invitation), NOW + after)


def test_two_machines_never_have_one_name(machines: Machines) -> None:
    machines.join("m2")
    for taken in ("m1", "m2"):
        with pytest.raises(StartError, match=f"a machine called '{taken}' is in this mesh already"):
            machines.invite(name=taken)
    invitation = machines.invite()
    with pytest.raises(Untrusted, match="a machine called 'm2' is in this mesh already: have it revoked"):
        machines.first.redeem(ask(invitation, "m2", 3), NOW)
    machines.first.redeem(ask(invitation, "m3", 3), NOW)


def test_a_key_that_is_known_is_not_taken_over(machines: Machines) -> None:
    key = public_bytes(machines.first.load().issuer_key)
    request = JoinRequest(machines.invite().secret, key, "m2")
    with pytest.raises(Untrusted, match="in the mesh already: join with a new one"):
        machines.first.redeem(request, NOW)


def test_only_the_first_machine_lets_others_in(machines: Machines) -> None:
    files = machines.join("m2")
    invitation = machines.invite()
    for act in (
        lambda: files.invite(
            roles=RACK, name="", models=None, expires_s=60, now=NOW, addresses=ADDRESSES, key=CURVE
        ),
        lambda: files.redeem(ask(invitation, "m3", 3), NOW),
        lambda: files.renew(public_bytes(signing_key(2)), NOW),
        lambda: files.revoke("m2", NOW),
        lambda: files.revoke_key(bytes(16), "w", int(NOW) + DAY, NOW),
    ):
        with pytest.raises(StartError, match=r"only the first machine of mesh default .* run it there"):
            act()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"roles": frozenset()}, "roles are one or more of"),
        ({"roles": frozenset({"king"})}, "roles are one or more of"),
        ({"name": "a\nb"}, "a name has 1 to 128"),
        ({"models": frozenset({""})}, "a model's name has"),
        ({"models": frozenset(f"model-number-{n}" for n in range(100))}, "name fewer models"),
        ({"expires_s": 59}, "an invitation lasts from 60 s to 30 days"),
        ({"expires_s": 30 * DAY + 1}, "an invitation lasts from 60 s to 30 days"),
        ({"expires_s": float("nan")}, "an invitation lasts"),
        ({"addresses": ()}, "1 to 4 addresses"),
        ({"addresses": ("192.0.2.1:1",)}, "not written tcp://"),
        ({"key": b"k"}, "a key has 32 bytes"),
    ],
)
def test_an_invitation_that_could_not_work_is_not_made(
    changed: dict[str, Any], reason: str, machines: Machines
) -> None:
    with pytest.raises(StartError, match=reason):
        machines.invite(**changed)


def test_whatever_may_be_invited_can_certify(machines: Machines) -> None:
    models = frozenset(f"model-number-{n:02}" for n in range(50))
    files = machines.join("m" * 128, roles=ROLES, models=models)
    proof = files.certify(CURVE, "w" * 128, ROLES, NOW)
    assert verdict(machines.first.load(), proof).models == models


def test_a_name_that_leaves_no_room_for_the_models_is_refused(machines: Machines) -> None:
    models = frozenset(f"model-number-{n:02}" for n in range(75))
    invitation = machines.invite(models=models)
    with pytest.raises(Untrusted, match="name fewer models"):
        machines.first.redeem(ask(invitation, "\U00010348" * 128), NOW)
    machines.first.redeem(ask(invitation), NOW)


# --- what a joining machine believes


def granted(machines: Machines, seed: int = 2) -> tuple[Invitation, JoinGrant]:
    invitation = machines.invite()
    return invitation, machines.first.redeem(ask(invitation, f"m{seed}", seed), NOW)


def test_a_grant_has_to_be_what_the_invitation_promised(machines: Machines) -> None:
    invitation, grant = granted(machines)
    _, for_another = granted(machines, 3)
    other = machines.files("elsewhere")
    other.create("m1", NOW)
    elsewhere = other.load()
    not_signed_by_root = machines.first.certify(CURVE, "w", RACK, NOW)
    files = machines.files("m2")
    for changed, reason in (
        ({"root": elsewhere.root}, "from another mesh"),
        ({"certificate": elsewhere.issuer.pack()}, "not that of a machine of this mesh"),
        ({"certificate": for_another.certificate}, "for another key"),
        ({"certificate": not_signed_by_root[:100]}, "malformed"),
        ({"certificate": tampered(grant.certificate)}, "bad signature"),
        ({"revocations": b""}, "malformed"),
        ({"revocations": forged_list()}, "list of revocations has a bad signature"),
    ):
        with pytest.raises(Untrusted, match=reason):
            files.install(invitation, msgspec.structs.replace(grant, **changed), signing_key(2))
        assert not files.exists()
    files.install(invitation, grant, signing_key(2))
    assert files.exists()


def tampered(packed: bytes) -> bytes:
    return packed[:-1] + bytes([packed[-1] ^ 1])


def forged_list() -> bytes:
    return Revocations.empty().add(signing_key(9), bytes(16), "w", int(NOW) + DAY, NOW).pack()


def test_a_machine_of_another_mesh_is_told_how_to_leave_it(machines: Machines) -> None:
    files = machines.files("elsewhere")
    before = files.create("m1", NOW)
    invitation, grant = granted(machines)
    with pytest.raises(StartError) as caught:
        files.check_may_join(invitation.mesh_id)
    assert str(caught.value) == (
        f"this machine is in another mesh called default already: stop its processes and remove "
        f"{files.directory} to leave that one, or choose another --state-dir"
    )
    with pytest.raises(StartError, match="in another mesh"):
        files.install(invitation, grant, signing_key(2))
    assert files.load().mesh == before.mesh


def test_the_mesh_has_to_be_the_one_that_this_machine_looks_for(machines: Machines) -> None:
    files = machines.files("m2", "other")
    with pytest.raises(StartError, match=r"for mesh default, .* set to other: use --discovery\.mesh=default"):
        files.install(*granted(machines), signing_key(2))
    assert not files.directory.exists()


def test_the_first_machine_does_not_join_its_own_mesh(machines: Machines) -> None:
    with pytest.raises(StartError, match="first machine of mesh default: it needs no invitation"):
        machines.first.install(*granted(machines), signing_key(2))


def test_a_machine_without_a_mesh_may_join_and_makes_a_new_key_each_time(tmp_path: Path) -> None:
    files = MeshFiles(tmp_path, "default")
    files.check_may_join(bytes(16))
    assert len({public_bytes(files.new_key()) for _ in range(3)}) == 3
    assert list(tmp_path.iterdir()) == []


def test_a_machine_may_join_again_with_a_new_key(machines: Machines) -> None:
    files = machines.join("m2")
    machines.first.revoke("m2", NOW)
    invitation, grant = granted(machines, 3)
    files.install(invitation, grant, signing_key(3))
    own = files.load()
    assert own.issuer.key == public_bytes(signing_key(3))
    assert own.revocations.serial == 1, "the grant brought the list along"
    verdict(own, files.certify(CURVE, "w", RACK, NOW))


def test_a_list_too_long_for_the_grant_comes_later(machines: Machines) -> None:
    for number in range(100):
        machines.first.revoke_key(number.to_bytes(16, "big"), f"worker-{number:08}", int(NOW) + DAY, NOW)
    _, grant = granted(machines)
    assert len(grant.pack()) <= MAX_JOIN
    assert Revocations.unpack(grant.revocations) == Revocations.empty()


# --- renewal


def test_a_machine_is_renewed_until_it_is_revoked(machines: Machines) -> None:
    files = machines.join("m2")
    before, later = files.load().issuer, NOW + 60 * DAY

    stored = files.store_issuer(machines.first.renew(before.key, later))
    assert files.load().issuer == stored
    assert (stored.since, stored.until) == (int(later), int(later) + 90 * DAY)
    assert (stored.key, stored.name, stored.roles) == (before.key, before.name, before.roles)
    assert machines.first.machines()[-1].until == stored.until

    machines.first.revoke("m2", later)
    with pytest.raises(Untrusted, match="this machine was revoked: it has to be invited again"):
        machines.first.renew(before.key, later)


def test_processes_certified_before_a_renewal_stay_members(machines: Machines) -> None:
    before = machines.first.load()
    earlier = machines.first.certify(CURVE, "w", RACK, NOW + 59 * DAY)
    machines.first.store_issuer(machines.first.renew(before.issuer.key, NOW + 60 * DAY))
    later = machines.first.certify(CURVE, "w", RACK, NOW + 80 * DAY)
    for own in (before, machines.first.load()):
        assert verdict(own, earlier, NOW + 80 * DAY).until == int(NOW) + 89 * DAY
        assert verdict(own, later, NOW + 80 * DAY).until == int(NOW) + 110 * DAY


def test_a_machine_that_was_off_for_long_is_still_known(machines: Machines) -> None:
    files = machines.join("m2")
    renewed = machines.first.renew(files.load().issuer.key, NOW + 400 * DAY)
    assert Certificate.unpack(renewed).until == int(NOW) + 490 * DAY


def test_a_stranger_is_not_renewed(machines: Machines) -> None:
    with pytest.raises(Untrusted, match="not in the mesh, or not any more"):
        machines.first.renew(bytes(32), NOW)


def test_a_clock_that_goes_back_takes_nothing_away(machines: Machines) -> None:
    key = machines.first.load().issuer.key
    longer = machines.first.renew(key, NOW + DAY)
    shorter = machines.first.renew(key, NOW)
    assert Certificate.unpack(shorter).until == Certificate.unpack(longer).until


def test_of_two_renewals_the_longer_one_stays(machines: Machines) -> None:
    own = machines.first.load().issuer
    first, second = (machines.first.renew(own.key, NOW + days * DAY) for days in (1, 2))
    assert machines.first.store_issuer(second) == Certificate.unpack(second)
    assert machines.first.store_issuer(first) == Certificate.unpack(second)
    assert machines.first.load().issuer == Certificate.unpack(second)


def test_a_renewal_has_to_be_ours(machines: Machines) -> None:
    files = machines.join("m2")
    own = files.load().issuer
    for packed, reason in (
        (b"", "malformed"),
        (machines.first.load().issuer.pack(), "for another key"),
        (tampered(machines.first.renew(own.key, NOW)), "bad signature"),
    ):
        with pytest.raises(Untrusted, match=reason):
            files.store_issuer(packed)
    assert files.load().issuer == own


# --- revocation


def test_a_revoked_machine_is_out_with_all_its_processes(machines: Machines) -> None:
    files, other = machines.join("m2"), machines.join("m3", 3)
    proof = files.certify(CURVE, "w", RACK, NOW)
    verdict(machines.first.load(), proof)

    revoked = machines.first.revoke("m2", NOW)
    assert revoked == machines.first.load().revocations
    assert revoked.bars(files.load().issuer.key)
    with pytest.raises(Untrusted, match="'m2' was revoked"):
        verdict(machines.first.load(), proof)

    verdict(other.load(), proof)
    assert other.accept_revocations(revoked.pack()) == revoked
    with pytest.raises(Untrusted, match="'m2' was revoked"):
        verdict(other.load(), proof)
    assert [machine.name for machine in machines.first.machines()] == ["m1", "m3"]


def test_a_list_never_goes_back(machines: Machines) -> None:
    files = machines.join("m2")
    lists = [machines.first.revoke_key(bytes([n]) * 16, "w", int(NOW) + DAY, NOW) for n in range(3)]
    assert files.accept_revocations(lists[1].pack()) == lists[1]
    for old in (Revocations.empty(), *lists[:2]):
        assert files.accept_revocations(old.pack()) is None
    assert files.accept_revocations(lists[2].pack()) == lists[2]
    assert files.load().revocations == lists[2]
    assert mode(files.directory / "revoked") == 0o600


@pytest.mark.parametrize("packed", [b"", b"\xc0", forged_list()])
def test_a_list_that_is_not_the_roots_is_refused(packed: bytes, machines: Machines) -> None:
    with pytest.raises(Untrusted, match="list of revocations"):
        machines.first.accept_revocations(packed)
    assert machines.first.load().revocations == Revocations.empty()


def test_a_process_is_revoked_by_its_key(machines: Machines) -> None:
    proof = machines.first.certify(CURVE, "w", RACK, NOW)
    member = verdict(machines.first.load(), proof)
    machines.first.revoke_key(key_id(CURVE), member.name, member.until, NOW)
    with pytest.raises(Untrusted, match="'w' was revoked"):
        verdict(machines.first.load(), proof)
    verdict(machines.first.load(), machines.first.certify(bytes(32), "w", RACK, NOW), key=bytes(32))


def test_a_machine_that_is_revoked_by_its_key_is_not_renewed_after_the_entry_is_gone(
    machines: Machines,
) -> None:
    key = machines.join("m2").load().issuer.key
    machines.first.revoke_key(key_id(key), "m2", int(NOW) + DAY, NOW)
    machines.first.revoke_key(bytes(16), "w", int(NOW) + 99 * DAY, NOW + 9 * DAY)
    assert not machines.first.load().revocations.bars(key)
    with pytest.raises(Untrusted, match="not in the mesh"):
        machines.first.renew(key, NOW + 9 * DAY)


def test_a_revoked_key_does_not_come_back_by_invitation(machines: Machines) -> None:
    machines.join("m2")
    machines.first.revoke("m2", NOW)
    with pytest.raises(Untrusted, match="the key of this machine was revoked: join with a new one"):
        machines.first.redeem(ask(machines.invite()), NOW)


def test_an_unknown_machine_is_answered_with_the_known_ones(machines: Machines) -> None:
    machines.join("m2")
    with pytest.raises(StartError, match="no machine of this mesh is called 'x'; its machines: m1, m2"):
        machines.first.revoke("x", NOW)


def test_the_first_machine_cannot_shut_itself_out(machines: Machines) -> None:
    own = machines.first.load().issuer
    reason = r"mesh's first machine, .* cannot be revoked; to start over"
    with pytest.raises(StartError, match=reason):
        machines.first.revoke("m1", NOW)
    with pytest.raises(StartError, match=reason):
        machines.first.revoke_key(key_id(own.key), "m1", own.until, NOW)


def test_revoking_once_more_finishes_what_was_cut_short(machines: Machines) -> None:
    machines.join("m2")
    ledger = machines.first.directory / "ledger.json"
    before = ledger.read_bytes()
    machines.first.revoke("m2", NOW)
    ledger.write_bytes(before)
    machines.first.revoke("m2", NOW)
    assert [machine.name for machine in machines.first.machines()] == ["m1"]
    assert len(machines.first.load().revocations.entries) == 1


def test_a_full_list_is_said_to_people(machines: Machines) -> None:
    root = Ed25519PrivateKey.from_private_bytes((machines.first.directory / "root.key").read_bytes())
    entries = tuple(Entry(n.to_bytes(16, "big"), "w", int(NOW) + DAY) for n in range(2047))
    almost = Revocations(1, entries, bytes(64)).add(root, bytes([9]) * 16, "w", int(NOW) + DAY, NOW)
    machines.first.accept_revocations(almost.pack())
    with pytest.raises(StartError, match="2048 keys are revoked"):
        machines.first.revoke_key(b"k" * 16, "w", int(NOW) + DAY, NOW)


# --- bounds of the ledger


def invited(number: int, expires: int = int(NOW) + DAY) -> Invited:
    return Invited(number.to_bytes(32, "big"), "", RACK, None, expires)


def machine(number: int) -> Machine:
    return Machine(f"m{number}", number.to_bytes(16, "big"), RACK, None, int(NOW) + DAY)


def test_open_invitations_are_bounded_and_make_room_when_they_end() -> None:
    full = Ledger(tuple(invited(n) for n in range(MAX_OPEN)))
    with pytest.raises(ValueError, match="1000 invitations are open: wait"):
        full.invite(invited(MAX_OPEN), NOW)
    later = full.invite(invited(MAX_OPEN, int(NOW) + 9 * DAY), NOW + DAY)
    assert len(later.invitations) == 1


def test_machines_are_bounded() -> None:
    full = Ledger((), tuple(machine(n) for n in range(MAX_MACHINES)))
    with pytest.raises(ValueError, match="1024 machines: revoke those that are gone"):
        full.invite(invited(1), NOW)
    invitation = Invited(digest_of(bytes(16)), "", RACK, None, int(NOW) + DAY)
    crowded = Ledger((invitation,), full.machines)
    with pytest.raises(Untrusted, match="1024 machines"):
        crowded.redeem(JoinRequest(bytes(16), bytes(32), "new"), NOW)


# --- files that cannot be believed


SECRET_FILES = ("member.json", "issuer.key", "root.key", "ledger.json", "revoked")


def touch_all(machines: Machines) -> None:
    """Reads every file there is."""
    machines.first.load()
    machines.first.revoke_key(bytes(16), "w", int(NOW) + DAY, NOW)


@pytest.mark.parametrize("name", SECRET_FILES)
def test_a_file_that_others_may_open_is_not_believed(name: str, machines: Machines) -> None:
    touch_all(machines)
    path = machines.first.directory / name
    path.chmod(0o640)
    with pytest.raises(StartError) as caught:
        touch_all(machines)
    assert str(caught.value) == (
        f"{path} is open to other users (mode 640): chmod 600 {path}; if one of them may have read it, "
        f"remove {machines.first.directory} and join again"
    )


def test_a_directory_that_others_may_open_is_not_believed(machines: Machines) -> None:
    directory = machines.first.directory
    directory.chmod(0o755)
    with pytest.raises(StartError, match=rf"mode 755\): chmod 700 {directory}; "):
        machines.first.load()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("name", [*SECRET_FILES, "."])
def test_what_belongs_to_another_user_is_not_believed(name: str, machines: Machines) -> None:
    touch_all(machines)
    os.chown(machines.first.directory / name, OTHER_USER, -1)
    with pytest.raises(StartError, match=f"belongs to user {OTHER_USER}"):
        touch_all(machines)


@pytest.mark.parametrize("name", SECRET_FILES)
@pytest.mark.parametrize("content", [b"", b"{}" * 10, b"[" * 100_000, bytes(33)])
def test_a_damaged_file_is_named_and_left_alone(name: str, content: bytes, machines: Machines) -> None:
    touch_all(machines)
    path = machines.first.directory / name
    path.write_bytes(content)
    with pytest.raises(StartError, match=r"is damaged \(.*\): re(store|move) it") as caught:
        touch_all(machines)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content


def member_file(machines: Machines, **changed: str) -> None:
    path = machines.first.directory / "member.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def test_files_that_do_not_belong_together_are_damaged(machines: Machines) -> None:
    other = machines.join("m2")
    directory = machines.first.directory
    own_key = (directory / "issuer.key").read_bytes()
    (directory / "issuer.key").write_bytes((other.directory / "issuer.key").read_bytes())
    with pytest.raises(StartError, match="certificate is for another key than this machine's"):
        machines.first.load()
    (directory / "issuer.key").unlink()
    with pytest.raises(StartError, match=r"issuer\.key is missing"):
        machines.first.load()
    (directory / "issuer.key").write_bytes(own_key)
    (directory / "issuer.key").chmod(0o600)
    machines.first.load()

    member_file(machines, mesh="A" * 22 + "==")
    with pytest.raises(StartError, match=r"member\.json is damaged \(the mesh's id is not that of the root"):
        machines.first.load()


def test_a_list_on_disk_that_the_root_did_not_sign_is_damaged(machines: Machines) -> None:
    path = machines.first.directory / "revoked"
    path.write_bytes(forged_list())
    path.chmod(0o600)
    with pytest.raises(StartError, match=r"revoked is damaged .*: remove it: the mesh's other machines send"):
        machines.first.load()


def test_without_a_mesh_people_are_told_how_to_get_one(tmp_path: Path) -> None:
    files = MeshFiles(tmp_path, "default")
    assert not files.exists()
    for act in (files.load, files.machines, lambda: files.certify(CURVE, "w", RACK, NOW)):
        with pytest.raises(StartError, match=r"in no mesh called default .*start an orchestrator here"):
            act()
    files.directory.mkdir(parents=True, mode=0o700)
    with pytest.raises(StartError, match="in no mesh called default"):
        files.load()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "mesh").write_text("in the way")
    with pytest.raises(StartError, match=r"mesh/default cannot be used|mesh cannot be used"):
        MeshFiles(tmp_path, "default").create("m1", NOW)


# --- noticing changes


def test_a_stamp_tells_when_there_is_something_new(machines: Machines) -> None:
    files = machines.join("m2")
    stamps = [files.stamp()]
    assert files.stamp() == stamps[0]

    def changed() -> bool:
        stamps.append(files.stamp())
        return stamps[-1] != stamps[-2]

    files.load()
    files.certify(CURVE, "w", RACK, NOW)
    assert not changed()
    files.accept_revocations(machines.first.revoke_key(bytes(16), "w", int(NOW) + DAY, NOW).pack())
    assert changed()
    renewed = machines.first.renew(files.load().issuer.key, NOW)
    files.store_issuer(renewed)
    assert changed()
    files.store_issuer(renewed)
    assert changed(), "the same bytes once more, in a new file"
    files.accept_revocations(Revocations.empty().pack())
    assert not changed()
    assert MeshFiles(files.directory, "default").stamp() == (None,) * 4
