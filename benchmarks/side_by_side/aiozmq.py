"""aiozmq's RPC: one call a request, its own msgpack packer.

On uvloop, which its documentation names as what it was made to be combined with. The server's method is
a plain one, which is answered without a task. Its RPC has no streams.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any

import aiozmq.rpc  # type: ignore[import-not-found]

from benchmarks.side_by_side import cell, loops


class _Handler(aiozmq.rpc.AttrHandler):  # type: ignore[misc]
    @aiozmq.rpc.method  # type: ignore[untyped-decorator]
    def echo(self, body: Any) -> Any:
        return body


async def _serve() -> None:
    server = await aiozmq.rpc.serve_rpc(_Handler(), bind="tcp://127.0.0.1:*")
    cell.ready(next(iter(server.transport.bindings())))
    await server.wait_closed()


@asynccontextmanager
async def _echo(address: str, size: int) -> AsyncIterator[loops.Call]:
    body = cell.body(size)
    client = await aiozmq.rpc.connect_rpc(connect=address)
    try:
        cell.check(await client.call.echo(body), body)
        yield lambda: client.call.echo(body)
    finally:
        client.close()
        await client.wait_closed()


def serve() -> None:
    loops.run(_serve)


def echo(address: str, window: int, size: int) -> AbstractContextManager[cell.Lap]:
    return loops.on_loop(_echo(address, size), window)


if __name__ == "__main__":
    cell.main(serve, echo)
