"""How long a queue takes, by arithmetic: what was measured, what is guessed before, what standing does."""

from __future__ import annotations

import pytest

from wrk_orchestrator.wait_estimate import LEAST_S, MOST_S, PACES_KEPT, Pace, Paces


def moved(*at: float, guess: float = 1.0) -> Pace:
    pace = Pace(guess)
    pace.begin(0.0)
    for now in at:
        pace.moved(now)
    return pace


def test_guess_counts_until_something_was_measured() -> None:
    assert moved(guess=0.5).seconds(4, 0.0) == 2.0


@pytest.mark.parametrize("gap", [0.1, 1.0, 20.0])
def test_steady_queue_takes_its_gap_for_each(gap: float) -> None:
    pace = moved(*(gap * number for number in range(1, 11)))
    assert pace.seconds(5, gap * 10) == pytest.approx(5 * gap)


def test_slots_that_come_free_together_count_each() -> None:
    """Eight at once every eight seconds are one a second."""
    pace = moved(*(8.0 * (1 + number // 8) for number in range(64)))
    assert pace.seconds(10, 64.0) == pytest.approx(10, rel=0.25)


def test_what_was_long_ago_is_forgotten() -> None:
    pace = moved(*range(1, 200), *(200 + number / 10 for number in range(200)))
    assert pace.seconds(10, 220.0) == pytest.approx(1.0, rel=0.1)


def test_queue_that_stands_still_promises_less_and_less() -> None:
    pace = moved(1.0, 2.0, 3.0)
    promises = [pace.seconds(1, now) for now in (3.0, 3.5, 10.0, 100.0)]
    assert promises[:2] == [1.0, 1.0]
    assert promises[1] < promises[2] < promises[3]
    assert moved(guess=1.0).seconds(1, 5.0) == 5.0


def test_pause_without_anybody_waiting_is_no_gap() -> None:
    pace = moved(1.0, 2.0)
    pace.begin(500.0)
    pace.moved(501.0)
    assert pace.seconds(1, 501.0) == pytest.approx(1.0)


def test_what_is_promised_is_bounded() -> None:
    assert moved(guess=0.0).seconds(1, 0.0) == LEAST_S
    assert moved(guess=1e6).seconds(1, 0.0) == MOST_S


def test_guess_is_not_measured_and_neither_is_a_pause() -> None:
    assert moved(1.0, 2.0, 3.0).measured(5, 3.0) == 0.0
    pace = moved(1.0, 2.0, 3.0, 4.0)
    assert pace.measured(5, 4.0) == pytest.approx(5.0)
    pace.pause()
    assert pace.measured(5, 4.0) == 0.0


def test_paces_are_kept_for_so_many_things() -> None:
    paces: Paces[int] = Paces()
    first = paces.of(0, 1.0)
    for number in range(3 * PACES_KEPT):
        paces.of(number, 1.0)
    assert len(paces) == PACES_KEPT
    assert paces.of(0, 1.0) is not first
