"""Round trips as figures: percentiles and a histogram. Pure; milliseconds throughout."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log, sqrt
from typing import NamedTuple

MOST_BINS = 12  # lines of a terminal that one glance takes in
NARROWEST = 1.02  # upper end of a bin to its lower one; what differs by less is noise of the clock
LEAST_MS = 0.001  # what is less is no round trip, and a logarithm wants more than 0
PERCENTILES = {"min": 0.0, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


class Bin(NamedTuple):
    """So many of the samples lie from `low` up to `high`."""

    low: float
    high: float
    samples: int


def percentile(ordered: Sequence[float], share: float) -> float:
    """The least sample that so large a share does not exceed (nearest rank); `ordered` is not empty."""
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


def summary(samples: Sequence[float]) -> dict[str, float]:
    """`min`, `p50`, `p90`, `p99` and `max` of at least one sample."""
    ordered = sorted(samples)
    return {name: percentile(ordered, share) for name, share in PERCENTILES.items()}


def histogram(samples: Sequence[float]) -> list[Bin]:
    """Bins of equal ratio from the least sample to the greatest: latencies have long tails.

    There are as many as the root of the number of samples, up to a bound.
    """
    low, high = max(min(samples), LEAST_MS), max(max(samples), LEAST_MS)
    most = min(MOST_BINS, ceil(sqrt(len(samples))))
    count = max(1, min(most, int(log(high / low) / log(NARROWEST))))
    ratio = (high / low) ** (1 / count)
    edges = [*(low * ratio**number for number in range(count)), high]
    counts = [0] * count
    for sample in samples:
        place = int(log(max(sample, LEAST_MS) / low) / log(ratio)) if ratio > 1 else 0
        counts[min(place, count - 1)] += 1
    return [Bin(edges[number], edges[number + 1], counts[number]) for number in range(count)]
