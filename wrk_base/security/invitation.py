"""How another machine comes into the mesh: the word that invites it, and what it asks and gets. Pure.

An invitation is one word that a person carries over, so it is made to survive that: lower-case letters
and digits (chat programs take underscores and asterisks for emphasis, and two dashes for a long one),
white space and line breaks anywhere, any case, and a length and a checksum that tell a cut word from a
damaged one. It holds what the newcomer needs to know the mesh again (the root's key) and to be let in
(a secret that works once), so it is a secret until it is used or out of date.

The two messages of the exchange travel on an encrypted link before there is any certificate, hence the
small bound. Reading them ends in a value within bounds or in `Untrusted`.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar
from zlib import crc32

import msgspec
from msgspec import Meta

from ..discovery.advert import parse_peer
from .certificate import KEY_BYTES, LAST_SECOND, MAX_CERTIFICATE, Untrusted, is_name, key_id

VERSION: Final = 1
PREFIX: Final = "wrk-join-"
SECRET_BYTES: Final = 16  # nobody tries 2^128 of them
DISCOVERY_SECRET_BYTES: Final = 32
MAX_ADDRESSES: Final = 4  # of the machine that invites: a few networks at most
MAX_WORD: Final = 4096  # characters; the longest invitation has some 2,000
MAX_JOIN: Final = 4096  # bytes of either message: a stranger costs no more than a greeting does
MESH_NAME: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,63}")  # also a directory's name

_HEADER: Final = 3  # bytes: version, length of what follows without the checksum
_CHECKSUM: Final = 4

_Fields = tuple[str, bytes, bytes, tuple[str, ...], bytes, bytes, int]
_read_fields = msgspec.msgpack.Decoder(_Fields).decode
_pack = msgspec.msgpack.encode

Key = Annotated[bytes, Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
Secret = Annotated[bytes, Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]


@dataclass(frozen=True, slots=True)
class Invitation:
    """A word that lets one machine into a mesh, until `expires` (unix seconds).

    `mesh` is its name, `root` its Ed25519 public key; `addresses` (`tcp://host:port`) and `key`
    (CURVE public key) say who lets the newcomer in. Raises `ValueError` when a field is out of bounds.
    """

    mesh: str
    mesh_id: bytes
    root: bytes
    addresses: tuple[str, ...]
    key: bytes
    secret: bytes
    expires: int

    def __post_init__(self) -> None:
        _require(MESH_NAME.fullmatch(self.mesh), "a mesh's name has 1 to 63 letters, digits or . _ -")
        _require(len(self.root) == KEY_BYTES and len(self.key) == KEY_BYTES, "a key has 32 bytes")
        _require(self.mesh_id == key_id(self.root), "the mesh's id is not that of its root key")
        _require(1 <= len(self.addresses) <= MAX_ADDRESSES, f"1 to {MAX_ADDRESSES} addresses")
        for address in self.addresses:
            _require(parse_peer(address).endpoint == address, f"{address!r} is not written tcp://host:port")
        _require(len(self.secret) == SECRET_BYTES, f"a secret has {SECRET_BYTES} bytes")
        _require(0 < self.expires <= LAST_SECOND, "it has no end")

    def __repr__(self) -> str:
        return f"Invitation(mesh={self.mesh!r}, addresses={self.addresses!r}, expires={self.expires})"

    def encode(self) -> str:
        """One word: `wrk-join-` and letters and digits."""
        fields = (self.mesh, self.mesh_id, self.root, self.addresses, self.key, self.secret, self.expires)
        return PREFIX + _to_letters(_frame(_pack(fields)))

    @classmethod
    def decode(cls, text: str) -> Invitation:
        """The invitation that `encode` made this word of. Raises `ValueError` for people."""
        word = _squeezed(text[: 4 * MAX_WORD])
        if not word.startswith(PREFIX):
            raise ValueError(f"this is no invitation: one begins with {PREFIX}; copy all of it")
        if len(word) > MAX_WORD:
            raise ValueError("this is too long for an invitation: copy one, and nothing after it")
        packed = _unframe(_from_letters(word.removeprefix(PREFIX)))
        try:
            return cls(*_read_fields(packed))
        except ValueError as problem:
            raise ValueError(f"this invitation cannot be used ({problem}): ask for a new one") from None


class _Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Bounds hold for what was read; the sender's own faults show at the receiver."""

    def pack(self) -> bytes:
        """Raises `ValueError` when it is longer than `MAX_JOIN` bytes."""
        packed = _pack(self)
        _require(len(packed) <= MAX_JOIN, f"it has {len(packed)} bytes, {MAX_JOIN} are allowed")
        return packed


