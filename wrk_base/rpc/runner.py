"""How handlers run: inline or as a task, until their deadline, each ending in exactly one envelope.

The runner gets requests that the server admitted and hands back answers through `say`. It knows no
socket and no caller's life: who is gone is told by `abandon`. A request leaves the table of its caller
once, when it is answered or abandoned; its slot is free only when its handler has really stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

from .. import contract, errors
from . import wire
from .calls import CallTable
from .handlers import MethodStats
from .request import Caller, Request

INLINE_SECONDS = 0.0015  # an inline handler that holds up everybody for longer is logged; uvloop's clock
# ticks in whole milliseconds, so one tick says nothing and two say that it took more than one

Say = Callable[[Caller, wire.Envelope, int], None]


class Runner:
    """Runs at most `max_in_flight` coroutine handlers; plain ones run at once."""

    def __init__(
        self,
        worker_id: str,
        say: Say,
        counters: dict[str, int],
        *,
        max_in_flight: int,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._worker_id, self._say, self._counters = worker_id, say, counters
        self._max_in_flight, self._log = max_in_flight, log
        self._loop = asyncio.get_running_loop()
        self._running: CallTable[int, Request] = CallTable()
        self._forwarding: dict[int, Request] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._emptied = asyncio.Event()

    @property
    def in_flight(self) -> int:
        return len(self._running.entries) + len(self._forwarding)

    async def drained(self) -> None:
        """Returns when no handler runs."""
        while self.in_flight:
            self._emptied.clear()
            await self._emptied.wait()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- one request

    def start(self, request: Request, now: float) -> float:
        """Run a plain handler, or give a coroutine its task; returns the time afterwards."""
        if request.deadline <= now:
            self._counters["deadlineDrops"] += 1
            self.turn_away(request, errors.DeadlineExceeded("the deadline passed before it could run"))
            return now
        if request.handler.is_async:
            self._start_task(request)
            return now
        if request.handler.raw:
            self._start_raw(request)
            return now
        return self._start_inline(request, now)

    def _start_raw(self, request: Request) -> None:
        if self._is_full(request):
            return
        request.handler.stats.in_flight += 1
        self._forwarding[id(request)] = request
        try:
            request.handler.function(request)
        except BaseException as error:  # a handler that calls sys.exit must not end the loop
            self.end_badly(request, error)

    def end(self, request: Request, answer: wire.Envelope) -> None:
        """Answer a request, if nobody has yet; that of a plain raw handler leaves its slot by that."""
        if request.caller.open.pop(request.id, None) is not None:
            self._say(request.caller, answer, _size(answer))
        if self._forwarding.pop(id(request), None) is not None:
            request.on_cancel = None
            self._count(request)

    def end_badly(self, request: Request, error: BaseException) -> None:
        if request.id in request.caller.open or id(request) in self._forwarding:
            self.end(request, self._failure(request, error))

    def _count(self, request: Request) -> None:
        """A slot is free again."""
        stats = request.handler.stats
        stats.in_flight -= 1
        stats.requests += 1
        stats.processing_time += self._loop.time() - request.arrived
        if not self.in_flight:
            self._emptied.set()

    def _is_full(self, request: Request) -> bool:
        if self.in_flight < self._max_in_flight:
            return False
        full = f"{self._max_in_flight} requests run here already"
        self.turn_away(request, errors.CapacityExceeded(full, retry_after_ms=1000))
        return True

    def _start_task(self, request: Request) -> None:
        if self._is_full(request):
            return
        request.handler.stats.in_flight += 1
        if self._running.add(id(request), request):
            self._arm()
        request.task = self._loop.create_task(self._run_task(request))

    def _start_inline(self, request: Request, now: float) -> float:
        answer = self._run_inline(request)
        finished = self._loop.time()
        stats = request.handler.stats
        stats.requests += 1
        stats.processing_time += finished - now
        if finished - now > INLINE_SECONDS:
            self._overran(stats, request.handler.method, finished - now)
        if request.caller.open.pop(request.id, None) is not None:
            self._say(request.caller, answer, _size(answer))
        return finished

    def _run_inline(self, request: Request) -> wire.Envelope:
        handler = request.handler
        try:
            body = request.body()
            return self._answer(
                request, handler.function(body, request) if handler.wants_request else handler.function(body)
            )
        except asyncio.CancelledError:  # of a future that it looked at: no reason to end the drain
            return self._failure(request, errors.Cancelled("the handler was cancelled"))
        except BaseException as error:  # a handler that calls sys.exit must not end the loop
            return self._failure(request, error)

    async def _run_task(self, request: Request) -> None:
        request.begun = True
        if request.verdict is not None:  # it was stopped before this first step
            request.verdict.not_started = True
            self._finish(request, self._failure(request, request.verdict))
            return
        handler = request.handler
        try:
            if handler.raw:
                await handler.function(request)
                answer = self.error(request.id, errors.Internal(f"{handler.method} gave no answer"))
            elif handler.wants_request:
                answer = self._answer(request, await handler.function(request.body(), request))
            else:
                answer = self._answer(request, await handler.function(request.body()))
        except asyncio.CancelledError:
            verdict = request.verdict or errors.Cancelled("the handler was cancelled")
            answer = self._failure(request, verdict)
        except BaseException as error:  # the same
            answer = self._failure(request, error)
        self._finish(request, answer)

    def _finish(self, request: Request, answer: wire.Envelope) -> None:
        self._running.discard(id(request))
        self._count(request)
        self.end(request, answer)

    def _overran(self, stats: MethodStats, method: str, seconds: float) -> None:
        stats.overruns += 1
        if stats.overruns & (stats.overruns - 1) == 0:  # the 1st, 2nd, 4th, 8th ...: a log is no counter
            ms = round(seconds * 1000, 2)
            self._log.warning("rpc.inline_handler_slow", method=method, ms=ms, times=stats.overruns)

    # --- ends that are not the handler's own

    def cancel(self, request: Request, verdict: errors.WrkError) -> None:
        """Stop a request; it is answered when its handler has really stopped."""
        request.verdict = request.verdict or verdict
        if request.on_cancel is not None:
            request.on_cancel(request.verdict)
        elif request.task is not None:
            _stop(request)
        elif id(request) not in self._forwarding:
            self.turn_away(request, verdict)

    def cancel_all(self, why: str) -> None:
        """Cancel what still runs; each is answered when it has stopped."""
        for request in [*self._running.entries.values(), *self._forwarding.values()]:
            self.cancel(request, errors.Unavailable(why))

    def turn_away(self, request: Request, refusal: errors.WrkError) -> None:
        """Answer a request whose handler never ran."""
        refusal.not_started = True
        if request.caller.open.pop(request.id, None) is not None:
            self._say(request.caller, self.error(request.id, refusal), 0)

    def abandon(self, caller: Caller) -> None:
        """The caller is gone: stop what runs for it, answer nobody."""
        abandoned, caller.open = list(caller.open.values()), {}
        for request in abandoned:
            self.cancel(request, errors.Cancelled("the caller is gone"))

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._running.wake_at, self._expire)

    def _expire(self) -> None:
        for key, request in self._running.expire(self._loop.time()):
            # It stays in the table until it has stopped, with no further deadline to wake for.
            request.deadline = float("inf")
            self._running.entries[key] = request
            self.cancel(request, errors.DeadlineExceeded("the deadline passed while it ran"))
        if self._running.entries:
            self._arm()

    # --- envelopes

    def _answer(self, request: Request, result: Any) -> wire.Envelope:
        head = None
        fields = contract.PAYLOAD_FIELDS.get(request.handler.method)
        if fields is not None and isinstance(result, dict) and fields[1] in result:
            rest = {key: value for key, value in result.items() if key != fields[1]}
            result = result[fields[1]]
            try:
                head = wire.pack_head(rest)
            except (TypeError, ValueError, OverflowError, RecursionError):
                raise errors.Internal(
                    f"{request.handler.method} returned fields that cannot be encoded"
                ) from None
        return (wire.REPLY, 0, request.id, head, request.content_type, request.packed(result), None)

    def _failure(self, request: Request, error: BaseException) -> wire.Envelope:
        stats = request.handler.stats
        stats.errors += 1
        if isinstance(error, errors.WrkError):
            known = error
        else:
            # The traceback is for this machine's log; the caller learns that it was not its fault.
            self._log.error("rpc.handler_failed", method=request.handler.method, exc_info=error)
            known = errors.Internal(f"{request.handler.method} failed; the log of the worker says why")
        stats.last_error = f"{known.name}: {known.message}"[:200]
        return self.error(request.id, known)

    def error(self, request_id: int, error: errors.WrkError) -> wire.Envelope:
        """The ERROR that ends request `request_id`."""
        data = error.data if error.data and wire.readable(error.data) else None
        return (
            wire.ERROR,
            0,
            request_id,
            error.code,
            error.name,
            error.message,
            error.retryable,
            None if error.retry_after_ms is None else round(error.retry_after_ms),
            error.origin or self._worker_id,
            error.not_started,
            data,
        )


def _stop(request: Request) -> None:
    """Stop a handler. One that has not begun sees its verdict in its first step: asyncio would never
    enter the body of a task that is cancelled before, and so it could not finish itself."""
    if request.task is not None and request.begun:
        request.task.cancel()


def _size(envelope: wire.Envelope) -> int:
    return len(envelope[5]) if envelope[0] == wire.REPLY else 0
