"""The table of worker health: (state, observation) -> (next state, actions).

This file is the specification; `health_monitor.py` does the counting and asks it for every move, and
`health_picture.py` draws from it what ARCHITECTURE.md shows. It knows no numbers, no clocks and no
workers. A pair that is missing is an illegal move and raises with both names; pairs that change
nothing are listed as `ignored`, so that leaving one out is a decision. Behaviour is added as rows.

Observations come in two kinds. `REPORTED` ones are what the shell saw; they may arrive late and in
any order, so every state has a row for each. The others are inferred by the monitor from its counts
and clocks, and are legal only where it can infer them. `link up`, `beat`, `probe ok` and `operator release`
have variants, because where a worker returns to depends on what it still has to serve or to prove.

Routing is a property of the state (`HEALTHY` full, `PROBATION` slowly, all others nothing), not an
action: nobody can forget to stop it.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    JOINING = "joining"  # known, but its link has not said HELLO yet
    UNREACHABLE = "unreachable"  # joining, and the last dial failed
    HEALTHY = "healthy"
    SUSPECT = "suspect"  # two beats missed: no new work
    STALLED = "stalled"  # beats missing, but the host's I/O answers: no new work, not lost
    UNHEALTHY = "unhealthy"  # by its own word: no new work until it takes that back, and no penalty
    QUARANTINED = "quarantined"  # judged, or held by the operator
    PROBATION = "probation"  # back from quarantine, slow start
    DRAINING = "draining"  # leaving, or held by the operator: finishes what it has
    GONE = "gone"  # link lost, silent, or its lease has ended


class Observation(StrEnum):
    LINK_UP = "link up"  # HELLO_OK came
    BEAT = "beat"  # any traffic
    CONNECTION_LOST = "connection lost"
    CANNOT_DIAL = "cannot be dialled"  # no connection, no HELLO_OK in time, or a refusal
    HOST_ANSWERS = "host answers"  # its I/O answers a handshake or a ZMTP ping, its loop does not
    PROBE_OK = "probe ok"
    PROBE_FAILED = "probe failed"
    PROBE_SLOW = "probe slow"  # late, or not yet while all its slots are taken: busy is not dead
    SAYS_UNHEALTHY = "says it is unhealthy"  # the answer to a probe
    CALL_OK = "call ok"  # a result, a first item, or the handler's own error
    CALL_FAILED = "call failed"  # by transport, or broken otherwise than by the handler's own error
    CALL_TIMED_OUT = "call timed out"
    GOODBYE = "goodbye"  # it sent GOAWAY
    LEASE_ENDED = "lease ended"
    OPERATOR_DRAIN = "operator drain"
    OPERATOR_QUARANTINE = "operator quarantine"
    OPERATOR_RELEASE = "operator release"
    # inferred by the monitor
    LINK_UP_ON_PROBATION = "link up, on probation"
    LINK_UP_IN_QUARANTINE = "link up, quarantine runs"
    LINK_UP_ON_DRAIN = "link up, held draining"
    BEAT_ON_PROBATION = "beat, on probation"
    PROBE_OK_ON_PROBATION = "probe ok, on probation"
    BEAT_MISSED = "beats missed"
    SILENCE = "silence"
    LOST_IN_OWN_PAUSE = "connection lost in our own pause"
    CONDEMNED = "condemned"
    QUARANTINE_OVER = "quarantine over"
    PROVEN = "proven"
    RELEASE_TO_PROBATION = "operator release, on probation"
    RELEASE_WHILE_LEAVING = "operator release, leaving"


class Action(StrEnum):
    PROBE_SOON = "probe soon"
    CLOSE_LINK = "close link"  # fails its calls in flight, so that they move elsewhere
    REDIAL = "redial"


class Row(NamedTuple):
    next: State
    actions: tuple[Action, ...] = ()


class IllegalMove(Exception):
    """The table has no row for this state and observation."""


S, O, A = State, Observation, Action  # noqa: E741  (short names keep one row on one line)

REPORTED = frozenset(list(O)[: list(O).index(O.LINK_UP_ON_PROBATION)])
LINKED = frozenset(set(S) - {S.JOINING, S.UNREACHABLE, S.GONE})

_PROBES = (O.PROBE_OK, O.PROBE_FAILED, O.PROBE_SLOW, O.SAYS_UNHEALTHY)
_CALLS = (O.CALL_OK, O.CALL_FAILED, O.CALL_TIMED_OUT)
_HOLDS = (O.OPERATOR_DRAIN, O.OPERATOR_QUARANTINE, O.OPERATOR_RELEASE)
_RETURNS = {
    O.LINK_UP: Row(S.HEALTHY),
    O.LINK_UP_ON_PROBATION: Row(S.PROBATION, (A.PROBE_SOON,)),
    O.LINK_UP_IN_QUARANTINE: Row(S.QUARANTINED),
    O.LINK_UP_ON_DRAIN: Row(S.DRAINING),
}
_LEAVES = {
    O.SILENCE: Row(S.GONE, (A.CLOSE_LINK, A.REDIAL)),
    O.CONNECTION_LOST: Row(S.GONE, (A.REDIAL,)),
    O.LOST_IN_OWN_PAUSE: Row(S.JOINING, (A.REDIAL,)),
    O.LEASE_ENDED: Row(S.GONE, (A.CLOSE_LINK,)),
    O.GOODBYE: Row(S.DRAINING),
    O.OPERATOR_DRAIN: Row(S.DRAINING),
    O.OPERATOR_QUARANTINE: Row(S.QUARANTINED),
}


def _rows(
    state: State, moves: dict[Observation, Row], ignored: Iterable[Observation]
) -> dict[tuple[State, Observation], Row]:
    stays = {observation: Row(state) for observation in ignored}
    return {(state, observation): row for observation, row in (stays | moves).items()}


TABLE: dict[tuple[State, Observation], Row] = {
    **_rows(
        S.JOINING,
        _RETURNS
        | {
            O.CANNOT_DIAL: Row(S.UNREACHABLE),
            O.CONNECTION_LOST: Row(S.JOINING, (A.REDIAL,)),
            O.LOST_IN_OWN_PAUSE: Row(S.JOINING, (A.REDIAL,)),
            O.LEASE_ENDED: Row(S.GONE),
        },
        # Results without a link are late; holds are remembered and bite when the link comes up.
        ignored=(O.BEAT, O.HOST_ANSWERS, O.GOODBYE, *_PROBES, *_CALLS, *_HOLDS),
    ),
    **_rows(
        S.UNREACHABLE,
        _RETURNS
        | {
            O.CONNECTION_LOST: Row(S.UNREACHABLE, (A.REDIAL,)),
            O.LOST_IN_OWN_PAUSE: Row(S.UNREACHABLE, (A.REDIAL,)),
            O.LEASE_ENDED: Row(S.GONE),
        },
        ignored=(O.CANNOT_DIAL, O.BEAT, O.HOST_ANSWERS, O.GOODBYE, *_PROBES, *_CALLS, *_HOLDS),
    ),
    **_rows(
        S.HEALTHY,
        _LEAVES
        | {
            O.LINK_UP: Row(S.HEALTHY),
            O.BEAT_MISSED: Row(S.SUSPECT, (A.PROBE_SOON,)),
            O.CONDEMNED: Row(S.QUARANTINED),
            O.PROBE_FAILED: Row(S.HEALTHY, (A.PROBE_SOON,)),
            O.PROBE_SLOW: Row(S.HEALTHY, (A.PROBE_SOON,)),
            O.CALL_FAILED: Row(S.HEALTHY, (A.PROBE_SOON,)),
            O.CALL_TIMED_OUT: Row(S.HEALTHY, (A.PROBE_SOON,)),
            O.SAYS_UNHEALTHY: Row(S.UNHEALTHY, (A.PROBE_SOON,)),
        },
        # A link that lives outweighs a second dial that failed.
        ignored=(O.BEAT, O.PROBE_OK, O.CALL_OK, O.CANNOT_DIAL, O.HOST_ANSWERS, O.OPERATOR_RELEASE),
    ),
    **_rows(
        S.SUSPECT,
        _LEAVES
        | {
            O.LINK_UP: Row(S.HEALTHY),
            O.LINK_UP_ON_PROBATION: Row(S.PROBATION, (A.PROBE_SOON,)),
            O.BEAT: Row(S.HEALTHY),
            O.BEAT_ON_PROBATION: Row(S.PROBATION, (A.PROBE_SOON,)),
            O.HOST_ANSWERS: Row(S.STALLED),
            O.CONDEMNED: Row(S.QUARANTINED),
            O.SAYS_UNHEALTHY: Row(S.UNHEALTHY, (A.PROBE_SOON,)),
        },
        # Its silence is the verdict; what fails meanwhile says nothing more.
        ignored=(*_PROBES, *_CALLS, O.CANNOT_DIAL, O.OPERATOR_RELEASE),
    ),
    **_rows(
        S.STALLED,
        _LEAVES
        | {
            O.LINK_UP: Row(S.HEALTHY),
            O.LINK_UP_ON_PROBATION: Row(S.PROBATION, (A.PROBE_SOON,)),
            O.BEAT: Row(S.HEALTHY),
            O.BEAT_ON_PROBATION: Row(S.PROBATION, (A.PROBE_SOON,)),
            O.CONDEMNED: Row(S.QUARANTINED),
            O.SAYS_UNHEALTHY: Row(S.UNHEALTHY, (A.PROBE_SOON,)),
        },
        ignored=(O.HOST_ANSWERS, *_PROBES, *_CALLS, O.CANNOT_DIAL, O.OPERATOR_RELEASE),
    ),
    **_rows(
        S.UNHEALTHY,
        _LEAVES
        | {
            O.LINK_UP: Row(S.HEALTHY),
            O.LINK_UP_ON_PROBATION: Row(S.PROBATION, (A.PROBE_SOON,)),
            O.LINK_UP_IN_QUARANTINE: Row(S.QUARANTINED),
            O.PROBE_OK: Row(S.HEALTHY),
            O.PROBE_OK_ON_PROBATION: Row(S.PROBATION, (A.PROBE_SOON,)),
        },
        # It told the truth, and whatever fails meanwhile is what it told of.
        ignored=(O.BEAT, *_PROBES, *_CALLS, O.CANNOT_DIAL, O.HOST_ANSWERS, O.OPERATOR_RELEASE),
    ),
    **_rows(
        S.QUARANTINED,
        _LEAVES
        | {
            O.LINK_UP_ON_PROBATION: Row(S.PROBATION, (A.PROBE_SOON,)),
            O.LINK_UP_IN_QUARANTINE: Row(S.QUARANTINED),
            O.QUARANTINE_OVER: Row(S.PROBATION, (A.PROBE_SOON,)),
            O.RELEASE_TO_PROBATION: Row(S.PROBATION, (A.PROBE_SOON,)),
            O.RELEASE_WHILE_LEAVING: Row(S.DRAINING),
        },
        # A quarantine ends by time or by the operator's word, never by good behaviour. What condemned
        # the worker, if only by being one change too many, is itself observed after the verdict.
        ignored=(O.BEAT, O.BEAT_MISSED, *_PROBES, *_CALLS, O.CANNOT_DIAL, O.HOST_ANSWERS),
    ),
    **_rows(
        S.PROBATION,
        _LEAVES
        | {
            O.LINK_UP_ON_PROBATION: Row(S.PROBATION, (A.PROBE_SOON,)),
            O.BEAT_MISSED: Row(S.SUSPECT, (A.PROBE_SOON,)),
            O.CONDEMNED: Row(S.QUARANTINED),
            O.SAYS_UNHEALTHY: Row(S.UNHEALTHY, (A.PROBE_SOON,)),
            O.PROVEN: Row(S.HEALTHY),
        },
        ignored=(O.BEAT, *_PROBES, *_CALLS, O.CANNOT_DIAL, O.HOST_ANSWERS, O.OPERATOR_RELEASE),
    ),
    **_rows(
        S.DRAINING,
        _LEAVES
        | _RETURNS
        | {
            O.OPERATOR_RELEASE: Row(S.HEALTHY),
            O.RELEASE_TO_PROBATION: Row(S.PROBATION, (A.PROBE_SOON,)),
            O.RELEASE_WHILE_LEAVING: Row(S.DRAINING),
        },
        ignored=(O.BEAT, *_PROBES, *_CALLS, O.CANNOT_DIAL, O.HOST_ANSWERS),
    ),
    **_rows(
        S.GONE,
        # It reaches us, so it lives: dial now rather than at the end of a back-off.
        _RETURNS | {O.BEAT: Row(S.GONE, (A.REDIAL,))},
        ignored=(
            *(O.CONNECTION_LOST, O.LOST_IN_OWN_PAUSE, O.CANNOT_DIAL, O.LEASE_ENDED),
            *(O.HOST_ANSWERS, O.GOODBYE, *_PROBES, *_CALLS, *_HOLDS),
        ),
    ),
}


def step(state: State, observation: Observation) -> Row:
    """The row of this pair; raises `IllegalMove` with both names when there is none."""
    row = TABLE.get((state, observation))
    if row is None:
        raise IllegalMove(f"no row for state {state.value!r} and observation {observation.value!r}")
    return row
