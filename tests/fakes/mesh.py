"""A mesh for tests without processes: machines with files of their own, members with networks that encrypt.

    mesh = MeshHouse(tmp_path)
    rack = mesh.member("rack-1", "rack")
    network = ZmqNetwork(loop, membership=rack)

The wall clock is `mesh.wall.now`, and moves when a test says so. `mesh.invited(...)` is a second machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.fakes.rpc import RecordedLog
from wrk_base.security.certificate import public_bytes
from wrk_base.security.curve_keys import CurveKeys, ephemeral
from wrk_base.security.invitation import JoinRequest
from wrk_base.security.membership import Membership
from wrk_base.security.mesh_files import MeshFiles

NAME = "house"
BEGUN = 1_800_000_000.0


class Wall:
    """Unix seconds that stand still."""

    def __init__(self) -> None:
        self.now = BEGUN

    def __call__(self) -> float:
        return self.now


class MeshHouse:
    """One machine of a mesh; the first unless `files` are those of another."""

    def __init__(self, folder: Path, machine: str = "first", name: str = NAME) -> None:
        self.folder, self.wall, self.log = folder, Wall(), RecordedLog()
        self.files = MeshFiles(folder, name)
        if not self.files.exists():
            self.files.create(machine, self.wall.now)

    def member(self, name: str, *roles: str, keys: CurveKeys | None = None) -> Membership:
        log: Any = self.log
        return Membership(self.files, keys or ephemeral(), name, roles, wall=self.wall, log=log)

    def invited(self, folder: Path, machine: str, *roles: str, models: set[str] | None = None) -> MeshHouse:
        """Another machine, which was invited and has joined."""
        join(self.files, folder, machine, *roles, models=models, now=self.wall.now)
        other = MeshHouse(folder, machine, self.files.name)
        other.wall = self.wall
        return other


def join(
    first: MeshFiles, folder: Path, machine: str, *roles: str, models: set[str] | None = None, now: float
) -> MeshFiles:
    """The files in `folder`, of a machine that the `first` one invited and took in, without a network."""
    key, files = Ed25519PrivateKey.generate(), MeshFiles(folder, first.name)
    invitation = first.invite(
        roles=frozenset(roles),
        name=machine,
        models=frozenset(models) if models else None,
        expires_s=3600,
        now=now,
        addresses=("tcp://127.0.0.1:1",),
        key=bytes(32),
    )
    request = JoinRequest(invitation.secret, public_bytes(key), machine)
    files.install(invitation, first.redeem(request, now), key)
    return files


def introduce(caller: Membership, endpoint: str, server: Membership) -> None:
    """The caller learns whose key answers at `endpoint`."""
    caller.book.learn(endpoint, server.public_text)
