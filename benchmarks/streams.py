"""Streams: how fast between two processes, how soon the first item, what forwarding costs an orchestrator.

The cost of forwarding stands beside that of a bare pyzmq relay which gets as many single messages a
second from as many processes, in the same run. Idle links are measured last.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from random import Random

import uvloop
import zmq

from benchmarks import bare_relay
from benchmarks.mesh import CLIENT, ROOT, Mesh, mesh
from benchmarks.report import Row
from benchmarks.usage import cpu_seconds, resident_bytes
from wrk_base.rpc.identity import Identity
from wrk_base.rpc.line import PeerLimits
from wrk_base.rpc.peers import Peers
from wrk_base.rpc.zmq_link import ZmqNetwork

ROUNDS = 3
ITEMS = 200_000
BLOCKS, BLOCK = 10, 100
REST_SECONDS = 0.002
STREAMS, PER_SECOND = 500, 50
RELAY_SECONDS = 6.0
LINKS = 1_000
IDLE_SECONDS = 5.0
RACK = "benchmarks.side_by_side.ours_rack:CountingRack"


async def _rate(made: Mesh, endpoint: str) -> float:
    async with made.client() as peers:
        begun, read = time.perf_counter(), 0
        async for _ in peers.stream(endpoint, "count", ITEMS, timeout=10.0):
            read += 1
        assert read == ITEMS
        return read / (time.perf_counter() - begun)


async def _first_and_unary(made: Mesh, endpoint: str) -> tuple[float, float]:
    """Median microseconds until the first item of a stream that goes on, and of a unary call.

    In blocks that take turns, and each after the same rest: a core that has gone to sleep wakes up late.
    """
    firsts: list[float] = []
    calls: list[float] = []
    async with made.client() as peers:
        for _ in range(BLOCKS):
            for _ in range(BLOCK):
                await asyncio.sleep(REST_SECONDS)
                begun = time.perf_counter()
                async for _ in peers.stream(endpoint, "speak", 1, timeout=10.0):
                    firsts.append(time.perf_counter() - begun)
            for _ in range(BLOCK):
                await asyncio.sleep(REST_SECONDS)
                begun = time.perf_counter()
                await peers.request(endpoint, "echo", 1, timeout=10.0)
                calls.append(time.perf_counter() - begun)
    return statistics.median(firsts) * 1e6, statistics.median(calls) * 1e6


async def _forwarded(made: Mesh, orchestrator: str, pid: int) -> tuple[float, float]:
    """(microseconds of the orchestrator's CPU an item, items a second) with all streams at their pace."""
    words = int(RELAY_SECONDS * PER_SECOND)
    body = {
        "modelId": "sim-model",
        "inputData": {"prompt": "go", "sim": {"words": words, "interval": 1000 / PER_SECOND, "latency": 0}},
    }
    read = 0

    async def one(peers: Peers) -> None:
        nonlocal read
        await asyncio.sleep(random.random() / PER_SECOND)  # else all tick in step
        async for _ in peers.stream(orchestrator, "routeInferenceRequest", body, timeout=10.0):
            read += 1

    async with made.client() as peers:
        before, begun = cpu_seconds(pid), time.perf_counter()
        await asyncio.gather(*(one(peers) for _ in range(STREAMS)))
        assert read == STREAMS * words
        return (cpu_seconds(pid) - before) / read * 1e6, read / (time.perf_counter() - begun)


def _relayed(rate: int) -> float:
    """Microseconds of a bare relay's CPU an item, fed by two processes with `rate` items a second in all."""
    with ExitStack() as stack:
        sink: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PULL)
        stack.callback(sink.close, 0)
        sink.rcvhwm = 0
        out = f"tcp://127.0.0.1:{sink.bind_to_random_port('tcp://127.0.0.1')}"
        into = f"ipc://{stack.enter_context(tempfile.TemporaryDirectory(prefix='wrk-bench-'))}/relay"
        relay = _bare(stack, "relay", into, "--to", out)
        assert relay.stdout is not None
        relay.stdout.readline()
        before = cpu_seconds(relay.pid)
        for _ in range(2):
            _bare(stack, "feed", into, "--rate", str(rate // 2), "--seconds", str(RELAY_SECONDS))
        read, until = 0, time.monotonic() + RELAY_SECONDS + 1.0
        while time.monotonic() < until:
            if sink.poll(100):
                sink.recv()
                read += 1
        return (cpu_seconds(relay.pid) - before) / read * 1e6


def _bare(stack: ExitStack, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(bare_relay.__file__)), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


async def _idle_links(made: Mesh, endpoint: str, pid: int) -> tuple[float, float]:
    """(share of a core, KiB a link) of a worker that a thousand idle callers are connected to."""
    loop = asyncio.get_running_loop()
    network = ZmqNetwork(loop, membership=made.visitor())
    limits = PeerLimits()
    callers = [
        Peers(
            network=network,
            identity=Identity(CLIENT, epoch=1 + number, role="client"),
            rng=Random(number),
            limits=limits,
            max_peers=4,
            linger=600.0,
        )
        for number in range(LINKS)
    ]
    try:
        resident = resident_bytes(pid)
        await asyncio.gather(*(caller.request(endpoint, "echo", 1, timeout=20.0) for caller in callers))
        grown = resident_bytes(pid) - resident
        await asyncio.sleep(1.0)
        before = cpu_seconds(pid)
        await asyncio.sleep(IDLE_SECONDS)
        return (cpu_seconds(pid) - before) / IDLE_SECONDS, grown / 1024 / LINKS
    finally:
        for caller in callers:
            caller.close()
        network.close()


def _start(made: Mesh) -> tuple[str, str]:
    orchestrator = made.start("wrk-orchestrator", "o", "--rpc.port", "0")
    direct = made.start(RACK, "alone")
    for name in ("r1", "r2"):
        made.start("wrk-rack-sim", name, "--capacity", "1000")
    uvloop.run(_routable(made, orchestrator))
    return direct, orchestrator


async def _routable(made: Mesh, orchestrator: str) -> None:
    async with made.client() as peers, asyncio.timeout(10):
        while True:
            answer = await peers.request(orchestrator, "listWorkers", {"state": "healthy"}, timeout=5.0)
            if answer["total"] == 3:  # the one alone finds it, too
                return


def run() -> list[Row]:
    with mesh() as made:
        direct, orchestrator = _start(made)
        pid = made.processes["o"].pid
        rates, firsts, forwarded, relayed = [], [], [], []
        for _ in range(ROUNDS):
            rates.append(uvloop.run(_rate(made, direct)))
            firsts.append(uvloop.run(_first_and_unary(made, direct)))
            forwarded.append(uvloop.run(_forwarded(made, orchestrator, pid)))
            relayed.append(_relayed(STREAMS * PER_SECOND))
        idle, resident = uvloop.run(_idle_links(made, direct, made.processes["alone"].pid))
    rate = statistics.median(rates)
    first, unary = (statistics.median(column) for column in zip(*firsts, strict=True))
    cost, pace = (statistics.median(column) for column in zip(*forwarded, strict=True))
    bare = statistics.median(relayed)
    return [
        Row("items between two processes", rate, "items/s", ">= 300,000", rate >= 300_000),
        Row("first item, p50", first, "us"),
        Row("unary call, p50", unary, "us"),
        Row("first item / unary call", first / unary, "x", "<= 1.2 x", first <= 1.2 * unary),
        Row(f"{STREAMS} streams of {PER_SECOND} items/s through an orchestrator", pace, "items/s"),
        Row("its CPU an item", cost, "us", "<= 40 us", cost <= 40),
        Row("a bare pyzmq relay's CPU an item", bare, "us"),
        Row("orchestrator / bare relay", cost / bare, "x", "<= 1.6 x", cost <= 1.6 * bare),
        Row(f"{LINKS} idle links, share of a core", 100 * idle, "%", "<= 6 %", idle <= 0.06),
        Row("each of them, resident", resident, "KiB", "<= 100 KB", resident <= 100 * 1000 / 1024),
    ]
