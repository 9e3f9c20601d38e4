"""How fast a call is, beside a raw synchronous pyzmq echo of the same dict in the same run.

Rounds of the yardstick and of ours are interleaved and medians compared, because the machine's speed
drifts more between minutes than the figures differ. Direct calls use `Peers.request`, the way of every
caller; routed ones go through a real orchestrator process to two racks.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

import uvloop

from benchmarks import raw_pyzmq
from benchmarks.mesh import Mesh, client, mesh
from benchmarks.report import Row
from wrk_base.rpc.peers import Peers

ROUNDS = 5
BODY = raw_pyzmq.MESSAGE
SIZES = {1: 4_000, 64: 60_000, 512: 60_000}
ROUTED = {1: 2_000, 64: 20_000}
ECHO_RACK = "benchmarks.echo_rack:EchoRack"


async def _drive(
    peers: Peers, endpoint: str, method: str, body: Any, requests: int, window: int
) -> list[float]:
    """Seconds of each of `requests` calls, at most `window` of them in flight."""
    trips: list[float] = []
    left = requests

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            begun = time.perf_counter()
            await peers.request(endpoint, method, body, timeout=30.0)
            trips.append(time.perf_counter() - begun)

    await asyncio.gather(*(caller() for _ in range(window)))
    return trips


def _measure(endpoint: str, method: str, body: Any, requests: int, window: int) -> tuple[float, float]:
    """(requests per second, p50 in microseconds) of one round, after a warm-up."""

    async def main() -> tuple[float, float]:
        async with client() as peers:
            await _drive(peers, endpoint, method, body, min(2_000, requests), window)
            begun = time.perf_counter()
            trips = await _drive(peers, endpoint, method, body, requests, window)
            return len(trips) / (time.perf_counter() - begun), statistics.median(trips) * 1e6

    return uvloop.run(main())


def _start(made: Mesh) -> tuple[str, str]:
    """(an echo worker's endpoint, the endpoint of an orchestrator with two racks)."""
    orchestrator = made.start("wrk-orchestrator", "o", "--rpc.port", "0")
    direct = made.start(ECHO_RACK, "alone")
    for name in ("r1", "r2"):
        made.start(ECHO_RACK, name, "--discovery.peers", orchestrator)
    uvloop.run(_both_routable(orchestrator))
    return direct, orchestrator


async def _both_routable(orchestrator: str) -> None:
    async with client() as peers:
        async with asyncio.timeout(10):
            while True:
                answer = await peers.request(orchestrator, "listWorkers", {"state": "healthy"}, timeout=5.0)
                if answer["total"] == 2:
                    return


def run() -> list[Row]:
    raw: dict[int, list[tuple[float, float]]] = {window: [] for window in SIZES}
    ours: dict[int, list[tuple[float, float]]] = {window: [] for window in SIZES}
    routed: dict[int, list[tuple[float, float]]] = {window: [] for window in ROUTED}
    inference = {"modelId": "echo", "inputData": BODY}
    with mesh() as made:
        direct, orchestrator = _start(made)
        for _ in range(ROUNDS):
            for window, requests in SIZES.items():
                raw[window].append(raw_pyzmq.measure(window, requests))
                ours[window].append(_measure(direct, "echo", BODY, requests, window))
            for window, requests in ROUTED.items():
                routed[window].append(
                    _measure(orchestrator, "routeInferenceRequest", inference, requests, window)
                )
    return [*_rates(raw, ours, routed), *_trips(raw, ours, routed)]


Rounds = dict[int, list[tuple[float, float]]]


def _rate(rounds: list[tuple[float, float]]) -> float:
    return statistics.median(rate for rate, _ in rounds)


def _p50(rounds: list[tuple[float, float]]) -> float:
    return statistics.median(p50 for _, p50 in rounds)


def _rates(raw: Rounds, ours: Rounds, routed: Rounds) -> list[Row]:
    rows = []
    limits = {64: 1.5, 512: 2.0}
    for window in (64, 512):
        ratio = _rate(ours[window]) / _rate(raw[window])
        least = limits.get(window)
        rows += [
            Row(f"raw pyzmq, {window} in flight", _rate(raw[window]), "req/s"),
            Row(f"echo, {window} in flight", _rate(ours[window]), "req/s"),
            _at_least(f"echo / raw, {window} in flight", ratio, least),
        ]
    ratio = _rate(routed[64]) / _rate(raw[64])
    return [
        *rows,
        Row("through an orchestrator to two racks, 64 in flight", _rate(routed[64]), "req/s"),
        _at_least("routed / raw direct, 64 in flight", ratio, 0.6),
    ]


def _trips(raw: Rounds, ours: Rounds, routed: Rounds) -> list[Row]:
    ratio = _p50(ours[1]) / _p50(raw[1])
    added = _p50(routed[1]) / _p50(ours[1]) - 1
    return [
        Row("raw pyzmq p50, 1 in flight", _p50(raw[1]), "us"),
        Row("echo p50, 1 in flight", _p50(ours[1]), "us"),
        Row("echo / raw p50, 1 in flight", ratio, "x", "<= 1.6 x raw", ratio <= 1.6),
        Row("routed p50, 1 in flight", _p50(routed[1]), "us"),
        Row("added by the orchestrator / echo p50", added, "x", "<= 1.4 x echo", added <= 1.4),
    ]


def _at_least(name: str, ratio: float, least: float | None) -> Row:
    return (
        Row(name, ratio, "x") if least is None else Row(name, ratio, "x", f">= {least} x raw", ratio >= least)
    )
