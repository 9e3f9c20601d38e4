"""Which IPv4 address a worker binds and announces, and where it listens for announcements.

`interface` is what the user gave: an address of this machine, the name of a network interface, 0.0.0.0
for "the LAN", or auto for the LAN if there is one and for this machine alone if not. The wildcard never
means loopback, and never an address that other machines own, too, or cannot reach: every Docker host has
the same 172.17.0.1, so peers would dial themselves. Anything unclear is a `StartError` that lists what
exists.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from typing import NamedTuple

import ifaddr

from wrk_base.errors import StartError

from .advert import is_loopback

WILDCARD = "0.0.0.0"
AUTO = "auto"
LOOPBACK = "127.0.0.1"
MDNS_GROUP = ("224.0.0.251", 5353)

# Bridges that containers and virtual machines are hidden behind, and tunnels, which carry no multicast.
# A bridge that is the LAN itself (br0, vmbr0) is none of them.
_NOT_THE_LAN = re.compile(
    r"(docker|podman|cni|flannel|cali|cilium|kube|veth|virbr|lxcbr|lxdbr|incusbr|vnet|vmnet|vboxnet"
    r"|tun|tap|utun|wg|ppp|tailscale|zt).*|br-[0-9a-f]{12}|bridge1[0-9]{2}"
)


class Interface(NamedTuple):
    """One IPv4 address of this machine. An interface that was plugged in again has another number."""

    name: str
    address: str
    number: int = 0
    prefix: int = 32  # bits of its network's part

    @property
    def network(self) -> str:
        """The address with the size of its network: `192.168.1.7/24`."""
        return f"{self.address}/{self.prefix}"


def resolve_interface(interface: str) -> str:
    """The one IPv4 address to bind and announce. Raises `StartError`."""
    return interfaces_of(interface)[0].address


def interfaces_of(interface: str) -> list[Interface]:
    """Where to listen: one entry, or all of the LANs' for 0.0.0.0, the best first. Raises `StartError`.

    Reads the machine's interfaces unless `interface` is a loopback address (about 0.3 ms).
    """
    if is_loopback(interface) and ":" not in interface:
        return [Interface("loopback", interface)]
    existing = list_interfaces()
    if interface == AUTO:
        if not any(_is_lan(entry) for entry in existing):
            return [Interface("loopback", LOOPBACK)]
        interface = WILDCARD
    return choose(interface, existing, _preferred_source())


def list_interfaces() -> list[Interface]:
    """Every IPv4 address of this machine."""
    return [
        Interface(adapter.name, str(ip.ip), adapter.index or 0, ip.network_prefix)
        for adapter in ifaddr.get_adapters()
        for ip in adapter.ips
        if ip.is_IPv4
    ]


def choose(interface: str, existing: Sequence[Interface], preferred: str | None) -> list[Interface]:
    """What `interface` means among `existing`; the address `preferred` goes first. Pure."""
    if interface == WILDCARD:
        chosen = [entry for entry in existing if _is_lan(entry)]
    else:
        chosen = [entry for entry in existing if interface in (entry.name, entry.address)]
    if not chosen:
        raise StartError(_complaint(interface, existing))
    return sorted(chosen, key=lambda entry: entry.address != preferred)


def _is_lan(entry: Interface) -> bool:
    return not is_loopback(entry.address) and _NOT_THE_LAN.fullmatch(entry.name) is None


def _complaint(interface: str, existing: Sequence[Interface]) -> str:
    there = ", ".join(f"{entry.name} ({entry.address})" for entry in existing) or "none"
    if interface == WILDCARD:
        return f"--interface {WILDCARD}: no address on a LAN; this machine has {there}: name one of them"
    if ":" in interface:
        return f"--interface {interface}: only IPv4 is served; this machine has {there}"
    return f"--interface {interface}: no interface or address of this machine, which has {there}"


def _preferred_source() -> str | None:
    """The address that the kernel itself would send multicast from. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(MDNS_GROUP)
        except OSError:
            return None
        return str(probe.getsockname()[0])
