"""The yardstick: plain synchronous pyzmq, as benchmarks/raw_pyzmq.py has it, with bodies of any size.

DEALER to ROUTER, msgpack, no event loop, no deadlines, no errors: what a product would have to add. A
stream is a request that is answered by one message an item. As pyzmq's documentation has it, a large
message is sent without a copy and a small one with it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import msgpack
import zmq

from benchmarks.side_by_side import cell


def _socket(kind: int) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
    socket.sndhwm = socket.rcvhwm = socket.linger = 0
    return socket


def _small(packed: bytes) -> bool:
    return len(packed) < zmq.COPY_THRESHOLD


def serve(key: str = "", secret: bytes = b"") -> None:
    """With a pair of keys, encrypted; the address then carries the public one behind a #."""
    router = _socket(zmq.ROUTER)
    if key:
        router.curve_server, router.curve_secretkey = True, secret
    address = f"tcp://127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}"
    cell.ready(f"{address}#{key}" if key else address)
    while True:
        caller, number, packed = router.recv_multipart()
        asked = msgpack.unpackb(packed)
        answers = map(cell.item, range(asked)) if isinstance(asked, int) else (asked,)
        for answer in answers:
            packed = msgpack.packb(answer)
            router.send_multipart((caller, number, packed), copy=_small(packed))


@contextmanager
def echo(address: str, window: int, size: int) -> Iterator[cell.Lap]:
    body = cell.body(size)
    with closing(_connected(address)) as dealer:
        dealer.send_multipart((b"0", msgpack.packb(body)))
        cell.check(msgpack.unpackb(dealer.recv_multipart()[1]), body)
        yield lambda requests: _drive(dealer, body, window, requests, answers=1)


@contextmanager
def stream(address: str, window: int, items: int) -> Iterator[cell.Lap]:
    with closing(_connected(address)) as dealer:
        yield lambda requests: _drive(dealer, items, window, requests, answers=items)


def _connected(address: str) -> zmq.Socket[bytes]:
    dealer = _socket(zmq.DEALER)
    endpoint, _, key = address.partition("#")
    if key:
        dealer.curve_publickey, dealer.curve_secretkey = zmq.curve_keypair()
        dealer.curve_serverkey = key.encode()
    dealer.connect(endpoint)
    return dealer


def _drive(
    dealer: zmq.Socket[bytes], body: object, window: int, requests: int, *, answers: int
) -> list[float]:
    """`answers` messages answer one request."""
    packed_body = msgpack.packb(body)
    copy = _small(packed_body)
    sent_at: list[float] = []
    left = [answers] * requests
    trips: list[float] = []
    while len(trips) < requests:
        while len(sent_at) < min(requests, len(trips) + window):
            number = b"%d" % len(sent_at)
            sent_at.append(time.perf_counter())
            dealer.send_multipart((number, packed_body), copy=copy)
        number, packed = dealer.recv_multipart()
        msgpack.unpackb(packed)
        left[int(number)] -= 1
        if not left[int(number)]:
            trips.append(time.perf_counter() - sent_at[int(number)])
    return trips


if __name__ == "__main__":
    cell.main(serve, echo, stream)
