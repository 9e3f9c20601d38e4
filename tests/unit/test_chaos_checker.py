"""The checker, rule by rule: the smallest history that breaks each, and the nearest one that does not."""

from __future__ import annotations

from typing import Any

from wrk_orchestrator.chaos.checker import Rules, check
from wrk_orchestrator.chaos.history import (
    Answered,
    Began,
    Census,
    Ended,
    Event,
    Fault,
    Left,
    Run,
    Sent,
    StateChanged,
)
from wrk_orchestrator.chaos.validity import void

TROUBLE = Fault(kind="slow", target="r1", at=0.0, until=10.0)


def story(*more: Event, **changes: Any) -> list[Event]:
    """A request that goes well, one event replaced or taken away by its name, and more."""
    events: dict[str, Event | None] = {
        "sent": Sent(id="q", at=1.0, deadline=6.0, expects="d"),
        "began": began(),
        "ended": ended(),
        "answered": answered(),
    }
    return [event for event in (events | changes).values() if event is not None] + list(more)


def sent(**facts: Any) -> Sent:
    return Sent(**{"id": "q", "at": 1.0, "deadline": 6.0, "expects": "d", **facts})


def began(**facts: Any) -> Began:
    return Began(**{"id": "q", "worker": "r1", "execution": "r1.1", "at": 1.1, **facts})


def ended(**facts: Any) -> Ended:
    return Ended(**{"id": "q", "worker": "r1", "execution": "r1.1", "at": 1.2, **facts})


def answered(**facts: Any) -> Answered:
    return Answered(**{"id": "q", "at": 1.3, "worker": "r1", "attempts": 1, "digest": "d", **facts})


def state(new: str, at: float, orchestrator: str = "o", **facts: Any) -> StateChanged:
    return StateChanged(orchestrator=orchestrator, worker="r1", old="healthy", new=new, at=at, **facts)


def kinds(events: list[Event], rules: Rules | None = None) -> list[str]:
    return [violation.kind for violation in check(events, rules)]


def test_what_goes_well_is_clean_in_any_order() -> None:
    assert check(story()) == []
    assert check(story()[::-1]) == []


def test_a_violation_says_who_and_what() -> None:
    (violation,) = check(story(ended=None, began=None, answered=None))
    assert str(violation) == "lost: q: sent at 1.000 and never answered"


def test_exactly_one_answer() -> None:
    assert "lost" in kinds(story(answered=None, ended=ended(at=1.2)))
    assert kinds(story(answered(at=1.4))) == ["twice"]
    assert kinds([answered(), began(), ended()]) == ["unasked"]
    assert kinds(story(Left(id="q", at=1.15), answered=None)) == []


def test_before_its_deadline() -> None:
    assert kinds(story(answered=answered(at=6.09))) == []
    assert kinds(story(answered=answered(at=6.11))) == ["late"]
    assert kinds(story(answered=answered(at=6.11)), Rules(slack=0.2)) == []


def test_the_answer_is_that_of_the_request() -> None:
    assert kinds(story(answered=answered(digest="e"))) == ["swapped"]
    assert kinds(story(sent=sent(expects=""), answered=answered(digest="e"))) == []


def test_items_come_without_a_gap_and_without_a_repeat() -> None:
    assert kinds(story(answered=answered(numbers=[0, 1, 2]))) == []
    assert kinds(story(answered=answered(numbers=[0, 2]))) == ["gap"]
    assert kinds(story(answered=answered(numbers=[0, 0, 1]))) == ["gap"]
    failed = answered(outcome="Unavailable", items=2, numbers=[0])
    assert kinds(story(answered=failed), Rules(allowed=None)) == ["gap"]


def test_errors_are_told_where_the_run_allows_them() -> None:
    events = story(answered=answered(outcome="CapacityExceeded"), ended=ended(outcome="failed"))
    assert kinds(events) == ["error"]
    assert kinds(events, Rules(allowed=frozenset({"CapacityExceeded"}))) == []
    assert kinds(events, Rules(allowed=None)) == []


def test_executions_are_as_many_as_attempts() -> None:
    again = (began(worker="r2", execution="r2.1", at=1.15), ended(worker="r2", execution="r2.1", at=1.25))
    assert kinds(story(*again)) == ["doubled"]
    assert kinds(story(*again, answered=answered(attempts=2))) == []
    assert kinds(story(*again, answered=answered(attempts=0))) == []  # not told, and within the most
    assert kinds(story(*again), Rules(orchestrators=2)) == []
    once = sent(repeatable=False)
    assert kinds(story(*again, sent=once, answered=answered(attempts=2))) == ["doubled"]


def test_a_good_answer_was_made_by_somebody() -> None:
    assert kinds(story(ended=ended(outcome="failed"))) == ["swallowed"]
    assert kinds(story(answered=answered(worker="r2"))) == ["swallowed"]
    assert kinds(story(ended=None)) == ["swallowed"]
    assert kinds(story(ended=ended(at=1.5))) == ["swallowed"]  # it ended behind its own answer
    assert kinds(story(began=None, ended=None)) == []  # its racks write nothing down


def test_nobody_begins_what_was_asked_after_it_was_taken_out() -> None:
    for out in ("quarantined", "draining", "gone"):
        assert kinds(story(TROUBLE, state(out, 0.4))) == ["misrouted"]
    assert kinds(story(TROUBLE, state("gone", 0.6))) == []  # it was under way, perhaps
    assert kinds(story(TROUBLE, state("gone", 0.2), state("healthy", 1.05))) == []
    assert kinds(story(TROUBLE, state("gone", 0.2), state("probation", 1.15))) == ["misrouted"]
    assert kinds(story(TROUBLE, state("gone", 0.2), state("healthy", 0.1, "p"))) == []  # one still sends
    assert kinds(story(TROUBLE, state("gone", 0.2), state("gone", 0.3, "p"))) == ["misrouted"]


