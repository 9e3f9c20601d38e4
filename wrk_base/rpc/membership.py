"""What the RPC layer asks of transport security. `wrk_base.security.membership` implements it.

A network with a membership encrypts every link and lets nobody but members speak on it; one without (the
fake network of tests, a benchmark's plain links) is open to whoever reaches it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ..security.certificate import Member


class Membership(Protocol):
    """A process's own keys and certificate, and its judgement of others."""

    @property
    def public_key(self) -> bytes:
        """CURVE, 32 bytes."""

    @property
    def secret_key(self) -> bytes:
        """CURVE, 32 bytes."""

    @property
    def proof(self) -> bytes:
        """The certificate of the public key, as greetings bring it; another one after each renewal."""

    @property
    def serial(self) -> int:
        """Of the newest list of revocations that is known here."""

    def key_of(self, endpoint: str) -> bytes | None:
        """The public key of whoever serves `endpoint`; None: it cannot be dialled."""

    def lets_in(self, key: bytes) -> bool:
        """Whether the holder of this public key may finish a handshake."""

    def admit(self, worker_id: str, role: str, proof: bytes, key: bytes) -> Member:
        """The member that this greeting proves; `key` is that of the handshake. Raises `BadGreeting`."""

    def stays(self, member: Member) -> bool:
        """Whether a member that was admitted still is one."""

    def revocations(self) -> bytes:
        """The list, to be sent to others."""

    def hear_revocations(self, packed: bytes) -> bool:
        """A list from another member: whether it was newer, and is followed from now on."""
