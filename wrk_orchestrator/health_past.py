"""What was held against workers that have left: leaving and coming again washes nothing off.

Under the id of each that left with strikes stand those, its sentence and its last results, until they are
forgiven. Of very many the oldest are forgotten: an id costs its owner nothing, and memory is bounded.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from .health_arithmetic import strikes_left
from .health_policy import HealthPolicy
from .health_record import HealthRecord

MOST_KEPT = 4096  # some 300 bytes each


class Past(NamedTuple):
    strikes: int
    quarantine_until: float
    verdict: str
    on_probation: bool
    history: int
    flapping: bool


class Pasts:
    def __init__(self, policy: HealthPolicy) -> None:
        self._policy = policy
        self._kept: OrderedDict[str, Past] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, record: HealthRecord) -> None:
        if not record.strikes:
            return
        self._kept[record.worker_id] = Past(
            record.strikes,
            record.quarantine_until,
            record.verdict,
            record.on_probation,
            record.history,
            record.flapping,
        )
        if len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)

    def recall(self, record: HealthRecord, now: float) -> None:
        """Gives a worker that comes again what is left of its past."""
        past = self._kept.pop(record.worker_id, None)
        if past is None:
            return
        calm = now - past.quarantine_until
        if not strikes_left(past.strikes, calm, self._policy.strike_forgiven_after):
            return
        record.strikes, record.quarantine_until, record.verdict = past[:3]
        record.on_probation, record.history, record.flapping = past[3:]
