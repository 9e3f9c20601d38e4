"""How a short-lived caller gets into the mesh of its machine: a client in a script, a command in a terminal.

It is a member by what the machine holds, with a key of its own that nobody keeps, and hears of others by
the status files of this machine and by mDNS.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from . import clock
from .discovery import Discovery, Found, OnFound
from .discovery.advert import Advert
from .discovery.local import LocalDiscovery
from .security.membership import Membership, visitor

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger


class Visit:
    """One caller named `name` in `mesh`. Raises `Unauthenticated` where the machine is in no such mesh."""

    def __init__(self, state_dir: Path, mesh: str, name: str, log: FilteringBoundLogger) -> None:
        self._state_dir, self._mesh, self._log = state_dir, mesh, log
        self.membership: Membership = visitor(state_dir, mesh, name, wall=clock.wall, log=log)

    def local(self) -> Discovery:
        """What runs on this machine."""
        return LocalDiscovery(self._state_dir, self._mesh)

    def mdns(self, interface: str) -> Discovery:
        """What is heard on a network."""
        from .discovery.mdns import MdnsDiscovery  # slow to import, and often not needed

        membership = self.membership
        return MdnsDiscovery(
            self._mesh, interface, self._log, seal=membership.seal(), mesh_id=membership.mesh_id
        )

    def around(self, interface: str, *, keys_only: bool = False) -> Discovery:
        """Both. With `keys_only` nobody is reported: for who knows the addresses and lacks the keys."""
        return _Around((self.local(), self.mdns(interface)), self.membership, keys_only)


class _Around:
    """Several sources that fail as one, and write every key that they hear into the book."""

    name = "around"

    def __init__(self, sources: tuple[Discovery, ...], membership: Membership, keys_only: bool) -> None:
        self._sources, self._membership, self._keys_only = sources, membership, keys_only

    async def start(self, advert: Advert | None, on_found: OnFound, on_gone: OnFound) -> None:
        def hear(found: Found) -> None:
            if found.key:
                self._membership.book.learn(found.endpoint, found.key)
            if not self._keys_only:
                on_found(found)

        for source in self._sources:
            await source.start(advert, hear, on_gone)

    async def sweep(self) -> None:
        for source in self._sources:
            await source.sweep()

    async def stop(self) -> None:
        for source in self._sources:
            await source.stop()

    def known(self) -> list[Found]:
        return [found for source in self._sources for found in source.known()]

    def counters(self) -> dict[str, int]:
        return {name: count for source in self._sources for name, count in source.counters().items()}
