"""This machine's membership of one mesh, on disk: `STATE_DIR/mesh/NAME/`, for this user alone.

    member.json   mesh id, root's public key, discovery secret, this machine's issuer certificate
    issuer.key    what this machine certifies its processes with (Ed25519, 32 bytes)
    revoked       the list of revocations in force; none is the empty list
    root.key      the mesh itself: on the first machine only
    ledger.json   who is invited and which machines may certify: on the first machine only
    lock          held while any of these is read or written

Every process of this user here is a member by these files, so they are the machine's trust boundary. All
changes are made under the lock and read anew there, since commands and live processes write side by side;
`member.json` is written last, so a machine is a member when it is there. Nothing here knows the network.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Meta

from ..errors import StartError
from ..state import replace_file
from .certificate import (
    ID_BYTES,
    ISSUER,
    KEY_BYTES,
    MAX_NAME,
    MEMBER,
    Certificate,
    Untrusted,
    issue,
    key_id,
    pack_proof,
    public_bytes,
    span,
)
from .invitation import (
    DISCOVERY_SECRET_BYTES,
    MESH_NAME,
    SECRET_BYTES,
    Invitation,
    JoinGrant,
    JoinRequest,
)
from .ledger import ISSUER_S, Invited, Ledger, Machine, certificate_for, digest_of
from .private_file import check_private, damaged, read_private, unusable
from .revocations import Revocations
from .roles import ROLES

MEMBER_S: Final = 30 * 86_400  # a process makes a new one whenever it likes; a stolen key ends by itself
SHORTEST_INVITATION_S: Final = 60
LONGEST_INVITATION_S: Final = 30 * 86_400

_MEMBER = "member.json"
_ISSUER_KEY = "issuer.key"
_REVOKED = "revoked"
_ROOT_KEY = "root.key"
_LEDGER = "ledger.json"
_LOCK = "lock"

Stamp = tuple[tuple[int, int, int] | None, ...]


class _Saved(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    mesh: Annotated[bytes, Meta(min_length=ID_BYTES, max_length=ID_BYTES)]
    root: Annotated[bytes, Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
    discovery_secret: Annotated[
        bytes, Meta(min_length=DISCOVERY_SECRET_BYTES, max_length=DISCOVERY_SECRET_BYTES)
    ]
    certificate: bytes


@dataclass(frozen=True, slots=True)
class MachineMembership:
    """`mesh` is the id and `name` the name of the mesh, `issuer` this machine's right to certify.

    `root` is the root's Ed25519 public key (32 bytes); `has_root` says whether this is the first machine.
    """

    mesh: bytes
    name: str
    root: bytes
    discovery_secret: bytes = field(repr=False)
    issuer_key: Ed25519PrivateKey = field(repr=False)
    issuer: Certificate
    revocations: Revocations
    has_root: bool


class MeshFiles:
    """The files of the mesh called `name`. Methods raise `StartError` for people if they are unusable."""

    def __init__(
        self, state_dir: Path, name: str, token: Callable[[int], bytes] = secrets.token_bytes
    ) -> None:
        if not MESH_NAME.fullmatch(name):
            raise StartError(f"{name!r} cannot be a mesh: use 1 to 63 letters, digits, dots, _ and -")
        self.name = name
        self.directory = state_dir / "mesh" / name
        self._token = token
        self._if_seen = f"remove {self.directory} and join again"

    def exists(self) -> bool:
        """Whether this machine is a member."""
        return (self.directory / _MEMBER).exists()

    def stamp(self) -> Stamp:
        """Differs from an earlier one when `load` would find something else: four `stat` calls."""
        return tuple(self._stat(name) for name in (_MEMBER, _ISSUER_KEY, _REVOKED, _ROOT_KEY))

    def load(self) -> MachineMembership:
        """What the files say, checked against each other."""
        with self._locked(fcntl.LOCK_SH):
            return self._load()

    def create(self, machine: str, now: float) -> MachineMembership:
        """A new mesh with this machine as its first, which may do everything; or the one that is there."""
        self._make_directory()
        with self._locked():
            if not self.exists():
                self._found_mesh(machine, now)
            return self._load()

    def certify(self, key: bytes, name: str, roles: frozenset[str], now: float) -> bytes:
        """The proof of membership for a process here: its CURVE key, its worker id, the roles it asks for.

        It gets those of them that this machine may give, for 30 days or as long as the machine itself has.
        """
        own = self.load()
        granted = roles & own.issuer.roles
        if not granted:
            raise StartError(
                f"this machine was invited to mesh {self.name} as {_listed(own.issuer.roles)} only, and "
                f"{name} needs to be {_listed(roles)}: have it invited again with that role"
            )
        until = min(int(now) + MEMBER_S, own.issuer.until)
        if until <= int(now):
            raise StartError(
                f"this machine's right to certify ended {span(now - own.issuer.until)} ago: "
                f"check its clock, or {self._if_seen}"
            )
        with _for_people():
            member = issue(
                own.issuer_key,
                kind=MEMBER,
                mesh=own.mesh,
                key=key,
                name=name,
                roles=granted,
                models=own.issuer.models,
                since=int(now),
                until=until,
            )
            return pack_proof(member, own.issuer)

    def store_issuer(self, packed: bytes) -> Certificate:
        """Keep this machine's renewed certificate, and return the one in force: that which ends later.

        Processes that renew it side by side may bring theirs in any order. Raises `Untrusted` for one
        that is not ours.
        """
        renewed = Certificate.unpack(packed)
        with self._locked():
            own = self._load()
            _check_issuer(renewed, own.mesh, own.root, public_bytes(own.issuer_key))
            if renewed.until < own.issuer.until:
                return own.issuer
            self._save_member(_Saved(own.mesh, own.root, own.discovery_secret, packed))
        return renewed

    def accept_revocations(self, packed: bytes) -> Revocations | None:
        """Keep a list that somebody brought, and return it; None if ours is as new.

        Raises `Untrusted` for one that is malformed, or that is newer and not signed by the root.
        """
        offered = Revocations.unpack(packed)
        with self._locked():
            own = self._load()
            if not offered.replaces(own.revocations, own.root):
                return None
            self._write(_REVOKED, packed)
        return offered

    def new_key(self) -> Ed25519PrivateKey:
        """What a machine that is to join will certify with; each attempt needs another one."""
        return Ed25519PrivateKey.from_private_bytes(self._token(KEY_BYTES))

    def check_may_join(self, mesh: bytes) -> None:
        """Whether this machine is free for the mesh of this id; to be asked before a secret is used up."""
        saved = self._saved()
        if saved is not None and saved.mesh != mesh:
            raise StartError(
                f"this machine is in another mesh called {self.name} already: stop its processes and remove "
                f"{self.directory} to leave that one, or choose another --state-dir"
            )
        if (self.directory / _ROOT_KEY).exists():
            raise StartError(f"this is the first machine of mesh {self.name}: it needs no invitation")

    def install(self, invitation: Invitation, grant: JoinGrant, issuer_key: Ed25519PrivateKey) -> None:
        """Make this machine a member by what it was granted for its new key.

        Raises `Untrusted` when the grant is not what the invitation promised, and `StartError` when this
        machine is in another mesh of that name.
        """
        if invitation.mesh != self.name:
            raise StartError(
                f"the invitation is for mesh {invitation.mesh}, and this machine is set to {self.name}: "
                f"use --discovery.mesh={invitation.mesh}"
            )
        if grant.root != invitation.root:
            raise Untrusted("the answer is from another mesh than the one that invited")
        issuer = Certificate.unpack(grant.certificate)
        _check_issuer(issuer, invitation.mesh_id, invitation.root, public_bytes(issuer_key))
        revocations = Revocations.unpack(grant.revocations)
        self._make_directory()
        with self._locked():
            self.check_may_join(invitation.mesh_id)
            if revocations.replaces(self._revocations(grant.root), grant.root):
                self._write(_REVOKED, grant.revocations)
            self._write(_ISSUER_KEY, issuer_key.private_bytes_raw())
            self._save_member(
                _Saved(invitation.mesh_id, grant.root, grant.discovery_secret, grant.certificate)
            )

    # --- on the first machine

    def invite(
        self,
        *,
        roles: frozenset[str],
        name: str,
        models: frozenset[str] | None,
        expires_s: float,
        now: float,
        addresses: tuple[str, ...],
        key: bytes,
    ) -> Invitation:
        """Let one more machine in, limited to `roles` and `models`; `name` "" lets it name itself.

        `addresses` and `key` (CURVE, 32 bytes) are those of the process that will redeem it.
        """
        if not SHORTEST_INVITATION_S <= expires_s <= LONGEST_INVITATION_S:
            raise StartError(f"an invitation lasts from {SHORTEST_INVITATION_S} s to 30 days")
        with self._locked(), _for_people():
            root = self._root_key()
            secret, expires = self._token(SECRET_BYTES), int(now + expires_s)
            public = public_bytes(root)
            invitation = Invitation(self.name, key_id(public), public, addresses, key, secret, expires)
            invited = Invited(digest_of(secret), name, roles, models, expires)
            _check_can_certify(invited, root, now)
            self._save_ledger(self._ledger().invite(invited, now))
        return invitation

    def redeem(self, request: JoinRequest, now: float) -> JoinGrant:
        """Let the machine in that brings an invitation's secret, once. Raises `Untrusted`."""
        with self._locked():
            root, own = self._root_key(), self._load()
            ledger, machine = self._ledger().redeem(request, now)
            if own.revocations.bars(request.key):
                raise Untrusted("the key of this machine was revoked: join with a new one")
            try:
                certificate = certificate_for(machine, request.key, root, now).pack()
            except ValueError as problem:
                raise Untrusted(str(problem)) from None
            self._save_ledger(ledger)
        return _grant(own, certificate)

    def renew(self, key: bytes, now: float) -> bytes:
        """A certificate for 90 days for the machine of this Ed25519 key, our own included.

        Raises `Untrusted` if it is unknown or revoked.
        """
        with self._locked():
            root, own = self._root_key(), self._load()
            if own.revocations.bars(key):
                raise Untrusted("this machine was revoked: it has to be invited again")
            ledger, machine = self._ledger().renew(key, now)
            self._save_ledger(ledger)
            return certificate_for(machine, key, root, now).pack()

    def revoke(self, name: str, now: float) -> Revocations:
        """No longer believe this machine, nor any process that it certified; returns the next list."""
        with self._locked(), _for_people():
            self._root_key()
            machine = self._ledger().machine(name)
            return self._bar(machine.key_id, name, machine.until, now)

    def revoke_key(self, id: bytes, name: str, until: int, now: float) -> Revocations:
        """No longer believe the key of this `key_id`, whose last certificate ends at `until`."""
        with self._locked(), _for_people():
            return self._bar(id, name, until, now)

    def check_first(self) -> None:
        """Raises `StartError` unless this is the mesh's first machine, which can invite and revoke."""
        with self._locked(fcntl.LOCK_SH):
            self._root_key()

    def machines(self) -> tuple[Machine, ...]:
        """Those that may certify, for people."""
        with self._locked(fcntl.LOCK_SH):
            return self._ledger().machines

    # --- under the lock

    def _found_mesh(self, machine: str, now: float) -> None:
        """Goes on with the keys that are there: somebody may have been certified with them."""
        root, issuer_key = self._key(_ROOT_KEY) or self.new_key(), self._key(_ISSUER_KEY) or self.new_key()
        public, own = public_bytes(root), public_bytes(issuer_key)
        first = Machine(machine, key_id(own), ROLES, None, int(now) + ISSUER_S)
        with _for_people():
            certificate = certificate_for(first, own, root, now).pack()
        self._write(_ROOT_KEY, root.private_bytes_raw())
        self._write(_ISSUER_KEY, issuer_key.private_bytes_raw())
        self._save_ledger(self._ledger().record(first))
        discovery_secret = self._token(DISCOVERY_SECRET_BYTES)
        self._save_member(_Saved(key_id(public), public, discovery_secret, certificate))

    def _load(self) -> MachineMembership:
        saved = self._saved()
        if saved is None:
            raise self._no_member()
        issuer_key = self._key(_ISSUER_KEY)
        if issuer_key is None:
            raise damaged(self.directory, f"{_ISSUER_KEY} is missing", "restore it, or " + self._if_seen)
        try:
            if key_id(saved.root) != saved.mesh:
                raise Untrusted("the mesh's id is not that of the root key")
            issuer = Certificate.unpack(saved.certificate)
            _check_issuer(issuer, saved.mesh, saved.root, public_bytes(issuer_key))
        except Untrusted as problem:
            raise self._damaged(_MEMBER, problem) from None
        return MachineMembership(
            *(saved.mesh, self.name, saved.root, saved.discovery_secret, issuer_key, issuer),
            revocations=self._revocations(saved.root),
            has_root=(self.directory / _ROOT_KEY).exists(),
        )

    def _bar(self, id: bytes, name: str, until: int, now: float) -> Revocations:
        """The list first: should the machine stop in between, a second attempt finishes it."""
        root, own = self._root_key(), self._load()
        if id == key_id(own.issuer.key):
            raise StartError(
                "this is the mesh's first machine, whom all others believe: it cannot be revoked; to start "
                f"over, remove {self.directory} and invite the others again"
            )
        revocations = own.revocations.add(root, id, name, until, now)
        self._write(_REVOKED, revocations.pack())
        self._save_ledger(self._ledger().without(id))
        return revocations

    def _root_key(self) -> Ed25519PrivateKey:
        root = self._key(_ROOT_KEY)
        if root is None:
            raise StartError(
                f"only the first machine of mesh {self.name} can do this, the one that has {_ROOT_KEY}: "
                "run it there"
            )
        return root

    def _key(self, name: str) -> Ed25519PrivateKey | None:
        data = self._read(name)
        if data is None:
            return None
        if len(data) != KEY_BYTES:
            raise self._damaged(name, f"a key has {KEY_BYTES} bytes, and it has {len(data)}")
        return Ed25519PrivateKey.from_private_bytes(data)

    def _saved(self) -> _Saved | None:
        data = self._read(_MEMBER)
        try:
            return None if data is None else msgspec.json.decode(data, type=_Saved)
        except (ValueError, RecursionError) as problem:
            raise self._damaged(_MEMBER, problem) from None

    def _ledger(self) -> Ledger:
        data = self._read(_LEDGER)
        try:
            return Ledger() if data is None else msgspec.json.decode(data, type=Ledger)
        except (ValueError, RecursionError) as problem:
            raise self._damaged(_LEDGER, problem) from None

    def _revocations(self, root: bytes) -> Revocations:
        data = self._read(_REVOKED)
        try:
            found = Revocations.empty() if data is None else Revocations.unpack(data)
            found.verify(root)
        except Untrusted as problem:
            path = self.directory / _REVOKED
            raise damaged(path, str(problem), "remove it: the mesh's other machines send it again") from None
        return found

    def _save_member(self, saved: _Saved) -> None:
        self._write(_MEMBER, msgspec.json.encode(saved) + b"\n")

    def _save_ledger(self, ledger: Ledger) -> None:
        self._write(_LEDGER, msgspec.json.encode(ledger, order="sorted") + b"\n")

    def _read(self, name: str) -> bytes | None:
        return read_private(self.directory / name, self._if_seen)

    def _write(self, name: str, data: bytes) -> None:
        try:
            replace_file(self.directory / name, data)
        except OSError as error:
            raise unusable(self.directory / name, error) from error

    # --- the directory

    @contextmanager
    def _locked(self, how: int = fcntl.LOCK_EX) -> Iterator[None]:
        """Waits for the others, who write for milliseconds. The kernel unlocks for whoever dies."""
        path = self.directory / _LOCK
        try:
            check_private(self.directory, self.directory.stat(), self._if_seen)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            raise self._no_member() from None
        except OSError as error:
            raise unusable(path, error) from error
        try:
            fcntl.flock(descriptor, how)
            yield
        finally:
            os.close(descriptor)

    def _make_directory(self) -> None:
        try:
            for path in (self.directory.parent, self.directory):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise unusable(self.directory, error) from error

    def _stat(self, name: str) -> tuple[int, int, int] | None:
        """The inode too: a file is replaced, maybe twice within one tick of the file system's clock."""
        try:
            status = os.stat(self.directory / name)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _no_member(self) -> StartError:
        return StartError(
            f"this machine is in no mesh called {self.name} ({self.directory} holds none): "
            "start an orchestrator here for a new one, or join one with an invitation"
        )

    def _damaged(self, name: str, problem: object) -> StartError:
        return damaged(self.directory / name, str(problem), f"restore it from a copy, or {self._if_seen}")


