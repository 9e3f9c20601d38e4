"""What a worker announces of itself, as a value: checked, turned into DNS TXT records and back.

Only what never changes during a process' life is announced (protocol version, mesh, id, epoch, role,
sealed key, address): models, load and state come by RPC. An advert is a rumour from the network, so
reading one ends in an `Advert` that holds every bound below, or in `BadAdvert`. Pure: bytes and text only.

The instance label is id and epoch, so two processes never claim one name and nobody needs to probe
for conflicts before announcing; a restart is a new name, which is what makes browsers notice it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from wrk_base.security import z85

SERVICE_TYPE = "_wrk._tcp.local."
ROLES = frozenset({"orchestrator", "rack", "worker"})

MAX_LABEL = 63  # bytes of one DNS label, RFC 1035
MAX_TXT_ENTRY = 255  # bytes of one `key=value`: its length is one byte, RFC 6763 section 6.1
MAX_KEY = 128  # characters; a sealed key takes 80, and with it the TXT stays under 500 bytes
MAX_ADDRESSES = 8  # of one advert that are looked at; a process announces one
MESH_ID_BYTES = 8  # of a mesh's id that are announced: enough to tell two meshes of one name apart
PUBLIC_KEY = 40  # characters of a CURVE public key in Z85
MAX_EPOCH = 2**64 - 1
METADATA_ADDRESS = ipaddress.ip_address("169.254.169.254")  # a cloud's credential service, never a peer

_WORKER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_MESH = re.compile(r"[A-Za-z0-9._-]{1,63}")
_KEY = re.compile(rf"[!-~]{{0,{MAX_KEY}}}")
_MESH_ID = re.compile(rf"([0-9a-f]{{{2 * MESH_ID_BYTES}}})?")
_HEX = re.compile(r"[0-9a-f]{1,16}")
_DECIMAL = re.compile(r"[1-9][0-9]{0,4}")
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class BadAdvert(ValueError):
    """The records are not a worker's advert; the message names what is off."""


class NotDialable(BadAdvert):
    """There are addresses, and none is one plain host."""


@dataclass(frozen=True, slots=True)
class Advert:
    """One worker process. `host` is an IP address, `epoch` grows with every start of the worker, `mesh_id`
    is what `short_id` makes of the mesh's id, `key` the public key, sealed for `facts_of` this advert.

    Raises `BadAdvert` when a field is out of bounds.
    """

    worker_id: str
    epoch: int
    role: str
    mesh: str
    host: str
    port: int
    version: int
    key: str = ""
    mesh_id: str = ""

    def __post_init__(self) -> None:
        _require(_WORKER_ID.fullmatch(self.worker_id), "worker id: 1 to 128 letters, digits or . _ : -")
        _require(1 <= self.epoch <= MAX_EPOCH, "epoch: 1 to 2^64 - 1")
        _require(self.role in ROLES, f"role: one of {', '.join(sorted(ROLES))}")
        _require(_MESH.fullmatch(self.mesh), "mesh: 1 to 63 letters, digits or . _ -")
        _require(_dialable(parse_address(self.host)), "host: an address that can be dialled")
        _require(1 <= self.port <= 65535, "port: 1 to 65535")
        _require(1 <= self.version <= 65535, "version: 1 to 65535")
        _require(_KEY.fullmatch(self.key), f"key: at most {MAX_KEY} visible ASCII characters")
        _require(_MESH_ID.fullmatch(self.mesh_id), f"mesh id: {2 * MESH_ID_BYTES} hexadecimal digits")

    @property
    def endpoint(self) -> str:
        return _endpoint(self.host, self.port)

    @property
    def label(self) -> str:
        """DNS instance label: id and epoch, at most 63 bytes, no dots.

        An id that had to be altered (cut, or a character replaced) carries a hash of the whole id, so
        that two ids never meet in one label.
        """
        tail = f"-{self.epoch:x}"
        room = MAX_LABEL - len(tail)
        safe = _UNSAFE.sub("-", self.worker_id)
        if safe != self.worker_id or len(safe) > room:
            digest = hashlib.sha256(self.worker_id.encode()).hexdigest()[:12]
            safe = f"{safe[: room - len(digest) - 1]}-{digest}"
        return safe + tail

    def to_txt(self) -> dict[str, bytes]:
        """The TXT record: v version, m mesh, id, e epoch (hex), r role; i mesh id and k key, if there are."""
        txt = {
            "v": str(self.version),
            "m": self.mesh,
            "id": self.worker_id,
            "e": f"{self.epoch:x}",
            "r": self.role,
        }
        txt |= {name: value for name, value in (("i", self.mesh_id), ("k", self.key)) if value}
        return {name: value.encode() for name, value in txt.items()}


def short_id(mesh_id: bytes) -> str:
    """A mesh's id as adverts carry it."""
    return mesh_id[:MESH_ID_BYTES].hex()


def facts_of(advert: Advert) -> bytes:
    """What its key is sealed for: who it is, of which mesh, and where; no two adverts share it."""
    host = str(parse_address(advert.host))
    facts = (advert.worker_id, f"{advert.epoch:x}", advert.role, advert.mesh_id, host, str(advert.port))
    return "\0".join(facts).encode()


