"""What callers, racks and orchestrators saw of a run, as events in lines of JSON. Pure.

A history is the union of what each of them wrote down, in any order: callers `Sent`, `Answered` and `Left`,
racks `Began` and `Ended`, orchestrators `StateChanged`, whoever stages the run `Run`, `Fault` and `Census`.
A request is known by an id that its caller makes up and that stands in its input (`metadata: {"id": ...}`).
Times are monotonic seconds of one machine, or of a simulation.

Invariant: a line that is no event is refused in words that name its place. Only a last line without its
end is passed over: whoever wrote it was killed meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import msgspec

OK = "ok"
UNSAID = "unsaid"  # a state that nobody wrote down: it may have been any

# Kinds of faults that end a process without a word: what it ran never says that it ended.
KILL = "kill"
CRASH = "crash"
DEADLY = frozenset({KILL, CRASH})
FREEZE = "freeze"
TERMINATE = "terminate"
PARTITION = "partition"
CUTS = frozenset({PARTITION, "one way", "isolate", "mute", "deaf", "split", "clog"})  # packets are lost


class _Event(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel", tag_field="event"
):
    """Any line of a history."""


class Run(_Event, tag="Run", frozen=True):
    """What was planned: `rate` requests a second from `at` on, `requests` in all, so many `faults`."""

    scenario: str
    seed: int
    at: float
    rate: float = 0.0
    requests: int = 0
    faults: int = 0
    facts: dict[str, str] = {}


class Sent(_Event, tag="Sent", frozen=True):
    """`expects` is the digest of the one right answer; "" where it is not known beforehand."""

    id: str
    at: float
    deadline: float
    repeatable: bool = True
    streamed: bool = False
    expects: str = ""


class Answered(_Event, tag="Answered", frozen=True):
    """The outcome that a caller was told: `ok`, or the name of an error.

    `attempts` is 0 where it was not told. Of a stream, `numbers` are those that its items bore, in the order
    in which they came, and `items` how many an error says came; None where it says nothing.
    """

    id: str
    at: float
    outcome: str = OK
    worker: str = ""
    attempts: int = 0
    items: int | None = None
    numbers: list[int] | None = None
    digest: str = ""


class Left(_Event, tag="Left", frozen=True):
    """The caller went away and wants no answer any more."""

    id: str
    at: float


class Began(_Event, tag="Began", frozen=True):
    """A handler began to run; `execution` is a name that no other execution has."""

    id: str
    worker: str
    execution: str
    at: float


class Ended(_Event, tag="Ended", frozen=True):
    """It came to its end: `ok`, `cancelled`, or `failed`. Written down before its answer leaves."""

    id: str
    worker: str
    execution: str
    at: float
    outcome: str = OK


class StateChanged(_Event, tag="StateChanged", frozen=True):
    """A worker's health, as one orchestrator sees it; `sentence` is how long a quarantine has to last."""

    orchestrator: str
    worker: str
    old: str
    new: str
    at: float
    cause: str = ""
    sentence: float = 0.0


class Fault(_Event, tag="Fault", frozen=True):
    """What was done on purpose. `bit` says whether its effect was seen, `until` when it was taken back: the
    process runs again, or is ready again. `exit` is the code of a process that was asked to end, and
    `ended_at` when it had."""

    kind: str
    target: str
    at: float
    until: float
    bit: bool = True
    exit: int | None = None
    ended_at: float | None = None


class Census(_Event, tag="Census", frozen=True):
    """What `who` has open. `memory` is in bytes; `tables` are sizes of anything else that must not grow."""

    who: str
    at: float
    open_calls: int = 0
    leases: int = 0
    queue: int = 0
    memory: int = 0
    tables: dict[str, int] = {}


Event: TypeAlias = Run | Sent | Answered | Left | Began | Ended | StateChanged | Fault | Census

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Event).decode


class BadHistory(ValueError):
    """A line is no event; says which one, and what is wrong with it."""


def line(event: Event) -> bytes:
    return _encode(event) + b"\n"


def read(lines: Iterable[bytes], name: str = "history") -> Iterator[Event]:
    """The events of a file's lines. Raises `BadHistory`."""
    for number, text in enumerate(lines, 1):
        if not text.endswith(b"\n"):
            return  # the last one, and torn
        try:
            yield _decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:  # a ValidationError, too
            raise BadHistory(f"{name}:{number}: no event of a history: {error}") from None
