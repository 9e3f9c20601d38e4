"""The yardstick of forwarding: bare pyzmq processes that send and relay single messages, each when it is due.

`feed` sends what so many streams of one process would, each at its own time: one message an item, spread
evenly. `relay` receives each and sends it on. No event loop, no decoding, no credit.
"""

from __future__ import annotations

import argparse
import time

import zmq

ITEM = b"x" * 60  # about an item of a token stream with its envelope
PAUSE_SECONDS = 0.00002  # below the distance of two items; the kernel makes some 80 us of it


def relay(listen: str, forward_to: str) -> None:
    context = zmq.Context()
    source, sink = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    source.rcvhwm = sink.sndhwm = sink.linger = 0
    source.bind(listen)
    sink.connect(forward_to)
    print("ready", flush=True)
    while True:
        sink.send(source.recv())


def feed(to: str, items_per_s: int, seconds: float) -> None:
    sink = zmq.Context().socket(zmq.PUSH)
    sink.sndhwm = 0
    sink.connect(to)
    started, sent = time.monotonic(), 0
    while (passed := time.monotonic() - started) < seconds:
        for _ in range(int(passed * items_per_s) - sent):
            sink.send(ITEM)
            sent += 1
        time.sleep(PAUSE_SECONDS)
    sink.close(1000)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("relay", "feed"))
    parser.add_argument("address")
    parser.add_argument("--to", default="")
    parser.add_argument("--rate", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0.0)
    options = parser.parse_args()
    if options.role == "relay":
        relay(options.address, options.to)
    else:
        feed(options.address, options.rate, options.seconds)


if __name__ == "__main__":
    main()
