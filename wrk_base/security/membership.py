"""One process's membership while it lives: its certificate kept fresh, and everybody else's judged.

What the machine holds (its right to certify, the list of revocations) lies in files that all its
processes and the command line share; `tick` notices what others changed there and renews what runs out.
Nothing here sends: who sends the news on is told by `on_proof` and `on_revocations`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import StartError, Unauthenticated
from ..log_throttle import Throttle
from ..rpc.identity import BadGreeting
from . import z85
from .certificate import TOLERANCE_S, Member, Trust, Untrusted
from .curve_keys import CurveKeys, ephemeral
from .invitation import JoinRequest
from .keybook import KeyBook
from .mesh_files import MeshFiles
from .revocations import Revocations
from .roles import CLIENT, OPERATOR
from .seal import Seal

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

RENEW_AT = 2 / 3  # of a certificate's life, so that a third is left to repair what keeps it from renewal
WARN_EVERY_S = 3600.0
LOG_EVERY_S = 1.0


class Membership:
    """What `wrk_base.rpc.membership.Membership` asks for, from a machine's files.

    `name` is the worker id that the certificate is for, `roles` are those asked for; the machine may have
    the right to fewer. `wall` is the time in unix seconds. Raises `StartError`.
    """

    def __init__(
        self,
        files: MeshFiles,
        keys: CurveKeys,
        name: str,
        roles: Iterable[str],
        *,
        wall: Callable[[], float],
        log: FilteringBoundLogger,
    ) -> None:
        self._files, self._keys, self._name, self._roles = files, keys, name, frozenset(roles)
        self._wall, self._log = wall, log
        self.book = KeyBook()
        self.on_proof: Callable[[], None] = _nobody
        self.on_revocations: Callable[[], None] = _nobody
        self._stamp = files.stamp()
        self._machine = files.load()
        self._trust = Trust(self._machine.mesh, self._machine.root)
        if self._renew_own_right():
            self._machine = files.load()
        self._certify()
        self._reminders, self._refusals = Throttle(1, WARN_EVERY_S), Throttle(1, LOG_EVERY_S)

    # --- what links ask for

    @property
    def public_key(self) -> bytes:
        return self._keys.public

    @property
    def secret_key(self) -> bytes:
        return self._keys.secret

    @property
    def proof(self) -> bytes:
        return self._proof

    @property
    def serial(self) -> int:
        return self._machine.revocations.serial

    def key_of(self, endpoint: str) -> bytes | None:
        return self.book.key_of(endpoint)

    def lets_in(self, key: bytes) -> bool:
        return not self._machine.revocations.bars(key)

    def admit(self, worker_id: str, role: str, proof: bytes, key: bytes) -> Member:
        try:
            member = self._trust.check(proof, key, self._wall(), self._machine.revocations)
        except Untrusted as reason:
            raise BadGreeting(str(reason)) from None
        if member.name != worker_id:
            raise BadGreeting(f"its certificate is for {member.name}, not for {worker_id}")
        if role != CLIENT and role not in member.roles:
            allowed = ", ".join(sorted(member.roles))
            raise BadGreeting(f"its certificate is for the roles {allowed}, not for {role}")
        return member

    def stays(self, member: Member) -> bool:
        revoked = self._machine.revocations
        return not (
            revoked.bars(member.key)
            or revoked.bars(member.issuer_id)
            or member.until + TOLERANCE_S < self._wall()
        )

    def revocations(self) -> bytes:
        return self._machine.revocations.pack()

    def hear_revocations(self, packed: bytes) -> bool:
        own = self._machine
        try:
            if not Revocations.unpack(packed).replaces(own.revocations, own.root):
                return False  # as most that come: no file is locked for it, nor for a forged one
            newer = self._files.accept_revocations(packed)
        except (Untrusted, StartError, OSError) as error:
            event = "membership.revocations_refused"
            more = self._refusals.facts(event, self._wall())  # a member may send them as fast as it likes
            if more is not None:
                self._log.warning(event, reason=str(error), **more)
            return False
        if newer is not None:
            self._reload()
        return newer is not None

    # --- what the process asks for

    @property
    def mesh_id(self) -> bytes:
        return self._machine.mesh

    @property
    def has_root(self) -> bool:
        """Whether this machine can take others into the mesh."""
        return self._machine.has_root

    @property
    def public_text(self) -> str:
        """The public key as people and files write it."""
        return z85.encode(self._keys.public)

    @property
    def own(self) -> Member:
        """This process as others see it."""
        return self._own

    @property
    def machine_until(self) -> int:
        """Unix seconds at which the machine's right to certify ends."""
        return self._machine.issuer.until

    def seal(self) -> Seal:
        return Seal(self._machine.discovery_secret, self._machine.mesh)

    def tick(self) -> bool:
        """To be called once a second; True where the machine's own certificate wants renewal by others."""
        if self._files.stamp() != self._stamp:
            self._reload()
        if self._renew_own_right():
            self._reload()
        now = self._wall()
        if now >= self._renew_at:
            self._certify()
            self.on_proof()
        if not self._is_right_old():
            return False
        self._warn(self._machine.issuer.until - now)
        return True

    def _is_right_old(self) -> bool:
        issuer = self._machine.issuer
        return self._wall() >= issuer.since + (issuer.until - issuer.since) * RENEW_AT

    def _renew_own_right(self) -> bool:
        """On the first machine, which needs nobody for it, however long it was switched off."""
        if not self._machine.has_root or not self._is_right_old():
            return False
        self._files.store_issuer(self._files.renew(self._machine.issuer.key, self._wall()))
        return True

    def renewed(self, certificate: bytes) -> None:
        """The machine has a new certificate. Raises `Untrusted`."""
        self._files.store_issuer(certificate)
        self._reload()

    def renew_machine(self, key: bytes) -> bytes:
        """The next certificate of a machine of the mesh; only where `has_root`. Raises `Untrusted`."""
        return self._files.renew(key, self._wall())

    def take_in(self, request: bytes) -> bytes:
        """The answer to a new machine with an invitation; only where `has_root`. Raises `Untrusted`."""
        return self._files.redeem(JoinRequest.unpack(request), self._wall()).pack()

    @property
    def machine_key(self) -> bytes:
        """Public key of the machine's right to certify."""
        return self._machine.issuer.key

    def _reload(self) -> None:
        """Follow what the files say now."""
        before = self._machine
        self._stamp = self._files.stamp()
        self._machine = self._files.load()
        if self._machine.issuer != before.issuer:
            self._certify()
            self.on_proof()
        if self._machine.revocations.serial > before.revocations.serial:
            if not self.stays(self._own):
                self._log.error(
                    "membership.revoked",
                    advice="this process is shut out of the mesh: start it again for a new key, or, if the "
                    "machine was revoked, join again with a new invitation",
                )
            self.on_revocations()

    def _certify(self) -> None:
        now = self._wall()
        self._proof = self._files.certify(self._keys.public, self._name, self._roles, now)
        self._own = self._trust.check(self._proof, self._keys.public, now, self._machine.revocations)
        self._renew_at = now + (self._own.until - now) * RENEW_AT

    def _warn(self, left_s: float) -> None:
        if self._reminders.facts("membership.runs_out", self._wall()) is not None:
            self._log.warning(
                "membership.runs_out",
                days_left=round(left_s / 86_400, 1),
                advice="an orchestrator on the machine that made the mesh has to be reachable once, "
                "to renew this machine's certificate",
            )


def visitor(
    state_dir: Path, mesh: str, name: str, *, wall: Callable[[], float], log: FilteringBoundLogger
) -> Membership:
    """A membership for who calls and serves nothing, with a key that nobody keeps.

    It has the role of an operator and a client, or whatever else this machine was invited for. Raises
    `Unauthenticated` where the machine is in no such mesh, and `StartError`.
    """
    files = MeshFiles(state_dir, mesh)
    if not files.exists():
        raise Unauthenticated(
            f"this machine is in no mesh {mesh!r} (by {state_dir}): start an orchestrator here, or join a "
            "mesh with `wrk join STRING`, which `wrk invite` prints on its first machine",
            not_started=True,
        )
    may = files.load().issuer.roles
    return Membership(files, ephemeral(), name, may & {OPERATOR, CLIENT} or may, wall=wall, log=log)


def _nobody() -> None:
    """Nobody wants to know."""
