"""What a method is on the serving side: the author's function, how it runs, and its figures."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class MethodStats:
    """Figures of one method since the start; `processing_time` in seconds."""

    requests: int = 0
    errors: int = 0
    in_flight: int = 0
    processing_time: float = 0.0
    last_error: str = ""
    overruns: int = 0

    def facts(self) -> dict[str, Any]:
        """As `getStats` tells them: milliseconds."""
        average = self.processing_time * 1000 / self.requests if self.requests else 0.0
        return {
            "requests": self.requests,
            "errors": self.errors,
            "inFlight": self.in_flight,
            "processingTime": round(self.processing_time * 1000, 3),
            "averageProcessingTime": round(average, 3),
            "lastError": self.last_error,
            "overruns": self.overruns,
        }


@dataclass(slots=True)
class Handler:
    """A plain function runs inline (it should take under 1 ms); a coroutine function gets a task.

    A `raw` one gets the request with its payload still packed and ends it itself, a plain one perhaps
    later: that is how a router forwards what it never decodes.
    """

    method: str
    function: Callable[..., Any]
    is_async: bool
    raw: bool
    wants_request: bool
    stats: MethodStats = field(default_factory=MethodStats)


def make_handler(method: str, function: Callable[..., Any], *, raw: bool = False) -> Handler:
    """`function(body)` or `function(body, request)`; raises TypeError for what cannot serve a call."""
    if not method or len(method) > 128:
        raise ValueError("a method's name has 1 to 128 characters")
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise TypeError(f"{method}: a handler is a function or a coroutine function, not a generator")
    return Handler(
        method,
        function,
        is_async=inspect.iscoroutinefunction(function),
        raw=raw,
        wants_request=raw or _takes_two(function, method),
    )


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
