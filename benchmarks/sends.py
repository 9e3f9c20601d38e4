"""What must never happen, counted: a wake-up that is lost, a call with two ends or none.

A million sends from random tasks at random moments, and a hundred thousand calls and streams that are
cancelled at a random moment, between two real processes. Every figure here has to be exact.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import uvloop

from benchmarks.mesh import Mesh, mesh
from benchmarks.report import Row
from wrk_base import errors
from wrk_base.rpc.peers import Peers

SENDS = 1_000_000
SENDERS = 200
CANCELS = 100_000
AT_ONCE = 500
SETTLE_SECONDS = 10.0
QUESTION = 1  # byte, nil: what the worker holds of the very request that asks for its figures
RACK = "benchmarks.side_by_side.ours_rack:CountingRack"


async def _send_at_random(made: Mesh, endpoint: str) -> tuple[int, int]:
    """(answers, wake-ups that were lost on this side)."""
    chance, answers = Random(1), 0

    async def sender(peers: Peers, seed: int, sends: int) -> None:
        nonlocal answers
        mood = Random(seed)
        while sends:
            burst = min(sends, mood.randrange(1, 12))
            calls = [peers.request(endpoint, "echo", number, timeout=60.0) for number in range(burst)]
            assert await asyncio.gather(*calls) == list(range(burst))
            answers += burst
            sends -= burst
            if mood.random() < 0.02:
                await asyncio.sleep(mood.random() * 0.003)

    async with made.client() as peers:
        seeds = [chance.randrange(2**32) for _ in range(SENDERS)]
        await asyncio.gather(*(sender(peers, seed, SENDS // SENDERS) for seed in seeds))
        return answers, peers.rescued


async def _cancel_at_random(made: Mesh, endpoint: str) -> tuple[int, int]:
    """(calls with exactly one end, calls still in our tables afterwards)."""
    chance, ends = Random(2), 0
    room = asyncio.Semaphore(AT_ONCE)

    async def call(peers: Peers, kind: int) -> None:
        if kind == 0:
            await peers.request(endpoint, "echo", kind, timeout=60.0)
        elif kind == 1:
            await peers.request(endpoint, "doze", 2, timeout=60.0)
        else:
            async for _ in peers.stream(endpoint, "count", 200, timeout=60.0):
                pass

    async def one(peers: Peers, kind: int, after: float) -> None:
        nonlocal ends
        task = asyncio.ensure_future(call(peers, kind))
        handle = asyncio.get_running_loop().call_later(after, task.cancel) if after else None
        if not after:
            task.cancel()
        try:
            await task
        except (asyncio.CancelledError, errors.WrkError):
            pass
        finally:
            room.release()
        if handle is not None:
            handle.cancel()
        ends += 1

    async with made.client() as peers:
        tasks: set[asyncio.Task[None]] = set()
        for _ in range(CANCELS):
            await room.acquire()
            after = chance.choice((0.0, chance.random() * 0.002, chance.random() * 0.02))
            task = asyncio.create_task(one(peers, chance.randrange(3), after))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        return ends, len(peers.get(endpoint).open_calls)


async def _at_rest(made: Mesh, endpoint: str) -> dict[str, Any]:
    """The worker's own figures, once nothing runs there but this question."""
    async with made.client() as peers, asyncio.timeout(SETTLE_SECONDS):
        while True:
            stats: dict[str, Any] = await peers.request(endpoint, "getStats", timeout=10.0)
            if stats["inFlight"] == stats["waiting"] == 0:
                return stats
            await asyncio.sleep(0.05)


def run() -> list[Row]:
    with mesh() as made:
        endpoint = made.start(RACK, "alone")
        answers, rescued = uvloop.run(_send_at_random(made, endpoint))
        ends, left = uvloop.run(_cancel_at_random(made, endpoint))
        stats = uvloop.run(_at_rest(made, endpoint))
    there = stats["counters"]["rescuedWakeUps"]
    return [
        _exactly("random sends that were answered", answers, SENDS),
        _exactly("wake-ups lost, at the caller", rescued, 0),
        _exactly("wake-ups lost, at the worker", there, 0),
        _exactly("cancelled calls with exactly one end", ends, CANCELS),
        _exactly("calls left in the caller's tables", left, 0),
        _exactly("handlers left at the worker", stats["inFlight"], 0),
        _exactly("bytes of requests still held there", stats["heldBytes"] - QUESTION, 0),
    ]


def _exactly(name: str, value: int, wanted: int) -> Row:
    return Row(name, value, "", f"exactly {wanted:,}", value == wanted)
