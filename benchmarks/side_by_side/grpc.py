"""grpc.aio with generic handlers: HTTP/2, msgpack in place of protobuf, so no generated code.

One channel, reused for every call, as its guide to performance has it. On uvloop. Messages may be larger
than its default of 4 MiB.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any

import grpc.aio  # type: ignore[import-untyped]
import msgpack

from benchmarks.side_by_side import cell, loops

SERVICE = "sidebyside.Echo"
OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
PLAIN = {"request_deserializer": msgpack.unpackb, "response_serializer": msgpack.packb}


async def _echoed(body: Any, context: object) -> Any:
    return body


async def _counted(items: int, context: object) -> AsyncIterator[Any]:
    for number in range(items):
        yield cell.item(number)


async def _serve() -> None:
    server = grpc.aio.server(options=OPTIONS)
    methods = {
        "Echo": grpc.unary_unary_rpc_method_handler(_echoed, **PLAIN),
        "Count": grpc.unary_stream_rpc_method_handler(_counted, **PLAIN),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    cell.ready(f"127.0.0.1:{port}")
    await server.wait_for_termination()


@asynccontextmanager
async def _echo(address: str, size: int) -> AsyncIterator[loops.Call]:
    body = cell.body(size)
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        call = channel.unary_unary(f"/{SERVICE}/Echo", msgpack.packb, msgpack.unpackb)
        cell.check(await call(body), body)
        yield lambda: call(body)


@asynccontextmanager
async def _stream(address: str, items: int) -> AsyncIterator[loops.Call]:
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        call = channel.unary_stream(f"/{SERVICE}/Count", msgpack.packb, msgpack.unpackb)
        yield lambda: loops.exhaust(aiter(call(items)), items)


def serve() -> None:
    loops.run(_serve)


def echo(address: str, window: int, size: int) -> AbstractContextManager[cell.Lap]:
    return loops.on_loop(_echo(address, size), window)


def stream(address: str, window: int, items: int) -> AbstractContextManager[cell.Lap]:
    return loops.on_loop(_stream(address, items), window)


if __name__ == "__main__":
    cell.main(serve, echo, stream)
