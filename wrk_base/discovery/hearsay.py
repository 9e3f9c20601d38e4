"""What becomes of records that were heard: read, judged, counted, kept in the table, reported.

Knows neither the network nor the library; `MdnsDiscovery` brings the records. A stranger (another
mesh, malformed, out of reach) is named once in the log and then only counted.

On loopback only loopback is within reach, on a LAN never: a loopback address from the network is this
machine, not the one that sent it. Both are heard, as the kernel hands a multicast group's packets to
every socket bound to its port, whichever interface they came in by. So nobody can bring this process
to dial where its user opened no door.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from . import Found, OnFound
from .advert import Advert, BadAdvert, from_txt, is_loopback
from .table import AdvertTable, Change

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

MAX_NAMED = 64  # strangers named in the log; anybody on the network can make up more

# What is wrong with an advert, as its counter and its event are called.
OTHER_MESH = "otherMesh"
OUT_OF_REACH = "outOfReach"
MALFORMED = "malformed"


class Hearsay:
    """One mesh's view of what is announced."""

    def __init__(self, mesh: str, log: FilteringBoundLogger) -> None:
        self._mesh = mesh
        self._log = log
        self._table = AdvertTable()
        self._named: set[str] = set()
        self._counters = dict.fromkeys(("found", "gone", OTHER_MESH, OUT_OF_REACH, MALFORMED), 0)

    def begin(self, own: Advert | None, listening_on: str, on_found: OnFound, on_gone: OnFound) -> None:
        """From here on: who we are, an address that we listen on, whom to tell. Forgets what was heard."""
        self._own, self._listening_on = own, listening_on
        self._on_found, self._on_gone = on_found, on_gone
        self._table.clear()

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, name: str) -> bool:
        return name in self._table

    def known(self) -> list[Found]:
        return self._table.known()

    def counters(self) -> dict[str, int]:
        return dict(self._counters)

    def hear(
        self,
        name: str,
        properties: Mapping[bytes, bytes | None],
        addresses: Sequence[str],
        port: int | None,
    ) -> None:
        """The instance `name` is announced with these records."""
        txt = {key.decode("ascii", "replace"): value for key, value in properties.items()}
        try:
            advert = from_txt(txt, addresses, port)
        except BadAdvert as problem:
            self.refuse(name, str(problem))
            self._report(self._table.hear(name, None))
            return
        found = _found(advert) if self._is_peer(advert) else None
        self._report(self._table.hear(name, found))

    def refuse(self, name: str, problem: str) -> None:
        """Count a name that no advert can have."""
        self._count_stranger(MALFORMED, name, "discovery.malformed", name=ascii(name)[:80], problem=problem)

    def forget(self, name: str) -> None:
        """The instance `name` was withdrawn, or nobody confirmed it for 75 minutes."""
        self._report(self._table.forget(name))

    def _is_peer(self, advert: Advert) -> bool:
        own = self._own
        if advert.mesh != self._mesh:
            mesh = advert.mesh
            self._count_stranger(OTHER_MESH, mesh, "discovery.other_mesh", mesh=mesh, own=self._mesh)
            return False
        if own is not None and (own.worker_id == advert.worker_id or own.endpoint == advert.endpoint):
            return False
        if is_loopback(advert.host) != is_loopback(self._listening_on):
            self._count_stranger(
                OUT_OF_REACH,
                advert.host,
                "discovery.out_of_reach",
                worker=advert.worker_id,
                endpoint=advert.endpoint,
                listening_on=self._listening_on,
                advice="give both processes the same --interface",
            )
            return False
        return True

    def _count_stranger(self, kind: str, stranger: str, event: str, **facts: object) -> None:
        self._counters[kind] += 1
        once = f"{kind} {stranger}"
        if once not in self._named and len(self._named) < MAX_NAMED:
            self._named.add(once)
            self._log.info(event, **facts)

    def _report(self, changes: list[Change]) -> None:
        for found, gone in changes:
            self._counters["gone" if gone else "found"] += 1
            try:
                (self._on_gone if gone else self._on_found)(found)
            except Exception:  # the listener's fault must not cost the findings behind this one
                self._log.exception("discovery.listener_failed", endpoint=found.endpoint, gone=gone)


def _found(advert: Advert) -> Found:
    return Found(advert.endpoint, "mdns", advert.worker_id, advert.epoch, advert.role, advert.key)
