"""What a history says in figures, and a verdict in words."""

from __future__ import annotations

import msgspec
import pytest

from wrk_orchestrator.chaos.checker import Violation
from wrk_orchestrator.chaos.figures import figures, percentile
from wrk_orchestrator.chaos.history import UNSAID, Answered, Event, Fault, Sent, StateChanged
from wrk_orchestrator.chaos.report import facts, lines, verdict


def asked(name: str, at: float, took: float, outcome: str = "ok", attempts: int = 1) -> list[Event]:
    return [
        Sent(id=name, at=at, deadline=at + 5),
        Answered(id=name, at=at + took, outcome=outcome, attempts=attempts),
    ]


def state(new: str, at: float, orchestrator: str = "o1") -> StateChanged:
    return StateChanged(orchestrator=orchestrator, worker="r1", old="", new=new, at=at)


KILL = Fault(kind="kill", target="r1", at=10.0, until=12.0)


def test_latencies_before_the_first_fault_are_told_from_later_ones() -> None:
    told = figures(
        [*asked("a", 1.0, 0.05), *asked("b", 11.0, 0.5, attempts=2), *asked("c", 11.0, 2.0, "ERR_X"), KILL]
    )
    assert (told.calm_p50_ms, told.p50_ms, told.slowest_ms) == (50.0, 500.0, 500.0)
    assert (told.requests, told.attempts, told.outcomes) == (3, 4, {"ok": 2, "ERR_X": 1})


def test_a_fault_is_noticed_by_the_slowest_orchestrator_and_over_for_it_last() -> None:
    seen = [
        state("gone", 10.1),
        state("gone", 10.4, "o2"),
        state("healthy", 12.5),
        state("probation", 13.0, "o2"),
    ]
    told = figures([KILL, *seen])
    assert (told.noticed, told.unnoticed, told.back) == ([0.4], 0, [1.0])


def test_what_is_seen_behind_a_fault_is_not_its_effect() -> None:
    told = figures([KILL, state("gone", 12.5), state("healthy", 13.0)])
    assert (told.noticed, told.unnoticed, told.back) == ([], 1, [])


def test_where_the_log_left_a_state_out_nobody_knows_when_it_was_seen() -> None:
    unsaid_before = figures([state("healthy", 9.0), state(UNSAID, 9.0), KILL, state("gone", 11.0)])
    assert (unsaid_before.noticed, unsaid_before.unnoticed) == ([], 1)
    unsaid_behind = figures([KILL, state("gone", 10.5), state(UNSAID, 10.5), state("healthy", 14.0)])
    assert (unsaid_behind.noticed, unsaid_behind.back) == ([0.5], [])
    long_ago = figures([state(UNSAID, 5.0), state("healthy", 6.0), KILL, state("gone", 10.5)])
    assert long_ago.noticed == [0.5]


def test_refusals_have_times_of_their_own() -> None:
    refused = [asked(f"{number}", 1.0, 0.002, "ERR_CAPACITY_EXCEEDED") for number in range(9)]
    told = figures(
        [event for one in refused for event in one] + asked("late", 1.0, 0.08, "ERR_CAPACITY_EXCEEDED")
    )
    assert (told.refused_p50_ms, told.refused_p99_ms, told.slowest_ms) == (2.0, 80.0, None)
    assert "refusals   p50 2.0 ms, p99 80.0 ms" in list(lines(told, [], []))


@pytest.mark.parametrize(
    ("values", "share", "found"),
    [
        ([], 0.5, None),
        ([3.0], 0.99, 3.0),
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        ([1.0, 2.0], 1.0, 2.0),
        ([1.0, 2.0], 0.0, 1.0),
    ],
)
def test_percentiles(values: list[float], share: float, found: float | None) -> None:
    assert percentile(values, share) == found


def test_a_verdict_says_how_far_it_carries() -> None:
    told = figures([*asked("a", 1.0, 0.05), *asked("b", 2.0, 0.05), *asked("c", 3.0, 0.05), KILL])
    broken = [Violation("lost", "a", "sent at 1.000 and never answered")]
    assert verdict(told, [], []) == "holds: no violation in 3 requests, a rate below 1e+02 %"
    assert verdict(told, broken, []) == "broken: 1 violations"
    assert verdict(told, broken, ["no rack spoke"]) == "void: this run proves nothing: no rack spoke"


def test_a_report_names_what_was_broken_and_leaves_out_what_is_too_much() -> None:
    broken = [Violation("late", f"q{n}", "too late") for n in range(12)]
    told = list(lines(figures([*asked("a", 1.0, 0.05), KILL, state("gone", 10.1)]), broken, []))
    assert "callers    0 lost, 0 doubled, 12 late, 0 error" in told
    assert "noticed    median 0.1 s, most 0.10 s" in told
    assert told[-2:] == ["  and 2 more", "broken: 12 violations"]
    program = facts(msgspec.to_builtins(figures([])), broken[:1], [])
    assert program["holds"] is False
    assert program["violations"] == [{"kind": "late", "about": "q0", "text": "too late"}]
