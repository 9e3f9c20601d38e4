"""What all peers share: the command line, the bodies, and how one cell of the table is measured.

A peer is a module of this folder, started as `python -m benchmarks.side_by_side.NAME` with

    serve                                              prints its address, ends with its standard input
    drive ADDRESS --window W --body BYTES              W echo requests in flight, all the time
    drive ADDRESS --window W --stream ITEMS            W streams in flight, each of ITEMS small items

`drive` prints one JSON line. Requests are counted and timed where the caller waits for them, by the same
clock for all. Nothing here needs more than the standard library: every environment has this module.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from random import Random
from statistics import median, quantiles
from typing import Any

from benchmarks.usage import cpu_seconds

# Makes this many requests, `window` of them in flight; the seconds that each one took.
Lap = Callable[[int], list[float]]
# (address, window, bytes of a body or items of a stream): a connected client.
Client = Callable[[str, int, int], AbstractContextManager[Lap]]

SECONDS = 1.2
WARM_UP_SHARE = 0.15  # of a cell's seconds: long enough that a rate can be told from it
LIMIT_SECONDS = 60  # a driver whose server is gone ends by itself
ITEM_TEXT = "a small item"


def body(size: int) -> dict[str, Any]:
    """What is echoed: `size` bytes that no compression makes smaller, and a field as a request has it."""
    return {"model": "yardstick", "data": Random(size).randbytes(size)}


def item(number: int) -> dict[str, Any]:
    return {"n": number, "text": ITEM_TEXT}


def check(answer: object, expected: object) -> None:
    """A peer that is fast because it answers something else is not fast."""
    if answer != expected:
        raise ValueError(f"the answer is not what was asked for: {str(answer)[:80]}")


def main(serve: Callable[[], None], echo: Client, stream: Client | None = None) -> None:
    arguments = _arguments()
    if arguments.command == "serve":
        serve()
        return
    if arguments.stream and stream is None:
        sys.exit("no streams")
    signal.alarm(LIMIT_SECONDS)
    client, size = (stream, arguments.stream) if arguments.stream and stream else (echo, arguments.body)
    with client(arguments.address, arguments.window, size) as lap:
        figures = measure(lap, arguments)
    print(json.dumps(figures), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve")
    drive = commands.add_parser("drive")
    drive.add_argument("address")
    drive.add_argument("--window", type=int, default=64, help="requests in flight")
    drive.add_argument("--body", type=int, default=100, metavar="BYTES")
    drive.add_argument("--stream", type=int, default=0, metavar="ITEMS", help="streams instead of echoes")
    drive.add_argument("--requests", type=int, default=0, help="default: what --seconds have room for")
    drive.add_argument("--seconds", type=float, default=SECONDS)
    drive.add_argument("--server", type=int, metavar="PID", help="whose CPU time counts as the server's")
    return parser.parse_args()


def measure(lap: Lap, arguments: argparse.Namespace) -> dict[str, float]:
    """Warms up, then measures one lap of as many requests as the warm-up's rate gives time for.

    With streams a request of `requests_per_s` and of the CPU figures is an item; p50 and p99 are of
    whole streams.
    """
    fitting = _warm_up(lap, arguments.window, arguments.seconds)
    before, server_before = time.process_time(), _cpu_seconds(arguments.server)
    begun = time.perf_counter()
    trips = lap(arguments.requests or fitting)
    elapsed = time.perf_counter() - begun
    client, server = time.process_time() - before, _cpu_seconds(arguments.server)
    done = len(trips) * (arguments.stream or 1)
    figures = {
        "requests": done,
        "requests_per_s": done / elapsed,
        "p50_us": median(trips) * 1e6,
        "p99_us": _p99(trips) * 1e6,
        "client_cpu_us": client / done * 1e6,
    }
    if server is not None and server_before is not None:
        figures["server_cpu_us"] = (server - server_before) / done * 1e6
    return figures


def _warm_up(lap: Lap, window: int, seconds: float) -> int:
    """How many requests `seconds` have room for, at least a window full."""
    requests = window
    while True:
        begun = time.perf_counter()
        lap(requests)
        elapsed = time.perf_counter() - begun
        if elapsed >= WARM_UP_SHARE * seconds:
            return max(window, int(requests / elapsed * seconds))
        requests *= 2


def _p99(trips: Sequence[float]) -> float:
    return quantiles(trips, n=100, method="inclusive")[98] if len(trips) > 1 else trips[0]


def _cpu_seconds(pid: int | None) -> float | None:
    """Of a process with its children; None where there is no /proc."""
    try:
        return None if pid is None else cpu_seconds(pid)
    except OSError:
        return None


def free_port() -> int:
    """For servers that cannot say which port the kernel chose for them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ready(address: str) -> None:
    """Tells the address, and ends this process when the one that reads it is gone."""
    print(address, flush=True)
    threading.Thread(target=_end_with_stdin, daemon=True).start()


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)  # whatever event loop the main thread is in
