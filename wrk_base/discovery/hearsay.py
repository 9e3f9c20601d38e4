"""What becomes of an advert that was heard: judged, counted, kept in the table, reported.

Knows neither the network nor the library; `MdnsDiscovery` brings what a packet holds, and time. With a
`Seal`, only what a member of the mesh sealed is reported, so a forged advert is never dialled, at whatever
rate it comes; and as it changes nothing, it can hide nobody either. Without one (a process that waits for
its membership, tests) everybody's word is taken, for `UNSEALED_PEERS` at once and few more a second.

A stranger (another mesh, malformed, out of reach) is named once in the log and then only counted; the
forged ones, which anybody can make up without end, share one line every 10 seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from wrk_base.log_throttle import Throttle
from wrk_base.security import z85

from . import Found, OnFound, OtherMesh
from .advert import (
    SERVICE_TYPE,
    Advert,
    BadAdvert,
    NotDialable,
    facts_of,
    from_txt,
    hosts_of,
    short_id,
)
from .gate import TokenBucket
from .table import MAX_NAMES, AdvertTable, Change

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from wrk_base.security.seal import Seal

    from .reach import Reach

MAX_NAMED = 64  # strangers named in the log; anybody on the network can make up more
MAX_MESHES = 16  # other meshes remembered for a status
FORGED_LOGGED_EVERY = 10.0  # seconds
UNSEALED_PEERS, UNSEALED_RATE = 256, 10.0  # candidates, and new ones a second beyond as many at once

# What is wrong with an advert, as its counter and its event are called.
OTHER_MESH = "otherMesh"
OUT_OF_REACH = "outOfReach"
MALFORMED = "malformed"
FORGED = "forged"

JOIN = "to join it: `wrk invite --role rack` on one of its machines, then `wrk join STRING` here"


class Hearsay:
    """One mesh's view of what is announced. `mesh_id` is the mesh's whole id, empty without a seal."""

    def __init__(
        self, mesh: str, log: FilteringBoundLogger, seal: Seal | None = None, mesh_id: bytes = b""
    ) -> None:
        self._mesh, self._mesh_id = mesh, short_id(mesh_id)
        self._log = log
        self._seal = seal
        self._table = AdvertTable(UNSEALED_PEERS if seal is None else MAX_NAMES)
        self._unsealed = TokenBucket(UNSEALED_RATE, UNSEALED_PEERS)
        self._named: set[str] = set()
        self._meshes: dict[OtherMesh, None] = {}
        self._forgeries = Throttle(1, FORGED_LOGGED_EVERY)
        self._counters = dict.fromkeys(("found", "gone", OTHER_MESH, OUT_OF_REACH, MALFORMED, FORGED), 0)

    def begin(self, own: Advert | None, reach: Reach, on_found: OnFound, on_gone: OnFound) -> None:
        """From here on: who we are, what can be dialled, whom to tell. Forgets what was heard."""
        self._own = own
        self._on_found, self._on_gone = on_found, on_gone
        self._table.clear()
        self.look_from(reach)

    def look_from(self, reach: Reach) -> None:
        """This machine's addresses are others now."""
        self._reach = reach

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, name: str) -> bool:
        """Whether a question may list `name` as known."""
        return name in self._table

    def known(self) -> list[Found]:
        return self._table.known()

    def counters(self) -> dict[str, int]:
        return dict(self._counters)

    def strangers(self) -> list[OtherMesh]:
        """The other meshes heard last, `MAX_MESHES` at most."""
        return list(self._meshes)

    def hear(
        self,
        name: str,
        txt: Mapping[str, bytes | None],
        addresses: Sequence[str],
        port: int | None,
        now: float,
    ) -> bool:
        """The instance `name`, in small letters, is announced with this text, host and port.

        Returns whether it is one to remember: a peer, or an honest stranger while there is room.
        """
        try:
            advert = from_txt(txt, addresses, port)
        except NotDialable as problem:
            self._count_out_of_reach(name, f"{addresses[0]}:{port}", str(problem))
            return False
        except BadAdvert as problem:
            self.refuse(name, str(problem))
            return False
        if name != f"{advert.label}.{SERVICE_TYPE}".lower():
            self.refuse(name, "the name is not that of the worker in its text")
            return False
        if self._is_foreign(advert):
            self._meet(OtherMesh(advert.mesh, advert.mesh_id))
            return self._table.put_aside(name)
        if self._own is not None and advert.worker_id == self._own.worker_id:
            return False
        return self._consider(name, advert, addresses, now)

    def refuse(self, name: str, problem: str) -> None:
        """Count a name that no advert can have, or that is announced without its records."""
        self._count_stranger(MALFORMED, name, "discovery.malformed", name=ascii(name)[:80], problem=problem)

    def forget(self, name: str) -> None:
        """The instance `name` was withdrawn, or nobody confirmed it for 75 minutes."""
        self._report(self._table.forget(name))

    def forget_strangers(self) -> None:
        """Have them all announced again: nobody's word shall silence anybody for long."""
        self._table.forget_aside()

    def _is_foreign(self, advert: Advert) -> bool:
        if advert.mesh != self._mesh:
            return True
        return self._seal is not None and advert.mesh_id not in ("", self._mesh_id)

    def _meet(self, mesh: OtherMesh) -> None:
        self._meshes.pop(mesh, None)
        if len(self._meshes) >= MAX_MESHES:
            del self._meshes[next(iter(self._meshes))]
        self._meshes[mesh] = None
        self._count_stranger(
            OTHER_MESH,
            " ".join(mesh),
            "discovery.other_mesh",
            mesh=mesh.name,
            mesh_id=mesh.mesh_id,
            own=self._mesh,
            advice=JOIN,
        )

    def _consider(self, name: str, advert: Advert, addresses: Sequence[str], now: float) -> bool:
        """One of our mesh, by its own word: the first address counts that is within reach and sealed."""
        hosts = hosts_of(addresses)
        everywhere = [advert, *(replace(advert, host=host) for host in hosts[1:])]
        complaints = [self._reach.complaint(each.host, each.port) for each in everywhere]
        if all(complaints):
            self._count_out_of_reach(advert.host, advert.endpoint, complaints[0])
            return self._table.put_aside(name)
        for each, complaint in zip(everywhere, complaints, strict=True):
            found = None if complaint else self._believe(name, each, now)
            if found is not None:
                self._report(self._table.hear(name, found))
                return name in self._table
        if self._seal is not None:
            self._count_forged(advert, now)
        return False

    def _believe(self, name: str, advert: Advert, now: float) -> Found | None:
        if self._seal is None:
            found = _found(advert, "")
            return found if self._table.stands_for(name, found) or self._unsealed.take(now) else None
        key = self._seal.open(advert.key, facts_of(advert))
        return None if key is None else _found(advert, z85.encode(key))

    def _count_out_of_reach(self, host: str, endpoint: str, advice: str) -> None:
        self._count_stranger(OUT_OF_REACH, host, "discovery.out_of_reach", endpoint=endpoint, advice=advice)

    def _count_forged(self, advert: Advert, now: float) -> None:
        self._counters[FORGED] += 1
        if self._forgeries.facts("discovery.forged", now) is not None:
            self._log.warning(
                "discovery.forged",
                worker=advert.worker_id,
                endpoint=advert.endpoint,
                forged=self._counters[FORGED],
                advice="if that is a worker of yours, it is no member of this mesh: `wrk join STRING` there",
            )

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


def _found(advert: Advert, key: str) -> Found:
    return Found(advert.endpoint, "mdns", advert.worker_id, advert.epoch, advert.role, key)
