"""Closed loops: as many callers as requests are in flight, each asking again when it was answered.

One for event loops and one for threads or greenlets, so that the peers' modules hold nothing but what is
particular to a peer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager

import uvloop

from benchmarks.side_by_side.cell import Lap, check

# One call, prepared; an async client is a context that gives it.
Call = Callable[[], Awaitable[object]]
PlainCall = Callable[[], object]
AsyncClient = AbstractAsyncContextManager[Call]


def run(main: Callable[[], Coroutine[object, object, None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


@contextmanager
def on_loop(client: AsyncClient, window: int) -> Iterator[Lap]:
    """Laps of a client that lives on an event loop."""

    async def enter() -> Call:
        return await client.__aenter__()

    async def leave() -> None:
        await client.__aexit__(None, None, None)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        call = runner.run(enter())
        try:
            yield lambda requests: runner.run(_in_flight(call, window, requests))
        finally:
            runner.run(leave())


async def _in_flight(call: Call, window: int, requests: int) -> list[float]:
    trips: list[float] = []
    left = requests

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            begun = time.perf_counter()
            await call()
            trips.append(time.perf_counter() - begun)

    await asyncio.gather(*(caller() for _ in range(min(window, requests))))
    return trips


async def exhaust(stream: AsyncIterator[object], items: int) -> None:
    """Takes every item of a stream; raises `ValueError` for a stream that is not complete."""
    taken = 0
    async for _ in stream:
        taken += 1
    check(taken, items)


def take_turns(call: PlainCall, turns: Iterator[int], trips: list[float]) -> None:
    """One of many threads or greenlets that share `turns` and `trips`."""
    for _ in turns:
        begun = time.perf_counter()
        call()
        trips.append(time.perf_counter() - begun)
