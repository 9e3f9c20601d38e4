"""Counts what orchestrators have open, every so often, and once more when all is over.

What cannot be asked now (it is frozen, or being started again) is left out; the count at the end waits for
it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from wrk_base.errors import WrkError

from .history import Census, StateChanged
from .house import ROUTABLE, House, View
from .recorder import Recorder

EVERY_SECONDS = 0.5
WATCH_SECONDS = 0.05
SETTLE_SECONDS = 8.0
PAGE = os.sysconf("SC_PAGE_SIZE")


class Counting:
    def __init__(self, house: House, recorder: Recorder) -> None:
        self._house, self._recorder = house, recorder

    async def keep(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.gather(*(self._count(view) for view in self._house.views))
            await asyncio.sleep(EVERY_SECONDS)

    async def watch(self) -> None:
        """Until it is cancelled, note how the racks' states change where no orchestrator's log is ours.

        A look comes late: a rack that is out now went out before, and one that is in came in after the look
        before. Each is dated so that nobody is accused of what lies between.
        """
        seen = {rack.worker_id: "healthy" for rack in self._house.racks}  # as they were before the run
        (view,) = self._house.views
        looked = self._recorder.now()
        while True:
            began = self._recorder.now()
            with suppress(WrkError):
                states = await self._house.workers(view)
                for worker, old in seen.items():
                    new = states.get(worker, "gone")
                    if new != old:
                        at = looked if new in ROUTABLE else self._recorder.now()
                        self._note(view, worker, old, new, at)
                        seen[worker] = new
                looked = began
            await asyncio.sleep(WATCH_SECONDS)

    def _note(self, view: View, worker: str, old: str, new: str, at: float) -> None:
        change = StateChanged(orchestrator=view.name, worker=worker, old=old, new=new, at=at)
        self._recorder.note(change)

    async def end(self) -> None:
        """The last count of each: of when it has nothing open any more, or of when that took too long."""
        await asyncio.gather(*(self._settled(view) for view in self._house.views))

    async def _settled(self, view: View) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + SETTLE_SECONDS
        while True:
            census = await self._look(view)
            late = loop.time() >= until
            if census is not None and (late or not (census.open_calls or census.leases or census.queue)):
                self._recorder.note(census)
                return
            if late:
                return
            await asyncio.sleep(EVERY_SECONDS / 2)

    async def _count(self, view: View) -> None:
        census = await self._look(view)
        if census is not None:
            self._recorder.note(census)

    async def _look(self, view: View) -> Census | None:
        try:
            status = await self._house.ask(view, "getServiceStatus")
            stats = await self._house.ask(view, "getStats")
        except WrkError:
            return None
        return census_of(view.name, self._recorder.now, status, stats, view.pid)


def census_of(
    who: str, now: Callable[[], float], status: dict[str, Any], stats: dict[str, Any], pid: int
) -> Census:
    balancer = status["loadBalancer"]
    return Census(
        who=who,
        at=now(),
        open_calls=stats["inFlight"],
        leases=sum(worker["currentLoad"] for worker in balancer["workers"].values()),
        queue=balancer["waiting"],
        memory=resident(pid),
        tables={"workers": status["registry"]["workers"], "links": status["rpcClients"]["active"]},
    )


def resident(pid: int) -> int:
    """Bytes that the process has in memory; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError, ValueError):
        return 0