def split_txt(raw: bytes) -> dict[str, bytes | None]:
    """The entries of a TXT record, RFC 6763 section 6: the first of a name counts, None has no value."""
    entries: dict[str, bytes | None] = {}
    at = 0
    while at < len(raw):
        entry = raw[at + 1 : at + 1 + raw[at]]
        at += 1 + raw[at]
        name, equals, value = entry.partition(b"=")
        entries.setdefault(name.decode("ascii", "replace"), value if equals else None)
    return entries


def from_txt(txt: Mapping[str, bytes | None], addresses: Sequence[str], port: int | None) -> Advert:
    """The advert that records describe; the first address that can be dialled is taken.

    Unknown keys are ignored, so that a later version may add some. Raises `BadAdvert`.
    """
    return Advert(
        worker_id=_text(txt, "id"),
        epoch=int(_matching(_HEX, _text(txt, "e"), "e"), 16),
        role=_text(txt, "r"),
        mesh=_text(txt, "m"),
        host=hosts_of(addresses)[0],
        port=port or 0,
        version=int(_matching(_DECIMAL, _text(txt, "v"), "v")),
        key=_text(txt, "k") if txt.get("k") else "",
        mesh_id=_text(txt, "i") if txt.get("i") else "",
    )


def hosts_of(addresses: Sequence[str]) -> list[str]:
    """The addresses that can be dialled, of the first `MAX_ADDRESSES`; at least one.

    Raises `BadAdvert`, `NotDialable`.
    """
    _require(addresses, "no address")
    parsed = (parse_address(text) for text in addresses[:MAX_ADDRESSES])
    usable = [str(address) for address in parsed if address is not None and _dialable(address)]
    if not usable:
        raise NotDialable("no address that can be dialled")
    return usable


def is_loopback(address: str) -> bool:
    """Whether the text is an address that only this machine itself can reach."""
    parsed = parse_address(address)
    return parsed is not None and parsed.is_loopback


@dataclass(frozen=True, slots=True)
class StaticPeer:
    """A peer that settings name: host name or address, port, and its public key in Z85 if known."""

    host: str
    port: int
    key: str = ""

    @property
    def endpoint(self) -> str:
        return _endpoint(self.host, self.port)


_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?")


def parse_peer(text: str) -> StaticPeer:
    """`tcp://host:port#KEY`, `tcp://host:port` or `host:port`, IPv6 in brackets. Raises `ValueError`.

    Everything after the first # is the key: keys in Z85 may hold a # of their own.
    """
    address, sharp, key = text.strip().partition("#")
    try:
        _require(not sharp or key, "no key after the #")
        _require(not sharp or _is_public_key(key), f"the key is {PUBLIC_KEY} characters of Z85")
        host, port = _split_address(address)
        return StaticPeer(host, port, key)
    except BadAdvert as problem:
        raise ValueError(
            f"static peer {text!r}: {problem}; write tcp://host:port or tcp://host:port#KEY"
        ) from None


def _is_public_key(text: str) -> bool:
    try:
        return len(text) == PUBLIC_KEY and bool(z85.decode(text))
    except ValueError:
        return False


def _split_address(text: str) -> tuple[str, int]:
    scheme, separator, rest = text.rpartition("://")
    _require(not separator or scheme == "tcp", "only tcp:// is spoken")
    host, _, port = rest.rpartition(":")
    _require(host and not rest.endswith("]"), "no port")
    _require(_DECIMAL.fullmatch(port) and int(port) <= 65535, "the port is a number from 1 to 65535")
    return _host_of_peer(host), int(port)


def _host_of_peer(host: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        inner = host[1:-1]
        _require(":" in inner and _dialable(parse_address(inner)), "no address to dial in the brackets")
        return inner
    _require(":" not in host, "an IPv6 address goes in brackets")
    _require(_HOST_NAME.fullmatch(host), "no host name or address")
    if re.fullmatch(r"[0-9.]+", host):
        _require(_dialable(parse_address(host)), "no address to dial")
    return host


def _endpoint(host: str, port: int) -> str:
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def _require(holds: object, what: str) -> None:
    if not holds:
        raise BadAdvert(what)


def _text(txt: Mapping[str, bytes | None], name: str) -> str:
    value = txt.get(name)
    if value is None:
        raise BadAdvert(f"{name}: missing")
    _require(len(name) + 1 + len(value) <= MAX_TXT_ENTRY, f"{name}: too long")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise BadAdvert(f"{name}: not UTF-8") from None


def _matching(pattern: re.Pattern[str], text: str, name: str) -> str:
    _require(pattern.fullmatch(text), f"{name}: not a number as it is written")
    return text


@lru_cache(maxsize=1024)  # ten times faster, and one packet is asked about its address ten times
def parse_address(text: str) -> Address | None:
    """The address that a text is, None if it is none."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _dialable(address: Address | None) -> bool:
    """Whether a stranger's word is enough to dial there: one plain host, no group, no wildcard.

    IPv6 link-local needs the scope of the interface that heard it, which no record carries; an IPv4
    address dressed as IPv6 would pass every rule that is made for IPv4.
    """
    if address is None or address.is_unspecified or address.is_multicast or address == METADATA_ADDRESS:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return not address.is_reserved
    return not address.is_link_local and address.ipv4_mapped is None
