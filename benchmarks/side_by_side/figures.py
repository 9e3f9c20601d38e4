"""What is compared, and what came out: cells, figures, and the medians of rounds. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median

MIB = 1024 * 1024
UNITS = ((MIB, "MiB"), (1000, "kB"), (1, "B"))


@dataclass(frozen=True, slots=True)
class Cell:
    """`window` requests in flight, each an echo of `body` bytes, or a stream of `stream` small items."""

    window: int
    body: int = 0
    stream: int = 0

    @property
    def title(self) -> str:
        if self.stream:
            return f"streams of {self.stream:,} small items, {self.window} at a time"
        return f"{self.window} in flight, {size(self.body)}"

    @property
    def arguments(self) -> list[str]:
        """As a peer's `drive` takes them."""
        kind = ["--stream", str(self.stream)] if self.stream else ["--body", str(self.body)]
        return ["--window", str(self.window), *kind]


@dataclass(frozen=True, slots=True)
class Figures:
    """Times in microseconds. Of a stream the rate and the CPU time are an item's, p50 and p99 a stream's."""

    requests_per_s: float
    p50_us: float
    p99_us: float
    client_cpu_us: float
    server_cpu_us: float | None = None  # unknown where there is no /proc

    @property
    def cpu_us(self) -> float | None:
        """Of both sides, a request."""
        return None if self.server_cpu_us is None else self.client_cpu_us + self.server_cpu_us

    @classmethod
    def read(cls, told: dict[str, float]) -> Figures:
        """From the line that a driver prints."""
        return cls(**{name: told[name] for name in cls.__slots__ if name in told})


@dataclass(slots=True)
class Outcome:
    """The rounds of one peer in one cell, and why there are no more of them."""

    rounds: list[Figures] = field(default_factory=list)
    problem: str = ""

    @property
    def figures(self) -> Figures | None:
        return medians(self.rounds) if self.rounds else None


Results = dict[tuple[str, Cell], Outcome]  # by the peer's name


def medians(rounds: list[Figures]) -> Figures:
    """Of each figure by itself, as the machine's bad moments do not meet all of them alike."""
    columns = {name: [asdict(figures)[name] for figures in rounds] for name in Figures.__slots__}
    known: dict[str, float] = {name: median(column) for name, column in columns.items() if None not in column}
    return Figures(**known)


def size(body: int) -> str:
    """100 B, 10 kB, 1 MiB."""
    unit, name = next((unit, name) for unit, name in UNITS if body % unit == 0 and body >= unit)
    return f"{body // unit} {name}"
