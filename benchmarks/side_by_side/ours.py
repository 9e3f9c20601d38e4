"""Ours: a real worker process, called as every program on the LAN calls one, with `Peers`.

Settings are the defaults: encryption and certificates, deadlines, cancellation, limits and heartbeats are
all on. The worker is a
child of the server's process, whose CPU time includes it.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path

from benchmarks.mesh import client, mesh
from benchmarks.side_by_side import cell, loops
from wrk_base.rpc.peers import Peers

RACK = "benchmarks.side_by_side.ours_rack:CountingRack"
TIMEOUT = float(cell.LIMIT_SECONDS)


def serve(*, is_open: bool = False) -> None:
    with mesh(is_open=is_open) as made:
        print(f"{made.start(RACK, 'alone')}|{'' if is_open else made.state}", flush=True)
        sys.stdin.read()  # and not `cell.ready`: the worker is to be ended, too


@asynccontextmanager
async def _member_at(address: str) -> AsyncIterator[tuple[Peers, str]]:
    endpoint, _, state = address.partition("|")
    async with client(Path(state) if state else None) as peers:
        yield peers, endpoint


@asynccontextmanager
async def _echo(address: str, size: int) -> AsyncIterator[loops.Call]:
    body = cell.body(size)
    async with _member_at(address) as (peers, endpoint):
        cell.check(await peers.request(endpoint, "echo", body, timeout=TIMEOUT), body)
        yield lambda: peers.request(endpoint, "echo", body, timeout=TIMEOUT)


@asynccontextmanager
async def _stream(address: str, items: int) -> AsyncIterator[loops.Call]:
    async with _member_at(address) as (peers, endpoint):
        yield lambda: loops.exhaust(aiter(peers.stream(endpoint, "count", items, timeout=TIMEOUT)), items)


def echo(address: str, window: int, size: int) -> AbstractContextManager[cell.Lap]:
    return loops.on_loop(_echo(address, size), window)


def stream(address: str, window: int, items: int) -> AbstractContextManager[cell.Lap]:
    return loops.on_loop(_stream(address, items), window)


if __name__ == "__main__":
    cell.main(serve, echo, stream)
