"""When each worker is asked for its health: sooner in doubt, rarer when long well, never too many at once.

The period of one that is well is `probe_interval`, twice that once nothing was amiss for ten minutes, and
longer where the fleet is so large that `max_probe_rate` would not do; in doubt it is
`probe_interval_in_doubt`. Each is moved by chance, so that workers that came together drift apart. What is
due at one tick goes in the order of need, doubt first and then whoever waited longest, as far as the rate
allows; the rest is put off. Beats go on all the while: a probe is never what finds a silent worker.

Invariants: no worker has two probes under way; in no second are more sent than the rate and one burst.
"""

from __future__ import annotations

from collections.abc import Collection
from math import inf
from typing import TYPE_CHECKING

from .health_arithmetic import jittered, probe_period
from .health_policy import HealthPolicy
from .health_record import HealthRecord

if TYPE_CHECKING:
    import random

BURST_SECONDS = 0.25  # of the rate: what one tick may send
PUT_OFF = 0.25  # of its period: when a probe that the rate did not allow is tried again


class ProbePlan:
    """`fleet` is how many workers there are."""

    def __init__(self, policy: HealthPolicy, rng: random.Random) -> None:
        self._policy = policy
        self._rng = rng
        self._burst = max(1.0, policy.max_probe_rate * BURST_SECONDS)
        self._left = self._burst
        self._counted_at = -inf
        self.fleet = 0

    def reported(self, record: HealthRecord, now: float) -> None:
        """Its probe was answered, or can be no more; the next one is planned."""
        record.probe_expires = -inf
        self._plan(record, now)

    def soon(self, record: HealthRecord, now: float) -> None:
        """Something was amiss: the next probe comes as early as in doubt."""
        early = min(self._jittered(now, self._policy.probe_interval_in_doubt), record.next_probe)
        record.next_probe = max(early, record.probe_expires)

    def send(self, due: Collection[HealthRecord], now: float) -> list[HealthRecord]:
        """Those of the due that are probed now."""
        self._refill(now)
        chosen = sorted(due, key=_need)[: int(self._left)]
        self._left -= len(chosen)
        for record in chosen:
            self._sent(record, now)
        for record in due:
            if record.next_probe <= now:
                record.next_probe = self._jittered(now, self._period(record, now) * PUT_OFF)
        return chosen

    def _refill(self, now: float) -> None:
        passed = max(0.0, now - self._counted_at)
        self._left = min(self._burst, self._left + passed * self._policy.max_probe_rate)
        self._counted_at = now

    def _sent(self, record: HealthRecord, now: float) -> None:
        """No second probe until the first is reported, or so late that its report must be lost."""
        record.probed_at = now
        record.probe_expires = now + 2 * self._policy.probe_timeout
        self._plan(record, now)

    def _plan(self, record: HealthRecord, now: float) -> None:
        record.next_probe = max(self._jittered(now, self._period(record, now)), record.probe_expires)

    def _period(self, record: HealthRecord, now: float) -> float:
        policy = self._policy
        if record.in_doubt():
            return policy.probe_interval_in_doubt
        return probe_period(policy.probe_interval, record.calm(now), self.fleet, policy.max_probe_rate)

    def _jittered(self, now: float, wait: float) -> float:
        return now + jittered(wait, self._rng.random())


def _need(record: HealthRecord) -> tuple[bool, float]:
    return not record.in_doubt(), record.probed_at
