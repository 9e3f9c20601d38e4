"""How many calls may be sent again: a table of what came before, and stories of time that passes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrk_orchestrator.retry_budget import WINDOW_S, RetryBudget

BIG = 1e9  # a machine that has been up for thirty years


def spent(budget: RetryBudget, now: float, tries: int = 1000) -> int:
    """How many repetitions are allowed now, one after the other."""
    return sum(budget.spend(now) for _ in range(tries))


TABLE = [
    # share, floor, requests -> repetitions allowed
    (0.0, 0.0, 0, 0),
    (0.0, 0.0, 1000, 0),
    (0.2, 0.0, 0, 0),
    (0.2, 0.0, 4, 0),
    (0.2, 0.0, 5, 1),
    (0.2, 0.0, 9, 1),
    (0.2, 0.0, 100, 20),
    (0.2, 3.0, 0, 30),
    (0.2, 3.0, 149, 30),
    (0.2, 3.0, 150, 30),
    (0.2, 3.0, 155, 31),
    (0.2, 3.0, 1000, 200),
    (0.0, 0.1, 0, 1),
    (0.0, 0.05, 1000, 0),
    (1.0, 0.0, 7, 7),
]


@pytest.mark.parametrize(("share", "floor", "requests", "allowed"), TABLE)
@pytest.mark.parametrize("now", [0.0, 0.999, 1.0, 12345.6, BIG])
def test_share_or_floor_whichever_is_more(
    share: float, floor: float, requests: int, allowed: int, now: float
) -> None:
    budget = RetryBudget(share, floor)
    for _ in range(requests):
        budget.note_request(now)
    assert spent(budget, now) == allowed


def test_what_is_refused_costs_nothing() -> None:
    budget = RetryBudget(1.0, 0.0)
    assert spent(budget, 0.0, 50) == 0
    budget.note_request(0.0)
    assert spent(budget, 0.0) == 1


def test_repetitions_are_given_back_after_the_window() -> None:
    budget = RetryBudget(0.0, 1.0)
    assert spent(budget, 100.0) == 10
    assert spent(budget, 100.0 + WINDOW_S - 1) == 0
    assert spent(budget, 100.0 + WINDOW_S) == 10


def test_requests_count_for_the_window_and_no_longer() -> None:
    budget = RetryBudget(1.0, 0.0)
    budget.note_request(100.0)
    assert spent(budget, 100.0 + WINDOW_S) == 0
    budget.note_request(200.0)
    assert spent(budget, 200.0 + WINDOW_S - 1) == 1


def test_seconds_leave_the_window_one_by_one() -> None:
    budget = RetryBudget(0.0, 1.0)
    for second in range(10):
        assert spent(budget, 100.0 + second, 1) == 1
    assert spent(budget, 109.5) == 0
    for second in range(10, 20):
        assert spent(budget, 100.0 + second) == 1


def test_long_silence_leaves_nothing_behind() -> None:
    budget = RetryBudget(1.0, 0.0)
    for _ in range(7):
        budget.note_request(3.0)
    assert spent(budget, BIG) == 0


def test_clock_that_stands_still_or_steps_back_a_little_gives_nothing_away() -> None:
    budget = RetryBudget(0.0, 1.0)
    assert spent(budget, 105.0) == 10
    assert spent(budget, 104.0) == 0
    assert spent(budget, 105.0) == 0


@given(
    st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=200),
    st.floats(0, 1),
    st.integers(0, 5),
    st.floats(0, 1e6),
)
def test_never_more_than_promised_in_any_window(
    steps: list[tuple[float, bool]], share: float, floor: int, now: float
) -> None:
    """Held against the plain definition, over whole seconds."""
    budget = RetryBudget(share, floor)
    requests: list[int] = []
    repeated: list[int] = []
    for pause, is_request in steps:
        now += pause
        second = int(now)
        if is_request:
            budget.note_request(now)
            requests.append(second)
            continue
        recent_requests = sum(second - WINDOW_S < at <= second for at in requests)
        recent_repeated = sum(second - WINDOW_S < at <= second for at in repeated)
        allowed = recent_repeated + 1 <= max(share * recent_requests, floor * WINDOW_S)
        assert budget.spend(now) == allowed
        if allowed:
            repeated.append(second)
