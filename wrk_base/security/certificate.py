"""Who vouches for a key: certificates, the proof that a process shows, and the verdict on it. Pure.

A chain has always two: the mesh's root signs an issuer (a machine's right to certify), an issuer signs
a member (a process). Nobody else signs, so there is nothing to search and no depth to bound. Dates are
unix seconds, and `now` is passed in.

A certificate comes from strangers. Reading one ends in a `Certificate` that holds every bound below or
in `Untrusted`, and bytes other than those that were signed never read as the same certificate. What is
cheap is checked first: a stranger has no signature verified for a key that it does not hold.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from .roles import ROLES

if TYPE_CHECKING:
    from .revocations import Revocations

ISSUER: Final = "issuer"
MEMBER: Final = "member"

ID_BYTES: Final = 16  # of a key or a mesh: 2^64 tries for two keys of one id, 2^128 for a given one
KEY_BYTES: Final = 32  # CURVE25519 and Ed25519 alike
SIGNATURE_BYTES: Final = 64
MAX_NAME: Final = 128  # characters; a worker id has at most as many
MAX_MODEL_NAME: Final = 256  # characters
LAST_SECOND: Final = 2**53 - 1  # a float still tells it from its neighbour
TOLERANCE_S: Final = 600  # by which clocks of two machines may differ; more would keep the expired in

# A proof travels in a greeting, whose 4,096 bytes a stranger may make us hold; the rest of it needs room.
# Both certificates get the same share, so that whatever issuer can be made can also certify.
MAX_PROOF: Final = 3000
MAX_CERTIFICATE: Final = (MAX_PROOF - 8) // 2
MAX_KNOWN_ISSUERS: Final = 256  # machines; only a root's signature gets one in, and 400 kB is the most

_Body = tuple[str, bytes, bytes, str, list[str], list[str] | None, int, int]
_Signed = tuple[str, bytes, bytes, str, list[str], list[str] | None, int, int, bytes]
_read_signed = msgspec.msgpack.Decoder(_Signed).decode
_read_pair = msgspec.msgpack.Decoder(tuple[bytes, bytes]).decode
_pack = msgspec.msgpack.encode


class Untrusted(Exception):
    """Nobody vouches for this; the message says why, for people."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """`mesh` vouches until `until` that the holder of `key` is called `name` and has these roles.

    `key` is the CURVE key of a member and the Ed25519 key of an issuer. `models` None means any.
    Raises `ValueError` when a field is out of bounds.
    """

    kind: str
    mesh: bytes
    key: bytes
    name: str
    roles: frozenset[str]
    models: frozenset[str] | None
    since: int
    until: int
    signature: bytes

    def __post_init__(self) -> None:
        _require(self.kind in (ISSUER, MEMBER), "its kind is issuer or member")
        _require(len(self.mesh) == ID_BYTES, f"a mesh id has {ID_BYTES} bytes")
        _require(len(self.key) == KEY_BYTES, f"a key has {KEY_BYTES} bytes")
        _require(is_name(self.name), f"a name has 1 to {MAX_NAME} printable characters")
        _require(self.roles and self.roles <= ROLES, f"roles are one or more of {', '.join(sorted(ROLES))}")
        _require(_are_models(self.models), f"a model's name has 1 to {MAX_MODEL_NAME} printable characters")
        _require(0 <= self.since < self.until <= LAST_SECOND, "it ends after it begins")
        _require(len(self.signature) == SIGNATURE_BYTES, f"a signature has {SIGNATURE_BYTES} bytes")

    def pack(self) -> bytes:
        """At most `MAX_CERTIFICATE` bytes. Raises `ValueError` if its models need more."""
        packed = _pack((*self._body(), self.signature))
        if len(packed) > MAX_CERTIFICATE:
            raise ValueError(
                f"a certificate for {len(self.models or ())} models has {len(packed)} bytes, "
                f"{MAX_CERTIFICATE} are allowed: name fewer models, or none for any"
            )
        return packed

    @classmethod
    def unpack(cls, packed: bytes) -> Certificate:
        """The certificate that `pack` made these bytes of. Raises `Untrusted`."""
        try:
            _require(len(packed) <= MAX_CERTIFICATE, f"it is longer than {MAX_CERTIFICATE} bytes")
            kind, mesh, key, name, roles, models, *rest = _read_signed(packed)
            of_models = None if models is None else frozenset(models)
            found = cls(kind, mesh, key, name, frozenset(roles), of_models, *rest)
            _require(found.pack() == packed, "it is not written the one way there is")
        except ValueError as problem:
            raise Untrusted(f"the certificate is malformed: {problem}") from None
        return found

    def verify(self, signer: bytes) -> None:
        """Raises `Untrusted` unless the owner of this Ed25519 public key signed it."""
        verify(signer, self.signature, self.signed_bytes(), f"the {self.kind} certificate of {self.name!r}")

    def signed_bytes(self) -> bytes:
        """What is signed: opens with what it is, so that no signature serves for anything else."""
        return b"wrk certificate 1 " + self.kind.encode() + b"\0" + _pack(self._body())

    def _body(self) -> _Body:
        models = None if self.models is None else sorted(self.models)
        return (
            *(self.kind, self.mesh, self.key, self.name, sorted(self.roles), models),
            *(self.since, self.until),
        )


@dataclass(frozen=True, slots=True)
class Member:
    """A process that the mesh vouches for: worker id, CURVE key, what it may, and who certified it.

    `until` is in unix seconds, `issuer` is a machine's name, `issuer_id` the `key_id` of its key.
    """

    name: str
    key: bytes
    roles: frozenset[str]
    models: frozenset[str] | None
    until: int
    issuer: str
    issuer_id: bytes


def key_id(key: bytes) -> bytes:
    """The first 16 bytes of a key's SHA-256. That of the root's public key is the mesh's id."""
    return hashlib.sha256(key).digest()[:ID_BYTES]


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """The 32 bytes of its public half."""
    return key.public_key().public_bytes_raw()


