"""What must hold, and whether it does: each figure of ours beside its limit. Pure.

A limit is mostly a multiple of a peer's figure of the same run. A peer that was left out judges nobody;
ours left out is a miss, and so is a part of ours that could not be measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.gateway_side.figures import (
    DIRECT,
    NATIVE,
    OPENAI,
    Cell,
    Figures,
    ManyRacks,
    Results,
    SharedPrefixes,
    Streams,
    Unary,
    UnequalRacks,
)
from benchmarks.report import Row

MB = 1_000_000
MOST_GAP_MS = 5.0  # beside direct
MOST_RESIDENT_MB, MOST_IDLE_CPU = 120, 0.03
LEAST_SHARE = 0.9
LEAST_HITS, MOST_LOADED = 1.8, 1.5


@dataclass(frozen=True, slots=True)
class Limit:
    """Our `figure` is at least, or at most, so many times the peer's."""

    ours: str
    peer: str
    times: float
    figure: Callable[[Figures], float]
    word: str
    at_least: bool = True


def rate(figures: Figures) -> float:
    return figures.rate


def p50(figures: Figures) -> float:
    return figures.p50


def cpu(figures: Figures) -> float:
    return figures.cpu


BUSY = (
    Limit(NATIVE, "vllm-router", 1.1, rate, "requests/s"),
    Limit(NATIVE, "smg", 2.0, rate, "requests/s"),
    Limit(NATIVE, "litellm", 100.0, rate, "requests/s"),
    Limit(OPENAI, "vllm-router", 0.3, rate, "requests/s"),
    Limit(OPENAI, "litellm", 30.0, rate, "requests/s"),
)
ALONE = Limit(NATIVE, "vllm-router", 2.5, p50, "p50", at_least=False)
EVENT_CPU = Limit(NATIVE, "vllm-router", 1.5, cpu, "CPU an event", at_least=False)
FIRST_EVENT = Limit(NATIVE, "vllm-router", 1.0, p50, "first event p50", at_least=False)


def judge(
    results: Results, one: Unary, busy: tuple[Unary, ...], streams: Streams, burst: Streams
) -> Iterator[Row]:
    for cell in busy:
        for limit in BUSY:
            yield _ratio(results, limit, cell)
    yield _ratio(results, ALONE, one)
    yield _complete(results, streams)
    yield _ratio(results, EVENT_CPU, streams)
    yield _gaps(results, streams)
    yield _ratio(results, FIRST_EVENT, burst)


def _ratio(results: Results, limit: Limit, cell: Cell) -> Row:
    name = f"{limit.ours} / {limit.peer}, {limit.word}, {cell.title}"
    wanted = f"{'>=' if limit.at_least else '<='} {limit.times:g} x {limit.peer}"
    ours, theirs = _figures(results, limit.ours, cell), _figures(results, limit.peer, cell)
    if ours is None or theirs is None:
        return _left_out(results, name, "x", wanted, limit.ours if ours is None else limit.peer, cell)
    ratio = limit.figure(ours) / limit.figure(theirs)
    return Row(name, ratio, "x", wanted, ratio >= limit.times if limit.at_least else ratio <= limit.times)


def _complete(results: Results, cell: Streams) -> Row:
    outcome = results.get((NATIVE, cell))
    name, wanted = f"{NATIVE}, {cell.title}", "all complete"
    if outcome is None or outcome.problem or not outcome.rounds:
        return _left_out(results, name, "streams", wanted, NATIVE, cell)
    return Row(name, cell.streams, "streams", wanted, True)


def _gaps(results: Results, cell: Streams) -> Row:
    name = f"{NATIVE} beside {DIRECT}, gap p99, {cell.title}"
    wanted = f"<= {MOST_GAP_MS:g} ms more"
    ours, direct = _figures(results, NATIVE, cell), _figures(results, DIRECT, cell)
    if ours is None or direct is None:
        return _left_out(results, name, "ms", wanted, NATIVE if ours is None else DIRECT, cell)
    more = (ours.gap_p99 - direct.gap_p99) / 1e3
    return Row(name, more, "ms", wanted, more <= MOST_GAP_MS)


def _figures(results: Results, name: str, cell: Cell) -> Figures | None:
    outcome = results.get((name, cell))
    return outcome.figures if outcome else None


def _left_out(results: Results, name: str, unit: str, wanted: str, missing: str, cell: Cell) -> Row:
    outcome = results.get((missing, cell))
    why = outcome.problem if outcome and outcome.problem else "not asked for"
    ok = False if missing in (NATIVE, OPENAI) else None
    return Row(name, 0.0, unit, f"{wanted}; {missing} LEFT OUT: {why}", ok)


# --- what is ours alone: figures, or why there are none


def _not_measured(name: str, unit: str, wanted: str, why: str) -> Row:
    return Row(name, 0.0, unit, f"{wanted}; NOT MEASURED: {why}", False)


def judge_many(found: ManyRacks | str, racks: int) -> Iterator[Row]:
    idle, most, at_rest = (
        f"{racks} racks, idle: resident",
        f"{racks} racks, busy: resident",
        f"{racks} racks, idle",
    )
    memory, cpu_time = f"<= {MOST_RESIDENT_MB} MB", f"<= {MOST_IDLE_CPU:.0%}"
    if isinstance(found, str):
        for name, unit, wanted in (
            (idle, "MB", memory),
            (most, "MB", memory),
            (at_rest, "% of a core", cpu_time),
        ):
            yield _not_measured(name, unit, wanted, found)
        return
    for name, held in ((idle, found.idle_bytes), (most, found.peak_bytes)):
        yield Row(name, held / MB, "MB", memory, held <= MOST_RESIDENT_MB * MB)
    yield Row(at_rest, found.idle_cpu * 100, "% of a core", cpu_time, found.idle_cpu <= MOST_IDLE_CPU)


def judge_unequal(found: UnequalRacks | str) -> Iterator[Row]:
    name, wanted = "racks of speeds 1 : 2 : 4, of what each does alone", f">= {LEAST_SHARE:g} x the sum"
    if isinstance(found, str):
        yield _not_measured(name, "x", wanted, found)
        return
    for rack, alone in found.alone.items():
        yield Row(f"the {rack} rack alone", alone, "requests/s")
    yield Row("the three together", found.together, "requests/s")
    yield Row(name, found.share, "x", wanted, found.share >= LEAST_SHARE)


def judge_prefixes(found: SharedPrefixes | str) -> Iterator[Row]:
    hits = "known prompt tokens, prefix-aware / round-robin"
    load = "prefix-aware, the busiest rack / the mean"
    least, most = f">= {LEAST_HITS:g} x round-robin", f"<= {MOST_LOADED:g} x"
    if isinstance(found, str):
        yield _not_measured(hits, "x", least, found)
        yield _not_measured(load, "x", most, found)
        return
    yield Row("known prompt tokens, round-robin", found.in_turn_hits * 100, "%")
    yield Row("known prompt tokens, prefix-aware", found.aware_hits * 100, "%")
    ratio = found.aware_hits / found.in_turn_hits
    yield Row(hits, ratio, "x", least, ratio >= LEAST_HITS)
    yield Row(load, found.aware_most, "x", most, found.aware_most <= MOST_LOADED)
