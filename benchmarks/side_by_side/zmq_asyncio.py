"""pyzmq's own asyncio sockets: DEALER to ROUTER, msgpack, and a future for each request.

On uvloop. Nothing is added but the table of futures that any client with several requests in flight
needs. A stream is a request that is answered by one message an item. As pyzmq's documentation has it, a
large message is sent without a copy and a small one with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from itertools import count
from typing import Any

import msgpack
import zmq
import zmq.asyncio

from benchmarks.side_by_side import cell, loops


def _socket(kind: int) -> zmq.asyncio.Socket:
    socket = zmq.asyncio.Context.instance().socket(kind)
    socket.sndhwm = socket.rcvhwm = socket.linger = 0
    return socket


def _small(packed: bytes) -> bool:
    return len(packed) < zmq.COPY_THRESHOLD


async def _serve() -> None:
    router = _socket(zmq.ROUTER)
    cell.ready(f"tcp://127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}")
    while True:
        caller, number, packed = await router.recv_multipart()
        asked = msgpack.unpackb(packed)
        answers = map(cell.item, range(asked)) if isinstance(asked, int) else (asked,)
        for answer in answers:
            packed = msgpack.packb(answer)
            await router.send_multipart((caller, number, packed), copy=_small(packed))


class _Client:
    """Calls over one socket, told apart by a number that comes back with each answer."""

    def __init__(self, address: str) -> None:
        self._socket = _socket(zmq.DEALER)
        self._socket.connect(address)
        self._numbers = count()
        self._waiting: dict[bytes, Callable[[Any], None]] = {}
        self._receiver = asyncio.create_task(self._receive())

    async def _receive(self) -> None:
        while True:
            number, packed = await self._socket.recv_multipart()
            self._waiting[number](msgpack.unpackb(packed))

    async def request(self, body: object) -> object:
        answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        number = await self._send(body, answer.set_result)
        try:
            return await answer
        finally:
            del self._waiting[number]

    async def stream(self, items: int) -> AsyncIterator[object]:
        arrived: asyncio.Queue[object] = asyncio.Queue()
        number = await self._send(items, arrived.put_nowait)
        for _ in range(items):
            yield await arrived.get()
        del self._waiting[number]

    async def _send(self, body: object, on_answer: Callable[[Any], None]) -> bytes:
        number, packed = b"%d" % next(self._numbers), msgpack.packb(body)
        self._waiting[number] = on_answer
        await self._socket.send_multipart((number, packed), copy=_small(packed))
        return number

    async def close(self) -> None:
        self._receiver.cancel()
        with suppress(asyncio.CancelledError):
            await self._receiver
        self._socket.close()


@asynccontextmanager
async def _connected(address: str) -> AsyncIterator[_Client]:
    client = _Client(address)
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def _echo(address: str, size: int) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    body = cell.body(size)
    async with _connected(address) as client:
        cell.check(await client.request(body), body)
        yield lambda: client.request(body)


@asynccontextmanager
async def _stream(address: str, items: int) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    async with _connected(address) as client:
        yield lambda: loops.exhaust(client.stream(items), items)


def serve() -> None:
    loops.run(_serve)


def echo(address: str, window: int, size: int) -> AbstractContextManager[cell.Lap]:
    return loops.on_loop(_echo(address, size), window)


def stream(address: str, window: int, items: int) -> AbstractContextManager[cell.Lap]:
    return loops.on_loop(_stream(address, items), window)


if __name__ == "__main__":
    cell.main(serve, echo, stream)