class JoinRequest(_Message, frozen=True):
    """What the new machine says: the invitation's secret, its own Ed25519 public key, its name."""

    secret: Secret
    key: Key
    name: str

    @classmethod
    def unpack(cls, packed: bytes) -> JoinRequest:
        """Raises `Untrusted`."""
        request = _unpack(packed, cls, "the request to join")
        if not is_name(request.name):
            raise Untrusted("the request to join is malformed: a name has 1 to 128 printable characters")
        return request

    def __repr__(self) -> str:
        return f"JoinRequest(key={self.key!r}, name={self.name!r})"


class JoinGrant(_Message, frozen=True):
    """What it gets: its issuer certificate, the root's public key, what adverts are sealed under, and
    the list of revocations (the empty one if the list is too long for this message: it comes later)."""

    certificate: Annotated[bytes, Meta(max_length=MAX_CERTIFICATE)]
    root: Key
    discovery_secret: Annotated[
        bytes, Meta(min_length=DISCOVERY_SECRET_BYTES, max_length=DISCOVERY_SECRET_BYTES)
    ]
    revocations: bytes

    @classmethod
    def unpack(cls, packed: bytes) -> JoinGrant:
        """Raises `Untrusted`."""
        return _unpack(packed, cls, "the answer to the request to join")

    def __repr__(self) -> str:
        return f"JoinGrant(root={self.root!r})"


_M = TypeVar("_M", bound=_Message)


def _unpack(packed: bytes, kind: type[_M], what: str) -> _M:
    if len(packed) > MAX_JOIN:
        raise Untrusted(f"{what} is longer than {MAX_JOIN} bytes")
    try:
        return msgspec.msgpack.decode(packed, type=kind)
    except ValueError as problem:
        raise Untrusted(f"{what} is malformed: {problem}") from None


def _squeezed(text: str) -> str:
    """Without what mail and chat put in between: spaces, line breaks, marks of no width."""
    return "".join(char for char in text if char.isprintable() and not char.isspace()).lower()


def _to_letters(data: bytes) -> str:
    return base64.b32encode(data).decode("ascii").lower().rstrip("=")


def _from_letters(text: str) -> bytes:
    """All whole bytes that are there: what is missing is told by the frame."""
    try:
        padded = base64.b32decode(text + "a" * (-len(text) % 8), casefold=True)
    except (binascii.Error, ValueError):
        raise ValueError(
            "this invitation is damaged (only letters and the digits 2 to 7 can be in it): copy it again"
        ) from None
    return padded[: len(text) * 5 // 8]


def _frame(packed: bytes) -> bytes:
    """Version, length, content, checksum of all before it."""
    body = bytes([VERSION]) + len(packed).to_bytes(2, "big") + packed
    return body + crc32(body).to_bytes(_CHECKSUM, "big")


def _unframe(framed: bytes) -> bytes:
    """The content. The version is looked at first: another one may count and check in another way."""
    length = _HEADER + int.from_bytes(framed[1:_HEADER], "big") + _CHECKSUM
    if framed and framed[0] != VERSION:
        raise ValueError(
            f"this invitation is damaged, or of another version ({framed[0]}, this program reads {VERSION}): "
            "copy it again, or run the same version of wrk on both machines"
        )
    if len(framed) < max(length, _HEADER + _CHECKSUM):
        raise ValueError("this invitation is cut off: copy all of it, to the last character")
    if len(framed) > length or crc32(framed[:-_CHECKSUM]) != int.from_bytes(framed[-_CHECKSUM:], "big"):
        raise ValueError("this invitation is damaged: copy it again")
    return framed[_HEADER:-_CHECKSUM]


def _require(holds: object, what: str) -> None:
    if not holds:
        raise ValueError(what)
