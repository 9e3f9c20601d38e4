"""What the log says of a worker that comes and goes: little, and at last the truth."""

from __future__ import annotations

import pytest

from wrk_orchestrator.health_changes import Transition
from wrk_orchestrator.health_table import State
from wrk_orchestrator.state_log import BURST, MOST_VOICES, SECONDS_EACH, Line, StateLog

S = State
UP, DOWN = Transition("w1", S.GONE, S.HEALTHY, "link up"), Transition("w1", S.HEALTHY, S.GONE, "silence")


def test_a_few_changes_are_said_at_once() -> None:
    log = StateLog()
    said = [log.note(UP, 10.0) for _ in range(BURST)]
    assert said == [*[Line(UP)] * (BURST - 1), Line(UP, silent=SECONDS_EACH)]


def test_one_that_flaps_is_said_every_few_seconds_with_how_many_were_not() -> None:
    log, lines, now = StateLog(), 0, 0.0
    unsaid = 0
    for _ in range(60):
        for change in (DOWN, UP):
            said = [log.note(change, now), *log.due(now)]
            lines += sum(line is not None for line in said)
            unsaid += sum(line[1] for line in said if line is not None)
            now += 0.5
    assert lines <= BURST + 60 / SECONDS_EACH
    assert lines + unsaid >= 120 - 2 * SECONDS_EACH


def test_the_last_state_is_said_as_soon_as_it_may_be() -> None:
    log = StateLog()
    for _ in range(BURST):
        log.note(DOWN, 0.0)
    assert (log.note(DOWN, 0.1), log.note(UP, 0.2)) == (None, None)
    assert log.due(SECONDS_EACH - 0.1) == []
    (late,) = log.due(SECONDS_EACH + 0.1)
    assert late == Line(UP, 1, SECONDS_EACH + 0.1 - 0.2, pytest.approx(SECONDS_EACH - 0.1))
    assert log.due(10 * SECONDS_EACH) == []


def test_workers_do_not_use_up_each_other_s_lines() -> None:
    log = StateLog()
    for _ in range(10 * BURST):
        log.note(DOWN, 0.0)
    other = Transition("w2", S.JOINING, S.HEALTHY, "link up")
    assert log.note(other, 0.0) == Line(other)


def test_very_many_workers_are_not_remembered() -> None:
    log = StateLog()
    for n in range(MOST_VOICES + 100):
        log.note(Transition(f"w{n}", S.JOINING, S.HEALTHY, "link up"), 0.0)
    assert len(log._voices) == MOST_VOICES