def issue(
    signer: Ed25519PrivateKey,
    *,
    kind: str,
    mesh: bytes,
    key: bytes,
    name: str,
    roles: frozenset[str],
    models: frozenset[str] | None,
    since: int,
    until: int,
) -> Certificate:
    """A signed certificate. Raises `ValueError` when a field is out of bounds or it gets too long."""
    draft = Certificate(kind, mesh, key, name, roles, models, since, until, bytes(SIGNATURE_BYTES))
    made = replace(draft, signature=signer.sign(draft.signed_bytes()))
    made.pack()
    return made


def pack_proof(member: Certificate, issuer: Certificate) -> bytes:
    """What a process shows: at most `MAX_PROOF` bytes. Raises `ValueError` if the models need more."""
    return _pack((member.pack(), issuer.pack()))


def unpack_proof(proof: bytes) -> tuple[Certificate, Certificate]:
    """Member and issuer, bounds and kinds checked and nothing else. Raises `Untrusted`."""
    if len(proof) > MAX_PROOF:
        raise Untrusted(f"the proof of membership is longer than {MAX_PROOF} bytes")
    try:
        first, second = _read_pair(proof)
    except ValueError as problem:
        raise Untrusted(f"the proof of membership is malformed: {problem}") from None
    member, issuer = Certificate.unpack(first), Certificate.unpack(second)
    if (member.kind, issuer.kind) != (MEMBER, ISSUER):
        raise Untrusted("the proof of membership is malformed: not a member's and an issuer's certificate")
    return member, issuer


class Trust:
    """One mesh's judge. Remembers which issuer certificates the root signed, and nothing else."""

    def __init__(self, mesh: bytes, root: bytes) -> None:
        if key_id(root) != mesh:
            raise ValueError("the mesh's id is not that of the root key")
        self._mesh = mesh
        self._root = root
        self._signed_by_root: dict[Certificate, None] = {}

    def check(self, proof: bytes, key: bytes, now: float, revoked: Revocations) -> Member:
        """Who `proof` says that the holder of `key` is, a CURVE key that its handshake proved.

        Raises `Untrusted`.
        """
        member, issuer = unpack_proof(proof)
        if (member.mesh, issuer.mesh) != (self._mesh, self._mesh):
            raise Untrusted("the certificate is of another mesh: join this one, or ask in that one")
        if member.key != key:
            raise Untrusted("the certificate is for another key than the one that opened this connection")
        for certificate in (member, issuer):
            _check_dates(certificate, now)
        _check_within(member, issuer)
        for certificate in (member, issuer):
            if revoked.bars(certificate.key):
                raise Untrusted(f"the {certificate.kind} certificate of {certificate.name!r} was revoked")
        self._check_issuer(issuer)
        member.verify(issuer.key)
        return Member(
            *(member.name, member.key, member.roles, member.models, member.until),
            *(issuer.name, key_id(issuer.key)),
        )

    def _check_issuer(self, issuer: Certificate) -> None:
        """Keeps those seen last: more machines than are remembered cost a verification, not a refusal."""
        if issuer not in self._signed_by_root:
            issuer.verify(self._root)
        self._signed_by_root.pop(issuer, None)
        self._signed_by_root[issuer] = None
        if len(self._signed_by_root) > MAX_KNOWN_ISSUERS:
            del self._signed_by_root[next(iter(self._signed_by_root))]


def verify(signer: bytes, signature: bytes, data: bytes, what: str) -> None:
    """Raises `Untrusted`, which names `what`, unless the owner of this Ed25519 public key signed `data`."""
    try:
        Ed25519PublicKey.from_public_bytes(signer).verify(signature, data)
    except (InvalidSignature, ValueError):
        raise Untrusted(f"{what} has a bad signature") from None


def is_name(text: str) -> bool:
    """Whether a machine or a process may be called so: nothing that a log or a terminal would obey."""
    return 1 <= len(text) <= MAX_NAME and text.isprintable() and text == text.strip()


def span(seconds: float) -> str:
    """A length of time as people say it, no finer than matters."""
    for size, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def _are_models(models: frozenset[str] | None) -> bool:
    return all(1 <= len(model) <= MAX_MODEL_NAME and model.isprintable() for model in models or ())


def _check_dates(certificate: Certificate, now: float) -> None:
    """Both comparisons are false for a `now` that is no number, and refuse."""
    what = f"the {certificate.kind} certificate of {certificate.name!r}"
    advice = "check the clocks of both machines"
    if not now >= certificate.since - TOLERANCE_S:
        raise Untrusted(f"{what} is not valid yet, {span(certificate.since - now)} too early: {advice}")
    if not now <= certificate.until + TOLERANCE_S:
        raise Untrusted(f"{what} ended {span(now - certificate.until)} ago: have it renewed, and {advice}")


def _check_within(member: Certificate, issuer: Certificate) -> None:
    excess = member.roles - issuer.roles
    if excess:
        raise Untrusted(f"{issuer.name!r} may not certify the role {', '.join(sorted(excess))}")
    if issuer.models is not None and (member.models is None or not member.models <= issuer.models):
        raise Untrusted(f"{issuer.name!r} may not certify {member.name!r} for these models")
    if member.until > issuer.until:
        raise Untrusted(f"the certificate of {member.name!r} outlasts that of its issuer {issuer.name!r}")


def _require(holds: object, what: str) -> None:
    if not holds:
        raise ValueError(what)
