"""Which texts are alike, told from their vectors."""

from __future__ import annotations

import pytest

from wrk_orchestrator.cli.likeness import cosine, pairs


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((1, 0), (2, 0), 1.0),
        ((1, 0), (0, 3), 0.0),
        ((1, 0), (-1, 0), -1.0),
        ((1, 1), (1, 0), 0.5**0.5),
        ((0, 0), (1, 0), 0.0),
    ],
)
def test_the_angle_counts_and_the_length_does_not(
    one: tuple[float, ...], other: tuple[float, ...], expected: float
) -> None:
    assert cosine(one, other) == pytest.approx(expected)


def test_vectors_of_two_models_cannot_be_compared() -> None:
    with pytest.raises(ValueError):
        cosine((1, 0), (1, 0, 0))


def test_every_pair_is_there_once_and_the_closest_comes_first() -> None:
    found = pairs(("a", "b", "c"), ((1, 0), (0, 1), (1, 0.1)))
    assert [pair[:2] for pair in found] == [("a", "c"), ("b", "c"), ("a", "b")]
