"""Certificates and the verdict on a proof: every bound, every reason to refuse, and the order of reasons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from wrk_base.security import certificate as module
from wrk_base.security.certificate import (
    ISSUER,
    MAX_CERTIFICATE,
    MAX_KNOWN_ISSUERS,
    MAX_PROOF,
    MEMBER,
    Certificate,
    Member,
    Trust,
    Untrusted,
    issue,
    key_id,
    pack_proof,
    public_bytes,
    span,
    unpack_proof,
)
from wrk_base.security.revocations import Revocations
from wrk_base.security.roles import ROLES

NOW = 1_800_000_000
DAY = 86_400


def signing_key(seed: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)


ROOT, MACHINE, STRANGER = signing_key(1), signing_key(2), signing_key(3)
ROOT_PUBLIC = public_bytes(ROOT)
MESH = key_id(ROOT_PUBLIC)
CURVE = bytes(range(32))
NONE_REVOKED = Revocations.empty()


def issuer(signer: Ed25519PrivateKey = ROOT, **changed: Any) -> Certificate:
    fields: dict[str, Any] = {
        "kind": ISSUER,
        "mesh": MESH,
        "key": public_bytes(MACHINE),
        "name": "m1",
        "roles": ROLES,
        "models": None,
        "since": NOW - DAY,
        "until": NOW + 90 * DAY,
    }
    return issue(signer, **{**fields, **changed})


def member(signer: Ed25519PrivateKey = MACHINE, **changed: Any) -> Certificate:
    fields: dict[str, Any] = {
        "kind": MEMBER,
        "mesh": MESH,
        "key": CURVE,
        "name": "r1-00000001",
        "roles": frozenset({"rack"}),
        "models": None,
        "since": NOW,
        "until": NOW + 30 * DAY,
    }
    return issue(signer, **{**fields, **changed})


def check(
    one: Certificate | None = None,
    by: Certificate | None = None,
    *,
    key: bytes = CURVE,
    now: float = NOW,
    revoked: Revocations = NONE_REVOKED,
) -> Member:
    return Trust(MESH, ROOT_PUBLIC).check(pack_proof(one or member(), by or issuer()), key, now, revoked)


def forged(certificate: Certificate) -> Certificate:
    return replace(certificate, signature=bytes(64))


def revoking(key: bytes) -> Revocations:
    return Revocations.empty().add(ROOT, key_id(key), "gone", NOW + 90 * DAY, NOW)


# --- one certificate


def test_a_certificate_comes_back_as_it_was_packed() -> None:
    for made in (member(), issuer(), member(models=frozenset({"b", "a"})), member(models=frozenset())):
        assert Certificate.unpack(made.pack()) == made
    member().verify(public_bytes(MACHINE))
    issuer().verify(ROOT_PUBLIC)


CHANGES: dict[str, Any] = {
    "kind": ISSUER,
    "mesh": b"m" * 16,
    "key": b"k" * 32,
    "name": "r2",
    "roles": frozenset({"rack", "operator"}),
    "models": frozenset({"any"}),
    "since": NOW - 1,
    "until": NOW + 31 * DAY,
    "signature": b"s" * 64,
}


@pytest.mark.parametrize("field", CHANGES)
def test_no_field_can_be_changed_under_a_signature(field: str) -> None:
    changed = replace(member(), **{field: CHANGES[field]})
    with pytest.raises(Untrusted, match="bad signature"):
        changed.verify(public_bytes(MACHINE))


def test_every_bit_is_part_of_what_is_believed() -> None:
    packed = member(models=frozenset({"m"})).pack()
    for position in range(len(packed)):
        for bit in range(8):
            other = bytearray(packed)
            other[position] ^= 1 << bit
            with pytest.raises(Untrusted):
                Certificate.unpack(bytes(other)).verify(public_bytes(MACHINE))


def test_a_signature_serves_for_one_kind_of_thing() -> None:
    mine = member()
    assert mine.signed_bytes().startswith(b"wrk certificate 1 member\0")
    assert replace(mine, kind=ISSUER).signed_bytes().startswith(b"wrk certificate 1 issuer\0")


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("kind", "root", "kind is issuer or member"),
        ("mesh", b"", "a mesh id has 16 bytes"),
        ("mesh", b"m" * 17, "a mesh id has 16 bytes"),
        ("key", b"k" * 31, "a key has 32 bytes"),
        ("name", "", "a name has 1 to 128"),
        ("name", "n" * 129, "a name has 1 to 128"),
        ("name", "a\nb", "printable"),
        ("name", "a\x1b[2J", "printable"),
        ("name", "a\u202eb", "printable"),
        ("name", " a", "printable"),
        ("roles", frozenset(), "roles are one or more of client, operator"),
        ("roles", frozenset({"rack", "king"}), "roles are one or more of"),
        ("models", frozenset({""}), "a model's name has"),
        ("models", frozenset({"m" * 257}), "a model's name has"),
        ("models", frozenset({"a\0"}), "a model's name has"),
        ("since", -1, "ends after it begins"),
        ("until", NOW, "ends after it begins"),
        ("until", 2**53, "ends after it begins"),
    ],
)
def test_what_is_out_of_bounds_is_neither_issued_nor_read(field: str, value: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        member(**{field: value})
    row = list(msgspec.msgpack.decode(member().pack()))
    row[list(CHANGES).index(field)] = sorted(value) if isinstance(value, frozenset) else value
    with pytest.raises(Untrusted, match=f"certificate is malformed: .*{reason}"):
        Certificate.unpack(msgspec.msgpack.encode(row))


def test_names_at_their_bounds_are_fine() -> None:
    for name in ("a", "n" * 128, "Bob's Mac", "größe"):
        assert Certificate.unpack(member(name=name).pack()).name == name


def repacked(change: Callable[[list[Any]], object]) -> bytes:
    row = list(msgspec.msgpack.decode(member(roles=frozenset({"client", "rack"})).pack()))
    change(row)
    return msgspec.msgpack.encode(row)


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\xc0",
        b"\x91" * 1000,
        b"\xdd\xff\xff\xff\xff",
        b"\x99" + b"\xc1" * 9,
        member().pack() + b"\0",
        member().pack()[:-1],
        bytes(MAX_CERTIFICATE + 1),
        repacked(lambda row: row.append(0)),
        repacked(lambda row: row.pop()),
        repacked(lambda row: row.__setitem__(0, b"member")),
        repacked(lambda row: row.__setitem__(1, "m" * 16)),
        repacked(lambda row: row[4].reverse()),
        repacked(lambda row: row.__setitem__(4, ["rack", "rack"])),
        repacked(lambda row: row.__setitem__(6, True)),
        repacked(lambda row: row.__setitem__(7, float(NOW + DAY))),
        repacked(lambda row: row.__setitem__(7, 2**64 - 1)),
        repacked(lambda row: row.__setitem__(8, b"")),
    ],
)
def test_what_is_no_certificate_is_refused(packed: bytes) -> None:
    with pytest.raises(Untrusted, match="malformed"):
        Certificate.unpack(packed)


@given(st.binary(max_size=200) | st.builds(msgspec.msgpack.encode, st.lists(st.binary() | st.text())))
def test_whatever_bytes_come_the_only_answer_is_untrusted(data: bytes) -> None:
    with pytest.raises(Untrusted):
        Certificate.unpack(data)
    with pytest.raises(Untrusted):
        unpack_proof(data)


def many_models(count: int) -> frozenset[str]:
    return frozenset(f"model-number-{index:06d}" for index in range(count))


def test_an_issuer_that_can_be_made_can_certify() -> None:
    most = max(n for n in range(200) if fits(many_models(n)))
    models = many_models(most)
    by = issuer(name="m" * 128, models=models)
    of = member(name="n" * 128, roles=ROLES, models=models)
    proof = pack_proof(of, by)
    assert MAX_PROOF - 100 < len(proof) <= MAX_PROOF
    assert Trust(MESH, ROOT_PUBLIC).check(proof, CURVE, NOW, NONE_REVOKED).models == models


def fits(models: frozenset[str]) -> bool:
    try:
        issuer(name="m" * 128, models=models)
    except ValueError:
        return False
    return True


def test_too_many_models_are_refused_with_a_way_out() -> None:
    with pytest.raises(ValueError, match=r"1000 models has .* name fewer models, or none for any"):
        member(models=many_models(1000))
    with pytest.raises(ValueError, match="name fewer models"):
        pack_proof(replace(member(), models=many_models(1000)), issuer())


# --- the verdict


def test_a_member_is_who_its_certificate_says() -> None:
    assert check() == Member(
        name="r1-00000001",
        key=CURVE,
        roles=frozenset({"rack"}),
        models=None,
        until=NOW + 30 * DAY,
        issuer="m1",
        issuer_id=key_id(public_bytes(MACHINE)),
    )


def test_a_trust_is_of_the_mesh_of_its_root() -> None:
    with pytest.raises(ValueError):
        Trust(MESH, public_bytes(STRANGER))


@pytest.mark.parametrize(
    "proof",
    [
        b"",
        b"\x92\xc4\x00\xc4\x00",
        bytes(MAX_PROOF + 1),
        msgspec.msgpack.encode((member().pack(),)),
        msgspec.msgpack.encode((member().pack(), issuer().pack(), b"")),
        pack_proof(issuer(), member()),
        pack_proof(member(), member()),
        pack_proof(issuer(), issuer()),
    ],
)
def test_a_malformed_proof_is_refused(proof: bytes) -> None:
    with pytest.raises(Untrusted, match=r"malformed|longer than"):
        Trust(MESH, ROOT_PUBLIC).check(proof, CURVE, NOW, NONE_REVOKED)


def test_another_mesh_is_refused_by_either_certificate() -> None:
    for one, by in ((member(mesh=b"m" * 16), issuer()), (member(), issuer(mesh=b"m" * 16))):
        with pytest.raises(Untrusted, match="another mesh"):
            check(one, by)


def test_a_certificate_serves_nobody_but_the_holder_of_its_key() -> None:
    with pytest.raises(Untrusted, match="another key"):
        check(key=bytes(32))
    with pytest.raises(Untrusted, match="another key"):
        check(key=b"")


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (NOW - 600 - 1, "member certificate of 'r1-00000001' is not valid yet, 10 minutes too early"),
        (NOW - 600 - 0.1, "not valid yet"),
        (NOW - 600, None),
        (NOW - 600 + 1, None),
        (NOW + 30 * DAY + 600 - 1, None),
        (NOW + 30 * DAY + 600, None),
        (NOW + 30 * DAY + 600 + 0.1, "ended 10 minutes ago"),
        (NOW + 30 * DAY + 600 + 1, "check the clocks"),
        (float("nan"), "not valid"),
        (float("inf"), "ended"),
        (float("-inf"), "not valid yet"),
    ],
)
def test_a_certificate_is_believed_from_its_begin_to_its_end_and_ten_minutes(
    now: float, reason: str | None
) -> None:
    if reason is None:
        assert check(now=now).name == "r1-00000001"
        return
    with pytest.raises(Untrusted, match=reason):
        check(now=now)


def test_an_issuer_out_of_date_takes_its_members_along() -> None:
    short = issuer(since=NOW - 2 * DAY, until=NOW - DAY)
    with pytest.raises(Untrusted, match="issuer certificate of 'm1' ended 24 hours ago"):
        check(member(since=NOW - 2 * DAY, until=NOW + DAY), short)
    with pytest.raises(Untrusted, match="issuer certificate of 'm1' is not valid yet"):
        check(member(), issuer(since=NOW + DAY))


def test_nobody_gives_what_it_does_not_have() -> None:
    rack_only = issuer(roles=frozenset({"rack"}))
    with pytest.raises(Untrusted, match="'m1' may not certify the role operator"):
        check(member(roles=frozenset({"rack", "operator"})), rack_only)
    assert check(by=rack_only).roles == {"rack"}

    limited = issuer(models=frozenset({"a", "b"}))
    for models in (None, frozenset({"a", "c"})):
        with pytest.raises(Untrusted, match="for these models"):
            check(member(models=models), limited)
    for allowed in (frozenset[str](), frozenset({"a"}), frozenset({"a", "b"})):
        assert check(member(models=allowed), limited).models == allowed
    assert check(member(models=frozenset({"x"}))).models == frozenset({"x"})

    with pytest.raises(Untrusted, match="outlasts that of its issuer"):
        check(member(until=NOW + 90 * DAY + 1))
    assert check(member(until=NOW + 90 * DAY)).until == NOW + 90 * DAY


def test_the_revoked_are_refused_and_so_is_whom_they_certified() -> None:
    with pytest.raises(Untrusted, match="'r1-00000001' was revoked"):
        check(revoked=revoking(CURVE))
    with pytest.raises(Untrusted, match="'m1' was revoked"):
        check(revoked=revoking(public_bytes(MACHINE)))
    assert check(revoked=revoking(public_bytes(STRANGER))).issuer == "m1"


def test_only_root_and_issuer_sign() -> None:
    with pytest.raises(Untrusted, match="issuer certificate of 'm1' has a bad signature"):
        check(by=issuer(STRANGER))
    for signer in (ROOT, STRANGER):
        with pytest.raises(Untrusted, match="member certificate of 'r1-00000001' has a bad signature"):
            check(member(signer))
    with pytest.raises(Untrusted, match="bad signature"):
        check(forged(member()))


def test_a_key_that_is_no_point_of_the_curve_signs_nothing() -> None:
    with pytest.raises(Untrusted, match="bad signature"):
        check(member(), issuer(key=b"\xff" * 32))


def test_what_is_cheap_is_looked_at_first() -> None:
    """Each is wrong in all that comes later too, so the first reason shows the order."""
    worst: dict[str, Any] = {"roles": frozenset({"operator"}), "until": NOW + 100 * DAY}
    limited = forged(issuer(roles=frozenset({"rack"})))
    revoked = revoking(CURVE)
    early = NOW - DAY
    reasons = [
        ("another mesh", forged(member(mesh=b"m" * 16, **worst)), b"", early),
        ("another key", forged(member(**worst)), b"", early),
        ("not valid yet", forged(member(**worst)), CURVE, early),
        ("may not certify", forged(member(**worst)), CURVE, NOW),
        ("was revoked", forged(member()), CURVE, NOW),
    ]
    for reason, one, key, now in reasons:
        with pytest.raises(Untrusted, match=reason):
            check(one, limited, key=key, now=now, revoked=revoked)
    with pytest.raises(Untrusted, match="bad signature"):
        check(forged(member()), limited)


# --- what a trust remembers


class Verifications:
    """Stands for the library's class and counts the signatures that are looked at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        monkeypatch.setattr(module, "Ed25519PublicKey", self)

    def from_public_bytes(self, key: bytes) -> Ed25519PublicKey:
        self.count += 1
        return Ed25519PublicKey.from_public_bytes(key)

    def of(self, act: Callable[[], object]) -> int:
        before = self.count
        act()
        return self.count - before


