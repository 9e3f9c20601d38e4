"""Workers that operators registered: shared records, restored at each start, entered at each orchestrator.

What is kept is what is listed: an entry that is taken out, or became one with another, is deleted for all.
"""

from __future__ import annotations

import structlog

from wrk_base import clock, contract, errors

from .fleet import Fleet
from .records import WorkerRecord
from .shared_kinds import REGISTRATION, KeptRegistration
from .shared_records import SharedRecords


class KeptRegistrations:
    """Of one orchestrator, whose `fleet` they are entered in."""

    def __init__(
        self, records: SharedRecords, fleet: Fleet, log: structlog.typing.FilteringBoundLogger
    ) -> None:
        self._records, self._fleet, self._log = records, fleet, log
        records.follow(REGISTRATION, self._heard)

    def enter(self, offer: contract.Registration, source: str) -> WorkerRecord:
        """An operator registers a worker. Raises what the registry raises, and `CapacityExceeded`."""
        kept = KeptRegistration(offer, source, clock.wall_ms())
        record = self._fleet.register(offer, source=source, by=None, at=kept.at)
        self._records.put(REGISTRATION, offer.worker_id, kept)
        return record

    def restore(self) -> None:
        """Enter what is kept; what cannot be is logged, and stays kept."""
        for id, kept in self._records.all(REGISTRATION).items():
            self._enter_kept(id, kept)

    def forget(self, record: WorkerRecord) -> None:
        """It is not listed any more."""
        if not record.manual:
            return
        try:
            self._records.delete(REGISTRATION, record.worker_id)
        except errors.WrkError as error:
            self._log.error("worker.not_forgotten", worker=record.worker_id, reason=error.message)

    def _heard(self, id: str, kept: KeptRegistration | None) -> None:
        record = self._fleet.registry.get(id)
        if kept is not None:
            self._enter_kept(id, kept)
        elif record is not None and record.manual:
            self._fleet.remove(id, "unregistered elsewhere")

    def _enter_kept(self, id: str, kept: KeptRegistration) -> None:
        try:
            self._fleet.register(kept.offer, source=kept.source, by=None, at=kept.at)
        except errors.WrkError as error:
            self._log.warning("worker.not_restored", worker=id, reason=error.message)
