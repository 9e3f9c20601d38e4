"""Whether waiting is worth it, by arithmetic: how long answers take, and until when one may be begun."""

from __future__ import annotations

from random import Random

import pytest

from wrk_orchestrator.prospect import A_MOMENT, AnswerTime, latest, too_late


def timed(*seconds: float) -> AnswerTime:
    time = AnswerTime()
    for one in seconds:
        time.observe(one)
    return time


def test_nothing_is_known_before_the_first_answer() -> None:
    assert timed().likely == 0.0


def test_steady_answers_are_likely_to_take_what_they_took() -> None:
    assert timed(*[0.2] * 100).likely == pytest.approx(0.2)


def test_most_of_uneven_answers_come_within_what_is_likely() -> None:
    chance = Random(1)
    for draw, share in ((lambda: chance.uniform(0.02, 0.08), 0.95), (lambda: chance.expovariate(2), 0.85)):
        taken = [draw() for _ in range(2000)]
        likely = timed(*taken).likely
        assert sum(seconds <= likely for seconds in taken) / len(taken) > share


def test_change_is_followed() -> None:
    assert timed(*[10.0] * 100, *[0.1] * 300).likely == pytest.approx(0.1, abs=0.05)


@pytest.mark.parametrize(
    ("likely", "deadline", "until"),
    [
        (0.0, 5.0, 5.0 - A_MOMENT),  # nothing is known
        (0.001, 5.0, 5.0 - A_MOMENT),
        (1.0, 5.0, 4.0),
        (60.0, 5.0, 2.5),  # of others, perhaps: half of the time is for waiting whatever they took
        (1.0, 0.0, -A_MOMENT),  # it is over
        (1.0, -3.0, -3.0 - A_MOMENT),
    ],
)
def test_answer_has_its_time(likely: float, deadline: float, until: float) -> None:
    assert latest(0.0, deadline, likely) == pytest.approx(until)


@pytest.mark.parametrize(("wait", "late"), [(0.0, False), (4.0, False), (4.01, True), (100.0, True)])
def test_estimate_is_not_believed_to_the_last_second(wait: float, late: bool) -> None:
    assert too_late(10.0, wait, 15.0) is late
