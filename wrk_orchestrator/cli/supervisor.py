"""Processes that are started, watched, started again when they die, and stopped in order.

Knows nothing of what they say to one another. The invariant: whatever happens here, no process is left
when `stop` returns, and it returns within five seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from wrk_base.errors import StartError

from .plan import Program
from .process import ChildProcess

POLL_SECONDS = 0.02
RACKS_FIRST_SECONDS = 1.0  # for racks to leave the registry of an orchestrator that still answers
KILL_SECONDS = 4.5  # after the first signal, for who has not ended by then
VERDICT_SECONDS = 0.2  # until the end of a process is known, when calls to it have failed already
PAUSE_SECONDS = 1.0  # before a process that died is started again, doubling ...
LONGEST_PAUSE_SECONDS = 30.0  # ... up to this; one that lived for longer starts over

T = TypeVar("T")


class Supervisor:
    """`say` is told in one line what a person should know."""

    def __init__(self, state_dir: Path, say: Callable[[str], None], *, verbose: bool = False) -> None:
        self._state_dir, self._say, self._verbose = state_dir, say, verbose
        self._children: list[ChildProcess] = []
        self._keeping: asyncio.TaskGroup | None = None

    async def start(self, program: Program) -> ChildProcess:
        """A process that is kept like the others, if they are kept already. Raises `StartError`."""
        child = ChildProcess(program, self._state_dir, verbose=self._verbose)
        self._children.append(child)
        await child.launch()
        if self._keeping is not None:
            self._keeping.create_task(self._keep(child))
        return child

    async def ready(self, child: ChildProcess, seconds: float | None) -> dict[str, Any]:
        """What its status file says, once it is there; raises `StartError` if it ends instead."""
        try:
            async with asyncio.timeout(seconds):
                while (status := child.status()) is None:
                    if not child.running:
                        raise StartError(child.end())
                    await asyncio.sleep(POLL_SECONDS)
                return status
        except TimeoutError:
            raise StartError(f"{child.program.name} is not ready after {seconds:g} s") from None

    async def during(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`; raises `StartError` as soon as a process ends meanwhile."""
        working = asyncio.ensure_future(work)
        ends = {asyncio.ensure_future(child.ended()): child for child in self._children}
        try:
            await asyncio.wait({working, *ends}, return_when=asyncio.FIRST_COMPLETED)
            if working.done() and working.exception() is not None:  # a process that dies fails calls first
                await asyncio.wait(ends, timeout=VERDICT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            for end, child in ends.items():
                if end.done():
                    raise StartError(child.end())
            return working.result()
        finally:
            for task in (working, *ends):
                task.cancel()
            await asyncio.gather(working, *ends, return_exceptions=True)

    async def keep(self, meanwhile: Coroutine[Any, Any, None]) -> None:
        """Start again whatever ends, until cancelled; `meanwhile` may start more."""
        async with asyncio.TaskGroup() as self._keeping:
            for child in self._children:
                self._keeping.create_task(self._keep(child))
            self._keeping.create_task(meanwhile)

    async def _keep(self, child: ChildProcess) -> None:
        loop, attempt = asyncio.get_running_loop(), 0
        while True:
            since = loop.time()
            await child.ended()
            attempt = 1 if loop.time() - since > LONGEST_PAUSE_SECONDS else attempt + 1
            pause = restart_pause(attempt)
            self._say(f"{child.end()}; starting it again in {pause:g} s")
            await asyncio.sleep(pause)
            try:
                await child.launch()
                status = await self.ready(child, None)
                self._say(f"{child.program.name} runs again at {status['endpoint']}")
            except StartError:
                continue  # it has ended again, which is said above

    async def stop(self) -> None:
        """End all, racks first; returns when every process is gone."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        racks = [child for child in self._children if not child.program.is_orchestrator]
        for child in racks:
            child.terminate()
        await _ended(racks, RACKS_FIRST_SECONDS)
        for child in self._children:
            if child not in racks:
                child.terminate()
        await _ended(self._children, began + KILL_SECONDS - loop.time())
        self.hurry()
        await _ended(self._children, None)

    def hurry(self) -> None:
        """Kill what still runs."""
        for child in self._children:
            child.kill()


def restart_pause(attempt: int) -> float:
    """Seconds before restart number `attempt` in a row, from 1: 1, 2, 4 ... 30."""
    return min(PAUSE_SECONDS * 2.0 ** min(attempt - 1, 16), LONGEST_PAUSE_SECONDS)


async def _ended(children: Collection[ChildProcess], seconds: float | None) -> None:
    """Returns when all have ended, or `seconds` later."""
    waits = [asyncio.ensure_future(child.ended()) for child in children]
    if waits:
        await asyncio.wait(waits, timeout=seconds)
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
