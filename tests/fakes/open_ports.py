"""Every socket through which somebody could reach a process, as the kernel lists it. Linux only."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

LISTEN = "0A"  # of the states in /proc/net/tcp
GREETING_NULL = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
_READY = b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
READY = b"\x04" + bytes([len(_READY)]) + _READY


class Port(NamedTuple):
    """`kind` is tcp (listening) or udp (bound)."""

    kind: str
    number: int


def open_ports(pid: int) -> set[Port]:
    """Those of one process."""
    mine = _sockets_of(pid)
    found = set()
    for kind in ("tcp", "udp"):
        for family in ("", "6"):
            for line in Path(f"/proc/{pid}/net/{kind}{family}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[9] in mine and (kind == "udp" or fields[3] == LISTEN):
                    found.add(Port(kind, int(fields[1].rpartition(":")[2], 16)))
    return found


def _sockets_of(pid: int) -> set[str]:
    """Inodes."""
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            name = os.readlink(descriptor)
        except OSError:
            continue  # closed meanwhile
        if name.startswith("socket:["):
            found.add(name.removeprefix("socket:[").removesuffix("]"))
    return found


def descendants(pid: int) -> list[int]:
    """The process itself and all that it has started, and these in turn."""
    parents = dict(_parents())
    found = [pid]
    for each in found:  # it grows
        found += [child for child, parent in parents.items() if parent == each]
    return found


def _parents() -> Iterator[tuple[int, int]]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            yield int(path.parent.name), int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # gone by now


def mechanism(port: int, host: str = "127.0.0.1") -> str:
    """How a ZeroMQ port wants to be spoken to, once it has refused somebody who brings no key."""
    said = b""
    with socket.create_connection((host, port), timeout=10) as sock, suppress(ConnectionResetError):
        sock.sendall(GREETING_NULL[:12])  # who names a mechanism now hears no more
        while len(said) < len(GREETING_NULL) and (data := sock.recv(1000)):
            said += data
        sock.sendall(GREETING_NULL[12:] + READY)
        while data := sock.recv(1000):
            said += data
    assert b"READY" not in said
    return said[12:32].rstrip(b"\0").decode()
