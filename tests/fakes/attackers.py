"""One attempt of each kind: strangers, members of other meshes, and members who want what is not theirs.

    attempts = without_membership(mesh, other, folder, target) + beyond_their_rights(mesh, target, rack)

Keys and certificates are real ones, made by the machines of `tests.fakes.mesh`; what is wrong with each is
what its name says. What is said is the same for all: a greeting, a registration, and a prompt to be answered.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.fakes.gang import NULL, PLAIN, TCP, Attempt, Flood
from tests.fakes.mesh import MeshHouse
from tests.fakes.open_ports import GREETING_NULL, READY
from tests.fakes.rpc import request
from tests.fuzz.samples import SAMPLES
from wrk_base.rpc import wire
from wrk_base.rpc.identity import Identity
from wrk_base.security.certificate import ISSUER, MEMBER, issue, key_id, pack_proof, public_bytes
from wrk_base.security.curve_keys import CurveKeys, ephemeral
from wrk_base.security.roles import ROLES

DAY = 86_400
NEWEST = 2**40  # as the serial of a list of revocations: nobody sends us theirs
PROMPT = "an attacker's prompt"
GREETING_CURVE = GREETING_NULL.replace(b"NULL\0", b"CURVE")
REJECTED = frozenset({"REJECT"})
DENIED = frozenset({"HELLO_OK", "ERR_PERMISSION_DENIED"})


class Target(NamedTuple):
    """A process that is attacked; `key` is its public key, `model` one that it knows."""

    endpoint: str
    key: bytes
    worker_id: str
    epoch: int = 1
    model: str = "m1"

    def asks(self, method: str, body: Any = None, number: int = 1) -> bytes:
        head = None
        if method in ("routeInferenceRequest", "runInference"):
            head, body = wire.pack_head({"modelId": self.model}), PROMPT
        return wire.encode([request(number, method, body, epoch=self.epoch, head=head)], 0)


class Badge(NamedTuple):
    """A key pair, and what it is shown with."""

    keys: CurveKeys
    proof: bytes

    def hello(self, worker_id: str, role: str, **facts: Any) -> bytes:
        told = {"proof": self.proof, "revocations": NEWEST, **facts}
        greeting = {**Identity(worker_id, 1, role).greeting({}), **told}
        return wire.encode([(wire.HELLO, 0, 0, greeting)], 0)


def badge(mesh: MeshHouse, name: str, *roles: str, ago: float = 0, keys: CurveKeys | None = None) -> Badge:
    """A member's, certified by this machine so many seconds ago."""
    keys = keys or ephemeral()
    return Badge(keys, mesh.files.certify(keys.public, name, frozenset(roles), mesh.wall.now - ago))


def registration(worker_id: str, address: str = "tcp://127.0.0.1:1", model: str = "m1") -> dict[str, Any]:
    return {"workerId": worker_id, "address": address, "capabilities": {"models": [model]}}


def attempt(kind: str, target: Target, shown: Badge, *says: bytes, hears: frozenset[str]) -> Attempt:
    """With the right key of the server."""
    keys = shown.keys
    return Attempt(kind, target.endpoint, "curve", target.key, keys.public, keys.secret, says, hears)


def without_membership(mesh: MeshHouse, other: MeshHouse, folder: Path, target: Target) -> list[Attempt]:
    """Nobody of these may get anything. `folder` is for machines that are made and revoked here."""
    good, expired = badge(mesh, "evil", "rack"), badge(mesh, "evil", "rack", ago=40 * DAY)
    calls = (
        target.asks("registerWorker", registration("evil")),
        target.asks("routeInferenceRequest", number=2),
        target.asks("runInference", number=3),
        target.asks("drainWorker", {"workerId": target.worker_id}, number=4),
    )
    says = (good.hello("evil", "rack"), *calls)
    stranger = Badge(ephemeral(), b"")

    def turned_away(kind: str, shown: Badge, name: str = "evil", role: str = "rack", **facts: Any) -> Attempt:
        return attempt(kind, target, shown, shown.hello(name, role, **facts), *calls, hears=REJECTED)

    def unheard(kind: str, mechanism: str = "curve", **fields: Any) -> Attempt:
        return msgspec.structs.replace(
            attempt(kind, target, good, *says, hears=frozenset()), mechanism=mechanism, **fields
        )

    revoked, robbed = badge(mesh, "evil", "rack"), _revoked_machine(mesh, folder / "revoked")
    mesh.files.revoke_key(key_id(revoked.keys.public), "evil", int(mesh.wall.now) + DAY, mesh.wall.now)
    return [
        unheard("NULL", NULL),
        unheard("PLAIN", PLAIN),
        unheard("another server's key", server_key=ephemeral().public),
        unheard("a revoked key", public=revoked.keys.public, secret=revoked.keys.secret),
        unheard("a greeting as bare bytes", TCP, says=says, stays=5.0),
        attempt("a request before the greeting", target, good, *calls, hears=REJECTED),
        turned_away("no certificate", stranger),
        turned_away("no bytes of a certificate", Badge(ephemeral(), os.urandom(900))),
        turned_away("the proof is no bytes", stranger, proof=[1, 2]),
        turned_away("an expired certificate", expired),
        turned_away("another mesh", badge(other, "evil", "rack")),
        turned_away("a mesh of its own with our id", _forged(mesh)),
        turned_away("a revoked machine", robbed),
        turned_away("a stolen certificate", Badge(ephemeral(), good.proof)),
        turned_away("a machine's certificate as a member's", Badge(ephemeral(), _twice(good.proof))),
        turned_away("another worker's id", good, name=target.worker_id),
        turned_away("a role that it lacks", good, role="orchestrator"),
        turned_away("an operator's role", badge(mesh, "evil", "client"), role="operator"),
    ]


