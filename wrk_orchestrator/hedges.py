"""Requests that have had no sign of life yet, so that the late ones are sent to a second worker too.

A request enters when it is sent and leaves with its first item, its answer or its failure, at the cost of two
operations on a dict, which keeps them in the order of their sending. One timer a model looks at the oldest,
and only while some are there. How long is late, and how many hedges there may be, `hedging.py` says; whether
this one can be hedged now, the request itself.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import Protocol

from .hedging import LEAST_S, Patience


class Late(Protocol):
    """What is told to a request."""

    def hedge(self) -> None:
        """It waits longer than nearly all. Told once."""


class Watch:
    """The requests of one model that are alike: for a whole answer, or for a stream."""

    __slots__ = ("_loop", "_sent", "_timer", "patience")

    def __init__(self, share: float) -> None:
        self.patience = Patience(share)
        self._loop = asyncio.get_running_loop()
        self._sent: dict[Late, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, request: Late, now: float) -> None:
        self.patience.save()
        self._sent[request] = now
        if self._timer is None and self.patience.seconds != inf:
            self._timer = self._loop.call_at(now + self.patience.seconds, self._look)

    def answered(self, request: Late, now: float) -> None:
        """Its first sign came."""
        sent = self._sent.pop(request, None)
        if sent is not None:
            self.patience.note(now - sent)

    def forget(self, request: Late) -> None:
        """It failed, moved or was given up: its time says nothing, and it is looked after otherwise."""
        self._sent.pop(request, None)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        late = []
        for request, sent in self._sent.items():
            if now - sent < self.patience.seconds:
                due = max(sent + self.patience.seconds, now + LEAST_S)
                self._timer = self._loop.call_at(due, self._look)
                break
            late.append((request, sent))
        for request, sent in late:
            if self._sent.pop(request, None) is not None:  # else it ended by what the one before it did
                self.patience.note(now - sent)
                request.hedge()
