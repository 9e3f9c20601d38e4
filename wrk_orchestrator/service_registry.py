"""Who serves what: every known worker, indexed by model, capability tag, label and instance.

The registry judges neither health nor load and calls nobody: each stimulus returns the changes that
the shell carries out (tell the balancer, write a log line, store a manual entry).

Invariants: a record is replaced whole, never edited, so that no index can disagree with it; an
instance (a rack's stable identity) is listed once, whatever ids it was registered under; the
operator's word (a manual registration) neither expires nor yields to what a rack says of itself.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain, islice
from math import inf
from typing import TypeAlias

from wrk_base.errors import CapacityExceeded

from .fact_index import FactIndex
from .records import Change, Changes, Joined, Left, Updated, Want, WorkerRecord

MAX_WORKERS = 20_000  # twice what a mesh is built for, some 3 KB each; ids are made up freely by operators
MAX_GONE_MODELS = 10_000  # passers-by could name models for ever; the longest gone is forgotten (3 MB)

Row: TypeAlias = dict[str, WorkerRecord]
NOBODY: Row = {}


class ServiceRegistry:
    """All workers. `lease_s`: how long one lives without renewal; `max_workers_per_model`: 0 = no cap."""

    def __init__(self, *, lease_s: float, max_workers_per_model: int = 0) -> None:
        self._lease_s = lease_s
        self._cap = max_workers_per_model
        self._workers: Row = {}
        self._by_model: dict[str, Row] = {}
        self._by_cold: dict[str, Row] = {}
        self._facts = FactIndex()
        self._by_instance: dict[str, str] = {}
        self._leases: OrderedDict[str, float] = OrderedDict()  # of one length: the first ends first
        self._said: Row = {}  # manual entry -> the operator's own words
        self._heard: Row = {}  # manual entry -> what its instance last said of itself
        self._gone: OrderedDict[str, None] = OrderedDict()

    # Stimuli: each returns what changed.

    def register(self, offer: WorkerRecord, now: float) -> Changes:
        """Enters or replaces a worker; `CapacityExceeded` leaves everything as it was.

        A rack that registers itself where a manual entry stands for it refreshes that entry.
        """
        held = self._workers.get(offer.worker_id)
        record = self._as_entry(offer, held)
        other = self._twin(record)
        if other is not None and _yields(record, other):
            return self._hand_over(offer, held, other)
        self._check_cap(record, other)
        gone = self._leave(other, _same_instance_as(record))
        self._note(record, offer, now)
        return gone + self._put(record)

    def bind_instance(self, worker_id: str, instance_id: str, epoch: int) -> Changes:
        """The dial-back's finding: who really answers at this worker's address."""
        held = self._workers.get(worker_id)
        if held is None:
            return ()
        bound = replace(held, instance_id=instance_id, epoch=epoch)
        other = self._twin(bound)
        if other is not None and _yields(bound, other):
            return self._hand_over(bound, held, other)
        return self._leave(other, _same_instance_as(bound)) + self._put(bound)

    def cool(self, worker_id: str, model: str) -> Changes:
        """The worker was asked for a model that it has not loaded any more; what it offers will tell."""
        held = self._workers.get(worker_id)
        if held is None or model not in held.models:
            return ()
        models = tuple(name for name in held.models if name != model)
        return self._put(replace(held, models=models, cold=(*held.cold, model)))

    def remove(self, worker_id: str, reason: str = "unregistered") -> Changes:
        return self._leave(self._workers.get(worker_id), reason)

    def renew(self, worker_id: str, now: float) -> None:
        """A sign of life: the lease starts anew (unknown and manual workers have none)."""
        if worker_id in self._leases:
            self._leases[worker_id] = now + self._lease_s
            self._leases.move_to_end(worker_id)

    def expire(self, now: float) -> Changes:
        """Removes every worker whose lease has ended by `now`."""
        changes: list[Change] = []
        while self._leases:
            worker_id, ends = next(iter(self._leases.items()))
            if ends > now:
                break
            changes += self.remove(worker_id, "lease ended")
        return tuple(changes)

    # Look-ups.

    def __len__(self) -> int:
        return len(self._workers)

    def get(self, worker_id: str) -> WorkerRecord | None:
        return self._workers.get(worker_id)

    def holder(self, worker_id: str) -> WorkerRecord | None:
        """Whoever has this id: registered under it, or standing for the instance of that name."""
        return self._workers.get(worker_id) or self._workers.get(self._by_instance.get(worker_id, ""))

    def all(self) -> list[WorkerRecord]:
        return list(self._workers.values())

    def models(self) -> dict[str, int]:
        """Model -> number of workers that serve it, 0 for one that could be loaded."""
        return dict.fromkeys(self._by_cold, 0) | {model: len(row) for model, row in self._by_model.items()}

    def some_models(self, most: int) -> list[str]:
        return list(islice(dict.fromkeys(chain(self._by_model, self._by_cold)), most))

    def serves(self, model: str) -> bool:
        return model in self._by_model

    def known(self, model: str) -> bool:
        """Whether the model is served, or could be once it is loaded."""
        return model in self._by_model or model in self._by_cold

    def seen(self, model: str) -> bool:
        """Whether the model is known or was, as far as memory goes (the last 10,000 that left)."""
        return self.known(model) or model in self._gone

    def workers_of(self, model: str) -> list[WorkerRecord]:
        return list(self._by_model.get(model, NOBODY).values())

    def could_load(self, model: str) -> list[WorkerRecord]:
        """Who lists the model as cold."""
        return list(self._by_cold.get(model, NOBODY).values())

    def expires(self, worker_id: str) -> float:
        """Monotonic seconds at which the lease ends; infinite without a lease."""
        return self._leases.get(worker_id, inf)

    def matching(self, want: Want) -> list[str]:
        """The ids of all workers that meet `want`, in a reproducible order."""
        return self._facts.all(want)

    def anybody(self, want: Want) -> bool:
        """Whether any worker meets `want`."""
        return self._facts.any(want)

    def capabilities(self, model: str) -> list[str]:
        """Some that workers of the model have, all of them where there are not very many."""
        return self._facts.capabilities(model)

    def longest_context(self, model: str) -> int:
        """In tokens, as far as workers of the model tell; 0: none does."""
        return self._facts.longest_context(model)

    # One instance, one entry.

    def _as_entry(self, offer: WorkerRecord, held: WorkerRecord | None) -> WorkerRecord:
        """The record that `offer` makes of the entry under its id."""
        if held is None:
            return offer
        if held.manual and not offer.manual:
            return self._refreshed(held, offer)
        if offer.instance_id or held.address != offer.address:
            return offer
        # What dialling has shown stays true as long as the address does.
        return replace(offer, instance_id=held.instance_id, epoch=offer.epoch or held.epoch)

    def _refreshed(self, held: WorkerRecord, offer: WorkerRecord) -> WorkerRecord:
        """The manual entry `held` once its instance has said `offer` of itself.

        The operator's address may lead through a gateway that the rack knows nothing of, so it stays
        until the instance says another than it said before: then it has moved.
        """
        said = self._said[held.worker_id]
        before = self._heard.get(held.worker_id, offer)
        return replace(
            said,
            models=offer.models,
            cold=offer.cold,
            facts=offer.facts,
            resumable=offer.resumable,
            tags=said.tags | offer.tags,
            labels={**offer.labels, **said.labels},
            max_concurrent=offer.max_concurrent,
            weight=offer.weight if said.weight is None else said.weight,
            name=said.name or offer.name,
            type=said.type or offer.type,
            address=held.address if offer.address == before.address else offer.address,
            instance_id=offer.instance_id or held.instance_id,
            epoch=offer.epoch or held.epoch,
        )

    def _twin(self, record: WorkerRecord) -> WorkerRecord | None:
        """Another entry that holds the same instance."""
        owner = self._by_instance.get(record.instance_id, record.worker_id)
        return None if owner == record.worker_id else self._workers[owner]

    def _hand_over(self, offer: WorkerRecord, held: WorkerRecord | None, other: WorkerRecord) -> Changes:
        """`other` stands for this instance: it takes in what the rack says of itself; `held` goes."""
        if offer.manual:
            return self._leave(held, _same_instance_as(other))
        record = self._refreshed(other, offer)
        self._check_cap(record, held)
        gone = self._leave(held, _same_instance_as(other))
        self._heard[other.worker_id] = offer
        return gone + self._put(record)

    # Entering and leaving.

    def _check_cap(self, record: WorkerRecord, leaving: WorkerRecord | None) -> None:
        if len(self._workers) >= MAX_WORKERS and record.worker_id not in self._workers and leaving is None:
            raise CapacityExceeded(f"{MAX_WORKERS} workers are registered, and no further ones may be")
        if not self._cap:
            return
        own = {record.worker_id} if leaving is None else {record.worker_id, leaving.worker_id}
        for model in record.models:
            row = self._by_model.get(model, NOBODY)
            if len(row) - len(own & row.keys()) >= self._cap:
                raise CapacityExceeded(
                    f"model {model} has {self._cap} workers, all that maxWorkersPerModel allows",
                    data={"model": model, "maxWorkersPerModel": self._cap},
                )

    def _note(self, record: WorkerRecord, offer: WorkerRecord, now: float) -> None:
        """Who said it, and until when it holds."""
        worker_id = record.worker_id
        if not record.manual:
            self._leases[worker_id] = now + self._lease_s
            self._leases.move_to_end(worker_id)
        elif not offer.manual:
            self._heard[worker_id] = offer
        else:
            self._said[worker_id] = offer
            self._heard.pop(worker_id, None)
            self._leases.pop(worker_id, None)

    def _put(self, record: WorkerRecord) -> Changes:
        before = self._workers.get(record.worker_id)
        if before is None:
            self._index(record)
            return (Joined(record),)
        if replace(record, registered_at=before.registered_at) == before:
            return ()
        self._unindex(before)
        self._index(record)
        self._remember((*before.models, *before.cold))
        return (Updated(record, before),)

    def _leave(self, record: WorkerRecord | None, reason: str) -> Changes:
        if record is None:
            return ()
        for table in (self._leases, self._said, self._heard):
            table.pop(record.worker_id, None)
        self._unindex(record)
        self._remember((*record.models, *record.cold))
        return (Left(record, reason),)

    def _index(self, record: WorkerRecord) -> None:
        self._workers[record.worker_id] = record
        self._facts.enter(record)
        if record.instance_id:
            self._by_instance[record.instance_id] = record.worker_id
        for model in record.models:
            self._by_model.setdefault(model, {})[record.worker_id] = record
            self._gone.pop(model, None)
        for model in _cold(record):
            self._by_cold.setdefault(model, {})[record.worker_id] = record
            self._gone.pop(model, None)

    def _unindex(self, record: WorkerRecord) -> None:
        del self._workers[record.worker_id]
        self._facts.leave(record)
        self._by_instance.pop(record.instance_id, None)
        _take_out(self._by_model, set(record.models), record.worker_id)
        _take_out(self._by_cold, _cold(record), record.worker_id)

    def _remember(self, models: Iterable[str]) -> None:
        for model in models:
            if not self.known(model):
                self._gone[model] = None
        while len(self._gone) > MAX_GONE_MODELS:
            self._gone.popitem(last=False)


def _yields(record: WorkerRecord, other: WorkerRecord) -> bool:
    """Whether `other` stays where both are one instance: manual beats heard, then the later word wins."""
    return other.manual and (not record.manual or other.registered_at > record.registered_at)


def _cold(record: WorkerRecord) -> set[str]:
    return set(record.cold).difference(record.models)


def _take_out(index: dict[str, Row], models: Iterable[str], worker_id: str) -> None:
    for model in models:
        row = index[model]
        del row[worker_id]
        if not row:
            del index[model]


def _same_instance_as(record: WorkerRecord) -> str:
    return f"same instance as {record.worker_id}"
