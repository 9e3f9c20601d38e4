"""Whether a run proves anything: its load ran before the first fault, and every fault bit. Pure.

    void(events) == []

A run without violations says nothing where the load generator fell behind, a fault missed its aim, or racks
wrote nothing down. A void run is neither passed nor failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .book import Book
from .history import Event, Run

ENOUGH = 0.8  # of the planned load


def void(events: Iterable[Event]) -> list[str]:
    """Why the run does not count, for people; nothing if it does."""
    book = Book(events)
    return ["nobody wrote down what was planned"] if book.run is None else list(_faults_of(book, book.run))


def _faults_of(book: Book, run: Run) -> Iterator[str]:
    sent = [request.sent.at for request in book.requests.values() if request.sent is not None]
    if not sent:
        yield "no request was sent"
    planned = max(float(run.requests), run.rate * (max(sent, default=run.at) - run.at))
    if len(sent) < ENOUGH * planned:
        yield f"{len(sent)} of {planned:.0f} planned requests were sent"
    if book.faults:
        first = min(fault.at for fault in book.faults)
        before, wanted = sum(at < first for at in sent), run.rate * (first - run.at)
        if before < ENOUGH * wanted:
            yield f"{before} of {wanted:.0f} planned requests were sent before the first fault"
    bit = sum(fault.bit for fault in book.faults)
    if bit < run.faults:
        yield f"{bit} of {run.faults} planned faults had an effect"
    if sent and not any(request.executions for request in book.requests.values()):
        yield "no rack wrote down what it ran"
    if not any(counted[-1].at >= book.answered_at for counted in book.census.values()):
        yield "nobody was counted at the end"
