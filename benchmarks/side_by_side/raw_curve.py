"""The yardstick with CURVE on: what encryption costs plain synchronous pyzmq. Nobody is asked who it is."""

from __future__ import annotations

import zmq

from benchmarks.side_by_side import cell, raw_pyzmq


def serve() -> None:
    public, secret = zmq.curve_keypair()
    raw_pyzmq.serve(public.decode(), secret)


if __name__ == "__main__":
    cell.main(serve, raw_pyzmq.echo, raw_pyzmq.stream)
