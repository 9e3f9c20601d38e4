"""A history by what it is about: one entry a request, an execution, a worker, a fault. Pure.

It judges nothing. Events may be given in any order; within an entry they stand in the order of time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .history import (
    CUTS,
    DEADLY,
    Answered,
    Began,
    Census,
    Ended,
    Event,
    Fault,
    Left,
    Run,
    Sent,
    StateChanged,
)

ROUTABLE = frozenset({"healthy", "probation"})
LONGEST_RETRY = 4.0  # seconds; a connection that was cut off for longer is given up


@dataclass(slots=True)
class Execution:
    began: Began
    ended: Ended | None = None


@dataclass(slots=True)
class Request:
    """All that is known of one id; `sent` is None where only racks or answers name it."""

    id: str
    sent: Sent | None = None
    answers: list[Answered] = field(default_factory=list)
    left: Left | None = None
    executions: list[Execution] = field(default_factory=list)

    @property
    def over_at(self) -> float | None:
        """When nobody waited for it any more."""
        ends = [answer.at for answer in self.answers] + ([self.left.at] if self.left else [])
        return min(ends) if ends else None


class Book:
    """`states` are by worker and orchestrator; `stray` are ends of what never began."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.requests: dict[str, Request] = {}
        self.states: dict[tuple[str, str], list[StateChanged]] = {}
        self.census: dict[str, list[Census]] = {}
        self.faults: list[Fault] = []
        self.run: Run | None = None
        self.stray: list[Ended] = []
        self.last_at = self.answered_at = 0.0
        self._executions: dict[str, Execution] = {}
        for event in sorted(events, key=_order):
            self._enter(event)
        self._deadly: dict[str, list[float]] = {}
        for fault in self.faults:
            if fault.kind in DEADLY:
                self._deadly.setdefault(fault.target, []).append(fault.at)

    def _enter(self, event: Event) -> None:
        self.last_at = max(self.last_at, event.at)
        match event:
            case Sent():
                self._request(event.id).sent = event
            case Answered():
                self._request(event.id).answers.append(event)
                self.answered_at = max(self.answered_at, event.at)
            case Left():
                self._request(event.id).left = event
            case Began():
                execution = self._executions[event.execution] = Execution(event)
                self._request(event.id).executions.append(execution)
            case Ended():
                self._end(event)
            case StateChanged():
                self.states.setdefault((event.worker, event.orchestrator), []).append(event)
            case Census():
                self.census.setdefault(event.who, []).append(event)
            case Fault():
                self.faults.append(event)
            case Run():
                self.run = event

    def _request(self, name: str) -> Request:
        found = self.requests.get(name)
        if found is None:
            found = self.requests[name] = Request(name)
        return found

    def _end(self, event: Ended) -> None:
        execution = self._executions.get(event.execution)
        if execution is None or execution.ended is not None:
            self.stray.append(event)
        else:
            execution.ended = event

    def died_after(self, worker: str, at: float) -> bool:
        """Whether the worker was killed then or later."""
        return any(died >= at for died in self._deadly.get(worker, ()))

    def troubled(self, worker: str, at: float, slack: float) -> bool:
        """Whether something was being done to this worker, or had been shortly before."""
        return any(f.target == worker and f.at - slack <= at <= f.until + slack for f in self.faults)

    def calm_since(self, since: float, until: float) -> float:
        """`since`, or the end of the last fault between then and `until`, and of those that began before that
        one was over: news had to wait for all of them."""
        calm = since
        for fault in self.faults:
            over = fault.until + _until_retry(fault)
            if fault.at <= max(until, calm) and over >= since:
                calm = max(calm, over)
        return calm


def _until_retry(fault: Fault) -> float:
    """Seconds for which TCP may wait, after the network is whole, before it sends again what was lost: it
    doubles its pauses (RFC 6298, section 5.5), so that the last is no longer than all before it."""
    return min(fault.until - fault.at, LONGEST_RETRY) if fault.kind in CUTS else 0.0


_RANK = {Run: 0, Sent: 1, Began: 2, Ended: 3}


def _order(event: Event) -> tuple[float, int]:
    """By time; what happened at the same moment in the order in which it must have."""
    return event.at, _RANK.get(type(event), 4)
