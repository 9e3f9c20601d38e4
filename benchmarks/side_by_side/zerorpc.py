"""zerorpc: gevent, msgpack, a greenlet for each request in flight on one client.

Its heartbeats are left on, as they are by default: they are how it notices a peer that is gone. A stream
is its own `stream` pattern.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import gevent  # type: ignore[import-untyped]
import zerorpc  # type: ignore[import-not-found]

from benchmarks.side_by_side import cell, loops


class _Methods:
    def echo(self, body: Any) -> Any:
        return body

    @zerorpc.stream  # type: ignore[untyped-decorator]
    def count(self, items: int) -> Iterator[Any]:
        return map(cell.item, range(items))


def serve() -> None:
    server = zerorpc.Server(_Methods())
    address = f"tcp://127.0.0.1:{cell.free_port()}"
    server.bind(address)
    cell.ready(address)
    server.run()


@contextmanager
def echo(address: str, window: int, size: int) -> Iterator[cell.Lap]:
    body = cell.body(size)
    with closing(zerorpc.Client(address, timeout=cell.LIMIT_SECONDS)) as client:
        cell.check(client.echo(body), body)
        yield lambda requests: _drive(lambda: client.echo(body), window, requests)


@contextmanager
def stream(address: str, window: int, items: int) -> Iterator[cell.Lap]:
    with closing(zerorpc.Client(address, timeout=cell.LIMIT_SECONDS)) as client:

        def call() -> None:
            cell.check(sum(1 for _ in client.count(items)), items)

        yield lambda requests: _drive(call, window, requests)


def _drive(call: loops.PlainCall, window: int, requests: int) -> list[float]:
    trips: list[float] = []
    turns = iter(range(requests))
    greenlets = [gevent.spawn(loops.take_turns, call, turns, trips) for _ in range(min(window, requests))]
    gevent.joinall(greenlets, raise_error=True)
    return trips


if __name__ == "__main__":
    cell.main(serve, echo, stream)
