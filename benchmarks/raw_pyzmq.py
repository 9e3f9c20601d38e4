"""The yardstick: how fast plain synchronous pyzmq echoes one small msgpack dict between two processes.

DEALER to ROUTER over loopback, no event loop, no deadlines, no errors, nothing that a product needs.
Other benchmarks quote their figures as multiples of this one, taken in the same run on the same
machine. On its own it prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from time import perf_counter

import msgpack
import zmq

MESSAGE = {"model": "yardstick", "prompt": "one small message of a common size", "n": 1}
WARM_UP = 2_000


def measure(window: int, requests: int) -> tuple[float, float]:
    """(requests per second, median round trip in microseconds) with `window` calls in flight."""
    with _server() as port, closing(_socket(zmq.DEALER)) as dealer:
        dealer.connect(f"tcp://127.0.0.1:{port}")
        _drive(dealer, window, WARM_UP)
        return _drive(dealer, window, requests)


def _drive(dealer: zmq.Socket[bytes], window: int, requests: int) -> tuple[float, float]:
    packed = msgpack.packb(MESSAGE)
    sent_at: list[float] = []
    trips: list[float] = []
    started = perf_counter()
    while len(trips) < requests:
        while len(sent_at) < min(requests, len(trips) + window):
            number = b"%d" % len(sent_at)
            sent_at.append(perf_counter())
            dealer.send_multipart((number, packed))
        number, answer = dealer.recv_multipart()
        msgpack.unpackb(answer)
        trips.append(perf_counter() - sent_at[int(number)])
    return requests / (perf_counter() - started), statistics.median(trips) * 1e6


def _socket(kind: int) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
    socket.sndhwm = socket.rcvhwm = socket.linger = 0
    return socket


@contextmanager
def _server() -> Iterator[int]:
    """A process of its own that echoes; gives its port."""
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def _serve() -> None:
    router = _socket(zmq.ROUTER)
    print(router.bind_to_random_port("tcp://127.0.0.1"), flush=True)
    while True:
        caller, number, packed = router.recv_multipart()
        router.send_multipart((caller, number, msgpack.packb(msgpack.unpackb(packed))))


def main() -> None:
    parser = argparse.ArgumentParser(description="Echo rate of plain synchronous pyzmq.")
    parser.add_argument("--window", type=int, default=64, help="calls in flight")
    parser.add_argument("--requests", type=int, default=60_000)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        _serve()
    rate, p50 = measure(options.window, options.requests)
    figures = {"window": options.window, "requests_per_s": round(rate), "p50_us": round(p50, 1)}
    print(json.dumps({"benchmark": "raw pyzmq", **figures}))


if __name__ == "__main__":
    main()
