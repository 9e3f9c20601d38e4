"""One execution of a request with an idempotency key, and everybody who reads what it says.

The handler gets a request of its own (`Unowned`), which notes what it says instead of sending it. Each reader
is a request of some caller, and gets all of it from the beginning, at its own pace. When nobody reads any
more, it goes on until the latest deadline that a reader had; a stream that has begun, whose deadline was for
its first item, for as long as a result is kept.

A stream that another rack began has what its caller got there as its first items: who comes again gets all,
and a reader who has some already is given the rest, if they are the same.

Where there is no room to keep all that a stream says, it is passed on: what everybody has read is let go, the
handler waits for the slowest reader, and it ends with the last of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from copy import copy
from typing import Any

from . import contract, errors
from .results import ENTRY_BYTES, ITEM_BYTES, Entry, Results, State
from .rpc import wire
from .rpc.request import Final, Packed, Request
from .rpc.stream import FIRST_BYTES

TURN = 64  # items after which readers get a turn, however fast more are made
UNBOUNDED = 2**62


class Answer:
    """How it ended well: with a whole answer, or with the final value of a stream."""

    __slots__ = ("content_type", "facts", "payload", "streamed")

    def __init__(
        self, facts: dict[str, Any], content_type: int, payload: wire.Payload, streamed: bool
    ) -> None:
        self.facts, self.streamed = facts, streamed
        self.content_type, self.payload = content_type, payload

    @property
    def size(self) -> int:
        return len(self.payload) + len(repr(self.facts))


class Reader:
    """One request. `at` is how many items it was given, `had` are those that it brought along."""

    __slots__ = ("at", "had", "told")

    def __init__(self, told: str, had: list[bytes]) -> None:
        self.at, self.told, self.had = 0, told, had


class Execution:
    """`request` is the handler's. `entry` is what it is kept as, and `task` what runs it."""

    __slots__ = (
        "_content_type",
        "_deadline",
        "_held",
        "_items",
        "_keep",
        "_last_call",
        "_let_go",
        "_loop",
        "_news",
        "_readers",
        "_results",
        "_taken",
        "entry",
        "outcome",
        "request",
        "task",
        "verdict",
    )

    entry: Entry[Execution]
    task: asyncio.Task[Any]

    def __init__(self, first: Request, results: Results[Execution], keep: float) -> None:
        self.request = Unowned(first, self)
        self.verdict: errors.WrkError | None = None
        self.outcome: Answer | errors.WrkError | None = None
        self._results, self._keep = results, keep
        self._loop = asyncio.get_running_loop()
        self._deadline = 0.0
        self._content_type = wire.MSGPACK
        self._items: list[bytes] = []
        self._let_go = 0  # items that stood before these
        self._held = 0  # bytes of these
        self._readers: set[Reader] = set()
        self._news, self._taken = asyncio.Event(), asyncio.Event()
        self._last_call: asyncio.TimerHandle | None = None

    # --- what the handler says

    def go_on_from(self, begun: contract.Progress) -> None:
        """Another rack said so much of it; to be called before the handler begins."""
        for item in begun.items:
            self.put(begun.content_type, item)

    async def add(self, content_type: int, payload: bytes) -> None:
        """One item of a stream; readers get their turns."""
        self.put(content_type, payload)
        while self._passing and self._held > FIRST_BYTES:
            self._taken.clear()
            await self._taken.wait()
        if self._made == 1 or not self._made % TURN:
            await asyncio.sleep(0)

    def put(self, content_type: int, payload: bytes) -> None:
        """The same of a handler that does not wait."""
        size = len(payload) + ITEM_BYTES
        if not self._passing and not self._results.grow(self.entry, size, self._loop.time()):
            self._results.pass_on(self.entry)
            self._let_go_of_what_was_read()
            if not self._readers:
                self._stop(errors.Cancelled("nobody reads it, and it is too long to be kept"))
        self._content_type = content_type
        self._items.append(payload)
        self._held += size
        self._news.set()

    def end(self, outcome: Answer | errors.WrkError) -> None:
        """It ended. A second end does nothing."""
        if self.outcome is None:
            self.outcome = outcome
            self._news.set()
            self._rest()

    def clear(self) -> None:
        """Nothing of it runs any more: what was asked need not be kept."""
        del self.request, self.task

    # --- its readers

    async def attend(self, request: Request, told: str, begun: contract.Progress | None = None) -> None:
        """Tell a request all of it that its caller has not, and `told` of how it came to it. Raises the error
        that it ended with."""
        reader = Reader(told, begun.items if begun is not None else [])
        self._readers.add(reader)
        self._results.open(self.entry)
        self._deadline = max(self._deadline, request.deadline)
        self._rest()
        try:
            await self._tell(request, reader)
        finally:
            self._readers.discard(reader)
            self._results.close(self.entry)
            if self.outcome is None:
                self._was_left()

    async def _tell(self, request: Request, reader: Reader) -> None:
        while not self._made and self.outcome is None:
            await self._hear()
        if self._made or (isinstance(self.outcome, Answer) and self.outcome.streamed):
            await request.produce(self._read(reader))
            return
        answer = self._answer(reader)
        head = wire.pack_head({**answer.facts, contract.IDEMPOTENCY: reader.told})
        request.answer(head, answer.content_type, answer.payload)

    async def _read(self, reader: Reader) -> AsyncIterator[Packed | Final]:
        while True:
            while reader.at < self._made:
                item, at = self._items[reader.at - self._let_go], reader.at
                reader.at += 1
                if self._passing:
                    self._let_go_of_what_was_read()
                if at >= len(reader.had):
                    yield Packed(self._content_type, item)
                elif item != reader.had[at]:
                    raise self._another(at)
            if self.outcome is not None:
                break
            await self._hear()
        answer = self._answer(reader)
        if reader.at < len(reader.had):
            raise self._another(reader.at)
        final = Final(Packed(answer.content_type, answer.payload))
        final.facts = {**answer.facts, contract.IDEMPOTENCY: reader.told}
        yield final

    def _another(self, item: int) -> errors.WrkError:
        text = f"what is kept here is another answer than the one that was begun, at item {item}"
        return errors.Unavailable(text, not_started=True)

    async def _hear(self) -> None:
        self._news.clear()
        await self._news.wait()

    def _answer(self, reader: Reader) -> Answer:
        """How it ended; raises its error, of which each reader has a copy."""
        if isinstance(self.outcome, Answer):
            return self.outcome
        assert self.outcome is not None
        error = copy(self.outcome)
        if not error.not_started:
            error.data = {**error.data, contract.IDEMPOTENCY: reader.told}
        raise error

    # --- without readers

    def _was_left(self) -> None:
        if self._passing:
            self._let_go_of_what_was_read()
        if self._readers:
            return
        if self._passing:
            self._stop(errors.Cancelled("its callers left, and it is too long to be kept"))
            return
        until = self._deadline
        if self._made and not self.request.flags & wire.WHOLE:
            until = self._loop.time() + self._keep
        late = errors.DeadlineExceeded("its callers left, and their deadlines passed while it ran")
        self._last_call = self._loop.call_at(until, self._stop, late)

    def _rest(self) -> None:
        """It is not to be stopped, for now."""
        if self._last_call is not None:
            self._last_call.cancel()
            self._last_call = None

    def _stop(self, verdict: errors.WrkError) -> None:
        self.verdict = verdict
        self.request.cancelled = True
        self.task.cancel()

    # --- what is passed on

    @property
    def _made(self) -> int:
        return self._let_go + len(self._items)

    @property
    def _passing(self) -> bool:
        return self.entry.state is State.PASSING

    def _let_go_of_what_was_read(self) -> None:
        read = min((reader.at for reader in self._readers), default=self._made) - self._let_go
        if read < min(TURN, len(self._items)):
            return  # many at once: what is behind them moves up
        size = sum(len(payload) + ITEM_BYTES for payload in self._items[:read])
        del self._items[:read]
        self._let_go += read
        self._held -= size
        self._results.shrink(self.entry, min(size, self.entry.bytes - ENTRY_BYTES))
        self._taken.set()


