"""The racks that were there when this orchestrator last ran, so that the next start dials them at once.

Only hints, like everything that is heard: who answers there has to show who it is. A rack that left is
forgotten, and one that was not there at so many starts in a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import structlog

from wrk_base import errors
from wrk_base.discovery import Found
from wrk_base.store import Store

from .records import WorkerRecord

KIND = "known-rack"
MOST = 10_000  # as many as there are owners of worker ids
MISSES = 10  # starts


class KnownRacks:
    """Kept in the store of this orchestrator, `writer`, which opens it later."""

    def __init__(self, writer: str, log: structlog.typing.FilteringBoundLogger) -> None:
        self._writer, self._log = writer, log
        self._store: Store | None = None
        self._known: dict[str, dict[str, Any]] = {}

    def open(self, store: Store) -> None:
        self._store = store
        self._known = {record.id: record.body for record in store.all(KIND)}

    def __contains__(self, instance_id: str) -> bool:
        return instance_id in self._known

    def ids(self) -> list[str]:
        return list(self._known)

    def hints(self) -> Iterator[Found]:
        """Where they were."""
        for instance_id, body in self._known.items():
            address, key = str(body.get("address", "")), str(body.get("key", ""))
            yield Found(address, "remembered", instance_id, 0, "rack", key)

    def note(self, record: WorkerRecord) -> None:
        """It is there, at this address. What operators registered is kept elsewhere."""
        if record.manual or not record.instance_id:
            return
        body = {"address": record.address, "key": record.public_key, "misses": 0}
        if self._known.get(record.instance_id) != body and (
            record.instance_id in self._known or len(self._known) < MOST
        ):
            self._keep(record.instance_id, body)

    def forget(self, instance_id: str) -> None:
        if self._known.pop(instance_id, None) is not None:
            self._write(instance_id, None)

    def missed(self, instance_id: str) -> None:
        """It was not there at this start."""
        body = self._known.get(instance_id)
        if body is None:
            return
        misses = int(body.get("misses", 0)) + 1
        if misses >= MISSES:
            self.forget(instance_id)
        else:
            self._keep(instance_id, {**body, "misses": misses})

    def _keep(self, instance_id: str, body: dict[str, Any]) -> None:
        self._known[instance_id] = body
        self._write(instance_id, body)

    def _write(self, instance_id: str, body: dict[str, Any] | None) -> None:
        """A disk that is full costs the next start a moment, and nobody a request."""
        try:
            if self._store is None:
                return
            if body is None:
                self._store.forget(KIND, instance_id)
            else:
                self._store.put(KIND, instance_id, body, writer=self._writer)
        except errors.WrkError as error:
            self._log.warning("rack.not_remembered", rack=instance_id, reason=error.message)
