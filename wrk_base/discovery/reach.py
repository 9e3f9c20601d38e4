"""Where an announcement may bring this process to dial. Pure.

Anybody on the network can announce any address, so only what is plausible for a neighbour is dialled: a
private or link-local address, or one of a network that this machine itself is on (some LANs have public
addresses). On loopback only loopback is within reach, on a LAN never: a loopback address from the network
is this machine, not the one that sent it. Both are heard, as the kernel hands a multicast group's packets
to every socket bound to its port, whichever interface they came in by.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from .advert import parse_address

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# RFC 1918, RFC 3927, RFC 4193. A cloud's credential service lies in 169.254/16; no advert can hold it.
PRIVATE: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7")
)


def parse_ranges(texts: Iterable[str]) -> tuple[Network, ...]:
    """Networks as settings write them (`192.168.0.0/16`). Raises `ValueError` that names the text."""
    return tuple(_parse(text) for text in texts)


def _parse(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as problem:
        raise ValueError(f"no range of addresses: {problem}; write 192.168.0.0/16") from None


class Reach:
    """What is dialled from the addresses `own` (`192.168.1.7/24`), where this process serves on `port`.

    `ranges` replaces what is allowed by default: private addresses and the networks of `own`.
    """

    def __init__(self, own: Sequence[str], port: int = 0, ranges: Sequence[Network] = ()) -> None:
        interfaces = [ipaddress.ip_interface(text) for text in own]
        self._own = {interface.ip for interface in interfaces}
        self._port = port
        self._loopback = any(address.is_loopback for address in self._own)
        self._ranges = tuple(ranges) or (*PRIVATE, *(interface.network for interface in interfaces))

    def complaint(self, host: str, port: int) -> str:
        """Why `host` is not dialled; empty if it is. `host` is an address as text."""
        address = parse_address(host)
        if address is None:
            return "no address"
        if address in self._own and port == self._port:
            return "this process answers there"
        if address.is_loopback != self._loopback:
            return "give both processes the same --interface"
        if not self._loopback and not any(address in network for network in self._ranges):
            return "allow its network: discovery.ranges"
        return ""
