"""What operators said of workers: drained or quarantined until they are released, wherever they turn up.

A hold is a shared record under the worker's own id, so it outlives restarts of the worker and of every
orchestrator, and it is in force before a worker that joins can get its first request. What it does to a
worker, the health table says.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Literal, Protocol

from wrk_base import errors

from .health_table import Observation
from .records import WorkerRecord
from .service_registry import ServiceRegistry
from .shared_kinds import HOLD, Hold
from .shared_records import SharedRecords

MOST_SHOWN = 100
BY_OPERATOR = "by an operator"
_WORDS: dict[Literal["drain", "quarantine"], Observation] = {
    "drain": Observation.OPERATOR_DRAIN,
    "quarantine": Observation.OPERATOR_QUARANTINE,
}


class Observe(Protocol):
    """The fleet's."""

    def __call__(self, worker_id: str, observation: Observation, cause: str = "") -> None: ...


class Holds:
    """`held` tells what health holds a listed worker for: drain, quarantine or nothing."""

    def __init__(
        self,
        records: SharedRecords,
        registry: ServiceRegistry,
        observe: Observe,
        held: Callable[[str], str],
    ) -> None:
        self._records, self._registry, self._observe, self._held = records, registry, observe, held
        records.follow(HOLD, self._heard)

    def say(self, worker_id: str, word: Observation) -> WorkerRecord | None:
        """An operator's word: the worker that it is about; None where one is released that is away.

        Raises `WorkerNotFound`, and what `SharedRecords` raises; then nothing has changed.
        """
        record = self._registry.holder(worker_id)
        hold = next((hold for hold, meant in _WORDS.items() if meant is word), None)
        if hold is None:
            released = [self._records.delete(HOLD, id) for id in _ids(record, worker_id)]
        elif record is not None:
            self._records.put(HOLD, record.instance_id or record.worker_id, Hold(hold))
        if record is not None:
            self._observe(record.worker_id, word, BY_OPERATOR)
        elif hold is not None or not any(released):
            raise errors.WorkerNotFound(
                f"no worker {worker_id!r} is registered", data={"workerId": worker_id}
            )
        return record

    def shown(self) -> dict[str, str]:
        """Worker id -> what it is held for, also of those that are away."""
        return {id: hold.word for id, hold in islice(self._records.all(HOLD).items(), MOST_SHOWN)}

    def apply(self, record: WorkerRecord) -> None:
        """A worker is listed, or turned out to be another instance: what was said of it counts."""
        hold = self._of(record)
        if hold is not None and self._held(record.worker_id) != hold.word:
            self._observe(record.worker_id, _WORDS[hold.word], BY_OPERATOR)

    def _of(self, record: WorkerRecord) -> Hold | None:
        kept = (self._records.get(HOLD, id) for id in _ids(record, record.worker_id))
        return next((hold for hold in kept if hold is not None), None)

    def _heard(self, id: str, hold: Hold | None) -> None:
        record = self._registry.holder(id)
        if record is None:
            return
        if self._of(record) is not None:
            self.apply(record)
        elif self._held(record.worker_id):
            self._observe(record.worker_id, Observation.OPERATOR_RELEASE, BY_OPERATOR)


def _ids(record: WorkerRecord | None, worker_id: str) -> tuple[str, ...]:
    """Under which a hold may be kept: the instance's own, and before that was known, the entry's."""
    ids = (worker_id,) if record is None else (record.instance_id, record.worker_id, worker_id)
    return tuple(dict.fromkeys(id for id in ids if id))
