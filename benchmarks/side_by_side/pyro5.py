"""Pyro5: synchronous proxies, so a thread with a proxy and a connection of its own for each request.

Of its serializers msgpack, which carries bytes as they are (serpent, the default, turns them into text),
and Nagle's algorithm off. The server gives every connection a thread, its default, with a pool that has
room for all of them. A stream is its own item streaming, which asks for one item after the other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import Pyro5.api  # type: ignore[import-not-found]
from Pyro5 import config

from benchmarks.side_by_side import cell, loops

MOST_CONNECTIONS = 600


@Pyro5.api.expose
class Methods:
    def echo(self, body: Any) -> Any:
        return body

    def count(self, items: int) -> Iterator[Any]:
        yield from map(cell.item, range(items))


def _configure() -> None:
    config.SERIALIZER = "msgpack"
    config.SOCK_NODELAY = True
    config.THREADPOOL_SIZE = MOST_CONNECTIONS


def serve() -> None:
    _configure()
    with Pyro5.api.Daemon(host="127.0.0.1", port=0) as daemon:
        cell.ready(str(daemon.register(Methods)))
        daemon.requestLoop()


@contextmanager
def _threads(address: str, window: int, call: Callable[[Any], object]) -> Iterator[cell.Lap]:
    """`call` gets the proxy of the thread that it runs in."""
    _configure()
    own = threading.local()

    def connect() -> None:
        own.proxy = Pyro5.api.Proxy(address)
        own.proxy._pyroBind()

    def turns_of_one(turns: Iterator[int], trips: list[float]) -> None:
        loops.take_turns(lambda: call(own.proxy), turns, trips)

    def lap(requests: int) -> list[float]:
        trips: list[float] = []
        turns = iter(range(requests))
        for done in [pool.submit(turns_of_one, turns, trips) for _ in range(window)]:
            done.result()
        return trips

    everybody = threading.Barrier(window)
    with ThreadPoolExecutor(window, initializer=connect) as pool:
        # Each waits for all: a pool starts no thread while one is idle, and connects would be measured.
        list(pool.map(lambda _: everybody.wait(cell.LIMIT_SECONDS), range(window)))
        yield lap


def echo(address: str, window: int, size: int) -> Any:
    body = cell.body(size)
    _configure()
    with Pyro5.api.Proxy(address) as proxy:
        cell.check(proxy.echo(body), body)
    return _threads(address, window, lambda proxy: proxy.echo(body))


def stream(address: str, window: int, items: int) -> Any:
    return _threads(address, window, lambda proxy: cell.check(sum(1 for _ in proxy.count(items)), items))


if __name__ == "__main__":
    cell.main(serve, echo, stream)
