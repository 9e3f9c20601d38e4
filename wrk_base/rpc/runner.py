"""How handlers run: at once, as a task, elsewhere, or never; each ending in exactly one envelope.

The runner gets requests that the server admitted and hands back answers through `say`. It knows no
socket and no caller's life: who is gone is told by `abandon`. A request leaves the table of its caller
once, when it is answered or abandoned; its slot is free only when its handler has really stopped. What
finds no slot waits, in the order of arrival and until its deadline, in a room of bounded size.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from .. import contract, errors
from . import wire
from .body import Budget, give_back
from .calls import INFINITY, CallTable
from .handlers import Kind, MethodStats
from .pools import Pools
from .producer import Producer
from .request import Caller, Request

INLINE_SECONDS = 0.0015  # an inline handler that holds up everybody for longer is logged; uvloop's clock
# ticks in whole milliseconds, so one tick says nothing and two say that it took more than one
_INLINE, _FORWARD = Kind.INLINE, Kind.FORWARD  # looked up for every request


@dataclass(frozen=True, slots=True)
class RunLimits:
    """Counts; the reasons stand at the settings of the same names."""

    max_in_flight: int = 10_000
    max_waiting: int = 1000
    threads: int = 8
    processes: int = 2


class Voice(Protocol):
    """How the runner speaks to callers: the server."""

    def say(self, caller: Caller, envelope: wire.Envelope, payload_bytes: int = 0) -> None: ...

    def say_body(self, caller: Caller, envelope: wire.Envelope, body: wire.Payload) -> None: ...

    def plan_items(self, caller: Caller, emit: Callable[[], None]) -> None: ...


class Runner:
    """Runs at most `max_in_flight` handlers; plain ones run at once."""

    def __init__(
        self,
        worker_id: str,
        voice: Voice,
        counters: dict[str, int],
        limits: RunLimits,
        held: Budget,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._worker_id, self._voice, self._counters = worker_id, voice, counters
        self._limits, self._held, self._log = limits, held, log
        self._loop = asyncio.get_running_loop()
        self._table: CallTable[int, Request] = CallTable()
        self._forwarded: dict[int, Request] = {}  # their deadlines are their handlers' business
        self._waiting: deque[Request] = deque()
        self._pools = Pools(limits.threads, limits.processes)
        self._timer: asyncio.TimerHandle | None = None
        self._emptied = asyncio.Event()
        self._filling = False
        self.gathering: set[Request] = set()
        self.in_flight = 0
        self.started_tasks = False

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def drained(self) -> None:
        """Returns when no handler runs, none waits and no body is still arriving."""
        while self.in_flight or self._waiting or self.gathering:
            self._emptied.clear()
            await self._emptied.wait()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pools.close()

    # --- the way in

    def start(self, request: Request, now: float) -> float:
        """Run a plain handler, or give any other its slot; returns the time afterwards."""
        handler = request.handler
        if request.deadline <= now:
            self._too_late(request)
        elif handler.kind is _INLINE:
            return self._start_inline(request, now)
        elif self.in_flight < self._limits.max_in_flight and handler.stats.in_flight < handler.limit:
            self._begin(request)
        else:
            self._wait(request)
        return now

    def _too_late(self, request: Request) -> None:
        self._counters["deadlineDrops"] += 1
        request.handler.stats.deadline_drops += 1
        self.turn_away(request, errors.DeadlineExceeded("the deadline passed before it could run"))

    def _wait(self, request: Request) -> None:
        stats = request.handler.stats
        if len(self._waiting) >= self._limits.max_waiting:
            stats.refusals += 1
            text = f"{self.in_flight} requests run here and {len(self._waiting)} wait already"
            self.turn_away(request, errors.CapacityExceeded(text, retry_after_ms=1000))
            return
        stats.waiting += 1
        self._waiting.append(request)
        self._watch(request)

    def _fill(self) -> None:
        """Slots are free: those who waited longest and may have one begin.

        Where one ends at once, and so calls this again, the outer call goes on: it takes one at a time.
        """
        if self._filling:
            return
        self._filling = True
        try:
            while (request := self._first_in_line()) is not None:
                self._stop_waiting(request)
                if request.deadline <= self._loop.time():
                    self._too_late(request)
                else:
                    self._begin(request)
        finally:
            self._filling = False
        self._note_empty()

    def _first_in_line(self) -> Request | None:
        if self.in_flight >= self._limits.max_in_flight:
            return None
        for request in self._waiting:
            if request.handler.stats.in_flight < request.handler.limit:
                return request
        return None

    def _stop_waiting(self, request: Request) -> None:
        self._waiting.remove(request)
        self._table.discard(id(request))
        request.handler.stats.waiting -= 1

    def _note_empty(self) -> None:
        if not (self.in_flight or self._waiting or self.gathering):
            self._emptied.set()

    def _begin(self, request: Request) -> None:
        self.in_flight += 1
        request.handler.stats.in_flight += 1
        kind = request.handler.kind
        if kind is _FORWARD:
            self._forward(request)
            return
        self._watch(request)
        self.started_tasks = True
        run = self._run_blocking if kind is Kind.THREAD or kind is Kind.PROCESS else self._run
        request.task = self._loop.create_task(run(request))

    # --- plain handlers

    def _start_inline(self, request: Request, now: float) -> float:
        answer = self._run_inline(request)
        finished = self._loop.time()
        stats = request.handler.stats
        stats.requests += 1
        stats.processing_time += finished - now
        if finished - now > INLINE_SECONDS:
            self._overran(stats, request.handler.method, finished - now)
        self.end(request, answer)
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

    def _overran(self, stats: MethodStats, method: str, seconds: float) -> None:
        stats.overruns += 1
        if stats.overruns & (stats.overruns - 1) == 0:  # the 1st, 2nd, 4th, 8th ...: a log is no counter
            ms = round(seconds * 1000, 2)
            self._log.warning("rpc.inline_handler_slow", method=method, ms=ms, times=stats.overruns)

    def _forward(self, request: Request) -> None:
        self._forwarded[id(request)] = request
        try:
            request.handler.function(request)
        except BaseException as error:  # the same
            self.end_badly(request, error)

    # --- tasks

    async def _run(self, request: Request) -> None:
        if self._was_stopped_before(request):
            return
        handler = request.handler
        answer: wire.Envelope | None = None
        try:
            arguments = (request,) if handler.raw else self._arguments(request)
            if handler.kind is Kind.STREAM:
                await self.produce(request, handler.function(*arguments), None)
            elif handler.raw:
                await handler.function(*arguments)
            else:
                answer = self._answer(request, await handler.function(*arguments))
            if request.id in request.caller.open and answer is None:
                answer = self._failure(request, errors.Internal(f"{handler.method} gave no answer"))
        except asyncio.CancelledError:
            answer = self._failure(request, _verdict(request))
        except BaseException as error:  # the same
            answer = self._failure(request, error)
        self._finish(request, answer)

    async def _run_blocking(self, request: Request) -> None:
        """The caller is answered at once whatever happens; the slot is free when the function has ended."""
        if self._was_stopped_before(request):
            return
        handler = request.handler
        try:
            run = self._pools.run_in_thread if handler.kind is Kind.THREAD else self._pools.run_in_process
            running = run(handler.function, *self._arguments(request))
        except Exception as error:
            self._finish(request, self._failure(request, error))
            return
        try:
            answer = self._answer(request, await running.result)
        except asyncio.CancelledError:
            verdict = _verdict(request)
            verdict.not_started = not running.begun
            answer = self._failure(request, verdict)
        except BaseException as error:
            answer = self._failure(request, error)
        self.end(request, answer)
        await _until_done(running.ended)
        self._finish(request, None)

    def _was_stopped_before(self, request: Request) -> bool:
        """To be asked in the first step of a task: whether it ends by that, its handler never begun."""
        request.begun = True
        if request.verdict is None:
            return False
        request.verdict.not_started = True
        self._finish(request, self._failure(request, request.verdict))
        return True

    def _arguments(self, request: Request) -> tuple[Any, ...]:
        body = request.body()
        return (body, request) if request.handler.wants_request else (body,)

    def _finish(self, request: Request, answer: wire.Envelope | None) -> None:
        """The handler of a task has stopped."""
        self._table.discard(id(request))
        self._free(request)
        if answer is not None:
            self.end(request, answer)

    def _free(self, request: Request) -> None:
        """A slot is free again."""
        self.in_flight -= 1
        stats = request.handler.stats
        stats.in_flight -= 1
        stats.requests += 1
        stats.processing_time += self._loop.time() - request.arrived
        if self._waiting:
            self._fill()
        elif not self.in_flight:
            self._note_empty()

    # --- streams

    async def produce(
        self, request: Request, source: AsyncIterator[Any], facts: dict[str, Any] | None
    ) -> None:
        """Send what `source` yields, and its final value at the end."""
        producer = Producer(self, request)
        if not request.wants_stream:
            final = await producer.run_unheard(source)
            if final is None:
                raise errors.BadRequest(f"{request.handler.method} answers as a stream: ask for one")
            content_type, payload = request.packed(final.value)
            request.answer(_head(request, {**(facts or {}), **final.facts}), content_type, payload)
            return
        try:
            final = await producer.run(source)
        finally:
            producer.emit()  # what was made before an error comes before it
        content_type, payload = request.packed(None if final is None else final.value)
        request.end_stream(
            _head(request, {**(facts or {}), **(final.facts if final is not None else {})}),
            content_type,
            payload,
        )

    def say_items(self, request: Request, content_type: int, payloads: tuple[bytes, ...]) -> None:
        if request.id not in request.caller.open:
            return
        if not request.items and not request.flags & wire.WHOLE:
            request.deadline = INFINITY  # it was for the first item
        first, request.items = request.items, request.items + len(payloads)
        request.handler.stats.items += len(payloads)
        request.caller.pace.note(len(payloads), self._loop.time())
        size = sum(map(len, payloads))
        self._voice.say(request.caller, (wire.ITEM, 0, request.id, first, content_type, payloads), size)

    def plan_items(self, request: Request, emit: Callable[[], None]) -> None:
        self._voice.plan_items(request.caller, emit)

    # --- the way out

    def end(self, request: Request, answer: wire.Envelope) -> None:
        """Answer a request, if nobody has yet; one that was forwarded leaves its slot by that."""
        caller = request.caller
        if caller.open.pop(request.id, None) is not None:
            self._give_back(request)
            if answer[0] == wire.ERROR:
                self._voice.say(caller, _with_items(answer, request.items) if request.items else answer)
            else:
                self._say_result(request, answer)
        if self._forwarded and self._forwarded.pop(id(request), None) is not None:
            request.on_cancel = request.on_credit = None
            self._free(request)

    def _say_result(self, request: Request, answer: wire.Envelope) -> None:
        if request.flags & wire.STREAM_WANTED and answer[0] == wire.REPLY:
            answer = self._as_stream(request, answer)
        size = len(answer[-2])
        if size <= wire.CHUNK_BYTES:
            self._voice.say(request.caller, answer, size)
        else:
            self._voice.say_body(request.caller, answer, answer[-2])

    def _as_stream(self, request: Request, answer: wire.Envelope) -> wire.Envelope:
        """A stream was asked of a handler that has one result: it is the one item, and the final value."""
        _, _, request_id, head, content_type, payload, _ = answer
        if len(payload) <= wire.CHUNK_BYTES:
            item = (wire.ITEM, 0, request_id, 0, content_type, (bytes(payload),))
            self._voice.say(request.caller, item, len(payload))
            return (wire.END, 0, request_id, 1, head, content_type, payload, None)
        return (wire.END, 0, request_id, 0, head, content_type, payload, None)

    def end_badly(self, request: Request, error: BaseException) -> None:
        """Answer a request with an error, if nobody has answered it yet."""
        if request.id in request.caller.open or id(request) in self._forwarded:
            self.end(request, self._failure(request, error))

    def turn_away(self, request: Request, refusal: errors.WrkError) -> None:
        """Answer a request whose handler never ran."""
        refusal.not_started = True
        if request.caller.open.pop(request.id, None) is not None:
            self._give_back(request)
            self._voice.say(request.caller, self.error(request.id, refusal))

    def _give_back(self, request: Request) -> None:
        """What an open request holds of its caller's limits."""
        caller = request.caller
        if request.assembly is not None:
            self.gathering.discard(request)
            if request.late is not None:
                request.late.cancel()
            self._note_empty()
        give_back(request.size, caller.held, self._held)
        if request.flags:
            caller.streams -= 1

    # --- ends that are not the handler's own

    def cancel(self, request: Request, verdict: errors.WrkError, *, again: bool = False) -> None:
        """Stop a request; it is answered when its handler has really stopped.

        Once, unless `again`: a deadline and the caller's CANCEL come together, and the second would
        interrupt what the handler does to tidy up.
        """
        if request.cancelled and not again:
            return
        request.verdict = request.verdict or verdict
        request.cancelled = True
        if request.on_cancel is not None:
            request.on_cancel(request.verdict)
        elif request.task is not None:
            _stop(request)
        elif id(request) not in self._forwarded:
            if id(request) in self._table.entries:
                self._stop_waiting(request)
            self.turn_away(request, verdict)
            self._note_empty()

    def cancel_all(self, why: str) -> None:
        """Cancel what still runs or waits; each is answered when it has stopped."""
        for request in [*self._table.entries.values(), *self._forwarded.values(), *self.gathering]:
            self.cancel(request, errors.Unavailable(why), again=True)

    def abandon(self, caller: Caller) -> None:
        """The caller is gone: stop what runs for it, answer nobody."""
        abandoned, caller.open = list(caller.open.values()), {}
        for request in abandoned:
            self._give_back(request)
            self.cancel(request, errors.Cancelled("the caller is gone"))

    def _watch(self, request: Request) -> None:
        if self._table.add(id(request), request):
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._table.wake_at, self._expire)

    def _expire(self) -> None:
        for key, request in self._table.expire(self._loop.time()):
            # It stays in the table until it has stopped, with no further deadline to wake for.
            request.deadline = INFINITY
            self._table.entries[key] = request
            if request.task is None:
                self._stop_waiting(request)
                self._too_late(request)
            else:
                self.cancel(request, errors.DeadlineExceeded("the deadline passed while it ran"))
        self._note_empty()
        if self._table.wake_at < INFINITY:
            self._arm()

    # --- envelopes

    def _answer(self, request: Request, result: Any) -> wire.Envelope:
        head = None
        fields = contract.PAYLOAD_FIELDS.get(request.handler.method)
        if fields is not None and isinstance(result, dict) and fields[1] in result:
            rest = {key: value for key, value in result.items() if key != fields[1]}
            head, result = _head(request, rest), result[fields[1]]
        content_type, payload = request.packed(result)
        return (wire.REPLY, 0, request.id, head, content_type, payload, None)

    def _failure(self, request: Request, error: BaseException) -> wire.Envelope:
        stats = request.handler.stats
        stats.errors += 1
        if isinstance(error, errors.Cancelled):
            stats.cancels += 1
        known = self.known(request.handler.method, error)
        stats.last_error = f"{known.name}: {known.message}"[:200]
        return self.error(request.id, known)

    def known(self, method: str, error: BaseException) -> errors.WrkError:
        """What a handler raised, as its caller is told."""
        if isinstance(error, errors.WrkError):
            return error
        if isinstance(error, MemoryError):
            self._log.error("rpc.no_memory", method=method)
            return errors.no_memory()
        # The traceback is for this machine's log; the caller learns that it was not its fault.
        self._log.error("rpc.handler_failed", method=method, exc_info=error)
        return errors.Internal(f"{method} failed; the log of the worker says why")

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


def _verdict(request: Request) -> errors.WrkError:
    """Why a handler was cancelled."""
    return request.verdict or errors.Cancelled("the handler was cancelled")


def _stop(request: Request) -> None:
    """Stop a handler. One that has not begun sees its verdict in its first step: asyncio would never
    enter the body of a task that is cancelled before, and so it could not finish itself."""
    if request.task is not None and request.begun:
        request.task.cancel()


async def _until_done(ended: asyncio.Future[Any]) -> None:
    """Wait through every cancellation: what a thread does ends when it ends."""
    while not ended.done():
        try:
            await asyncio.wait((ended,))
        except asyncio.CancelledError:
            continue


def _head(request: Request, fields: dict[str, Any]) -> bytes | None:
    if not fields:
        return None
    try:
        return wire.pack_head(fields)
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise errors.Internal(f"{request.handler.method} returned fields that cannot be encoded") from None


def _with_items(error: wire.Envelope, items: int) -> wire.Envelope:
    """How many items came before it."""
    return (*error[:10], {**(error[10] or {}), "items": items})
