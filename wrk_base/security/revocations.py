"""Keys that are no longer believed, whatever certificate they show: one list, signed by the root. Pure.

Everybody follows one rule (`replaces`): a list replaces another only if its serial is higher and its
signature is good. So it may come from anybody and by any way, and nobody can bring an old one back.
A mesh begins with an empty list of serial 0, which nobody has to sign.

An entry is kept until no certificate that it bars could be valid; then it is dropped, and the list does
not grow for ever.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from .certificate import (
    ID_BYTES,
    LAST_SECOND,
    MAX_NAME,
    SIGNATURE_BYTES,
    TOLERANCE_S,
    Untrusted,
    is_name,
    key_id,
    verify,
)

LAST_SERIAL: Final = 2**63 - 1
MAX_ENTRIES: Final = 2048  # as many thieves as a LAN will see; some 100 kB, sent once per change
KEPT_S: Final = 2 * TOLERANCE_S  # after the end: the signer's clock may be early, a judge's late
MAX_PACKED: Final = MAX_ENTRIES * (ID_BYTES + 4 * MAX_NAME + 16) + 128  # names of four bytes a character


class Entry(NamedTuple):
    """`id` is a `key_id`, `name` is for people, `until` the unix second at which its certificates end."""

    id: bytes
    name: str
    until: int


_read = msgspec.msgpack.Decoder(tuple[int, tuple[Entry, ...], bytes]).decode
_pack = msgspec.msgpack.encode


@dataclass(frozen=True, slots=True)
class Revocations:
    """One state of the list. Raises `ValueError` when a field is out of bounds."""

    serial: int
    entries: tuple[Entry, ...]
    signature: bytes
    _ids: frozenset[bytes] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _require(0 <= self.serial <= LAST_SERIAL, "its serial is out of bounds")
        if self.serial == 0:
            _require(not self.entries and not self.signature, "an unsigned list is empty")
        else:
            _require(len(self.signature) == SIGNATURE_BYTES, f"a signature has {SIGNATURE_BYTES} bytes")
        _require(len(self.entries) <= MAX_ENTRIES, f"it has at most {MAX_ENTRIES} entries")
        _require(all(map(_is_sound, self.entries)), "an entry is out of bounds")
        object.__setattr__(self, "_ids", frozenset(entry.id for entry in self.entries))
        _require(len(self._ids) == len(self.entries), "a key is in it twice")

    @classmethod
    def empty(cls) -> Revocations:
        """What a mesh begins with."""
        return cls(0, (), b"")

    @classmethod
    def unpack(cls, packed: bytes) -> Revocations:
        """Bounds checked, the signature not yet: see `verify`. Raises `Untrusted`."""
        try:
            _require(len(packed) <= MAX_PACKED, f"it is longer than {MAX_PACKED} bytes")
            found = cls(*_read(packed))
            _require(found.pack() == packed, "it is not written the one way there is")
        except ValueError as problem:
            raise Untrusted(f"the list of revocations is malformed: {problem}") from None
        return found

    def pack(self) -> bytes:
        return _pack((self.serial, self.entries, self.signature))

    def bars(self, key: bytes) -> bool:
        """Whether this key is not to be believed; a 16-byte `key_id` may stand for it."""
        return (key if len(key) == ID_BYTES else key_id(key)) in self._ids

    def verify(self, root: bytes) -> None:
        """Raises `Untrusted` unless the mesh's root (Ed25519 public key) signed it, or it is the first."""
        if self.serial > 0:
            verify(root, self.signature, self._signed_bytes(), "the list of revocations")

    def replaces(self, current: Revocations, root: bytes) -> bool:
        """Whether this is to be used instead of `current`. Raises `Untrusted` for a bad signature."""
        if self.serial <= current.serial:
            return False
        self.verify(root)
        return True

    def add(self, root_key: Ed25519PrivateKey, id: bytes, name: str, until: int, now: float) -> Revocations:
        """The next list, with one entry more and without those that have done their work.

        An id that is in it already stays as long as the longer of both would. Raises `ValueError` for
        people when the list is full.
        """
        before = {entry.id: entry for entry in self.entries if entry.until + KEPT_S >= now}
        longest = max(until, before[id].until) if id in before else until
        entries = [*(entry for entry in before.values() if entry.id != id), Entry(id, name, longest)]
        if len(entries) > MAX_ENTRIES:
            next_end = min(entry.until for entry in entries) + KEPT_S - now
            raise ValueError(
                f"{MAX_ENTRIES} keys are revoked, and no more fit: the first of them is dropped in "
                f"{next_end / 86_400:.1f} days; for many processes of one machine, revoke the machine"
            )
        draft = Revocations(self.serial + 1, tuple(entries), bytes(SIGNATURE_BYTES))
        return replace(draft, signature=root_key.sign(draft._signed_bytes()))

    def _signed_bytes(self) -> bytes:
        return b"wrk revocations 1\0" + _pack((self.serial, self.entries))


def _is_sound(entry: Entry) -> bool:
    return len(entry.id) == ID_BYTES and is_name(entry.name) and 0 < entry.until <= LAST_SECOND


def _require(holds: object, what: str) -> None:
    if not holds:
        raise ValueError(what)
