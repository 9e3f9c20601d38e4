"""Peers that settings name, behind the same interface as the ones that are heard.

For containers and routed networks, which no multicast crosses, and beside mDNS everywhere else. The
list never changes while the process runs; who is really there shows when it is dialled.
"""

from __future__ import annotations

from collections.abc import Iterable

from . import Found, OnFound
from .advert import Advert, StaticPeer, parse_peer


class StaticDiscovery:
    """Reports every peer of the list once, at start. Raises `ValueError` for one it cannot read."""

    name = "static"

    def __init__(self, peers: Iterable[str | StaticPeer]) -> None:
        parsed = (parse_peer(peer) if isinstance(peer, str) else peer for peer in peers)
        by_endpoint = {peer.endpoint: peer for peer in parsed}
        self._found = [Found(end, "static", key=peer.key) for end, peer in by_endpoint.items()]

    async def start(self, advert: Advert | None, on_found: OnFound, on_gone: OnFound) -> None:
        for found in self._found:
            on_found(found)

    async def sweep(self) -> None:
        """Nothing: the list is what it is."""

    async def stop(self) -> None:
        """Nothing: there is nothing to close."""

    def known(self) -> list[Found]:
        return list(self._found)

    def counters(self) -> dict[str, int]:
        return {"found": len(self._found)}
