"""How long a request is waited for before a second worker is asked, and how often that may be; as numbers."""

from __future__ import annotations

from math import inf
from random import Random

import pytest

from wrk_orchestrator.hedging import KNOWN_AFTER, LEAST_S, MOST_S, MOST_SAVED, Patience


def patience_after(times: list[float], share: float = 0.05) -> Patience:
    patience = Patience(share)
    for seconds in times:
        patience.note(seconds)
    return patience


def test_nothing_is_known_before_there_were_enough_requests() -> None:
    assert patience_after([0.1] * (KNOWN_AFTER - 1)).seconds == inf
    assert patience_after([0.1] * KNOWN_AFTER).seconds == pytest.approx(0.1, rel=0.4)


@pytest.mark.parametrize("seed", range(5))
def test_one_request_in_twenty_takes_longer(seed: int) -> None:
    chance = Random(seed)
    times = [chance.lognormvariate(-3.0, 0.7) for _ in range(20_000)]
    patience = Patience(0.05)
    above = 0
    for seconds in times:
        above += seconds > patience.seconds
        patience.note(seconds)
    assert above / len(times) == pytest.approx(0.05, abs=0.005)
    assert patience.seconds == pytest.approx(sorted(times)[19_000], rel=0.3)


def test_the_model_that_the_first_request_had_loaded_is_forgotten_at_once() -> None:
    assert patience_after([60.0] + [0.05] * KNOWN_AFTER).seconds < 0.1


def test_what_was_once_is_forgotten_upwards_sooner_than_downwards() -> None:
    slower = patience_after([0.1] * 1000 + [1.0] * 40)
    assert slower.seconds > 0.9
    assert patience_after([1.0] * 1000 + [0.1] * 600).seconds < 0.2
    assert patience_after([1.0] * 1000 + [0.1] * 100).seconds > 0.5


@pytest.mark.parametrize(("seconds", "told"), [(0.0, LEAST_S), (1e9, MOST_S)])
def test_it_has_bounds(seconds: float, told: float) -> None:
    assert patience_after([seconds] * 2000).seconds == told


def test_hedges_are_a_share_of_the_requests_and_never_more() -> None:
    patience, spent = Patience(0.05), 0
    for _ in range(10_000):
        patience.save()
        spent += patience.spend()
    assert spent == pytest.approx(500, abs=1)
    assert spent <= 500


def test_after_a_quiet_time_only_so_many_go_out_at_once() -> None:
    patience = Patience(0.05)
    for _ in range(10_000):
        patience.save()
    assert sum(patience.spend() for _ in range(100)) == MOST_SAVED


def test_no_share_is_no_hedge() -> None:
    patience = Patience(0.0)
    for _ in range(1000):
        patience.save()
    assert not patience.spend()
