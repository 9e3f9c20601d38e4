"""What scenarios are played on: a house under load, and faults that are written down as they are done.

A scenario composes these; it knows no processes, and nothing here decides when or to whom something happens.
Every fault is taken back, and says whether it bit: a signal that killed, a process that stood still.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import Random

from wrk_base.errors import StartError

from .history import CRASH, FREEZE, KILL, TERMINATE, Fault
from .house import LOOK_SECONDS, House, Member
from .load import Shape
from .recorder import Recorder

FROZEN_WITHIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Stage:
    """`faults` is how many of them a scenario stages, where it stages one after the other; `haste` shortens
    what lies between them, and how long they last."""

    house: House
    recorder: Recorder
    rng: Random
    shape: Shape
    faults: int
    haste: float = 1.0

    async def calm(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self.haste)

    async def some_rack(self) -> Member:
        """One that every orchestrator gives work to: else nobody could notice that it is gone."""
        while not (fit := await self.house.routable()):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(LOOK_SECONDS)
        return self.rng.choice(fit)

    async def kill(self, member: Member, away: float) -> None:
        """SIGKILL, and started again so many seconds later; returns when it is ready."""
        at, worker = self.recorder.now(), member.worker_id
        bit = await member.kill()
        await self.calm(away)
        await self._start_again(member)
        self._fault(KILL, worker, at, bit=bit)

    async def freeze(self, member: Member, seconds: float) -> None:
        """SIGSTOP, and SIGCONT so many seconds later."""
        at = self.recorder.now()
        member.freeze()
        try:
            bit = await _frozen(member)
            await self.calm(seconds)
        finally:
            member.thaw()
        self._fault(FREEZE, member.worker_id, at, bit=bit)

    async def terminate(self, member: Member) -> None:
        """SIGTERM, and started again when it has ended."""
        at, worker = self.recorder.now(), member.worker_id
        code = await member.terminate()
        ended_at = self.recorder.now()
        await self._start_again(member)
        exit = -9 if code is None else code
        self._fault(TERMINATE, worker, at, exit=exit, ended_at=ended_at)

    async def crashed(self, member: Member, at: float) -> None:
        """It has ended by its own fault, which is waited for; started again."""
        await member.child.ended()
        await self._start_again(member)
        self._fault(CRASH, member.worker_id, at)

    async def _start_again(self, member: Member) -> None:
        """Twice at most: a process that dies while it starts is a finding, and its log says why."""
        try:
            await member.launch()
            await member.ready()
        except StartError:
            await member.launch()
            await member.ready()

    def _fault(
        self,
        kind: str,
        target: str,
        at: float,
        *,
        bit: bool = True,
        exit: int | None = None,
        ended_at: float | None = None,
    ) -> None:
        until = self.recorder.now()
        fault = Fault(kind=kind, target=target, at=at, until=until, bit=bit, exit=exit, ended_at=ended_at)
        self.recorder.note(fault)

    def staged(self, kind: str, target: str, at: float, *, bit: bool) -> None:
        """A fault that the scenario did itself, and that is over now."""
        self._fault(kind, target, at, bit=bit)


async def _frozen(member: Member) -> bool:
    """Whether the kernel has stopped it."""
    try:
        async with asyncio.timeout(FROZEN_WITHIN_SECONDS):
            while not member.is_frozen():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
    except TimeoutError:
        return False
    return True
