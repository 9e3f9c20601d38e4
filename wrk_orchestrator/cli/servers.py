"""Racks before the model servers that run on this machine: a search, a rack for each that it finds, again.

What is asked when, and what a rack is called, the lookout decides; the supervisor keeps the racks. A
server that ends leaves its rack, which waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from wrk_base.errors import StartError
from wrk_base.model_servers.recognition import ModelServer, Nobody
from wrk_base.model_servers.search import look

from .lookout import Lookout
from .plan import Plan
from .process import ChildProcess
from .supervisor import Supervisor

SHOWN_MODELS = 3


@dataclass(frozen=True, slots=True)
class Served:
    """A model server and the rack before it."""

    server: ModelServer
    rack: ChildProcess


class Servers:
    """`say` is told in one line of each server that is found."""

    def __init__(self, plan: Plan, supervisor: Supervisor, say: Callable[[str], None]) -> None:
        self._plan, self._supervisor, self._say = plan, supervisor, say
        self._lookout = Lookout(plan.addresses)
        self.missed: list[Nobody] = []
        """Where nothing was found in the last search."""

    async def search(self) -> list[Served]:
        """The servers that are new, each with a rack that is starting. Raises `StartError`."""
        findings = await look(self._lookout.due())
        self.missed = [finding for finding in findings if isinstance(finding, Nobody)]
        served = []
        for name, server in self._lookout.hear(findings):
            served.append(Served(server, await self._supervisor.start(self._plan.before(server.url, name))))
            self._say(told(name, server))
        return served

    async def keep_searching(self) -> None:
        """For servers that start later, until cancelled."""
        while self._plan.addresses:
            await asyncio.sleep(self._plan.settings.model_servers.interval / 1000)
            try:
                await self.search()
            except StartError as error:
                self._say(str(error))


def told(rack: str, server: ModelServer) -> str:
    """One line: what was found where, with which models, and which rack goes before it."""
    return f"found {server.where}, {models_told(server)}: rack {rack}"


def models_told(server: ModelServer) -> str:
    """How many models, and the first of them."""
    count, first = len(server.models), ", ".join(server.models[:SHOWN_MODELS])
    if not count:
        return "no model yet"
    more = ", ..." if count > SHOWN_MODELS else ""
    return f"{count} {'model' if count == 1 else 'models'} ({first}{more})"