def beyond_their_rights(mesh: MeshHouse, target: Target, rack: Target) -> list[Attempt]:
    """Members, all of whom are greeted, and who ask the orchestrator or the rack for what they may not."""
    client, other = badge(mesh, "c", "client"), badge(mesh, "w", "rack")
    held = {"workerId": rack.worker_id}

    def by_client(kind: str, method: str, body: Any = None, at: Target = target) -> Attempt:
        return _denied(kind, at, client, ("c", "client"), method, body)

    def by_rack(kind: str, method: str, body: Any = None, at: Target = target) -> Attempt:
        return _denied(kind, at, other, ("w", "rack"), method, body)

    return [
        by_client("a client registers a worker", "registerWorker", registration("evil")),
        by_client("a client unregisters a worker", "unregisterWorker", held),
        by_client("a client drains a worker", "drainWorker", held),
        by_client("a client forgets everybody", "forgetRacks", {"all": True}),
        by_client("a client loads a model", "loadModel", {"modelId": rack.model}, rack),
        by_rack("a rack drains a worker", "drainWorker", held),
        by_rack("a rack quarantines a worker", "quarantineWorker", held),
        by_rack("a rack registers another", "registerWorker", registration("evil")),
        by_rack("a rack registers that rack", "registerWorker", registration(rack.worker_id)),
        by_rack(
            "a rack registers it in the old way", "registerRack", {"id": "evil", "info": {"address": "h:1"}}
        ),
        by_rack("a rack unregisters another", "unregisterWorker", held),
        by_rack("a rack takes another's address", "registerWorker", registration("w", rack.endpoint)),
        by_rack("a rack asks a rack", "runInference", at=rack),
        by_rack("a rack loads a rack's model", "loadModel", {"modelId": rack.model}, rack),
    ]


def of_another_machine(second: MeshHouse, target: Target, rack: Target) -> list[Attempt]:
    """Racks that `second` certifies, a machine of the mesh that may only have racks, and those of "m2"."""
    thief, neighbour = badge(second, rack.worker_id, "rack"), badge(second, "r2", "rack")
    same = (target, thief, (rack.worker_id, "rack"))
    return [
        _denied(
            "another machine registers that id",
            *same,
            "registerWorker",
            registration(rack.worker_id, model="m2"),
        ),
        _denied(
            "another machine unregisters that id", *same, "unregisterWorker", {"workerId": rack.worker_id}
        ),
        _denied(
            "other models than it may",
            target,
            neighbour,
            ("r2", "rack"),
            "registerWorker",
            registration("r2"),
        ),
    ]


