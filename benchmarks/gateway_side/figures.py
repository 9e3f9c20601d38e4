"""What is measured of a gateway and what came out: cells, figures, the medians of rounds. Pure.

Nothing but the standard library here: the load's process imports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import ceil
from statistics import median

DIRECT = "direct to a mock"
NATIVE = "ours, native racks"
OPENAI = "ours, openai racks"


@dataclass(frozen=True, slots=True)
class Unary:
    """`connections` callers, each asking again when it was answered."""

    connections: int

    @property
    def title(self) -> str:
        return f"unary chat, {self.connections} connection{'s' if self.connections > 1 else ''}"


@dataclass(frozen=True, slots=True)
class Streams:
    """`streams` at once, each of `tokens` tokens; begun one after the other within `over` seconds."""

    streams: int
    tokens: int
    over: float = 0.0
    bursts: int = 1

    @property
    def title(self) -> str:
        if self.over:
            return f"{self.streams} streams x 50 tokens/s"
        return f"{self.streams} streams opened at once"


Cell = Unary | Streams


@dataclass(frozen=True, slots=True)
class Figures:
    """Times in microseconds. Of streams `rate` and the CPU time are an event's, `p50` and `p99` those of the
    first event, and gaps are between the tokens of one stream. `cpu` is that of all processes between
    client and mock, `mock_cpu` that of what answers."""

    rate: float
    p50: float
    p99: float
    cpu: float
    mock_cpu: float
    gap_p50: float = 0.0
    gap_p99: float = 0.0


@dataclass(slots=True)
class Outcome:
    """The rounds of one gateway in one cell, and why there are no more of them."""

    rounds: list[Figures] = field(default_factory=list)
    problem: str = ""

    @property
    def figures(self) -> Figures | None:
        return medians(self.rounds) if self.rounds else None


@dataclass(frozen=True, slots=True)
class ManyRacks:
    """Of an orchestrator with many racks; the CPU time is a share of a core."""

    idle_bytes: int
    peak_bytes: int
    idle_cpu: float


@dataclass(frozen=True, slots=True)
class UnequalRacks:
    """Good answers a second, of each rack by itself and of all."""

    alone: dict[str, float]
    together: float

    @property
    def share(self) -> float:
        return self.together / sum(self.alone.values())


@dataclass(frozen=True, slots=True)
class SharedPrefixes:
    """Shares of prompt tokens that racks knew, by strategy, and the busiest rack's requests over the mean."""

    in_turn_hits: float
    aware_hits: float
    aware_most: float


Results = dict[tuple[str, Cell], Outcome]  # by the gateway's name


def medians(rounds: Sequence[Figures]) -> Figures:
    """Of each figure by itself, as the machine's bad moments do not meet all of them alike."""
    columns = [asdict(figures) for figures in rounds]
    return Figures(**{name: median(column[name] for column in columns) for name in Figures.__slots__})


def percentile(values: Sequence[float], share: int) -> float:
    """The nearest rank; 0 of nothing."""
    ordered = sorted(values)
    return ordered[max(0, ceil(len(ordered) * share / 100) - 1)] if ordered else 0.0
