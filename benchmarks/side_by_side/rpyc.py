"""RPyC: asynchronous requests on one connection, answered where the client serves the connection.

A body is a tuple of its fields, because RPyC passes what cannot change by value and a dict by reference,
where every field that is read would be another request. Its compression of what is larger than 3 kB is
off: the bodies cannot be compressed. One thread sends and takes the answers, which is fastest, until more
is in flight than the sockets hold: then both sides would wait for the other to read, so a second thread
reads. A stream is a remote generator that is read in chunks (`buffiter`).
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import rpyc  # type: ignore[import-not-found]
from rpyc.core.channel import Channel  # type: ignore[import-not-found]
from rpyc.utils.server import ThreadedServer  # type: ignore[import-not-found]

from benchmarks.side_by_side import cell

READER_BYTES = 4 * 1024 * 1024  # in flight: about what the sockets of both sides hold
CONFIGURATION = {"sync_request_timeout": cell.LIMIT_SECONDS}


class _Service(rpyc.Service):  # type: ignore[misc]
    def exposed_echo(self, body: Any) -> Any:
        return body

    def exposed_count(self, items: int) -> Iterator[Any]:
        return (tuple(cell.item(number).items()) for number in range(items))


def serve() -> None:
    Channel.COMPRESSION_THRESHOLD = sys.maxsize
    server = ThreadedServer(_Service(), hostname="127.0.0.1", port=0, protocol_config=CONFIGURATION)
    server.listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections inherit it
    cell.ready(f"127.0.0.1:{server.port}")
    server.start()


def _connect(address: str) -> Any:
    Channel.COMPRESSION_THRESHOLD = sys.maxsize
    host, _, port = address.partition(":")
    return closing(
        rpyc.connect_stream(rpyc.SocketStream.connect(host, int(port), nodelay=True), config=CONFIGURATION)
    )


@contextmanager
def echo(address: str, window: int, size: int) -> Iterator[cell.Lap]:
    body = cell.body(size)
    with _connect(address) as connection:
        cell.check(dict(connection.root.echo(tuple(body.items()))), body)
        call = rpyc.async_(connection.root.echo)
        if window * size < READER_BYTES:
            yield lambda requests: _drive(call, body, window, requests, lambda: _take_one(connection))
            return
        with _reader(connection) as wait:
            yield lambda requests: _drive(call, body, window, requests, wait)


def _take_one(connection: Any) -> None:
    connection.serve(cell.LIMIT_SECONDS)


@contextmanager
def _reader(connection: Any) -> Iterator[Callable[[], None]]:
    """A thread that takes the answers; gives what waits until it took one or more."""
    stopped, taken = threading.Event(), threading.Event()

    def read() -> None:
        while not stopped.is_set():
            connection.serve(0.1)
            taken.set()

    def wait() -> None:
        taken.wait()
        taken.clear()

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield wait
    finally:
        stopped.set()
        thread.join()


def _drive(
    call: Any, body: dict[str, Any], window: int, requests: int, wait: Callable[[], None]
) -> list[float]:
    trips: list[float] = []

    def send() -> None:
        begun = time.perf_counter()

        def answered(result: Any) -> None:
            dict(result.value)
            trips.append(time.perf_counter() - begun)

        call(tuple(body.items())).add_callback(answered)

    sent = 0
    while len(trips) < requests:
        while sent < min(requests, len(trips) + window):
            sent += 1
            send()
        wait()
    return trips


@contextmanager
def stream(address: str, window: int, items: int) -> Iterator[cell.Lap]:
    if window > 1:
        sys.exit("a synchronous client reads one stream at a time")
    with _connect(address) as connection:

        def lap(requests: int) -> list[float]:
            trips: list[float] = []
            for _ in range(requests):
                begun = time.perf_counter()
                taken = sum(1 for fields in rpyc.buffiter(connection.root.count(items)) if dict(fields))
                cell.check(taken, items)
                trips.append(time.perf_counter() - begun)
            return trips

        yield lap


if __name__ == "__main__":
    cell.main(serve, echo, stream)
