"""Requests with an idempotency key at a rack: the first one runs, the same again gets what came of it.

What is carried out for a key belongs to no caller: it takes a slot of the rack once, is read by whoever
asked, from the beginning and each at its own pace, and goes on within its deadline when they have left, since
they may come again. What is kept is decided in results.py, what is said by whom in execution.py.

A result is an answer or the handler's own error. What ended because it was refused, cancelled, late or cut
off from what it needs is none, and may run again; but not for who says that it is not repeatable, once it
has begun.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from hashlib import blake2b
from typing import Any

from . import callers, contract, errors
from .config import IdempotencySettings
from .execution import Answer, Execution
from .results import Entry, Name, Results, State
from .rpc.request import Request
from .security.roles import ORCHESTRATOR

HASHED_AT_ONCE = 1_048_576  # bytes, a millisecond's work; others get a turn before the next

NO_RESULT = (
    errors.CapacityExceeded,
    errors.QueueTimeout,
    errors.NoWorkersAvailable,
    errors.NoWorkersMatch,
    errors.ModelNotAvailable,
    errors.DeadlineExceeded,
    errors.Cancelled,
    errors.Unavailable,
)

Serve = Callable[[Request, contract.RackHead], Awaitable[None]]
Spawn = Callable[[Coroutine[Any, Any, Any], str], "asyncio.Task[Any]"]


class Repeats:
    """`take_slot` raises what refuses a request, `serve` answers one that was let in."""

    def __init__(
        self,
        settings: IdempotencySettings,
        *,
        take_slot: Callable[[Request, contract.RackHead], None],
        give_slot_back: Callable[[], None],
        serve: Serve,
        spawn: Spawn,
    ) -> None:
        self._keep = settings.keep_time / 1000
        self._take_slot, self._give_slot_back = take_slot, give_slot_back
        self._serve, self._spawn = serve, spawn
        self._loop = asyncio.get_running_loop()
        self._results: Results[Execution] = Results(self._keep, settings.keep_bytes)

    async def answer(self, request: Request, head: contract.RackHead) -> None:
        """Answer a request that has a key. Raises what refuses it, and what the handler raised."""
        name, digest = await _named(request, head)
        begun = _begun(request, head)
        entry = self._results.find(name, digest, self._loop.time())
        if entry is not None and entry.work is not None and entry.state is not State.PASSING:
            told = contract.ATTACHED if entry.state is State.RUNNING else contract.STORED
            await entry.work.attend(request, told, begun)
            return
        if entry is not None and not head.options.repeatable:
            raise errors.AlreadyRan(
                "it must not be repeated, and it ran; what came of it "
                + ("is too long to be kept" if entry.state is State.PASSING else "is not kept any more")
            )
        execution = self._begin(request, head, name, digest)
        if begun is not None:
            execution.go_on_from(begun)
        await execution.attend(request, contract.RAN, begun)

    def expire(self) -> None:
        """Let go of results that had their time. To be called now and then."""
        self._results.expire(self._loop.time())

    def _begin(self, request: Request, head: contract.RackHead, name: Name, digest: bytes) -> Execution:
        self._take_slot(request, head)
        try:
            execution = Execution(request, self._results, self._keep)
            entry = execution.entry = self._results.begin(name, digest, execution, self._loop.time())
        except BaseException:
            self._give_slot_back()
            raise
        execution.task = self._spawn(self._run(execution, head), f"request with key {name[1][:100]}")
        execution.task.add_done_callback(lambda _: self._ended(execution, entry))
        return execution

    async def _run(self, execution: Execution, head: contract.RackHead) -> None:
        request = execution.request
        try:
            await self._serve(request, head)
            execution.end(errors.Internal(f"{request.handler.method} gave no answer"))
        except asyncio.CancelledError:
            execution.end(execution.verdict or errors.Cancelled("the handler was cancelled"))
        except BaseException as error:  # a handler that calls sys.exit must not end the loop
            execution.end(request.runner.known(request.handler.method, error))

    def _ended(self, execution: Execution, entry: Entry[Execution]) -> None:
        """Its task is over, begun or not: nothing of it runs any more."""
        self._give_slot_back()
        execution.end(errors.Cancelled("it was cancelled before it began", not_started=True))
        execution.clear()
        outcome, now = execution.outcome, self._loop.time()
        assert outcome is not None
        if isinstance(outcome, Answer):
            self._results.store(entry, outcome.size, now)
        elif outcome.not_started:
            self._results.forget(entry)
        elif isinstance(outcome, NO_RESULT):
            self._results.spend(entry, now)
        else:
            self._results.store(entry, len(outcome.message) + len(repr(outcome.data)), now)


def _begun(request: Request, head: contract.RackHead) -> contract.Progress | None:
    """What the caller has of this stream already, from another rack; still packed."""
    if not head.options.resume_from:
        return None
    told = contract.read_rack_head(request.head).options.resume_from
    return contract.parse(contract.Progress, told, what="options.resumeFrom")


async def _named(request: Request, head: contract.RackHead) -> tuple[Name, bytes]:
    """Whose request it is, with its key; and the digest of all that makes it another one.

    How it is answered counts, too: the items of a stream do not tell the whole, nor the whole its items.
    """
    key, peer = head.options.idempotency_key, request.peer
    assert key is not None
    origin = contract.read_origin(request.head) if peer.role == ORCHESTRATOR else None
    if origin is None:
        origin = contract.Origin(callers.peer(peer), head.model_id)
    told = (origin.model_id, head.options.task, request.wants_stream, request.content_type)
    hashed = blake2b(repr(told).encode(), digest_size=callers.DIGEST_BYTES)
    view = memoryview(request.payload)
    for start in range(0, len(view), HASHED_AT_ONCE):
        if start:
            await asyncio.sleep(0)
        hashed.update(view[start : start + HASHED_AT_ONCE])
    return (origin.caller, key), hashed.digest()
