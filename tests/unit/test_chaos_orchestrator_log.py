"""What is read of an orchestrator's log, and what a history makes of changes that it left out."""

from __future__ import annotations

import json
from typing import Any

from wrk_orchestrator.chaos.checker import check
from wrk_orchestrator.chaos.history import UNSAID, Answered, Began, Ended, Fault, Sent, StateChanged
from wrk_orchestrator.chaos.orchestrator_log import states_of

WALL = 1_700_000_000.0  # at 0 of the history


def logged(new: str, at: str, old: str = "healthy", **facts: Any) -> bytes:
    told = {"event": "worker.state", "worker": "r1", "old": old, "new": new, "cause": "because"}
    return (
        json.dumps({**told, "timestamp": f"2023-11-14T22:13:{at}Z", "level": "info", **facts}).encode()
        + b"\n"
    )


def read(*lines: bytes) -> list[StateChanged]:
    return list(states_of(lines, "o1", WALL, 5.0))


def test_states_are_read_among_anything_else() -> None:
    (change,) = read(
        b"Traceback (most recent call last):\n",
        b'{"event": "worker.joined", "worker": "r1"}\n',
        logged("gone", "22.250"),
        logged("healthy", "23.000")[:-20],
        b'{"event": "said", "text": "worker.state \\"worker.state\\""}\n',
    )
    assert (change.worker, change.new, change.cause) == ("r1", "gone", "because")
    assert change.at == 2.25
    assert change.orchestrator == "o1"


def test_a_judgement_has_a_sentence_and_an_operator_s_word_has_none() -> None:
    judged, told, again = read(
        logged("quarantined", "22.000"),
        logged("quarantined", "23.000", cause="by an operator"),
        logged("quarantined", "24.000", old="joining"),
    )
    assert [change.sentence for change in (judged, told, again)] == [5.0, 0.0, 0.0]


def test_a_change_that_was_said_late_has_its_own_time() -> None:
    (change,) = read(logged("gone", "25.000", ago_ms=1500))
    assert change.at == 3.5


def test_changes_that_were_left_out_are_no_grounds_for_anything() -> None:
    """Gone at 1, back and gone again unsaid: whoever began meanwhile may have been given work rightly."""
    fault = Fault(kind="flap", target="r1", at=0.0, until=9.0)
    asked = [
        Sent(id="q", at=3.0, deadline=8.0),
        Began(id="q", worker="r1", execution="1", at=3.1),
        Ended(id="q", worker="r1", execution="1", at=3.2),
        Answered(id="q", at=3.3),
    ]
    whole = read(logged("gone", "21.000"), logged("healthy", "26.000", old="gone"))
    assert [violation.kind for violation in check([fault, *asked, *whole])] == ["misrouted"]
    last = read(logged("gone", "21.000", silent_ms=5000))
    assert [(change.new, change.at) for change in last] == [("gone", 1.0), (UNSAID, 1.0)]
    assert check([fault, *asked, *last]) == []
    holes = read(logged("gone", "21.000"), logged("healthy", "26.000", old="gone", unsaid=2))
    assert [change.new for change in holes] == ["gone", UNSAID, "healthy"]
    assert check([fault, *asked, *holes]) == []
