"""Who may be given work: watches every worker by what the shell saw of it, and tells routing.

Stimulus in, changes out: `observe`, `beat` and `tick` return what the shell has to do, above all
`SetLimit`, which is how a verdict reaches routing. `health_table.py` says what follows from what,
`health_judge.py` applies it to one worker. No sockets, no clock of its own, no registry in here.

Invariants: the last `SetLimit` of a worker is what its state allows; every state leads back to
healthy; no silence, miss or lost link is held against a worker while we ourselves were away.

For the shell: a report about an unknown worker is late and changes nothing. Report the loss of a link
before the calls that it failed, and no loss of a link that a newer one has replaced. A capacity
refusal, a slow first item and a handler's own error are not failures and are not reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import inf, isfinite
from typing import TYPE_CHECKING, Any

from wrk_base.errors import WorkerNotFound

from .health_arithmetic import flap_share
from .health_changes import Change, ProbeNow, SetLimit
from .health_judge import ANSWERS, HealthJudge
from .health_panic import Panic, Part
from .health_past import Pasts
from .health_policy import HealthPolicy
from .health_probes import ProbePlan
from .health_record import ROUTABLE, HealthRecord
from .health_self_doubt import SelfDoubt
from .health_table import LINKED, REPORTED, IllegalMove, Observation, State
from .quarantine_share import OUTSIDE, QuarantineShare

if TYPE_CHECKING:
    import random

_UNHEALTHY = frozenset(State) - {State.HEALTHY, State.JOINING, State.PROBATION, State.DRAINING}
_PROBED = LINKED - {State.STALLED}  # a stalled loop cannot answer
_BEAT_IS_NEWS = frozenset({State.SUSPECT, State.STALLED, State.GONE})
MODELS_SHOWN = 50


class HealthMonitor:
    """All workers' health. Times are monotonic seconds; `rng` moves the probes apart."""

    def __init__(self, settings: HealthPolicy, rng: random.Random) -> None:
        self._records: dict[str, HealthRecord] = {}
        self._policy = settings
        self._share = QuarantineShare(settings.max_quarantined_share)
        self._doubt = SelfDoubt(settings)
        self._panic = Panic(settings.panic_share)
        self._pasts = Pasts(settings)
        self._probes = ProbePlan(settings, rng)
        self._judge = HealthJudge(settings, self._share, self._doubt, self._probes)
        self._patience = dict.fromkeys(State, inf) | dict.fromkeys(LINKED, settings.silence_timeout)
        self._patience |= dict.fromkeys((*ROUTABLE, State.QUARANTINED), settings.suspect_after)

    # Who is watched.

    def add(self, worker_id: str, models: Iterable[str], limit: int, now: float) -> tuple[Change, ...]:
        """Starts watching a worker as `joining`; `limit` is its maxConcurrent.

        One that is known is updated: registering again washes nothing off, nor does leaving before.
        """
        if worker_id in self._records:
            return self.update(worker_id, models, limit)
        record = HealthRecord(worker_id, self._policy, tuple(dict.fromkeys(models)), limit, since=now)
        self._pasts.recall(record, now)
        self._records[worker_id] = record
        self._probes.fleet = len(self._records)
        self._share.enter(record.models, OUTSIDE)
        return self._settled(record, [])

    def update(self, worker_id: str, models: Iterable[str], limit: int) -> tuple[Change, ...]:
        """New models and maxConcurrent of a known worker; raises `WorkerNotFound`."""
        record = self._record(worker_id)
        self._share.leave(record.models, record.counted)
        self._panic.leave(worker_id, record.models, record.part)
        record.models, record.limit = tuple(dict.fromkeys(models)), limit
        self._share.enter(record.models, record.counted)
        self._panic.enter(worker_id, record.models, record.part)
        return self._settled(record, [])

    def remove(self, worker_id: str) -> tuple[Change, ...]:
        """Watches a worker no more, and keeps its strikes; one that is unknown is no error."""
        record = self._records.pop(worker_id, None)
        if record is None:
            return ()
        self._pasts.keep(record)
        self._probes.fleet = len(self._records)
        self._share.leave(record.models, record.counted)
        self._panic.leave(worker_id, record.models, record.part)
        return tuple(self._panic_turned())

    # What was seen of them.

    def beat(self, worker_id: str, now: float) -> tuple[Change, ...]:
        """Any traffic from the worker."""
        record = self._records.get(worker_id)
        if record is None:
            return ()
        record.last_seen = record.quiet_since = now
        if not record.beat_is_news:
            return ()
        record.quiet = False
        changes: list[Change] = []
        self._judge.take(record, Observation.BEAT, now, changes)
        return self._settled(record, changes)

    def observe(
        self, worker_id: str, seen: Observation, now: float, *, cause: str = "", busy: bool = False
    ) -> tuple[Change, ...]:
        """One of the `REPORTED` observations; raises `IllegalMove` for an inferred one.

        `cause` is shown to people where the observation moves the worker or says why it stays. `busy`,
        with PROBE_OK: calls of ours are in flight there, so that these must prove it, not the probe.
        """
        if seen not in REPORTED:
            raise IllegalMove(f"{seen.value!r} is inferred, never reported")
        record = self._records.get(worker_id)
        if record is None:
            return ()
        if seen is Observation.BEAT or seen in ANSWERS:
            record.hear(now)
        if seen is Observation.CALL_OK and record.untroubled and now < record.next_call_result:
            return ()
        changes: list[Change] = []
        self._judge.report(record, seen, now, changes, cause=cause, busy=busy)
        return self._settled(record, changes)

    def tick(self, now: float, loop_lag_s: float) -> tuple[Change, ...]:
        """Call it every `tick_interval`: beats missed, silence, quarantines over, probes due."""
        pause = self._doubt.tick(now, loop_lag_s)
        if pause is not None:
            self._stand_still(pause, now)
        changes: list[Change] = []
        due: list[HealthRecord] = []
        for record in self._records.values():
            if now - record.quiet_since > record.patience or now >= record.wake_at:
                changes += self._attend(record, now)
                if record.state in _PROBED and now >= record.next_probe:
                    due.append(record)
        if due:
            changes += [ProbeNow(record.worker_id) for record in self._probes.send(due, now)]
            for record in due:
                record.wake_at = self._next_wake(record)
        return tuple(changes)

    # What is known of them.

    def state(self, worker_id: str) -> str:
        """One of the values of `State`; raises `WorkerNotFound`."""
        return self._record(worker_id).state.value

    def describe(self, worker_id: str, now: float) -> dict[str, Any]:
        """The facts behind the verdict, for people; None: never, or none. Raises `WorkerNotFound`."""
        record = self._record(worker_id)
        return {
            "state": record.state.value,
            "sinceMs": _ms(now - record.since),
            "cause": record.cause,
            "hold": "drain" if record.drained else "quarantine" if record.held else "",
            "limit": record.told_limit,
            "letIn": record.let_in,
            "lastSeenMs": _ms(now - record.last_seen),
            "probeFailures": record.probe_failures,
            "callFailures": record.call_failures,
            "deadlineMisses": record.deadline_misses,
            "quarantineLeftMs": _ms(record.quarantine_until - now) if record.sentenced(now) else None,
            "strikes": record.strikes,
            "successes": record.proofs,
            "flapping": record.flapping,
            "flapPercentage": round(100 * flap_share(record.history), 1),
        }

    def aggregate(self) -> dict[str, Any]:
        """Figures over all workers. Having none is not unhealthy: the share of nobody is 1.0."""
        records = self._records.values()
        states = Counter(record.state for record in records)
        healthy = states[State.HEALTHY]
        return {
            "total": len(records),
            "healthy": healthy,
            "unhealthy": sum(states[state] for state in _UNHEALTHY),
            "healthyShare": healthy / len(records) if records else 1.0,
            "flapping": sum(record.flapping for record in records),
            "ownPauses": self._doubt.pauses,
            "panic": self._panic.models()[:MODELS_SHOWN],
            "panics": self._panic.begun,
            "states": {state.value: states[state] for state in State},
        }

    # How it is done.

    def _record(self, worker_id: str) -> HealthRecord:
        try:
            return self._records[worker_id]
        except KeyError:
            raise WorkerNotFound(f"no worker {worker_id!r} is watched") from None

    def _stand_still(self, pause: float, now: float) -> None:
        """Takes our own pause out of every silence, so that nobody is judged by it; probes stay apart."""
        for record in self._records.values():
            record.quiet_since = min(record.quiet_since + pause, now)
            record.host_answered = min(record.host_answered + pause, now)
            record.next_probe += pause

    def _attend(self, record: HealthRecord, now: float) -> tuple[Change, ...]:
        changes: list[Change] = []
        if self._sentence_is_over(record, now):
            self._judge.take(record, Observation.QUARANTINE_OVER, now, changes)
        self._judge.watch(record, now, changes)
        return self._settled(record, changes)

    def _sentence_is_over(self, record: HealthRecord, now: float) -> bool:
        return record.state is State.QUARANTINED and not record.held and not record.sentenced(now)

    def _settled(self, record: HealthRecord, changes: list[Change]) -> tuple[Change, ...]:
        """Recomputes what follows from the record, whatever it was that changed it.

        The limit comes first: nothing is routed to a link that is about to close.
        """
        state = record.state
        record.quiet = record.quiet and state is State.QUARANTINED
        record.patience = self._policy.silence_timeout if record.quiet else self._patience[state]
        record.wake_at = self._next_wake(record)
        record.beat_is_news = record.quiet or state in _BEAT_IS_NEWS
        record.untroubled = state is State.HEALTHY and not record.in_doubt()
        if record.untroubled:
            record.cause = ""
        self._recount(record)
        turned = self._panic_turned()
        changes[:0] = self._limited(record)
        return (*changes, *turned)

    def _limited(self, record: HealthRecord) -> list[Change]:
        record.let_in = record.part is Part.SHUT_OUT and self._panic.lets_in(record.models)
        limit = record.routable_limit()
        if limit == record.told_limit:
            return []
        record.told_limit = limit
        return [SetLimit(record.worker_id, limit)]

    def _panic_turned(self) -> list[Change]:
        """What follows for everybody who is shut out where panic has begun or ended."""
        changes: list[Change] = []
        for turn in self._panic.review():
            changes.append(turn)
            for worker_id in self._panic.shut_out(turn.model):
                changes += self._limited(self._records[worker_id])
        return changes

    def _next_wake(self, record: HealthRecord) -> float:
        probe = record.next_probe if record.state in _PROBED else inf
        if record.state is State.QUARANTINED and not record.held:
            return min(probe, record.quarantine_until)
        return probe

    def _recount(self, record: HealthRecord) -> None:
        standing = record.standing()
        if standing != record.counted:
            self._share.leave(record.models, record.counted)
            self._share.enter(record.models, standing)
            record.counted = standing
        part = record.part_in_panic()
        if part is not record.part:
            self._panic.leave(record.worker_id, record.models, record.part)
            self._panic.enter(record.worker_id, record.models, part)
            record.part = part


def _ms(seconds: float) -> int | None:
    return round(1000 * seconds) if isfinite(seconds) else None
