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
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from .advert import Advert


@dataclass(frozen=True, slots=True)
class Found:
    """Where a peer may be. A static peer has no id, epoch or role until its HELLO tells them."""

    endpoint: str
    source: str
    worker_id: str = ""
    epoch: int = 0
    role: str = ""
    key: str = ""


OnFound = Callable[[Found], None]


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


class Discoveries:
    """Several sources as one. It raises nothing: a source's failure is logged once, until it recovers."""

    name = "combined"

    def __init__(self, sources: Sequence[Discovery], log: FilteringBoundLogger) -> None:
        self._sources = tuple(sources)
        self._log = log
        self._failed: set[Discovery] = set()
        self._arguments: tuple[Advert | None, OnFound, OnFound] | None = None

    async def start(self, advert: Advert | None, on_found: OnFound, on_gone: OnFound) -> None:
        self._arguments = advert, on_found, on_gone
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


def combine(*sources: Discovery, log: FilteringBoundLogger) -> Discoveries:
    """The sources as one object that never fails."""
    return Discoveries(sources, log)
