"""How fast a call is, beside a raw synchronous pyzmq echo of the same dict in the same run.

Everything is measured twice: on links as the product makes them, encrypted between certified peers, and on
open ones, which no process of the product has. Rounds of the yardstick and of ours are interleaved and
medians compared, because the machine's speed drifts more between minutes than the figures differ. Direct
calls use `Peers.request`, the way of every caller; routed ones go through a real orchestrator process to
two racks.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import defaultdict
from typing import Any

import uvloop

from benchmarks import raw_pyzmq
from benchmarks.mesh import Mesh, mesh
from benchmarks.report import Row
from wrk_base.rpc.peers import Peers

ROUNDS = 5
BODY = raw_pyzmq.MESSAGE
SIZES = {1: 4_000, 64: 60_000, 512: 60_000}
ROUTED = {1: 2_000, 64: 20_000}
ECHO_RACK = "benchmarks.echo_rack:EchoRack"
WORKER = "wrk_base.worker:Worker"
LONGER = {1_000: 20_000, 10_000: 10_000, 100_000: 4_000, 1_000_000: 500}  # bytes of a body: requests
OPEN, ENCRYPTED = "open", "encrypted"

Round = tuple[float, float]
Rounds = dict[tuple[str, int], list[Round]]
"""(what, in flight) -> (requests per second, p50 in microseconds) of each round."""


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


def _measure(made: Mesh, endpoint: str, method: str, body: Any, requests: int, window: int) -> Round:
    """One round, after a warm-up."""

    async def main() -> Round:
        async with made.client() as peers:
            await _drive(peers, endpoint, method, body, min(2_000, requests), window)
            begun = time.perf_counter()
            trips = await _drive(peers, endpoint, method, body, requests, window)
            return len(trips) / (time.perf_counter() - begun), statistics.median(trips) * 1e6

    return uvloop.run(main())


def _start(made: Mesh) -> tuple[str, str]:
    """(an echo worker's endpoint, the endpoint of an orchestrator with two racks)."""
    orchestrator = made.start("wrk-orchestrator", "o", "--rpc.port", "0")
    direct = made.start(WORKER, "alone")
    for name in ("r1", "r2"):
        made.start(ECHO_RACK, name, "--discovery.peers", orchestrator)
    uvloop.run(_routable(made, orchestrator))
    return direct, orchestrator


async def _routable(made: Mesh, orchestrator: str) -> None:
    async with made.client() as peers, asyncio.timeout(10):
        while True:
            answer = await peers.request(orchestrator, "listWorkers", {"state": "healthy"}, timeout=5.0)
            if answer["total"] == 2:
                return


def run() -> list[Row]:
    rounds: Rounds = defaultdict(list)
    inference = {"modelId": "echo", "inputData": BODY}
    with mesh() as encrypted, mesh(is_open=True) as plain:
        places = [(made, name, *_start(made)) for made, name in ((encrypted, ENCRYPTED), (plain, OPEN))]
        for _ in range(ROUNDS):
            for window, requests in SIZES.items():
                rounds["raw", window].append(raw_pyzmq.measure(window, requests))
                for made, name, direct, _ in places:
                    measured = _measure(made, direct, "echo", BODY, requests, window)
                    rounds[f"echo {name}", window].append(measured)
            for window, requests in ROUTED.items():
                for made, name, _, orchestrator in places:
                    measured = _measure(
                        made, orchestrator, "routeInferenceRequest", inference, requests, window
                    )
                    rounds[f"routed {name}", window].append(measured)
            for size, requests in LONGER.items():
                for made, name, direct, _ in places:
                    measured = _measure(made, direct, "echo", bytes(size), requests, 16)
                    rounds[f"bytes {name}", size].append(measured)
    return [*_rates(rounds), *_trips(rounds), *_costs(rounds)]


def _rate(rounds: list[Round]) -> float:
    return statistics.median(rate for rate, _ in rounds)


def _p50(rounds: list[Round]) -> float:
    return statistics.median(p50 for _, p50 in rounds)


def _rates(rounds: Rounds) -> list[Row]:
    rows = []
    for window, least in ((64, 1.5), (512, 2.0)):
        raw = _rate(rounds["raw", window])
        rows.append(Row(f"raw pyzmq, {window} in flight", raw, "req/s"))
        for name in (OPEN, ENCRYPTED):
            rate = _rate(rounds[f"echo {name}", window])
            rows.append(Row(f"echo {name}, {window} in flight", rate, "req/s"))
            rows.append(_at_least(f"echo {name} / raw, {window} in flight", rate / raw, least, "raw"))
    for name in (OPEN, ENCRYPTED):
        routed, raw = _rate(rounds[f"routed {name}", 64]), _rate(rounds["raw", 64])
        rows.append(Row(f"through an orchestrator to two racks, {name}, 64 in flight", routed, "req/s"))
        rows.append(_at_least(f"routed {name} / raw direct, 64 in flight", routed / raw, 0.6, "raw"))
    return rows


def _trips(rounds: Rounds) -> list[Row]:
    raw = _p50(rounds["raw", 1])
    rows = [Row("raw pyzmq p50, 1 in flight", raw, "us")]
    for name, most in ((OPEN, 1.6), (ENCRYPTED, 1.8)):
        echo, routed = _p50(rounds[f"echo {name}", 1]), _p50(rounds[f"routed {name}", 1])
        ratio, added = echo / raw, routed / echo - 1
        rows += [
            Row(f"echo {name} p50, 1 in flight", echo, "us"),
            Row(f"echo {name} / raw p50, 1 in flight", ratio, "x", f"<= {most} x raw", ratio <= most),
            Row(f"routed {name} p50, 1 in flight", routed, "us"),
            Row(f"added by the orchestrator / echo {name} p50", added, "x", "<= 1.4 x echo", added <= 1.4),
        ]
    return rows


def _costs(rounds: Rounds) -> list[Row]:
    """What encryption costs, by the median of the rounds' own ratios: each has both in a row."""
    pairs = [
        ("echo of a small dict, 64 in flight", ("echo", 64), 0.9),
        ("through an orchestrator, 64 in flight", ("routed", 64), 0.9),
        *(
            (f"echo of {size:,} bytes, 16 in flight", ("bytes", size), 0.9 if size <= 1_000 else None)
            for size in LONGER
        ),
    ]
    rows = []
    for text, (what, key), least in pairs:
        ratio = statistics.median(
            sealed / plain
            for (sealed, _), (plain, _) in zip(
                rounds[f"{what} {ENCRYPTED}", key], rounds[f"{what} {OPEN}", key], strict=True
            )
        )
        rows.append(_at_least(f"encrypted / open: {text}", ratio, least, "open"))
    return rows


def _at_least(name: str, ratio: float, least: float | None, than: str) -> Row:
    limit = "" if least is None else f">= {least} x {than}"
    return Row(name, ratio, "x", limit, least is None or ratio >= least) if limit else Row(name, ratio, "x")
