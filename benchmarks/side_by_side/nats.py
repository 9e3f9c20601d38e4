"""nats-py through a real nats-server: request and reply, msgpack.

nats-server comes with the system (Debian: `nats-server`) and runs as a child of the server's process, so
that its CPU time counts as the server's. On uvloop, one connection a side, the handler a callback. The
broker's limits on one message and on what one connection may be behind are raised to what the cells
need; its default of 1 MB is just below the largest body. A stream is a subscription of its own to which
one message an item is published.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgpack
import nats  # type: ignore[import-not-found]

from benchmarks.side_by_side import cell, loops

BROKER = "nats-server"
CONFIGURATION = "listen: 127.0.0.1:-1\nmax_payload: 8MB\nmax_pending: 1GB\n"
PENDING_BYTES = 1024 * 1024 * 1024
START_SECONDS = 10.0


@contextmanager
def _broker() -> Iterator[str]:
    """A nats-server on a port of the kernel's choice; its address."""
    path = shutil.which(BROKER)
    if path is None:
        sys.exit(f"{BROKER} is not on PATH (Debian: apt-get install {BROKER})")
    with tempfile.TemporaryDirectory(prefix="wrk-bench-") as folder:
        configuration = Path(folder, "nats.conf")
        configuration.write_text(CONFIGURATION)
        command = [path, "-c", str(configuration), "--ports_file_dir", folder]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                yield _address(Path(folder, f"{BROKER}_{process.pid}.ports"))
            finally:
                process.terminate()


def _address(ports: Path) -> str:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        try:
            return str(json.loads(ports.read_text())["nats"][0])
        except (OSError, ValueError):  # not there yet, or not complete
            time.sleep(0.01)
    sys.exit(f"{BROKER} did not start")


async def _serve(address: str) -> None:
    connection = await nats.connect(address, pending_size=PENDING_BYTES)

    async def echoed(message: Any) -> None:
        await message.respond(msgpack.packb(msgpack.unpackb(message.data)))

    async def counted(message: Any) -> None:
        for number in range(msgpack.unpackb(message.data)):
            await message.respond(msgpack.packb(cell.item(number)))

    await connection.subscribe("echo", cb=echoed, pending_bytes_limit=PENDING_BYTES)
    await connection.subscribe("count", cb=counted)
    await connection.flush()
    print(address, flush=True)
    await asyncio.to_thread(sys.stdin.read)  # and not `cell.ready`: the broker is to be ended, too
    await connection.close()


@asynccontextmanager
async def _connected(address: str) -> AsyncIterator[Any]:
    connection = await nats.connect(address, pending_size=PENDING_BYTES)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def _echo(address: str, size: int) -> AsyncIterator[loops.Call]:
    body = cell.body(size)
    async with _connected(address) as connection:

        async def call() -> Any:
            answer = await connection.request("echo", msgpack.packb(body), timeout=cell.LIMIT_SECONDS)
            return msgpack.unpackb(answer.data)

        cell.check(await call(), body)
        yield call


@asynccontextmanager
async def _stream(address: str, items: int) -> AsyncIterator[loops.Call]:
    async with _connected(address) as connection:
        yield lambda: loops.exhaust(_items(connection, items), items)


async def _items(connection: Any, items: int) -> AsyncIterator[Any]:
    inbox = connection.new_inbox()
    subscription = await connection.subscribe(inbox)
    await subscription.unsubscribe(limit=items)
    await connection.publish("count", msgpack.packb(items), reply=inbox)
    for _ in range(items):
        yield msgpack.unpackb((await subscription.next_msg(timeout=cell.LIMIT_SECONDS)).data)


def serve() -> None:
    with _broker() as address:
        loops.run(lambda: _serve(address))


def echo(address: str, window: int, size: int) -> AbstractContextManager[cell.Lap]:
    return loops.on_loop(_echo(address, size), window)


def stream(address: str, window: int, items: int) -> AbstractContextManager[cell.Lap]:
    return loops.on_loop(_stream(address, items), window)


if __name__ == "__main__":
    cell.main(serve, echo, stream)
