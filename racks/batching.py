"""Requests that wait while a batch is encoded become the next batch. No timer, so no added latency.

One batch runs at a time, in the executor that was given. What arrives meanwhile waits here. A request
with more texts than one batch holds goes to the back of the line after each batch, so that nobody
waits for a bulk request longer than one batch takes. The invariant: every `encode` returns, raises or
is cancelled, whatever the encoder does. Knows nothing of models.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from itertools import islice
from typing import Generic, TypeVar

from wrk_base import errors

Vector = list[float]
Made = TypeVar("Made")
"""What the encoder makes of one text: a vector, or more."""

Encode = Callable[[list[str]], Sequence[Made]]


class _Job(Generic[Made]):
    """One request: its texts, the vectors so far, and the future that its waiter awaits."""

    def __init__(self, texts: Sequence[str], done: asyncio.Future[list[Made]]) -> None:
        self.done = done
        self._texts = iter(texts)
        self._left = len(texts)
        self._vectors: list[Made] = []

    def take(self, most: int) -> list[str]:
        texts = list(islice(self._texts, most))
        self._left -= len(texts)
        return texts

    @property
    def wants_more(self) -> bool:
        return self._left > 0 and not self.done.done()

    def give(self, vectors: Sequence[Made]) -> None:
        self._vectors += vectors
        if not self._left and not self.done.done():
            self.done.set_result(self._vectors)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class Batcher(Generic[Made]):
    """Calls `encode` in `executor` with at most `max_batch` texts, for as many requests as that holds."""

    def __init__(self, encode: Encode[Made], executor: Executor, max_batch: int) -> None:
        self._encode, self._executor, self._max_batch = encode, executor, max_batch
        self._waiting: deque[_Job[Made]] = deque()
        self._runner: asyncio.Task[None] | None = None
        self._closed = False
        self.batches = 0

    async def encode(self, texts: Sequence[str]) -> list[Made]:
        """One vector a text. Raises what the encoder raised; cancelled, its waiting texts are dropped."""
        if self._closed:
            raise _closing()
        if not texts:
            return []
        loop = asyncio.get_running_loop()
        job: _Job[Made] = _Job(texts, loop.create_future())
        self._waiting.append(job)
        if self._runner is None or self._runner.done():
            # A task, not a direct call: whatever else arrived in this tick still joins the first batch.
            self._runner = loop.create_task(self._run(), name="batches")
        return await job.done

    async def close(self) -> None:
        """Refuse what waits and return when the batch that runs, if any, has ended."""
        self._closed = True
        self._refuse_waiting()
        if self._runner is not None:
            await asyncio.gather(self._runner, return_exceptions=True)

    def _refuse_waiting(self) -> None:
        while self._waiting:
            self._waiting.popleft().fail(_closing())

    async def _run(self) -> None:
        while batch := self._next_batch():
            self.batches += 1
            await self._run_batch(batch)
            self._waiting.extend(job for job, _ in batch if job.wants_more)
            if self._closed:
                self._refuse_waiting()

    def _next_batch(self) -> list[tuple[_Job[Made], list[str]]]:
        """Who takes part, with which texts, in the order of arrival."""
        batch: list[tuple[_Job[Made], list[str]]] = []
        room = self._max_batch
        while room and self._waiting:
            job = self._waiting.popleft()
            if not job.wants_more:
                continue
            texts = job.take(room)
            room -= len(texts)
            batch.append((job, texts))
        return batch

    async def _run_batch(self, batch: list[tuple[_Job[Made], list[str]]]) -> None:
        texts = [text for _, share in batch for text in share]
        try:
            vectors = await asyncio.get_running_loop().run_in_executor(self._executor, self._encode, texts)
            if len(vectors) != len(texts):
                raise ValueError(f"the encoder returned {len(vectors)} vectors for {len(texts)} texts")
        except Exception as error:
            for job, _ in batch:
                job.fail(error)
            return
        rest = iter(vectors)
        for job, share in batch:
            job.give(list(islice(rest, len(share))))


def _closing() -> errors.WrkError:
    return errors.Unavailable("the model is being closed")
