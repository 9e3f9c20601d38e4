"""Histories are lines of JSON that come back as they were, and bad lines are refused in words."""

from __future__ import annotations

import pytest

from wrk_orchestrator.chaos.history import (
    Answered,
    BadHistory,
    Began,
    Census,
    Ended,
    Event,
    Fault,
    Left,
    Run,
    Sent,
    StateChanged,
    line,
    read,
)

EVENTS: list[Event] = [
    Run(scenario="kill-racks", seed=7, at=0.5, rate=200.0, requests=1000, faults=2, facts={"commit": "abc"}),
    Sent(id="q1", at=1.0, deadline=6.0, repeatable=False, streamed=True, expects="d1"),
    Began(id="q1", worker="r1", execution="r1.7.1", at=1.01),
    Ended(id="q1", worker="r1", execution="r1.7.1", at=1.05, outcome="failed"),
    Answered(id="q1", at=1.06, outcome="Internal", worker="r1", attempts=2, items=1, numbers=[0], digest="d"),
    Left(id="q2", at=1.1),
    StateChanged(orchestrator="o", worker="r1", old="healthy", new="quarantined", at=2.0, sentence=10.0),
    Fault(kind="kill", target="r1", at=2.0, until=3.0, bit=False),
    Census(who="o", at=9.0, open_calls=1, leases=2, queue=3, tables={"links": 4}),
]


def test_every_event_comes_back_as_it_was() -> None:
    lines = [line(event) for event in EVENTS]
    assert all(text.count(b"\n") == 1 for text in lines)
    assert list(read(lines)) == EVENTS


def test_a_line_says_what_it_is_and_names_are_those_of_the_wire() -> None:
    assert line(Census(who="o", at=1.0, open_calls=2)) == (
        b'{"event":"Census","who":"o","at":1.0,"openCalls":2,"leases":0,"queue":0,"memory":0,"tables":{}}\n'
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"{\n", "truncated"),
        (b"\n", "truncated"),
        (b"\xff\n", "malformed"),
        (b"[1]\n", "Expected `object`"),
        (b'{"event": "Slept", "at": 1.0}\n', "Invalid value 'Slept'"),
        (b'{"event": "Left", "id": "q1"}\n', "missing required field `at`"),
        (b'{"event": "Left", "id": "q1", "at": "noon"}\n', r"Expected `float`.*\$.at"),
        (b'{"event": "Left", "id": "q1", "at": 1, "why": "bored"}\n', "unknown field `why`"),
    ],
)
def test_a_line_that_is_no_event_is_refused_in_words(text: bytes, complaint: str) -> None:
    with pytest.raises(BadHistory, match=rf"r1.jsonl:2: no event of a history: .*{complaint}"):
        list(read([line(EVENTS[0]), text, line(EVENTS[1])], "r1.jsonl"))


def test_what_its_writer_could_not_end_is_passed_over() -> None:
    assert list(read([line(EVENTS[0]), line(EVENTS[1])[:-9]])) == EVENTS[:1]
    assert list(read([line(EVENTS[0]), line(EVENTS[1])[:-1]])) == EVENTS[:1]