def garbage(target: Target, stays: float = 8.0) -> list[Attempt]:
    """Who does not even speak the protocol, or begins to and leaves it at that."""
    chance = Random(1)
    never_ends = GREETING_NULL + READY + b"\x01\x00" * 20_000
    written = {
        "nothing": b"",
        "random bytes": chance.randbytes(20_000),
        "zeros": bytes(20_000),
        "HTTP": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n\r\n",
        "TLS": bytes.fromhex("16030102000100") + b"\x01\xfc\x03\x03" + chance.randbytes(508),
        "half a greeting": GREETING_CURVE[:10],
        "most of a greeting": GREETING_CURVE[:63],
        "a greeting alone": GREETING_CURVE,
        "a greeting and random bytes": GREETING_CURVE + chance.randbytes(500),
        "a greeting and a HELLO of zeros": GREETING_CURVE + b"\x04\xc8\x05HELLO\x01\x00" + bytes(192),
        "a message without an end": never_ends,
        "a frame of 2 GiB": GREETING_NULL + READY + b"\x02" + (2**31).to_bytes(8, "big") + bytes(20_000),
    }
    shown = Badge(ephemeral(), b"")
    spoken = {
        "a handshake, and nothing": (),
        "a handshake, and garbage": (b"\xc1garbage", b"", b"\x91" * 4000),
        "a handshake, and beats": (wire.encode([(wire.PING, 0, 1, None)], 0),),
    }
    return [
        *(Attempt(kind, target.endpoint, TCP, says=(said,), stays=stays) for kind, said in written.items()),
        *(
            msgspec.structs.replace(attempt(kind, target, shown, *said, hears=frozenset()), stays=stays)
            for kind, said in spoken.items()
        ),
    ]


def flood(mesh: MeshHouse, target: Target, count: int, seed: int) -> Flood:
    """A client of the mesh that says everything but what it should."""
    shown = badge(mesh, "c", "client")
    member = attempt("a member's flood", target, shown, shown.hello("c", "client"), hears=frozenset())
    return Flood(member, tuple(_odd_messages(target)), count, seed=seed)


def _odd_messages(target: Target) -> Iterator[bytes]:
    """Every kind of message that no process of ours sends, and one of each envelope for the mutations."""
    for envelope in SAMPLES.values():
        known = (*envelope[:3], target.epoch, *envelope[4:]) if envelope[0] == wire.REQUEST else envelope
        yield wire.encode([known], 0)
    for number, method in enumerate(("echo", "listWorkers", "getStats", "routeInferenceRequest", "none"), 1):
        yield target.asks(method, {"a": [1, 2.5, None]}, number)
    yield wire.encode([(wire.REVOKED, 0, 0, b"\x93\x01\x90\xc4\x00"), (wire.JOIN, 0, 0, b"no")], 0)
    yield from (
        b"",
        b"\xc1",
        b"\x91" * 10_000,  # nested
        b"\x93\x02\x00\x90",  # another version
        b"\x93\x01\x00\xdd\xff\xff\xff\xff",  # a length that lies
        b"\x93\x01\x00\x91\x94\x0a\x00\x01\x81\x91\x01\x02",  # a key that cannot be one
        b"\x93\x01\x00\x91\x94\x0a\x00\x01\x81\xa2\xff\xfe\x02",  # no UTF-8
        wire.encode([(wire.PING, 0, 2**64 - 1, {"nan": float("nan"), "inf": float("inf")})], 2**64 - 1),
        wire.encode([(wire.PING, 0, 1, None)], 0)[:-1],
        wire.encode([(wire.PING, 0, 1, None)], 0) + b"x",
    )


def _denied(
    kind: str, at: Target, shown: Badge, who: tuple[str, str], method: str, body: Any = None
) -> Attempt:
    return attempt(kind, at, shown, shown.hello(*who), at.asks(method, body), hears=DENIED)


def _revoked_machine(mesh: MeshHouse, folder: Path) -> Badge:
    """A member that was certified by a machine that has been revoked since."""
    machine = mesh.invited(folder, "stolen", "rack")
    made = badge(machine, "evil", "rack")
    mesh.files.revoke("stolen", mesh.wall.now)
    return made


def _forged(mesh: MeshHouse) -> Badge:
    """Signed all the way, by a root that is not the mesh's."""
    root, issuer, keys, now = (
        Ed25519PrivateKey.generate(),
        Ed25519PrivateKey.generate(),
        ephemeral(),
        int(mesh.wall.now),
    )
    named: dict[str, Any] = {"mesh": mesh.files.load().mesh, "models": None, "since": now, "until": now + DAY}
    machine = issue(root, kind=ISSUER, key=public_bytes(issuer), name="first", roles=ROLES, **named)
    member = issue(issuer, kind=MEMBER, key=keys.public, name="evil", roles=frozenset({"rack"}), **named)
    return Badge(keys, pack_proof(member, machine))


def _twice(proof: bytes) -> bytes:
    """The machine's certificate in the place of the member's."""
    _, issuer = msgspec.msgpack.decode(proof)
    return msgspec.msgpack.encode((issuer, issuer))
