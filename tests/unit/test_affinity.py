"""What a request is compared by: places of sessions, beginnings of prompts."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from wrk_orchestrator import affinity
from wrk_orchestrator.affinity import LENGTHS, MOST_BYTES, Affinity, place


def shared(one: bytes, other: bytes) -> int:
    """How long the longest beginning is that both are known by."""
    common = set(Affinity(prompt=one).beginnings) & set(Affinity(prompt=other).beginnings)
    return max((length for length, _ in common), default=0)


def test_sessions_and_workers_have_the_same_places_in_every_process() -> None:
    assert Affinity("alice").mark == (0.6216254682512354, 1361946371.0)
    assert place("w1") == 0.5889006682260858
    assert Affinity("\udc80").mark != Affinity("").mark


def test_lengths_grow_by_an_eighth_and_end_where_hashing_would_take_too_long() -> None:
    assert LENGTHS[0] == 128
    assert all(longer - shorter <= max(128, longer / 8) for shorter, longer in pairwise(LENGTHS))
    assert 0.875 * MOST_BYTES <= LENGTHS[-1] <= MOST_BYTES
    assert len(LENGTHS) < 64


@pytest.mark.parametrize("size", [0, 1, 127])
def test_a_short_prompt_has_no_beginning(size: int) -> None:
    assert Affinity(prompt=b"x" * size).beginnings == ()


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_beginnings_are_told_apart_by_every_byte_before_their_end(kind: Any) -> None:
    prompt = bytes(number % 251 for number in range(3000))
    for at in (0, 127, 128, 1000, 2999):
        other = bytearray(prompt)
        other[at] ^= 1
        alike = shared(prompt, kind(other))
        assert alike <= at
        assert alike == max((length for length in LENGTHS if length <= at), default=0)


def test_equal_blocks_at_other_places_do_not_count() -> None:
    assert shared(b"a" * 128 + b"b" * 128, b"c" * 128 + b"b" * 128) == 0


def test_of_a_long_prompt_no_more_is_hashed_than_the_bound() -> None:
    one, other = b"x" * MOST_BYTES, b"x" * 4 * MOST_BYTES
    assert Affinity(prompt=one).beginnings == Affinity(prompt=other).beginnings


def test_nothing_is_hashed_twice_or_before_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    monkeypatch.setattr(affinity, "_beginnings", lambda _: hashed.append("prompt") or [(128, 1)])
    monkeypatch.setattr(affinity, "_hash", lambda _: hashed.append("session") or (0.5, 1.0))
    one = Affinity("s", b"p")
    assert hashed == []
    assert one.beginnings is one.beginnings
    assert one.mark is one.mark
    assert hashed == ["prompt", "session"]
