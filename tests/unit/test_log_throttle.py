"""A storm of events: the first pass, the others are counted, and each number is told once."""

from __future__ import annotations

import pytest

from wrk_base.log_throttle import MOST_KINDS, Throttle


@pytest.fixture
def throttle() -> Throttle:
    return Throttle(3, 1.0)


def passed(throttle: Throttle, kind: str, *at: float) -> list[bool]:
    return [throttle.facts(kind, now) is not None for now in at]


def test_the_first_of_a_while_pass(throttle: Throttle) -> None:
    assert passed(throttle, "a", 0.0, 0.1, 0.2, 0.3, 0.999) == [True, True, True, False, False]
    assert throttle.facts("a", 1.0) == {"suppressed": 2}
    assert throttle.facts("a", 1.1) == {}


def test_kinds_do_not_silence_each_other(throttle: Throttle) -> None:
    passed(throttle, "a", *[0.0] * 10)
    assert throttle.facts("b", 0.0) == {}


def test_end_of_a_storm_is_told_once(throttle: Throttle) -> None:
    passed(throttle, "a", *[0.0] * 10)
    passed(throttle, "b", *[0.5] * 4)
    assert throttle.due(0.9) == []
    assert throttle.due(1.0) == [("a", 7)]
    assert throttle.due(2.0) == [("b", 1)]
    assert throttle.due(3.0) == []
    assert throttle.facts("a", 4.0) == {}


def test_what_was_told_by_a_later_event_is_not_told_again(throttle: Throttle) -> None:
    passed(throttle, "a", *[0.0] * 5)
    assert throttle.facts("a", 1.0) == {"suppressed": 2}
    assert throttle.due(9.0) == []


def test_clock_that_is_put_back_silences_nobody(throttle: Throttle) -> None:
    passed(throttle, "a", *[1e6] * 5)
    assert throttle.facts("a", 5.0) == {"suppressed": 2}


def test_kinds_are_bounded(throttle: Throttle) -> None:
    for number in range(3 * MOST_KINDS):
        passed(throttle, f"kind {number}", *[0.0] * 4)
    assert len(throttle) == MOST_KINDS
    assert len(throttle.due(1.0)) == MOST_KINDS
