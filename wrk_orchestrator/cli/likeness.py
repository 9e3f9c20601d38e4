"""How alike vectors are, and which pair of texts is the closest. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import sqrt

Vector = Sequence[float]


def cosine(one: Vector, other: Vector) -> float:
    """1 for the same direction, 0 for a right angle; 0 where one has no direction."""
    lengths = sqrt(sum(x * x for x in one)) * sqrt(sum(y * y for y in other))
    return sum(x * y for x, y in zip(one, other, strict=True)) / lengths if lengths else 0.0


def pairs(texts: Sequence[str], vectors: Sequence[Vector]) -> list[tuple[str, str, float]]:
    """Every pair of texts with its likeness, the closest first."""
    both = zip(texts, vectors, strict=True)
    alike = [(a, b, cosine(x, y)) for (a, x), (b, y) in combinations(both, 2)]
    return sorted(alike, key=lambda pair: -pair[2])
