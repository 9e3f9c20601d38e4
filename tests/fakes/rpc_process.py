"""An RPC server in a process of its own, for what only the death or the sleep of a process can show.

    with serving() as server:
        ... server.endpoint, server.stop(), server.go_on(), server.kill()

Its methods: `echo`; `wait`, which never ends; `note`, which counts its runs; `notes`, which tells them.
On SIGTERM it drains and lets everybody read the last answers, as a worker does. `calling(endpoint)` is
the other side: a process that calls `wait` and waits.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import uvloop

from tests.fakes.rpc import ANY_PORT, CLIENT, RecordedLog
from wrk_base.rpc.client import Peer
from wrk_base.rpc.identity import Identity
from wrk_base.rpc.line import PeerLimits
from wrk_base.rpc.server import Server
from wrk_base.rpc.zmq_link import ZmqNetwork

ROOT = Path(__file__).resolve().parents[2]
CALLS = 10  # that a calling process makes


class RpcProcess:
    """A process that said its endpoint in its first line."""

    def __init__(self, process: subprocess.Popen[str], endpoint: str) -> None:
        self._process, self.endpoint = process, endpoint

    def stop(self) -> None:
        """Let it stand still until `go_on`; returns when it does."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once; returns when it is gone."""
        self._process.kill()
        self._process.wait()

    def ask_to_end(self) -> None:
        self._process.terminate()

    def end(self) -> None:
        self.go_on()
        self.kill()


def serving(endpoint: str = ANY_PORT) -> AbstractContextManager[RpcProcess]:
    return _running("serve", endpoint)


def calling(endpoint: str) -> AbstractContextManager[RpcProcess]:
    return _running("call", endpoint)


@contextmanager
def _running(what: str, endpoint: str) -> Iterator[RpcProcess]:
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, what, endpoint],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        running = RpcProcess(process, process.stdout.readline().strip())
        try:
            yield running
        finally:
            running.end()


async def _serve(endpoint: str) -> None:
    loop = asyncio.get_running_loop()
    network = ZmqNetwork(loop)
    epoch = int.from_bytes(os.urandom(8), "big")
    server = Server(Identity("process-1", epoch, "rack"), log=RecordedLog())
    runs = 0

    def note(body: Any) -> None:
        nonlocal runs
        runs += 1

    async def wait(body: Any) -> None:
        await asyncio.Event().wait()

    async def soon(body: Any) -> Any:
        await asyncio.sleep(0.01)
        return body

    server.respond("echo", lambda body: body)
    server.respond("wait", wait)
    server.respond("soon", soon)
    server.respond("note", note)
    server.respond("notes", lambda _: {"runs": runs, "drops": server.counters["deadlineDrops"]})
    ending = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ending.set)
    print(server.listen(network, endpoint), flush=True)
    await ending.wait()
    server.drain("it stops")
    await server.drained()
    await server.heard(within=1.0)
    server.close(300)
    network.close()


async def _call(endpoint: str) -> None:
    loop = asyncio.get_running_loop()
    limits = PeerLimits()
    peer = Peer(endpoint, network=ZmqNetwork(loop), identity=CLIENT, rng=Random(1), limits=limits)
    calls = [peer.call("wait", b"\xc0", deadline=loop.time() + 600.0) for _ in range(CALLS)]
    print(endpoint, flush=True)
    await asyncio.gather(*calls)


if __name__ == "__main__":
    uvloop.run({"serve": _serve, "call": _call}[sys.argv[1]](sys.argv[2]))
