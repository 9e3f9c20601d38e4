"""The values that the registry deals in: a worker, what changed, and what a request wants.

All of them are immutable: whoever keeps one keeps what was true when it was taken.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from wrk_base.contract import ModelFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    """One worker: what it offers when it is handed in, what the registry holds afterwards.

    `address` is tcp://host:port, `public_key` (Z85) what a dial there needs; `instance_id` is "" until a
    dial-back has shown who answers there. `weight` is None unless set by hand. `source` is "mdns",
    "local", "static", "rpc" or "http"; `manual` marks the operator's own registrations.
    `registered_at` is Unix milliseconds. `models` can be asked for now, `cold` ones once they are loaded;
    `facts` tell what one of them can do beyond the worker's tags. Who is `resumable` can go on with a stream
    that another worker of its type began.
    """

    worker_id: str
    address: str
    models: tuple[str, ...] = ()
    tags: frozenset[str] = frozenset()
    labels: dict[str, str] = field(default_factory=dict)
    max_concurrent: int = 1
    weight: float | None = None
    name: str = ""
    type: str = ""
    instance_id: str = ""
    epoch: int = 0
    source: str = "rpc"
    manual: bool = False
    registered_at: int = 0
    public_key: str = ""
    cold: tuple[str, ...] = ()
    facts: dict[str, ModelFacts] = field(default_factory=dict)
    resumable: bool = False


@dataclass(frozen=True, slots=True)
class Joined:
    """A worker is new."""

    worker: WorkerRecord


@dataclass(frozen=True, slots=True)
class Updated:
    """A worker is known under the same id, with something else than `before`."""

    worker: WorkerRecord
    before: WorkerRecord


@dataclass(frozen=True, slots=True)
class Left:
    """A worker is gone."""

    worker: WorkerRecord
    reason: str


Change: TypeAlias = Joined | Updated | Left
Changes: TypeAlias = tuple[Change, ...]

UNTOLD = ModelFacts()


class Want(NamedTuple):
    """What a request asks for, normalised: equal wants are equal keys.

    `tags` are capabilities, of the worker or of its model; `min_context` is in tokens; `resumes` is the type
    of worker whose stream it has to go on with, empty for none.
    """

    model: str
    tags: frozenset[str] = frozenset()
    labels: frozenset[tuple[str, str]] = frozenset()
    min_capacity: int = 0
    min_context: int = 0
    resumes: str = ""

    def met_by(self, worker: WorkerRecord) -> bool:
        """Whether a worker that serves the model meets all the rest."""
        return (
            self.min_capacity <= worker.max_concurrent
            and self.labels <= worker.labels.items()
            and (self.tags <= worker.tags or self._missing(worker).issubset(self._told(worker).capabilities))
            and (not self.min_context or self.min_context <= self._told(worker).context_length)
            and (not self.resumes or (worker.resumable and self.resumes == worker.type))
        )

    def _missing(self, worker: WorkerRecord) -> frozenset[str]:
        return self.tags - worker.tags

    def _told(self, worker: WorkerRecord) -> ModelFacts:
        return worker.facts.get(self.model, UNTOLD)
