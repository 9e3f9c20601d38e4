"""The gateway beside others, in one run on one machine: `bin/bench gateway`, or `--quick` for a short look.

Ours twice (native racks, and openai racks before the same mocks as everybody), vllm-router, smg,
sglang-router, litellm, and haproxy as the ceiling. Rounds are outermost and all take turns inside. Then
what only ours is asked: a hundred racks, unequal racks, prompts that begin alike. Needs Linux, wrk and
haproxy (Debian: `apt-get install wrk haproxy`); takes ten minutes, and the first time as long again for
the peers' packages. Beside the judged figures it writes every cell: gateway_table.md, gateway_table.json.
"""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import SubprocessError
from typing import TypeVar

from benchmarks.gateway_side import (
    load,
    many_racks,
    mocks,
    ours,
    peers,
    shared_prefixes,
    table,
    unequal_racks,
    verdicts,
)
from benchmarks.gateway_side.figures import DIRECT, Cell, Outcome, Results, Streams, Unary
from benchmarks.gateway_side.gateway import Gateway, Running
from benchmarks.report import RESULTS, Row, machine
from benchmarks.side_by_side.processes import CellError, reason

Found = TypeVar("Found")

ONE, BUSY = Unary(1), (Unary(32), Unary(128))
BURST = Streams(streams=100, tokens=2, bursts=10)
WARM_UP = Unary(32)
WARM_UP_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """How long everything is looked at; `seconds` of a unary cell in a round."""

    rounds: int = 3
    seconds: int = 3
    tokens: int = 200  # of a stream: four seconds
    settle: float = 5.0
    watch: float = 10.0
    learn: int = 5
    questions: int = 4000

    @property
    def streams(self) -> Streams:
        return Streams(streams=400, tokens=self.tokens, over=1.0)

    @property
    def cells(self) -> tuple[Cell, ...]:
        return (ONE, *BUSY, self.streams, BURST)


WHOLE = Plan()
QUICK = Plan(rounds=1, seconds=1, tokens=50, settle=2.0, watch=3.0, learn=2, questions=1000)


def run(*, quick: bool = False) -> list[Row]:
    """A short look leaves the kept results alone."""
    if not Path("/proc/self/statm").exists() or shutil.which("wrk") is None:
        sys.exit("bin/bench gateway needs Linux, for what processes use, and wrk (apt-get install wrk)")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends what was started, too
    plan = QUICK if quick else WHOLE
    results = compare(plan)
    _publish(plan, results, keep=not quick)
    return [
        *_rates(results),
        *verdicts.judge(results, ONE, BUSY, plan.streams, BURST),
        *_ours_alone(plan),
    ]


def compare(plan: Plan) -> Results:
    """A cell that failed is not tried again: it would take the time of all the others."""
    results: Results = {}
    with _gateways() as gateways:
        results = {(gateway.name, cell): Outcome() for cell in plan.cells for gateway in gateways}
        for number in range(plan.rounds):
            _say(f"round {number + 1} of {plan.rounds}")
            for cell in plan.cells:
                for gateway in gateways:
                    outcome = results[gateway.name, cell]
                    if not outcome.problem:
                        _add_round(gateway, cell, plan.seconds, outcome)
    return results


@contextmanager
def _gateways() -> Iterator[list[Gateway]]:
    with mocks.serve() as served, ExitStack() as stack:
        direct = Gateway(DIRECT, lambda _: Running(served.ports[0], (), served.pids))
        others = [peer.gateway(served) for peer in peers.PEERS]
        gateways = [direct, ours.native(), ours.openai(served), *others]
        for gateway in gateways:
            stack.callback(gateway.stop)
        for gateway in gateways:
            _warm_up(gateway)
        yield gateways


def _warm_up(gateway: Gateway) -> None:
    """Start it, and let it be asked for a second."""
    _say(f"starting {gateway.name}")
    try:
        load.unary(gateway.running(), WARM_UP, WARM_UP_SECONDS * gateway.patience)
        gateway.rest()
    except CellError as error:
        _say(f"LEFT OUT: {gateway.name}: {error}")


def _add_round(gateway: Gateway, cell: Cell, seconds: int, outcome: Outcome) -> None:
    try:
        outcome.rounds.append(load.measure(gateway.running(), cell, seconds * gateway.patience))
        gateway.rest()
    except (CellError, OSError) as error:
        outcome.problem = str(error)
        gateway.stop()
        _say(f"LEFT OUT: {gateway.name}, {cell.title}: {error}")


def _ours_alone(plan: Plan) -> Iterator[Row]:
    _say(f"{many_racks.RACKS} racks")
    many = _found(lambda: many_racks.measure(plan.settle, plan.watch, plan.streams, plan.seconds))
    yield from verdicts.judge_many(many, many_racks.RACKS)
    _say("unequal racks")
    yield from verdicts.judge_unequal(_found(lambda: unequal_racks.measure(plan.learn, 2 * plan.seconds)))
    _say("shared prefixes")
    yield from verdicts.judge_prefixes(_found(lambda: shared_prefixes.measure(plan.questions)))


def _found(measure: Callable[[], Found]) -> Found | str:
    """What it measures, or why there is nothing."""
    try:
        return measure()
    except (CellError, OSError, RuntimeError, SubprocessError, TimeoutError) as error:
        return reason(str(error)) or type(error).__name__


def _rates(results: Results) -> list[Row]:
    """What everyone reaches where most is judged."""
    return [
        Row(
            f"{name}, {cell.title}",
            outcome.figures.rate if outcome.figures else 0.0,
            "req/s",
            "" if outcome.figures else f"LEFT OUT: {outcome.problem}",
        )
        for (name, cell), outcome in results.items()
        if cell in BUSY
    ]


def _publish(plan: Plan, results: Results, *, keep: bool) -> None:
    """Every cell: shown, and kept beside the judged figures."""
    facts = {**machine(), "peers": ", ".join(peers.versions())}
    theirs = {peer.name: peer.note for peer in peers.PEERS}
    notes = {DIRECT: "No gateway at all.", **ours.NOTES, **theirs}
    page = table.page(facts, notes, plan.cells, results, plan.rounds)
    print(page)
    if not keep:
        return
    for name, text in (("gateway_table.md", page), ("gateway_table.json", table.document(facts, results))):
        (RESULTS / name).write_text(text)
        _say(f"written: {RESULTS / name}")


def _say(text: str) -> None:
    print(f"gateway: {text}", file=sys.stderr, flush=True)
