"""The rack that the comparison measures: an echo, as every worker has it, and a stream of small items."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from benchmarks.echo_rack import EchoRack
from benchmarks.side_by_side import cell
from wrk_base.worker import WorkerContext


class CountingRack(EchoRack):
    def __init__(self, context: WorkerContext) -> None:
        super().__init__(context)
        self.respond("count", _count)
        self.respond("doze", _doze)
        self.respond("speak", _speak)


async def _doze(milliseconds: float) -> None:
    await asyncio.sleep(milliseconds / 1000)


async def _speak(milliseconds: float) -> AsyncIterator[dict[str, Any]]:
    """One item at once, and a pause, as a model makes it between tokens."""
    yield cell.item(0)
    await asyncio.sleep(milliseconds / 1000)


async def _count(items: int) -> AsyncIterator[dict[str, Any]]:
    for number in range(items):
        yield cell.item(number)
