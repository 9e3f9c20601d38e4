"""One worker's health in numbers: what was seen of it, what it serves, what it still has to prove.

`note` counts an observation and answers with the grounds for a quarantine, if it now has any;
`sentence`, `spare`, `cut` and `acquit` change what is held against it. It knows neither the other workers nor
the table, and never moves a state by itself: only the monitor does. Seconds, monotonic.

Only failures that no silence explains are counted: while a beat is overdue, silence alone decides, so
that a worker that froze for two seconds is not also convicted of the deadlines it missed meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from .health_arithmetic import (
    STEADY_HISTORY,
    beat_overdue,
    flap_share,
    quarantine_length,
    remember,
    slow_start_limit,
    still_flapping,
    strikes_left,
)
from .health_panic import Part
from .health_policy import HealthPolicy
from .health_table import LINKED, Observation, State
from .quarantine_share import OUTSIDE, Standing

ONE_FAILURE_S = 0.1  # calls that fail closer together than this fail for one reason, and count once

IN_SERVICE = frozenset({State.HEALTHY, State.SUSPECT, State.STALLED, State.PROBATION})
ROUTABLE = frozenset({State.HEALTHY, State.PROBATION})
_WATCHED = IN_SERVICE | {State.QUARANTINED}
_DOUBTED = frozenset({State.SUSPECT, State.UNHEALTHY, State.PROBATION})
_PRESENT = frozenset({State.HEALTHY, State.SUSPECT, State.PROBATION, State.QUARANTINED})


@dataclass(slots=True)
class HealthRecord:
    worker_id: str
    policy: HealthPolicy
    models: tuple[str, ...]
    limit: int
    since: float
    state: State = State.JOINING
    cause: str = ""

    last_seen: float = -inf  # what people are told
    quiet_since: float = -inf  # the clock of silence, which stands still while we ourselves pause
    host_answered: float = -inf  # for what its loop did not say: it is not lost, and gets no work either
    quiet: bool = False  # in quarantine, and its beats are missing

    probe_failures: int = 0  # in a row, like the next two
    call_failures: int = 0
    deadline_misses: int = 0
    last_call_failure: float = -inf
    last_failure: float = -inf

    history: int = STEADY_HISTORY
    flapping: bool = False
    next_call_result: float = -inf

    held: bool = False  # in quarantine by an operator's word
    drained: bool = False  # draining by an operator's word
    leaving: bool = False  # draining by its own
    strikes: int = 0
    quarantine_until: float = -inf
    verdict: str = ""  # why it is quarantined or held, told again when it returns from a loss
    on_probation: bool = False  # has been in quarantine and not proven itself since
    proofs: int = 0

    probed_at: float = -inf
    next_probe: float = inf
    probe_expires: float = -inf

    # Kept by the monitor, which recomputes them after every change.
    patience: float = inf
    wake_at: float = inf
    beat_is_news: bool = False
    untroubled: bool = False
    told_limit: int = -1
    counted: Standing = OUTSIDE
    part: Part = Part.NONE
    let_in: bool = False  # in quarantine, and given work because its model is in panic

    def hear(self, now: float) -> None:
        self.last_seen = self.quiet_since = now
        self.quiet = False

    # Counting. Each returns the grounds for a quarantine, or "".

    def note(self, seen: Observation, now: float, *, busy: bool) -> str:
        """Counts one observation, before the table moves the state."""
        match seen:
            case Observation.LINK_UP:
                return self._note_link_up(now)
            case Observation.CONNECTION_LOST | Observation.SILENCE:
                return self._note_link_end(seen)
            case Observation.PROBE_FAILED | Observation.CALL_FAILED | Observation.CALL_TIMED_OUT:
                return self._note_failure(seen, now)
            case Observation.PROBE_OK:
                return self._note_probe_ok(busy)
            case Observation.SAYS_UNHEALTHY:
                self.probe_failures = 0
                return ""
            case Observation.CALL_OK:
                return self._note_call_ok(now)
            case Observation.BEAT_MISSED:
                self.quiet = True
                return self._result(False)
            case Observation.BEAT if self.state in (State.SUSPECT, State.STALLED):
                return self._result(True)
            case _:
                self._note_word(seen, now)
                return ""

    def _note_link_up(self, now: float) -> str:
        """A new link may be a new process: failures in a row begin anew, the flap history does not."""
        self.hear(now)
        self.leaving = False
        self.probe_expires = -inf
        self.forget_failures()
        return self._result(True)

    def _note_link_end(self, seen: Observation) -> str:
        if self.state not in _WATCHED:
            return ""
        flaps = self._result(False)
        if self.on_probation and self.state in IN_SERVICE:
            return f"{seen} on probation"
        return flaps

    def _note_failure(self, seen: Observation, now: float) -> str:
        self.last_failure = now
        if self.let_in:
            self.proofs = 0
        overdue = beat_overdue(now - self.quiet_since, self.policy.heartbeat_interval)
        if self.state not in ROUTABLE or overdue:
            return ""
        in_a_row = self._count_failure(seen, now)
        flaps = "" if seen is Observation.CALL_TIMED_OUT else self._failure_result(seen, now)
        if self.state is State.PROBATION and not self.has_proofs():
            return f"{seen} on probation"
        return in_a_row or flaps

    def _count_failure(self, seen: Observation, now: float) -> str:
        policy = self.policy
        if seen is Observation.PROBE_FAILED:
            self.probe_failures += 1
            return _in_a_row(self.probe_failures, policy.probe_failures, "probes failed")
        if seen is Observation.CALL_TIMED_OUT:
            self.deadline_misses += 1
            return _in_a_row(self.deadline_misses, policy.deadline_misses, "deadlines missed")
        if now - self.last_call_failure >= ONE_FAILURE_S:
            self.call_failures += 1
            self.last_call_failure = now
        return _in_a_row(self.call_failures, policy.call_failures, "calls failed")

    def _failure_result(self, seen: Observation, now: float) -> str:
        return self._result(False) if seen is Observation.PROBE_FAILED else self._call_result(False, now)

    def _note_probe_ok(self, busy: bool) -> str:
        """A probe proves the link and not the work: it wipes out failed probes alone."""
        self.probe_failures = 0
        self.proofs += self.state is State.PROBATION and not busy
        return self._result(True) if self.state in _WATCHED else ""

    def _note_call_ok(self, now: float) -> str:
        self.call_failures = self.deadline_misses = 0
        self.proofs += self.state is State.PROBATION or self.let_in
        return self._call_result(True, now) if self.state in _WATCHED else ""

    def _note_word(self, seen: Observation, now: float) -> None:
        """What the worker or an operator says, which is not a result."""
        match seen:
            case Observation.GOODBYE:
                self.leaving = self.state in LINKED
            case Observation.OPERATOR_DRAIN:
                self.drained, self.held = True, False
            case Observation.OPERATOR_QUARANTINE:
                self.drained, self.held = False, True
            case Observation.OPERATOR_RELEASE:
                self._release(now)
            case Observation.HOST_ANSWERS if self.state in (State.SUSPECT, State.STALLED):
                self.host_answered = now

    def _call_result(self, good: bool, now: float) -> str:
        """Calls are sampled as rarely as probes, or traffic would wash everything else out."""
        if now < self.next_call_result:
            return ""
        self.next_call_result = now + self.policy.probe_interval
        return self._result(good)

    def _result(self, good: bool) -> str:
        """Takes one result into the flap history; only a change of results can convict."""
        changed = good != self.history & 1
        self.history = remember(self.history, good)
        share = flap_share(self.history)
        self.flapping = still_flapping(self.flapping, share, self.policy.flap_low, self.policy.flap_high)
        return f"flapping: {share:.0%} changes" if self.flapping and changed else ""

    # What is held against it.

    def sentenced(self, now: float) -> bool:
        return now < self.quarantine_until

    def sentence(self, grounds: str, now: float) -> None:
        """Opens a quarantine, twice as long as the last one unless there was a long calm between."""
        policy = self.policy
        calm = now - self.quarantine_until
        self.strikes = strikes_left(self.strikes, calm, policy.strike_forgiven_after) + 1
        length = quarantine_length(self.strikes, policy.quarantine_min, policy.quarantine_max)
        self.quarantine_until = now + length
        self.verdict = grounds
        self.on_probation = True
        self.proofs = 0
        self.forget_failures()

    def spare(self, grounds: str) -> None:
        """Convicted, but its model cannot do without it: it stays, and starts to prove itself anew."""
        self.cause = f"{grounds}; kept in service, too many of its model are in quarantine"
        self.proofs = 0

    def acquit(self) -> None:
        """It has proven itself; only its strikes stay, until a long calm takes them away."""
        self.on_probation = False
        self.proofs = 0
        self.forget_failures()

    def cut(self, now: float) -> None:
        """Ends the quarantine; what it has to prove stays."""
        self.quarantine_until = min(self.quarantine_until, now)

    def _release(self, now: float) -> None:
        """The operator vouches for it: a clean record, and a slow start if it comes from quarantine."""
        self.on_probation = self.on_probation or self.state is State.QUARANTINED
        self.held = self.drained = self.flapping = False
        self.strikes = self.proofs = 0
        self.history = STEADY_HISTORY
        self.cut(now)
        self.forget_failures()

    def forget_failures(self) -> None:
        self.probe_failures = self.call_failures = self.deadline_misses = 0

    def has_proofs(self) -> bool:
        return self.proofs >= self.policy.probation_successes

    def proven(self) -> bool:
        """Who flapped stays on probation for longer, but one failed call no longer condemns it."""
        return self.state is State.PROBATION and self.has_proofs() and not self.flapping

    # What follows from it.

    def in_doubt(self) -> bool:
        failures = self.probe_failures or self.call_failures or self.deadline_misses
        return bool(failures) or self.flapping or self.state in _DOUBTED

    def calm(self, now: float) -> float:
        """Seconds since anything was amiss."""
        return now - max(self.since, self.last_failure)

    def routable_limit(self) -> int:
        """Calls at once that it may be given now."""
        if self.state is State.HEALTHY:
            return self.limit
        slowly = self.state is State.PROBATION or self.let_in
        return slow_start_limit(self.proofs, self.limit) if slowly else 0

    def part_in_panic(self) -> Part:
        if self.state in ROUTABLE:
            return Part.ROUTABLE
        shut_out = self.state is State.QUARANTINED and not self.held and not self.quiet
        return Part.SHUT_OUT if shut_out else Part.NONE

    def standing(self) -> Standing:
        present = self.state in _PRESENT and not self.held
        return Standing(present, present and self.state is State.QUARANTINED)


def _in_a_row(found: int, enough: int, what: str) -> str:
    return f"{found} {what} in a row" if found >= enough else ""
