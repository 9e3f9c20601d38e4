"""The numbers of worker health as tables, with their zero, equality, overflow and negative rows."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrk_orchestrator.health_arithmetic import (
    STEADY_HISTORY,
    beat_overdue,
    flap_share,
    jittered,
    own_pause,
    quarantine_allowance,
    quarantine_length,
    remember,
    slow_start_limit,
    still_flapping,
    strikes_left,
    suspect_after,
)


@pytest.mark.parametrize(
    ("interval", "silence", "expected"),
    [
        (1.0, 3.5, 2.25),
        (2.0, 3.5, 3.5),
        (0.0, 3.5, 0.0),
        (4.0, 9.0, 9.0),
        (4.0, 9.5, 9.0),
        (1e9, inf, 2.25e9),
    ],
)
def test_a_worker_is_suspect_two_beats_and_a_little_later_but_never_after_it_is_gone(
    interval: float, silence: float, expected: float
) -> None:
    assert suspect_after(interval, silence) == expected


@pytest.mark.parametrize(
    ("quiet", "expected"), [(-1.0, False), (0.0, False), (1.25, False), (1.26, True), (inf, True)]
)
def test_a_beat_is_overdue_a_little_after_its_interval(quiet: float, expected: bool) -> None:
    assert beat_overdue(quiet, 1.0) is expected


@pytest.mark.parametrize(
    ("gap", "lag", "expected"),
    [
        (0.25, 0.0, False),
        (0.75, 0.0, False),  # late by exactly half a beat
        (0.76, 0.0, True),
        (0.25, 0.5, False),
        (0.25, 0.51, True),
        (0.0, 0.0, False),
        (-5.0, -5.0, False),
        (10.0, 0.0, True),
    ],
)
def test_a_tick_or_a_loop_late_by_more_than_half_a_beat_is_our_own_pause(
    gap: float, lag: float, expected: bool
) -> None:
    assert own_pause(gap, tick_interval=0.25, loop_lag=lag, heartbeat_interval=1.0) is expected


def history_of(results: str) -> int:
    """`+` good, `-` bad, oldest first, after nothing but good ones."""
    history = STEADY_HISTORY
    for result in results:
        history = remember(history, result == "+")
    return history


@pytest.mark.parametrize(
    ("results", "percent"),
    [
        ("", 0.0),
        ("+" * 30, 0.0),
        ("-", 6.3),  # the newest change weighs 1.25 of 20
        ("-" + "+" * 20, 3.8),  # the same change as the oldest of all: 0.75 of 20
        ("-" * 21, 0.0),
        ("-+-+-", 29.9),
        ("-+-+-+", 35.5),
        ("-+" * 11, 100.0),
    ],
)
def test_recent_changes_weigh_more_than_old_ones(results: str, percent: float) -> None:
    assert flap_share(history_of(results)) * 100 == pytest.approx(percent, abs=0.06)


@given(st.lists(st.booleans(), max_size=60))
def test_the_flap_share_is_a_share_and_twenty_one_equal_results_end_it(results: list[bool]) -> None:
    history = STEADY_HISTORY
    for good in results:
        history = remember(history, good)
        assert 0.0 <= flap_share(history) <= 1.0 + 1e-9
    for _ in range(21):
        history = remember(history, True)
    assert flap_share(history) == 0.0


@pytest.mark.parametrize(
    ("flapping", "share", "expected"),
    [
        (False, 0.0, False),
        (False, 0.29, False),
        (False, 0.30, True),
        (True, 0.29, True),
        (True, 0.21, True),
        (True, 0.20, False),
        (True, 0.0, False),
        (False, 1.0, True),
    ],
)
def test_flapping_begins_at_the_high_mark_and_ends_at_the_low_one(
    flapping: bool, share: float, expected: bool
) -> None:
    assert still_flapping(flapping, share, low=0.20, high=0.30) is expected


@pytest.mark.parametrize(
    ("strikes", "seconds"),
    [(-3, 5.0), (0, 5.0), (1, 5.0), (2, 10.0), (3, 20.0), (6, 160.0), (7, 300.0), (8, 300.0), (10**9, 300.0)],
)
def test_a_quarantine_doubles_up_to_its_cap(strikes: int, seconds: float) -> None:
    assert quarantine_length(strikes, 5.0, 300.0) == seconds


def test_a_cap_below_the_shortest_quarantine_wins() -> None:
    assert quarantine_length(1, 5.0, 2.0) == 2.0


@pytest.mark.parametrize(
    ("strikes", "calm", "left"),
    [
        (0, 0.0, 0),
        (0, inf, 0),
        (3, -10.0, 3),
        (3, 0.0, 3),
        (3, 599.9, 3),
        (3, 600.0, 2),
        (3, 1799.9, 1),
        (3, 1800.0, 0),
        (3, 1e30, 0),
        (3, inf, 0),
    ],
)
def test_every_ten_minutes_of_calm_forgive_one_strike(strikes: int, calm: float, left: int) -> None:
    assert strikes_left(strikes, calm, 600.0) == left


def test_nothing_is_forgiven_when_forgiving_takes_no_time_at_all() -> None:
    assert strikes_left(3, 100.0, 0.0) == 3


@pytest.mark.parametrize(
    ("successes", "full", "limit"),
    [
        *((-1, 8, 1), (0, 8, 1), (1, 8, 2), (2, 8, 4), (3, 8, 8), (4, 8, 8)),
        *((2, 3, 3), (0, 1, 1), (0, 0, 0), (10**9, 1_000_000, 1_000_000)),
    ],
)
def test_a_slow_start_doubles_with_each_success(successes: int, full: int, limit: int) -> None:
    assert slow_start_limit(successes, full) == limit


@pytest.mark.parametrize(
    ("known", "present", "share", "allowed"),
    [
        (0, 0, 0.5, 0),
        (1, 0, 0.5, 0),
        (1, 1, 0.5, 1),  # one rack: allowed
        (1, 1, 0.0, 0),  # never by judgement
        (2, 1, 0.5, 0),  # the last one that is not lost stays
        (2, 2, 0.5, 1),
        (3, 3, 0.5, 1),
        (4, 4, 0.5, 2),
        (100, 100, 0.29, 29),
        (10, 10, 1.0, 10),
        (4, -1, 0.5, 0),
        (4, 4, -0.5, 0),
    ],
)
def test_judgement_keeps_at_most_its_share_away(known: int, present: int, share: float, allowed: int) -> None:
    assert quarantine_allowance(known, present, share) == allowed


@pytest.mark.parametrize(("chance", "seconds"), [(0.0, 4.0), (0.5, 5.0), (1.0, 6.0)])
def test_jitter_moves_an_interval_by_a_fifth_either_way(chance: float, seconds: float) -> None:
    assert jittered(5.0, chance) == pytest.approx(seconds)
