"""What the first machine writes down: open invitations, and the machines that may certify. Pure.

Each change returns the next ledger, and the caller keeps it before the answer goes out; so a secret
works once, whatever happens to the machine. An invitation that was used or is long out of date is not in
it any more. Machines have different names, as people revoke them by name. Dates are unix seconds.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from .certificate import ISSUER, Certificate, Untrusted, issue, key_id, public_bytes, span
from .invitation import JoinRequest

MAX_OPEN: Final = 1000  # invitations; a script that invites in a loop ends here, with an error
MAX_MACHINES: Final = 1024  # a LAN has fewer; 1.5 MB if each is limited to many models
ISSUER_S: Final = 90 * 86_400  # a machine that is off for a holiday need not be invited again


class Invited(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """One open invitation. `name` "" lets the machine name itself. Only the secret's hash is kept."""

    digest: bytes
    name: str
    roles: frozenset[str]
    models: frozenset[str] | None
    expires: int


class Machine(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """One machine's right to certify. `key_id` is that of its Ed25519 key."""

    name: str
    key_id: bytes
    roles: frozenset[str]
    models: frozenset[str] | None
    until: int


class Ledger(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    invitations: tuple[Invited, ...] = ()
    machines: tuple[Machine, ...] = ()

    def invite(self, invited: Invited, now: float) -> Ledger:
        """With one invitation more. Raises `ValueError` for people."""
        still_open = tuple(one for one in self.invitations if one.expires > now)
        if len(still_open) >= MAX_OPEN:
            raise ValueError(f"{MAX_OPEN} invitations are open: wait until some are used or out of date")
        if len(self.machines) >= MAX_MACHINES:
            raise ValueError(f"the mesh has {MAX_MACHINES} machines: revoke those that are gone")
        if self._named(invited.name):
            raise ValueError(_taken(invited.name))
        return Ledger((*still_open, invited), self.machines)

    def redeem(self, request: JoinRequest, now: float) -> tuple[Ledger, Machine]:
        """The machine that the secret lets in, for its name, and the ledger without that invitation.

        Raises `Untrusted`; the reasons after the secret was recognised leave the invitation open.
        """
        invited = self._recognise(request.secret)
        if now > invited.expires:
            raise Untrusted(f"this invitation ended {span(now - invited.expires)} ago: ask for a new one")
        machine = Machine(
            *(invited.name or request.name, key_id(request.key), invited.roles, invited.models),
            until=int(now) + ISSUER_S,
        )
        if any(one.key_id == machine.key_id for one in self.machines):
            raise Untrusted("the key of this machine is in the mesh already: join with a new one")
        if self._named(machine.name):
            raise Untrusted(_taken(machine.name))
        if len(self.machines) >= MAX_MACHINES:
            raise Untrusted(f"the mesh has {MAX_MACHINES} machines: have those revoked that are gone")
        rest = tuple(one for one in self.invitations if one is not invited)
        return Ledger(rest, (*self.machines, machine)), machine

    def renew(self, key: bytes, now: float) -> tuple[Ledger, Machine]:
        """The machine of this Ed25519 key with a later end. Raises `Untrusted`."""
        known = next((one for one in self.machines if one.key_id == key_id(key)), None)
        if known is None:
            raise Untrusted("this machine is not in the mesh, or not any more: it has to be invited again")
        machine = msgspec.structs.replace(known, until=max(known.until, int(now) + ISSUER_S))
        return self.record(machine), machine

    def record(self, machine: Machine) -> Ledger:
        """With this machine, in place of what was known of its key."""
        return Ledger(self.invitations, (*self.without(machine.key_id).machines, machine))

    def without(self, id: bytes) -> Ledger:
        """Without the machine of this `key_id`, which has no right to certify any more."""
        return Ledger(self.invitations, tuple(one for one in self.machines if one.key_id != id))

    def machine(self, name: str) -> Machine:
        """Raises `ValueError` for people."""
        for machine in self.machines:
            if machine.name == name:
                return machine
        known = ", ".join(sorted(machine.name for machine in self.machines)) or "none"
        raise ValueError(f"no machine of this mesh is called {name!r}; its machines: {known}")

    def _recognise(self, secret: bytes) -> Invited:
        """Looks at every one, so that the time tells nothing; says the same of unknown and of used."""
        digest = digest_of(secret)
        found = [one for one in self.invitations if hmac.compare_digest(one.digest, digest)]
        if not found:
            raise Untrusted("this invitation is unknown, or was used already: ask for a new one")
        return found[0]

    def _named(self, name: str) -> bool:
        return any(machine.name == name for machine in self.machines)


def digest_of(secret: bytes) -> bytes:
    """What is kept of a secret. It has 128 random bits: a slow hash would add nothing."""
    return hashlib.sha256(secret).digest()


def certificate_for(machine: Machine, key: bytes, root: Ed25519PrivateKey, now: float) -> Certificate:
    """The issuer certificate of this machine and its Ed25519 key. Raises `ValueError` if it is too long."""
    return issue(
        root,
        kind=ISSUER,
        mesh=key_id(public_bytes(root)),
        key=key,
        name=machine.name,
        roles=machine.roles,
        models=machine.models,
        since=int(now),
        until=machine.until,
    )


def _taken(name: str) -> str:
    return (
        f"a machine called {name!r} is in this mesh already: have it revoked on the first machine "
        "if it is the same one, or choose another name with --name"
    )
