"""The health table is complete, says what it should, and leads back to healthy from everywhere.

Every state has a row for whatever the shell may report, in any order; what only the monitor infers is
legal exactly where it can be inferred, and raises with both names elsewhere.
"""

from __future__ import annotations

import itertools

import pytest

from wrk_orchestrator.health_picture import diagram, table
from wrk_orchestrator.health_table import (
    LINKED,
    REPORTED,
    TABLE,
    Action,
    IllegalMove,
    Observation,
    State,
    step,
)

O, S = Observation, State  # noqa: E741

PAIRS = list(itertools.product(State, Observation))
INFERRED_WHERE = {
    O.LINK_UP_ON_PROBATION: set(S) - {S.HEALTHY},
    O.LINK_UP_IN_QUARANTINE: {
        *(S.JOINING, S.UNREACHABLE, S.GONE, S.UNHEALTHY, S.QUARANTINED, S.DRAINING),
    },
    O.LINK_UP_ON_DRAIN: {S.JOINING, S.UNREACHABLE, S.GONE, S.DRAINING},
    O.BEAT_ON_PROBATION: {S.SUSPECT, S.STALLED},
    O.PROBE_OK_ON_PROBATION: {S.UNHEALTHY},
    O.BEAT_MISSED: {S.HEALTHY, S.PROBATION, S.QUARANTINED},
    O.SILENCE: set(LINKED),
    O.LOST_IN_OWN_PAUSE: set(S),
    O.CONDEMNED: {S.HEALTHY, S.SUSPECT, S.STALLED, S.PROBATION},
    O.QUARANTINE_OVER: {S.QUARANTINED},
    O.PROVEN: {S.PROBATION},
    O.RELEASE_TO_PROBATION: {S.QUARANTINED, S.DRAINING},
    O.RELEASE_WHILE_LEAVING: {S.QUARANTINED, S.DRAINING},
}
# Reported as they are only where nothing is held against the worker; elsewhere a variant is taken.
NEVER_PLAIN = {
    (S.QUARANTINED, O.LINK_UP),
    (S.PROBATION, O.LINK_UP),
    (S.QUARANTINED, O.OPERATOR_RELEASE),
}


def is_legal(state: State, observation: Observation) -> bool:
    if observation in REPORTED:
        return (state, observation) not in NEVER_PLAIN
    return state in INFERRED_WHERE[observation]


@pytest.mark.parametrize(("state", "observation"), PAIRS)
def test_each_pair_is_a_row_or_raises_with_both_names(state: State, observation: Observation) -> None:
    if is_legal(state, observation):
        assert step(state, observation) is TABLE[state, observation]
    else:
        with pytest.raises(IllegalMove, match=f"'{state}'.*'{observation}'"):
            step(state, observation)


def test_the_reported_observations_are_those_a_shell_can_see() -> None:
    assert {O.LINK_UP, O.OPERATOR_RELEASE} <= REPORTED
    assert REPORTED.isdisjoint(INFERRED_WHERE)
    assert REPORTED | set(INFERRED_WHERE) == set(O)


def test_from_every_state_a_chain_of_rows_leads_to_healthy() -> None:
    reaching = {S.HEALTHY}
    for _ in State:
        reaching |= {state for (state, _), row in TABLE.items() if row.next in reaching}
    assert reaching == set(State)


def test_every_state_can_be_entered() -> None:
    assert {row.next for (state, _), row in TABLE.items() if row.next is not state} == set(State)


def test_only_proof_a_link_a_beat_or_the_operator_makes_a_worker_healthy() -> None:
    """And its own word, where nothing but its own word was against it."""
    ways = {(state, seen) for (state, seen), row in TABLE.items() if row.next is S.HEALTHY is not state}
    assert {seen for _, seen in ways} == {O.LINK_UP, O.BEAT, O.PROVEN, O.OPERATOR_RELEASE, O.PROBE_OK}
    assert {state for state, seen in ways if seen is O.PROBE_OK} == {S.UNHEALTHY}


def test_no_worker_is_punished_for_saying_that_it_is_unhealthy() -> None:
    after = {state: TABLE[state, O.SAYS_UNHEALTHY].next for state in State}
    assert {state for state in State if after[state] is S.QUARANTINED} == {S.QUARANTINED}
    assert step(S.UNHEALTHY, O.PROBE_FAILED).next is S.UNHEALTHY
    assert (S.UNHEALTHY, O.CONDEMNED) not in TABLE


def test_a_quarantined_worker_is_never_freed_by_what_it_does_itself() -> None:
    routable = {S.HEALTHY, S.PROBATION}
    ways = {seen for (state, seen), row in TABLE.items() if state is S.QUARANTINED and row.next in routable}
    assert ways == {O.QUARANTINE_OVER, O.RELEASE_TO_PROBATION, O.LINK_UP_ON_PROBATION}


@pytest.mark.parametrize("state", sorted(LINKED))
def test_losing_the_link_ends_every_linked_state(state: State) -> None:
    assert step(state, O.CONNECTION_LOST).next is S.GONE
    assert step(state, O.LOST_IN_OWN_PAUSE).next is S.JOINING
    silence = step(state, O.SILENCE)
    assert silence.next is S.GONE
    assert set(silence.actions) == {Action.CLOSE_LINK, Action.REDIAL}


@pytest.mark.parametrize("state", sorted(set(State) - LINKED))
def test_without_a_link_nothing_but_a_link_makes_a_worker_routable(state: State) -> None:
    entering = {seen for seen in O if (state, seen) in TABLE and TABLE[state, seen].next in LINKED}
    assert entering == {O.LINK_UP, O.LINK_UP_ON_PROBATION, O.LINK_UP_IN_QUARANTINE, O.LINK_UP_ON_DRAIN}


def test_the_diagram_shows_every_move_and_no_row_that_stays() -> None:
    lines = diagram().splitlines()
    assert lines[:2] == ["stateDiagram-v2", "    [*] --> joining"]
    arrows = {tuple(line.split(":")[0].split(" --> ")) for line in lines[2:]}
    moves = {("    " + state, str(row.next)) for (state, _), row in TABLE.items() if row.next is not state}
    assert arrows == moves
    assert len(lines) == 2 + len(moves)
    assert "    healthy --> suspect: beats missed" in lines


def test_the_diagram_is_the_same_every_time() -> None:
    assert diagram() == diagram()


def test_the_table_for_people_has_a_cell_for_each_pair_and_says_what_the_row_does() -> None:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table().splitlines()]
    assert lines[0] == ["seen", *(state.value for state in State)]
    cells = {
        (state, line[0].strip("*")): cell
        for line in lines[2:]
        for state, cell in zip(S, line[1:], strict=True)
    }
    assert len(cells) == len(PAIRS)
    for state, seen in PAIRS:
        cell, row = cells[state, seen], TABLE.get((state, seen))
        assert (cell == "") is (row is None)
        if row is not None:
            assert cell.split(" (")[0] == ("\N{MIDDLE DOT}" if row.next is state else row.next)
    assert cells[S.HEALTHY, "silence"] == "gone (cr)"
    assert cells[S.HEALTHY, "call failed"] == "\N{MIDDLE DOT} (p)"
