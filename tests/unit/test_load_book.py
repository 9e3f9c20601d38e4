"""What is known of loading models: how long it takes, who failed, and when they are asked again."""

from __future__ import annotations

import pytest

from wrk_orchestrator.load_book import FIRST_GUESS_S, MODELS_KEPT, REST_S, LoadBook


def test_time_that_a_load_takes_is_guessed_then_measured_then_followed() -> None:
    book = LoadBook()
    assert book.seconds("m1") == FIRST_GUESS_S
    book.begin("m1", "r1", 100.0)
    assert book.end("m1", "", 104.0) == 4.0
    assert book.seconds("m1") == 4.0
    book.begin("m1", "r1", 200.0)
    book.end("m1", "", 208.0)
    assert book.seconds("m1") == 6.0
    assert book.seconds("m2") == FIRST_GUESS_S


@pytest.mark.parametrize(
    ("passed", "left"), [(0.0, 20.0), (5.0, 15.0), (16.0, 4.0), (20.0, 5.0), (40.0, 10.0)]
)
def test_what_is_late_is_expected_to_be_later(passed: float, left: float) -> None:
    book = LoadBook()
    book.begin("m1", "r1", 100.0)
    assert book.seconds_left("m1", 100.0 + passed) == left
    assert book.seconds_left("m2", 100.0) == 0.0


def test_who_failed_rests_and_its_time_counts_for_nothing() -> None:
    book = LoadBook()
    book.begin("m1", "r1", 0.0)
    book.end("m1", "out of memory", 1.0)
    assert book.seconds("m1") == FIRST_GUESS_S
    assert book.failures("m1", 1.0 + REST_S - 0.1)["r1"].reason == "out of memory"
    assert book.failures("m2", 1.0) == {}
    assert book.failures("m1", 1.0 + REST_S) == {}


def test_who_loads_it_at_last_has_not_failed() -> None:
    book = LoadBook()
    for reason in ("out of memory", ""):
        book.begin("m1", "r1", 0.0)
        book.end("m1", reason, 1.0)
    assert book.failures("m1", 1.0) == {}


def test_worker_is_busy_while_it_loads() -> None:
    book = LoadBook()
    book.begin("m1", "r1", 0.0)
    book.begin("m2", "r2", 0.0)
    assert set(book.busy()) == {"r1", "r2"}
    book.end("m1", "", 1.0)
    assert set(book.busy()) == {"r2"}


def test_models_that_are_remembered_are_bounded() -> None:
    book = LoadBook()
    for number in range(MODELS_KEPT + 10):
        for reason in ("out of memory", ""):
            book.begin(f"m{number}", f"r{reason}", 0.0)
            book.end(f"m{number}", reason, 1.0)
    assert len(book._took) == len(book._failures) == MODELS_KEPT
    assert book.seconds("m0") == FIRST_GUESS_S


def test_workers_that_failed_long_ago_are_forgotten() -> None:
    """They come and go; their failures do not stay with the model."""
    book, now = LoadBook(), 0.0
    for number in range(1000):
        book.begin("m", f"w{number}", now)
        book.end("m", "no room", now)
        now += REST_S / 10
    assert len(book._failures["m"]) <= 10