def test_a_quarantine_lasts_as_long_as_it_was_meant_to() -> None:
    out = state("quarantined", 10.0, sentence=5.0)
    assert kinds(story(TROUBLE, out, state("probation", 15.0))) == []
    assert kinds(story(TROUBLE, out, state("probation", 14.0))) == ["readmitted"]
    assert kinds(story(TROUBLE, out, state("gone", 11.0), state("probation", 14.0))) == ["readmitted"]
    assert kinds(story(TROUBLE, out, state("probation", 14.0, cause="operator release"))) == []


def test_nobody_is_put_away_to_whom_nothing_was_done() -> None:
    verdict = state("quarantined", 20.0)
    assert kinds(story(verdict)) == ["condemned"]
    assert kinds(story(state("suspect", 20.0))) == []
    for at, until, found in ((12.0, 15.0, []), (2.0, 9.0, ["condemned"])):
        assert kinds(story(verdict, Fault(kind="freeze", target="r1", at=at, until=until))) == found
    other = Fault(kind="freeze", target="r2", at=18.0, until=19.0)
    assert kinds(story(verdict, other)) == ["condemned"]


def test_what_nobody_waits_for_ends() -> None:
    late = ended(at=3.5, outcome="cancelled")
    left = Left(id="q", at=1.15)
    assert kinds(story(left, answered=None, ended=late)) == ["runaway"]
    assert kinds(story(left, answered=None, ended=ended(at=3.0, outcome="cancelled"))) == []
    end = Census(who="o", at=9.0)
    assert kinds(story(left, end, answered=None, ended=None)) == ["runaway"]
    killed = Fault(kind="kill", target="r1", at=2.0, until=2.5)
    assert kinds(story(left, end, killed, answered=None, ended=None)) == []
    frozen = Fault(kind="freeze", target="r1", at=1.12, until=4.0)  # the news waited for it to wake up
    assert kinds(story(left, frozen, answered=None, ended=late)) == []
    assert kinds(story(left, frozen, answered=None, ended=ended(at=6.1, outcome="cancelled"))) == ["runaway"]


def test_nothing_is_left_at_the_end() -> None:
    assert kinds(story(Census(who="o", at=1.2, open_calls=1), Census(who="o", at=2.0))) == []
    assert kinds(story(Census(who="o", at=1.2, open_calls=1))) == []  # it was gone before the end
    left = Census(who="o", at=2.0, open_calls=1, leases=2, queue=3)
    assert [violation.text for violation in check(story(left))] == [
        "1 open calls left at the end",
        "2 leases left at the end",
        "3 queue left at the end",
    ]
    first = Census(who="o", at=0.5, tables={"links": 8})
    assert kinds(story(first, Census(who="o", at=2.0, tables={"links": 13}))) == []
    assert kinds(story(first, Census(who="o", at=2.0, tables={"links": 14}))) == ["leak"]


def test_no_queue_is_longer_than_it_may_be() -> None:
    counted = (Census(who="o", at=0.5, queue=9), Census(who="o", at=2.0))
    assert kinds(story(*counted), Rules(queue=8)) == ["unbounded"]
    assert kinds(story(*counted), Rules(queue=9)) == []


def test_who_is_asked_to_end_does_so_cleanly_and_soon() -> None:
    def asked(code: int, ended_at: float) -> Fault:
        return Fault(kind="terminate", target="r1", at=2.0, until=30.0, exit=code, ended_at=ended_at)

    assert kinds(story(asked(0, 12.0))) == []
    assert kinds(story(asked(1, 12.0))) == ["exit"]
    assert kinds(story(asked(0, 12.1))) == ["exit"]


def run_of(*faults: Fault, planned: int = 1, rate: float = 10.0, requests: int = 100) -> list[Event]:
    """A hundred requests from 0 to 10, as planned."""
    plan = Run(scenario="s", seed=1, at=0.0, rate=rate, requests=requests, faults=planned)
    asked = [sent(id=f"q{n}", at=n / 10) for n in range(100)]
    return [plan, *asked, began(id="q0"), Census(who="o", at=20.0), *faults]


def test_a_run_counts_if_its_load_ran_before_the_first_fault_and_every_fault_bit() -> None:
    kill = Fault(kind="kill", target="r1", at=5.0, until=6.0)
    assert void(run_of(kill)) == []
    early = Fault(kind="kill", target="r1", at=1.0, until=6.0)
    late = [event for event in run_of(early) if not (isinstance(event, Sent) and event.at < 0.3)]
    assert void(late) == ["7 of 10 planned requests were sent before the first fault"]
    assert void(run_of(kill, rate=13.0))[0] == "100 of 129 planned requests were sent"
    assert void(run_of(kill, requests=126)) == ["100 of 126 planned requests were sent"]
    assert void(run_of(kill, planned=2)) == ["1 of 2 planned faults had an effect"]
    missed = Fault(kind="kill", target="r1", at=5.0, until=6.0, bit=False)
    assert void(run_of(missed)) == ["0 of 1 planned faults had an effect"]


def test_a_run_counts_if_everybody_wrote_down_what_they_saw() -> None:
    kill = Fault(kind="kill", target="r1", at=5.0, until=6.0)
    told = run_of(kill)
    assert void(told[1:]) == ["nobody wrote down what was planned"]
    assert void([e for e in told if not isinstance(e, Began)]) == ["no rack wrote down what it ran"]
    assert void([e for e in told if not isinstance(e, Census)]) == ["nobody was counted at the end"]
    asked = void([e for e in told if not isinstance(e, Sent)])
    assert asked[0] == "no request was sent"
