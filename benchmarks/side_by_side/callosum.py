"""Callosum's RPC over its ZeroMQ transport.

On uvloop, with msgpack as in its examples, without the compression that would need another package, and
with the scheduler that leaves the order of execution to asyncio: the others only make requests wait.
It has no streams of answers ("managed streaming" is a planned feature).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any

import callosum.rpc  # type: ignore[import-not-found]
import msgpack
from callosum.lower.zeromq import ZeroMQAddress, ZeroMQRPCTransport  # type: ignore[import-not-found]
from callosum.ordering import ExitOrderedAsyncScheduler  # type: ignore[import-not-found]

from benchmarks.side_by_side import cell, loops


def _peer(**where: Any) -> Any:
    return callosum.rpc.Peer(
        **where,
        transport=ZeroMQRPCTransport,
        serializer=msgpack.packb,
        deserializer=msgpack.unpackb,
        scheduler=ExitOrderedAsyncScheduler(),
        compress=False,
    )


async def _echoed(request: Any) -> Any:
    return request.body


async def _serve() -> None:
    address = f"tcp://127.0.0.1:{cell.free_port()}"
    peer = _peer(bind=ZeroMQAddress(address))
    peer.handle_function("echo", _echoed)
    async with peer:
        cell.ready(address)
        await asyncio.Event().wait()


@asynccontextmanager
async def _echo(address: str, size: int) -> AsyncIterator[loops.Call]:
    body = cell.body(size)
    async with _peer(connect=ZeroMQAddress(address)) as peer:
        cell.check(await peer.invoke("echo", body), body)
        yield lambda: peer.invoke("echo", body)


def serve() -> None:
    loops.run(_serve)


def echo(address: str, window: int, size: int) -> AbstractContextManager[cell.Lap]:
    return loops.on_loop(_echo(address, size), window)


if __name__ == "__main__":
    cell.main(serve, echo)
