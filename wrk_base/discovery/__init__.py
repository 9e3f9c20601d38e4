"""Finding peers: the small interface behind which every way of finding them stands.

A source (mDNS, a static list, later a directory service) reports what it hears as `Found` and never
decides anything: a finding is a hint where to dial, not a member. Membership comes from a live link,
its HELLO and its beats; so `on_gone` is a hint, too. Nothing here knows RPC or the registry.

`combine` puts several sources behind one object. A source that cannot work (no multicast, say) is
logged and tried again at each sweep; it never takes the others with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from .advert import Advert


@dataclass(frozen=True, slots=True)
class Found:
    """Where a peer may be. A static peer has no id, epoch or role until its HELLO tells them.

    `key` is its public key, 40 characters of Z85; empty where nobody who is known said it.
    """

    endpoint: str
    source: str
    worker_id: str = ""
    epoch: int = 0
    role: str = ""
    key: str = ""


class OtherMesh(NamedTuple):
    """A mesh that was heard and is not ours: its name, and 16 hexadecimal digits of its id if it has one."""

    name: str
    mesh_id: str


OnFound = Callable[[Found], None]
Learn = Callable[[str, str], None]


class DiscoveryFailed(Exception):
    """A source cannot work now; the message says why. The others go on."""


class Discovery(Protocol):
    """One source of findings; all calls from one event loop."""

    name: str

    async def start(self, advert: Advert | None, on_found: OnFound, on_gone: OnFound) -> None:
        """Announce `advert` (None: only look) and report findings. Raises `DiscoveryFailed`.

        The callbacks are plain functions, run in the loop. A finding that changes is reported as gone
        and then as found; one finding may be reported more than once.
        """

    async def sweep(self) -> None:
        """Ask again and look for new network interfaces. Raises `DiscoveryFailed`."""

    async def stop(self) -> None:
        """Un-announce and close; idempotent; leaves no task and no socket."""

    def known(self) -> list[Found]:
        """Everything found and not gone."""

    def counters(self) -> dict[str, int]:
        """What was heard and what became of it, since the object was made; keys as in a status."""


@runtime_checkable
class HearsOthers(Protocol):
    """A source that hears other meshes, too."""

    def strangers(self) -> list[OtherMesh]:
        """The meshes heard that are not ours, the one heard last at the end; a bounded number."""


class Discoveries:
    """Several sources as one. It raises nothing: a source's failure is logged once, until it recovers."""

    name = "combined"

    def __init__(self, sources: Sequence[Discovery], log: FilteringBoundLogger, learn: Learn | None) -> None:
        self._sources, self._learn = tuple(sources), learn
        self._log = log
        self._failed: set[Discovery] = set()
        self._arguments: tuple[Advert | None, OnFound, OnFound] | None = None

    async def start(self, advert: Advert | None, on_found: OnFound, on_gone: OnFound) -> None:
        def found_with_key(found: Found) -> None:
            if found.key and self._learn is not None:
                self._learn(found.endpoint, found.key)
            on_found(found)

        self._arguments = advert, found_with_key, on_gone
        for source in self._sources:
            await self._start(source)

    async def sweep(self) -> None:
        for source in self._sources:
            if source in self._failed:
                await self._start(source)
            elif not await self._works(source, source.sweep()):
                await self._works(source, source.stop())
                await self._start(source)

    async def stop(self) -> None:
        self._arguments = None
        for source in self._sources:
            await self._works(source, source.stop())

    def known(self) -> list[Found]:
        return [found for source in self._sources for found in source.known()]

    def counters(self) -> dict[str, int]:
        total: Counter[str] = Counter()
        for source in self._sources:
            total.update(source.counters())
        return dict(total)

    def strangers(self) -> list[OtherMesh]:
        """The other meshes that any source heard."""
        return [
            mesh for source in self._sources if isinstance(source, HearsOthers) for mesh in source.strangers()
        ]

    async def _start(self, source: Discovery) -> None:
        if self._arguments is None:
            return
        if await self._works(source, source.start(*self._arguments)) and source in self._failed:
            self._failed.discard(source)
            self._log.info("discovery.recovered", source=source.name)

    async def _works(self, source: Discovery, step: Awaitable[None]) -> bool:
        try:
            await step
        except (DiscoveryFailed, OSError) as failure:
            self._note_failure(source, failure)
            return False
        return True

    def _note_failure(self, source: Discovery, failure: Exception) -> None:
        if source in self._failed:
            return
        self._failed.add(source)
        self._log.warning(
            "discovery.failed",
            source=source.name,
            cause=str(failure),
            advice="peers can be named by hand: discovery.peers tcp://host:port",
        )


def combine(*sources: Discovery, log: FilteringBoundLogger, learn: Learn | None = None) -> Discoveries:
    """The sources as one object that never fails; `learn(endpoint, key)` is told of each key before its peer
    is reported."""
    return Discoveries(sources, log, learn)
