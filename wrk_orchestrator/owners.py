"""Which machine a worker id belongs to: the one whose worker had it first.

A certificate proves that some machine of the mesh vouches for a worker id. It does not say that another
machine has not used it before; so the first one is remembered, over restarts, and nobody else gets it.
A worker may change its key (a new start after a rotation): the machine that certifies it stays the same.
"""

from __future__ import annotations

import contextlib

from wrk_base import errors
from wrk_base.rpc.identity import PeerInfo
from wrk_base.store import Store

KIND = "owner"
MOST = 10_000  # worker ids; beyond it the one remembered longest goes


class Owners:
    """Worker id -> id of the machine's key, kept in `store`, which the orchestrator opens later."""

    def __init__(self, writer: str) -> None:
        self._writer = writer
        self._store: Store | None = None
        self._owners: dict[str, str] = {}

    def __contains__(self, worker_id: str) -> bool:
        """Whether the id is kept for some machine."""
        return worker_id in self._owners

    def open(self, store: Store) -> None:
        self._store = store
        self._owners = {record.id: str(record.body.get("machine", "")) for record in store.all(KIND)}

    def claim(self, info: PeerInfo) -> None:
        """The worker that answers as `info` keeps its id; raises `PermissionDenied` if another has it."""
        if info.member is None:
            return
        machine = info.member.issuer_id.hex()
        owner = self._owners.get(info.worker_id)
        if owner is None:
            self._remember(info.worker_id, machine)
        elif owner != machine:
            raise errors.PermissionDenied(
                f"the worker id {info.worker_id} belongs to another machine than {info.member.issuer}: "
                f'an operator can free it with `wrk call forgetRacks \'{{"ids": ["{info.worker_id}"]}}\'`'
            )

    def forget(self, worker_id: str) -> None:
        """An operator frees the id."""
        if self._owners.pop(worker_id, None) is not None and self._store is not None:
            self._store.delete(KIND, worker_id, writer=self._writer)

    def _remember(self, worker_id: str, machine: str) -> None:
        if len(self._owners) >= MOST:
            self.forget(next(iter(self._owners)))
        self._owners[worker_id] = machine
        if self._store is not None:
            with contextlib.suppress(
                errors.Internal
            ):  # a full disk keeps nobody out: till a restart it holds
                self._store.put(KIND, worker_id, {"machine": machine}, writer=self._writer)