def test_a_greeting_costs_one_verification_once_its_machine_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    trust, verifications = Trust(MESH, ROOT_PUBLIC), Verifications(monkeypatch)
    proof = pack_proof(member(), issuer())

    def greet(key: bytes = CURVE) -> None:
        trust.check(proof, key, NOW, NONE_REVOKED)

    assert verifications.of(greet) == 2
    assert verifications.of(greet) == 1
    with pytest.raises(Untrusted):
        greet(bytes(32))
    assert verifications.count == 3


def test_a_machine_with_a_bad_signature_is_never_remembered() -> None:
    trust = Trust(MESH, ROOT_PUBLIC)
    proof = pack_proof(member(), issuer(STRANGER))
    for _ in range(2):
        with pytest.raises(Untrusted, match="bad signature"):
            trust.check(proof, CURVE, NOW, NONE_REVOKED)


def test_as_many_machines_are_remembered_as_were_seen_last(monkeypatch: pytest.MonkeyPatch) -> None:
    trust = Trust(MESH, ROOT_PUBLIC)
    one = member()
    proofs = [pack_proof(one, issuer(name=f"m{n}")) for n in range(MAX_KNOWN_ISSUERS + 1)]
    for proof in proofs[:-1]:
        trust.check(proof, CURVE, NOW, NONE_REVOKED)
    verifications = Verifications(monkeypatch)

    def greet(n: int) -> int:
        return verifications.of(lambda: trust.check(proofs[n], CURVE, NOW, NONE_REVOKED))

    assert greet(0) == 1
    assert greet(-1) == 2
    assert greet(0) == 1
    assert greet(1) == 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 seconds"),
        (119, "119 seconds"),
        (120, "2 minutes"),
        (7200, "2 hours"),
        (DAY, "24 hours"),
        (9 * DAY, "9 days"),
    ],
)
def test_a_span_is_said_as_people_say_it(seconds: float, text: str) -> None:
    assert span(seconds) == text
