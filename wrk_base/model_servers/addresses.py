"""Where a model server may be: settings and Ollama's own variable turned into addresses to ask.

Pure. An address is the root of a server, without `/v1` and without a slash at its end, so that one server
that is named in two ways is asked once. What listens on all interfaces is asked on 127.0.0.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address

LOOPBACK = "127.0.0.1"
OLLAMA_PORT = 11434
USUAL_PORTS = {"http": 80, "https": 443}  # in a URL without one, also for Ollama
MAX_PORT = 65_535
PORT = re.compile(r"[1-9][0-9]{0,4}")
HOST_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}")
HOST_AND_PORT = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::([^:]*))?")  # a bare IPv6 address is no match


def candidates(entries: Iterable[int | str], ollama_host: str = "") -> tuple[str, ...]:
    """The addresses to ask, each once: those of the setting `modelServers.addresses`, then the one that
    OLLAMA_HOST names. Without any entry there is nothing to ask: the search is switched off.
    """
    found = [address_of(entry) for entry in entries]
    ollama = ollama_address(ollama_host) if found else ""
    return tuple(dict.fromkeys([*found, *([ollama] if ollama else [])]))


def address_of(entry: int | str) -> str:
    """`8000` -> `http://127.0.0.1:8000`; of a URL its root, which both `/v1` and `/v1/` lie below."""
    if isinstance(entry, int):
        return f"http://{LOOPBACK}:{entry}"
    return entry.rstrip("/").removesuffix("/v1").rstrip("/").replace("//localhost:", f"//{LOOPBACK}:")


def ollama_address(host: str) -> str:
    """What a value of OLLAMA_HOST stands for, read as Ollama reads it: `[scheme://]host[:port][/path]`, where
    anything may be left out, and a port that is none is the usual one. Empty where it names no host.
    """
    if not host.strip():
        return ""
    scheme, _, rest = host.strip().rpartition("://")
    rest = rest.partition("/")[0]
    parts = HOST_AND_PORT.fullmatch(rest)
    name, named = (parts[1], parts[2]) if parts else (rest, None)
    port = named if _is_port(named) else USUAL_PORTS.get(scheme, OLLAMA_PORT)
    reachable = _reachable(name)
    return f"{'https' if scheme == 'https' else 'http'}://{reachable}:{port}" if reachable else ""


def _is_port(text: str | None) -> bool:
    return text is not None and PORT.fullmatch(text) is not None and int(text) <= MAX_PORT


def _reachable(name: str) -> str:
    """The host to dial, empty for none: an address that stands for all interfaces is nobody's."""
    try:
        address = ip_address(name.strip("[]"))
    except ValueError:
        local = name in ("", "localhost")
        return LOOPBACK if local else name if HOST_NAME.fullmatch(name) else ""
    if address.is_unspecified:
        return LOOPBACK
    return f"[{address}]" if isinstance(address, IPv6Address) else str(address)
