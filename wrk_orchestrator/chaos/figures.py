"""What a history says in figures: what was lost, how soon faults were noticed, how much slower it got. Pure.

Percentiles are of good answers, beside those that were asked before the first fault, and of refusals. Times
of noticing and of return are those of the slowest orchestrator. A figure that could not be taken is None.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import inf

import msgspec

from wrk_base.errors import CapacityExceeded

from .book import ROUTABLE, Book
from .history import OK, UNSAID, Event, Fault, StateChanged

A_MOMENT = 0.02  # by which the clock of a log may be early


class Figures(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Seconds unless the name says otherwise."""

    requests: int
    executions: int
    attempts: int
    faults: dict[str, int]
    outcomes: dict[str, int]
    noticed: list[float]
    unnoticed: int
    back: list[float]
    p50_ms: float | None
    p99_ms: float | None
    calm_p50_ms: float | None
    calm_p99_ms: float | None
    slowest_ms: float | None
    refused_p50_ms: float | None
    refused_p99_ms: float | None
    ends: list[float]
    longest_queue: int
    memory_mib: tuple[float, float] | None


def figures(events: Iterable[Event]) -> Figures:
    book = Book(events)
    first = min((fault.at for fault in book.faults), default=inf)
    calm, rough, refused = list[float](), list[float](), list[float]()
    outcomes: Counter[str] = Counter()
    for request in book.requests.values():
        for answer in request.answers:
            outcomes[answer.outcome] += 1
            if request.sent is None:
                continue
            took = (answer.at - request.sent.at) * 1000
            if answer.outcome == OK:
                (calm if answer.at < first else rough).append(took)
            elif answer.outcome == CapacityExceeded.name:
                refused.append(took)
    noticed = [_noticed(book, fault) for fault in book.faults]
    back = [_back(book, fault) for fault in book.faults]
    return Figures(
        requests=sum(request.sent is not None for request in book.requests.values()),
        executions=sum(len(request.executions) for request in book.requests.values()),
        attempts=sum(max((a.attempts for a in r.answers), default=0) for r in book.requests.values()),
        faults=dict(Counter(fault.kind for fault in book.faults)),
        outcomes=dict(outcomes),
        noticed=sorted(round(seconds, 3) for seconds in noticed if seconds is not None),
        unnoticed=sum(seconds is None for seconds in noticed),
        back=sorted(round(seconds, 3) for seconds in back if seconds is not None),
        p50_ms=percentile(rough, 0.50),
        p99_ms=percentile(rough, 0.99),
        calm_p50_ms=percentile(calm, 0.50),
        calm_p99_ms=percentile(calm, 0.99),
        slowest_ms=percentile([*calm, *rough], 1.0),
        refused_p50_ms=percentile(refused, 0.50),
        refused_p99_ms=percentile(refused, 0.99),
        ends=[round(fault.ended_at - fault.at, 2) for fault in book.faults if fault.ended_at is not None],
        longest_queue=max((c.queue for counted in book.census.values() for c in counted), default=0),
        memory_mib=_memory(book),
    )


def percentile(values: Sequence[float], share: float) -> float | None:
    """The least value that so many are not above."""
    if not values:
        return None
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)


def _noticed(book: Book, fault: Fault) -> float | None:
    """Until the last orchestrator stopped giving it work."""
    left = [_taken_out(changes, fault) for changes in _of(book, fault.target)]
    at = max((change.at for change in left if change is not None), default=None)
    return None if at is None else max(0.0, at - fault.at)


def _back(book: Book, fault: Fault) -> float | None:
    """From the end of the fault until the last orchestrator gave it work again."""
    ends = list[float]()
    for changes in _of(book, fault.target):
        out = _taken_out(changes, fault)
        again = None if out is None else _first(changes, out.at, out=False)
        if again is not None:
            ends.append(max(0.0, again.at - fault.until))
    return max(ends, default=None)


def _of(book: Book, worker: str) -> list[list[StateChanged]]:
    return [changes for (name, _), changes in book.states.items() if name == worker]


def _taken_out(changes: Sequence[StateChanged], fault: Fault) -> StateChanged | None:
    """The change by which the fault was noticed, if it was while it lasted."""
    out = _first(changes, fault.at, out=True)
    return out if out is not None and out.at <= fault.until + A_MOMENT else None


def _first(changes: Sequence[StateChanged], since: float, *, out: bool) -> StateChanged | None:
    """The first change after `since` that takes it out of routing, or into it, if none was left out."""
    unsaid = False
    for change in changes:
        if change.new == UNSAID:
            unsaid = True
        elif change.at < since - A_MOMENT:
            unsaid = False
        elif unsaid:
            return None
        elif (change.new not in ROUTABLE) is out:
            return change
    return None


def _memory(book: Book) -> tuple[float, float] | None:
    """Of all orchestrators together, MiB: at the first count, and at the last."""
    counted = [each for each in book.census.values() if each[0].memory]
    if not counted:
        return None
    first, last = sum(each[0].memory for each in counted), sum(each[-1].memory for each in counted)
    return round(first / (1 << 20), 1), round(last / (1 << 20), 1)
