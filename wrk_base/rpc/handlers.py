"""What a method is on the serving side: the author's function, how it runs, and its figures."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal


class Kind(Enum):
    """How a handler runs."""

    INLINE = "inline"
    COROUTINE = "coroutine"
    STREAM = "stream"
    FORWARD = "forward"
    THREAD = "thread"
    PROCESS = "process"


Blocking = Literal["thread", "process"]


@dataclass(slots=True)
class MethodStats:
    """Figures of one method since the start; `processing_time` in seconds."""

    requests: int = 0
    errors: int = 0
    in_flight: int = 0
    waiting: int = 0
    processing_time: float = 0.0
    last_error: str = ""
    overruns: int = 0
    items: int = 0
    credit_stalls: int = 0
    deadline_drops: int = 0
    cancels: int = 0
    refusals: int = 0

    def facts(self) -> dict[str, Any]:
        """As `getStats` tells them: milliseconds."""
        average = self.processing_time * 1000 / self.requests if self.requests else 0.0
        return {
            "requests": self.requests,
            "errors": self.errors,
            "inFlight": self.in_flight,
            "waiting": self.waiting,
            "processingTime": round(self.processing_time * 1000, 3),
            "averageProcessingTime": round(average, 3),
            "lastError": self.last_error,
            "overruns": self.overruns,
            "streamItems": self.items,
            "creditStalls": self.credit_stalls,
            "deadlineDrops": self.deadline_drops,
            "cancels": self.cancels,
            "refusals": self.refusals,
        }


@dataclass(slots=True)
class Handler:
    """A plain function runs inline (it should take under 1 ms), a coroutine function as a task, an async
    generator as the task of a stream. A blocking function runs in a thread or a process.

    A `raw` one gets the request with its payload still packed and ends it itself, a plain one perhaps
    later: that is how a router forwards what it never decodes. `limit` requests of it run at once.
    """

    method: str
    function: Callable[..., Any]
    kind: Kind
    raw: bool
    wants_request: bool
    limit: int
    stats: MethodStats = field(default_factory=MethodStats)


def make_handler(
    method: str,
    function: Callable[..., Any],
    *,
    raw: bool = False,
    blocking: Blocking | None = None,
    limit: int | None = None,
) -> Handler:
    """`function(body)` or `function(body, request)`; raises TypeError for what cannot serve a call."""
    if not method or len(method) > 128:
        raise ValueError("a method's name has 1 to 128 characters")
    if limit is not None and limit < 1:
        raise ValueError(f"{method}: at least one request runs at a time")
    kind = _kind(method, function, raw, blocking)
    takes_request = raw or _takes_two(function, method)
    return Handler(
        method, function, kind, raw, takes_request and kind is not Kind.PROCESS, limit or 1_000_000_000
    )


def _kind(method: str, function: Callable[..., Any], raw: bool, blocking: Blocking | None) -> Kind:
    if inspect.isgeneratorfunction(function):
        raise TypeError(f"{method}: a streaming handler is an async generator, not a plain one")
    streams, is_async = inspect.isasyncgenfunction(function), inspect.iscoroutinefunction(function)
    if blocking is not None:
        if streams or is_async or raw:
            raise TypeError(f"{method}: what blocks is a plain function of the body")
        return Kind(blocking)
    if streams:
        if raw:
            raise TypeError(f"{method}: a raw handler is a function; it streams by `request.produce`")
        return Kind.STREAM
    if is_async:
        return Kind.COROUTINE
    return Kind.FORWARD if raw else Kind.INLINE


def _takes_two(function: Callable[..., Any], method: str) -> bool:
    parameters = list(inspect.signature(function).parameters.values())
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return True
    count = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    needed = sum(
        p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty for p in parameters
    )
    if count == 0 or needed > 2:
        raise TypeError(f"{method}: a handler takes (body) or (body, request)")
    return count >= 2
