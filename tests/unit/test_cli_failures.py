"""What a person and a program are told when a command fails: one line, with what to do."""

from __future__ import annotations

import json

import pytest

from wrk_base import errors
from wrk_orchestrator.cli.failures import as_facts, as_line
from wrk_orchestrator.cli.plain import json_line, printable


def test_code_message_and_advice_stand_on_one_line() -> None:
    line = as_line(errors.CapacityExceeded("2 workers are busy", origin="main-1"))
    said = "ERR_CAPACITY_EXCEEDED: 2 workers are busy (says main-1)"
    assert line == f"{said}; try again in a moment, or start another rack"


def test_models_that_exist_are_the_best_advice() -> None:
    error = errors.NoWorkersAvailable("model m9: never seen here", data={"models": ["m1", "m2"]})
    assert as_line(error).endswith("; there are m1, m2")
    many = errors.NoWorkersAvailable(
        "model m9: never seen here", data={"models": [f"m{n}" for n in range(9)]}
    )
    assert as_line(many).endswith("; there are m0, m1, m2, m3, m4, ...")


def test_an_error_may_bring_its_own_advice() -> None:
    assert (
        as_line(errors.Unavailable("nobody", data={"advice": "start one"}))
        == "ERR_UNAVAILABLE: nobody; start one"
    )


def test_nothing_is_said_where_there_is_nothing_to_say() -> None:
    assert as_line(errors.Internal("it broke")) == "ERR_INTERNAL: it broke"


def test_why_a_process_does_not_start_says_it_all_itself() -> None:
    assert (
        as_line(errors.StartError("the port is in use: choose another"))
        == "the port is in use: choose another"
    )


def test_programs_get_the_shape_that_http_has() -> None:
    error = errors.BadRequest("weight: must be positive", data={"field": "weight"}, origin="main-1")
    assert json.loads(as_facts(error)) == {
        "error": {
            "code": "ERR_BAD_REQUEST",
            "message": "weight: must be positive",
            "advice": "correct the request",
            "origin": "main-1",
            "retryable": False,
            "field": "weight",
        }
    }
    assert json.loads(as_facts(errors.StartError("no")))["error"] == {"code": "", "message": "no"}


@pytest.mark.parametrize("make", [as_line, as_facts])
def test_a_peers_text_stays_one_line_and_steers_no_terminal(make: object) -> None:
    assert callable(make)
    line = make(errors.Internal("a\nwrk: all is well\x1b[2J\r\x9b"))
    assert line.isprintable()


def test_what_is_kept_stays_as_it_is() -> None:
    assert printable("one\n\ttwo\x1b", keep="\n\t") == "one\n\ttwo\\x1b"
    assert printable("grün 漢") == "grün 漢"


def test_json_that_is_made_harmless_still_says_the_same() -> None:
    value = {"text": "a\x9b31m \U000e0041 grün \n"}
    assert json_line(value).isprintable()
    assert json.loads(json_line(value)) == value
