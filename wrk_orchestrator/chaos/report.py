"""A verdict in words: the figures of a run, what was broken, and how far the result carries. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from .checker import Violation
from .figures import Figures, percentile

SHOWN = 10  # violations; the history has them all
RULE_OF_THREE = 3  # no failure in n trials: a rate below 3/n, with 95 % confidence


def lines(figures: Figures, violations: Sequence[Violation], void: Sequence[str]) -> Iterator[str]:
    """What is printed at the end of a run."""
    kinds = Counter(violation.kind for violation in violations)
    outcomes = ", ".join(f"{count} {name}" for name, count in sorted(figures.outcomes.items()))
    yield f"requests   {figures.requests}: {outcomes or 'no answers'}"
    counted = ("lost", "doubled", "late", "error")
    yield "callers    " + ", ".join(f"{kinds[kind]} {kind}" for kind in counted)
    yield f"attempts   {figures.attempts} told, {figures.executions} executions begun"
    if figures.faults:
        yield f"faults     {', '.join(f'{count} x {kind}' for kind, count in figures.faults.items())}"
        unseen = f", {figures.unnoticed} not seen in the registry" if figures.unnoticed else ""
        yield f"noticed    {_spread(figures.noticed)}{unseen}"
        yield f"back       {_spread(figures.back)}"
    if figures.ends:
        yield f"ended      {_spread(figures.ends)} after being asked to"
    yield f"latency    p50 {_ms(figures.p50_ms)}, p99 {_ms(figures.p99_ms)}, most {_ms(figures.slowest_ms)}"
    yield f"           undisturbed: p50 {_ms(figures.calm_p50_ms)}, p99 {_ms(figures.calm_p99_ms)}"
    if figures.refused_p50_ms is not None:
        yield f"refusals   p50 {_ms(figures.refused_p50_ms)}, p99 {_ms(figures.refused_p99_ms)}"
    if figures.memory_mib is not None:
        yield f"memory     {figures.memory_mib[0]} MiB of orchestrators before, {figures.memory_mib[1]} after"
    for violation in violations[:SHOWN]:
        yield f"  {violation}"
    if len(violations) > SHOWN:
        yield f"  and {len(violations) - SHOWN} more"
    yield verdict(figures, violations, void)


def verdict(figures: Figures, violations: Sequence[Violation], void: Sequence[str]) -> str:
    if void:
        return f"void: this run proves nothing: {'; '.join(void)}"
    if violations:
        return f"broken: {len(violations)} violations"
    share = RULE_OF_THREE / figures.requests * 100
    return f"holds: no violation in {figures.requests} requests, a rate below {share:.2g} %"


def facts(figures: dict[str, Any], violations: Sequence[Violation], void: Sequence[str]) -> dict[str, Any]:
    """The same for programs."""
    broken = [violation._asdict() for violation in violations]
    return {"holds": not (violations or void), "void": list(void), "violations": broken, "figures": figures}


def _spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return "-"
    return f"median {percentile(seconds, 0.5)} s, most {max(seconds):.2f} s"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value} ms"
