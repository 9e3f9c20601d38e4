"""What the health monitor tells the shell to do.

Frozen facts, nothing else. They are meant in the order given: routing stops before a link closes.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from .health_table import State


class Transition(msgspec.Struct, frozen=True):
    """For the log and the registry's lists; `cause` is for people, never a secret."""

    worker_id: str
    old: State
    new: State
    cause: str


class SetLimit(msgspec.Struct, frozen=True):
    """How many calls at once the worker may be given: 0 is no new work. Calls in flight go on."""

    worker_id: str
    limit: int


class ProbeNow(msgspec.Struct, frozen=True):
    """Send `getHealth` and observe PROBE_OK, PROBE_FAILED or PROBE_SLOW, within `probe_timeout`."""

    worker_id: str


class CloseLink(msgspec.Struct, frozen=True):
    """Close the link to the worker, failing its calls in flight so that they can move."""

    worker_id: str


class Redial(msgspec.Struct, frozen=True):
    """A link is wanted: dial now unless a dial is under way. May repeat."""

    worker_id: str


class PanicBegan(msgspec.Struct, frozen=True):
    """For the log: too few of the model's workers were left, so those shut out by judgement are let in."""

    model: str
    let_in: tuple[str, ...]


class PanicEnded(msgspec.Struct, frozen=True):
    """For the log: enough of the model's workers are in service again."""

    model: str


OfWorker: TypeAlias = Transition | SetLimit | ProbeNow | CloseLink | Redial
Change: TypeAlias = OfWorker | PanicBegan | PanicEnded
