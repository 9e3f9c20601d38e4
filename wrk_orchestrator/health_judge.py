"""What one observation does to one worker: count it, convict if that gives grounds, move by the table.

Here the counts of `health_record.py` meet the moves of `health_table.py`: the judge turns what was
reported into what the table knows (a link that comes up while a quarantine runs is another
observation than one that just comes up), and asks the share before it sends anybody away. It knows
one worker at a time, appends what the shell has to do to `changes`, and says nothing of limits.

Invariant: a state changes in `_move` alone, by a row of the table.
"""

from __future__ import annotations

from .health_changes import Change, CloseLink, Redial, Transition
from .health_policy import HealthPolicy
from .health_probes import ProbePlan
from .health_record import IN_SERVICE, ROUTABLE, HealthRecord
from .health_self_doubt import SelfDoubt
from .health_table import LINKED, Action, Observation, State, step
from .quarantine_share import QuarantineShare

_PROBES = frozenset(
    {Observation.PROBE_OK, Observation.PROBE_FAILED, Observation.PROBE_SLOW, Observation.SAYS_UNHEALTHY}
)
ANSWERS = frozenset({Observation.PROBE_OK, Observation.CALL_OK, Observation.SAYS_UNHEALTHY})
_BLAME = _PROBES - ANSWERS | {Observation.CALL_FAILED, Observation.CALL_TIMED_OUT}
_HOLDS = frozenset({Observation.OPERATOR_DRAIN, Observation.OPERATOR_QUARANTINE})
_RESUMES = frozenset({Observation.LINK_UP_IN_QUARANTINE, Observation.LINK_UP_ON_DRAIN})
_LINK_ENDS = frozenset({Observation.CONNECTION_LOST, Observation.SILENCE})


class HealthJudge:
    def __init__(
        self, policy: HealthPolicy, share: QuarantineShare, doubt: SelfDoubt, probes: ProbePlan
    ) -> None:
        self._policy = policy
        self._share = share
        self._doubt = doubt
        self._probes = probes

    def report(
        self,
        record: HealthRecord,
        seen: Observation,
        now: float,
        changes: list[Change],
        *,
        cause: str = "",
        busy: bool = False,
    ) -> None:
        """Takes what the shell saw; what may be our own fault is not held against the worker."""
        if seen in _PROBES or seen is Observation.LINK_UP:
            self._probes.reported(record, now)
        doubted = self._doubt.doubts(now)
        if doubted and seen in _BLAME:
            return
        if doubted and seen is Observation.CONNECTION_LOST:
            self._move(record, Observation.LOST_IN_OWN_PAUSE, now, changes)
            return
        if seen in ANSWERS:
            self.take(record, Observation.BEAT, now, changes)
        self.take(record, seen, now, changes, cause=cause, busy=busy)
        if seen is Observation.OPERATOR_RELEASE and not doubted:
            self.watch(record, now, changes)  # it is not given work when it is silent

    def take(
        self,
        record: HealthRecord,
        seen: Observation,
        now: float,
        changes: list[Change],
        *,
        cause: str = "",
        busy: bool = False,
    ) -> None:
        """A conviction comes first, then the observation itself, then what has been proven by it."""
        grounds = record.note(seen, now, busy=busy)
        if grounds:
            self._convict(record, seen, grounds, now, changes)
        if seen in _HOLDS:
            record.verdict = cause or seen.value
        variant = self._variant(record, seen, now)
        self._move(record, variant, now, changes, record.verdict if variant in _RESUMES else cause)
        if record.proven():
            record.acquit()
            self._move(record, Observation.PROVEN, now, changes)

    def watch(self, record: HealthRecord, now: float, changes: list[Change]) -> None:
        """Judges its silence."""
        quiet = now - record.quiet_since
        lost = min(quiet, now - record.host_answered) > self._policy.silence_timeout
        if record.state in LINKED and lost:
            self.take(record, Observation.SILENCE, now, changes)
        elif record.state in ROUTABLE and quiet > self._policy.suspect_after:
            self.take(record, Observation.BEAT_MISSED, now, changes)
        elif record.state is State.QUARANTINED and quiet > self._policy.suspect_after:
            record.quiet = True  # no verdict: it stands trial already, and is not let in by panic

    def _convict(
        self, record: HealthRecord, seen: Observation, grounds: str, now: float, changes: list[Change]
    ) -> None:
        if record.held or record.drained or record.sentenced(now):
            return
        if seen in _LINK_ENDS or record.state not in IN_SERVICE:
            record.sentence(grounds, now)  # lost: outside the share, which is asked when it comes back
        elif self._share.allows(record.models, record.counted):
            record.sentence(grounds, now)
            self._move(record, Observation.CONDEMNED, now, changes, grounds)
        else:
            record.spare(grounds)

    def _variant(self, record: HealthRecord, seen: Observation, now: float) -> Observation:
        """The observation as the table knows it: a return depends on what is held against the worker."""
        state = record.state
        if seen is Observation.LINK_UP:
            return self._link_up(record, now)
        if seen is Observation.BEAT and record.on_probation and state in (State.SUSPECT, State.STALLED):
            return Observation.BEAT_ON_PROBATION
        if seen is Observation.PROBE_OK and record.on_probation and state is State.UNHEALTHY:
            return Observation.PROBE_OK_ON_PROBATION
        if seen is Observation.OPERATOR_RELEASE and state in (State.DRAINING, State.QUARANTINED):
            if record.leaving:
                return Observation.RELEASE_WHILE_LEAVING
            return Observation.RELEASE_TO_PROBATION if record.on_probation else seen
        return seen

    def _link_up(self, record: HealthRecord, now: float) -> Observation:
        if record.drained:
            return Observation.LINK_UP_ON_DRAIN
        if record.held:
            return Observation.LINK_UP_IN_QUARANTINE
        if record.sentenced(now):
            if record.state is State.QUARANTINED or self._share.allows(record.models, record.counted):
                return Observation.LINK_UP_IN_QUARANTINE
            record.cut(now)
        return Observation.LINK_UP_ON_PROBATION if record.on_probation else Observation.LINK_UP

    def _move(
        self, record: HealthRecord, seen: Observation, now: float, changes: list[Change], cause: str = ""
    ) -> None:
        old, row = record.state, step(record.state, seen)
        if row.next is not old:
            record.state, record.since, record.cause = row.next, now, cause or seen.value
            changes.append(Transition(record.worker_id, old, row.next, record.cause))
        elif cause and (_tells_why(old, seen) or (seen in _HOLDS and old in LINKED)):
            record.cause = cause  # what else is seen meanwhile must not hide why it is where it is
        for action in row.actions:
            match action:
                case Action.PROBE_SOON:
                    self._probes.soon(record, now)
                case Action.CLOSE_LINK:
                    changes.append(CloseLink(record.worker_id))
                case Action.REDIAL:
                    changes.append(Redial(record.worker_id))


def _tells_why(state: State, seen: Observation) -> bool:
    """Whether it is the newest reason for a state that it does not change."""
    if seen is Observation.SAYS_UNHEALTHY:
        return state is State.UNHEALTHY
    return seen is Observation.CANNOT_DIAL
