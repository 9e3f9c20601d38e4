"""Who a process is on the wire, and what a greeting says and proves of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..security import roles
from . import wire
from .membership import Membership

if TYPE_CHECKING:
    from ..security.certificate import Member

LEAST_WINDOW = 1_048_576  # bytes; below it two peers could not exchange one message of full size


@dataclass(frozen=True, slots=True)
class Identity:
    """`worker_id` is stable over restarts; `epoch` rises with every start."""

    worker_id: str
    epoch: int
    role: str
    name: str = ""

    def greeting(self, limits: dict[str, int], membership: Membership | None = None) -> dict[str, Any]:
        """The facts of HELLO and HELLO_OK."""
        return {
            "versions": [wire.VERSION, wire.VERSION],
            "features": [],
            "limits": limits,
            "id": self.worker_id,
            "epoch": self.epoch,
            "role": self.role,
            "name": self.name,
            "proof": b"" if membership is None else membership.proof,
            "revocations": 0 if membership is None else membership.serial,
        }


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """What a peer's greeting said, and what its certificate proves; `member` is None on open networks."""

    worker_id: str
    epoch: int
    role: str
    name: str = ""
    limits: dict[str, int] = field(default_factory=dict)
    serial: int = 0
    member: Member | None = None
    barred: frozenset[str] = frozenset()
    """Methods that it may not call."""
    misplaced: frozenset[str] = frozenset()
    """Methods that it must not be asked for."""

    def longest(self, own: int) -> int:
        """Bytes of the longest message that both sides take; nobody may say less than a greeting needs."""
        return max(min(own, self.limits.get("maxMessage", own)), wire.MAX_GREETING)

    def window(self, own: int) -> int:
        """Bytes that may be under way to the peer: what it takes, and no more than we let lie on a link."""
        return max(min(own, self.limits.get("window", own)), LEAST_WINDOW)


class BadGreeting(ValueError):
    """A greeting that names no usable identity or no version in common, or does not prove what it says."""


def meet(facts: dict[Any, Any], membership: Membership | None, key: bytes) -> PeerInfo:
    """The peer of a HELLO or HELLO_OK, with what its certificate allows; raises `BadGreeting`.

    `key` is the one that its side of the encrypted link has proved to hold.
    """
    info = read_greeting(facts)
    if membership is None:
        return info
    proof = facts.get("proof")
    if type(proof) is not bytes or not proof:
        raise BadGreeting("it brings no certificate: it is no member of this mesh")
    member = membership.admit(info.worker_id, info.role, proof, key)
    return replace(
        info, member=member, barred=roles.barred(member.roles), misplaced=roles.misplaced(member.roles)
    )


def read_greeting(facts: dict[Any, Any]) -> PeerInfo:
    """The peer of a HELLO or HELLO_OK; raises `BadGreeting` in words for people. Unknown keys are ignored."""
    versions = facts.get("versions")
    if not (isinstance(versions, tuple) and len(versions) == 2 and all(type(v) is int for v in versions)):
        raise BadGreeting("a greeting names its versions as [lowest, highest]")
    if not versions[0] <= wire.VERSION <= versions[1]:
        raise BadGreeting(
            f"version {wire.VERSION} is spoken here, the peer speaks {versions[0]} to {versions[1]}"
        )
    worker_id, epoch, role, name = (facts.get(key) for key in ("id", "epoch", "role", "name"))
    if not (isinstance(worker_id, str) and 0 < len(worker_id) <= 128):
        raise BadGreeting("a greeting names an id of 1 to 128 characters")
    if type(epoch) is not int or not 0 <= epoch < 2**64 or not isinstance(role, str) or len(role) > 32:
        raise BadGreeting("a greeting names an epoch of 64 bits and a role")
    limits, serial = facts.get("limits"), facts.get("revocations")
    numbers = {k: v for k, v in limits.items() if type(v) is int} if isinstance(limits, dict) else {}
    name = name[:128] if isinstance(name, str) else ""
    return PeerInfo(worker_id, epoch, role, name, numbers, serial if type(serial) is int else 0)