def _check_issuer(issuer: Certificate, mesh: bytes, root: bytes, key: bytes) -> None:
    """Raises `Untrusted` unless the root certifies this machine's Ed25519 key."""
    if (issuer.kind, issuer.mesh) != (ISSUER, mesh):
        raise Untrusted("the certificate is not that of a machine of this mesh")
    if issuer.key != key:
        raise Untrusted("the certificate is for another key than this machine's")
    issuer.verify(root)


def _check_can_certify(invited: Invited, root: Ed25519PrivateKey, now: float) -> None:
    """Raises `ValueError` now, on the machine where people can still choose, and not after the join."""
    longest = "x" * MAX_NAME  # the machine's processes have names too, and the same models
    for name in (invited.name or longest, longest):
        machine = Machine(name, bytes(ID_BYTES), invited.roles, invited.models, int(now) + ISSUER_S)
        certificate_for(machine, bytes(KEY_BYTES), root, now)


def _grant(own: MachineMembership, certificate: bytes) -> JoinGrant:
    """With the list of revocations if it fits; else the newcomer gets it like everybody, from its peers."""
    grant = JoinGrant(certificate, own.root, own.discovery_secret, own.revocations.pack())
    try:
        grant.pack()
    except ValueError:
        grant = msgspec.structs.replace(grant, revocations=Revocations.empty().pack())
    return grant


@contextmanager
def _for_people() -> Iterator[None]:
    """What is out of bounds here was typed by somebody."""
    try:
        yield
    except ValueError as problem:
        raise StartError(str(problem)) from None


def _listed(roles: frozenset[str]) -> str:
    return ", ".join(sorted(roles))