class Unowned(Request):
    """What a handler gets in the place of a caller's request: nobody's, it lives as long as its execution."""

    __slots__ = ("_execution",)

    def __init__(self, first: Request, execution: Execution) -> None:
        self._execution = execution
        super().__init__(
            first.runner,
            first.caller,
            first.id,
            first.flags,
            first.handler,
            first.arrived,
            first.deadline,
            first.head,
            first.content_type,
            first.payload,
            first.extras,
            size=0,
        )

    @property
    def on_credit(self) -> Callable[[int, int], None] | None:
        """Who sends as much as is granted is granted everything: it is kept, not sent."""
        return None

    @on_credit.setter
    def on_credit(self, tell: Callable[[int, int], None] | None) -> None:
        if tell is not None:
            asyncio.get_running_loop().call_soon(tell, UNBOUNDED, UNBOUNDED)

    def answer(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None:
        self._execution.end(Answer(wire.unpack_head(head), content_type, payload, streamed=False))

    def fail(self, error: BaseException) -> None:
        self._execution.end(self.runner.known(self.handler.method, error))

    def send_items(self, content_type: int, payloads: tuple[bytes, ...]) -> None:
        for payload in payloads:
            self._execution.put(content_type, payload)

    def end_stream(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None:
        self._execution.end(Answer(wire.unpack_head(head), content_type, payload, streamed=True))

    async def produce(self, source: AsyncIterator[Any], facts: dict[str, Any] | None = None) -> None:
        final: Final | None = None
        unheard = 0
        async with aclosing(source) as made:  # type: ignore[type-var]
            async for item in made:
                if type(item) is Final:
                    final = item
                    break
                if self.wants_stream:
                    await self._add(item)
                    continue
                unheard += 1
                if not unheard % TURN:
                    await asyncio.sleep(0)
        if final is None and not self.wants_stream:
            raise errors.BadRequest(f"{self.handler.method} answers as a stream: ask for one")
        content_type, payload = self.packed(None if final is None else final.value)
        said = {**(facts or {}), **({} if final is None else final.facts)}
        self._execution.end(Answer(said, content_type, payload, streamed=self.wants_stream))

    async def _add(self, item: Any) -> None:
        content_type, payload = self.packed(item)
        if len(payload) > wire.CHUNK_BYTES:
            raise errors.Internal(f"an item of {len(payload)} bytes: items have at most {wire.CHUNK_BYTES}")
        await self._execution.add(content_type, bytes(payload))
