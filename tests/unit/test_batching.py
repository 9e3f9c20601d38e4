"""How waiting texts become batches. The encoder runs when the test says so, in no thread.

Every text's vector is its length, so that an answer shows which texts it belongs to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from racks.batching import Batcher, Vector
from tests.fakes.aio import run
from wrk_base import errors


class Bench(Executor):
    """An executor that does the next piece of work when it is told to."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[[], Any], Future[Any]]] = []

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((lambda: work(*args, **kwargs), future))
        return future

    async def finish(self) -> None:
        """Do one piece, and let everybody who waited for it go on."""
        work, future = self.waiting.pop(0)
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)
        await settle()


class Encoder:
    """Remembers its batches; `fault` is raised once."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.fault: Exception | None = None

    def __call__(self, texts: list[str]) -> list[Vector]:
        self.batches.append(texts)
        fault, self.fault = self.fault, None
        if fault is not None:
            raise fault
        return [[float(len(text))] for text in texts]


class Story:
    """A batcher of at most three texts a batch, and those who ask it."""

    def __init__(self) -> None:
        self.bench, self.encoder = Bench(), Encoder()
        self.batcher = Batcher(self.encoder, self.bench, max_batch=3)

    async def ask(self, *texts: str) -> asyncio.Task[list[Vector]]:
        task = asyncio.create_task(self.batcher.encode(texts))
        await settle()
        return task

    async def finish_all(self) -> None:
        while self.bench.waiting:
            await self.bench.finish()


def told(story: Callable[[Story], Coroutine[Any, Any, None]]) -> None:
    async def tell() -> None:
        await story(Story())

    run(tell())


async def settle() -> None:
    """Let everything run that can run."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_lone_request_does_not_wait_for_company() -> None:
    async def story(s: Story) -> None:
        request = await s.ask("a", "bb")
        assert len(s.bench.waiting) == 1
        await s.bench.finish()
        assert await request == [[1.0], [2.0]]

    told(story)


def test_requests_of_one_tick_share_a_batch() -> None:
    async def story(s: Story) -> None:
        asked = [asyncio.create_task(s.batcher.encode([text])) for text in ("a", "bb", "ccc")]
        await settle()
        await s.bench.finish()
        assert s.encoder.batches == [["a", "bb", "ccc"]]
        assert [await request for request in asked] == [[[1.0]], [[2.0]], [[3.0]]]

    told(story)


def test_what_arrives_during_a_batch_is_the_next_batch() -> None:
    async def story(s: Story) -> None:
        first = await s.ask("a")
        second, third = await s.ask("bb"), await s.ask("ccc")
        assert len(s.bench.waiting) == 1
        await s.bench.finish()
        assert first.done()
        assert not second.done()
        await s.bench.finish()
        assert s.encoder.batches == [["a"], ["bb", "ccc"]]
        assert (await second, await third) == ([[2.0]], [[3.0]])

    told(story)


def test_a_bulk_request_is_cut_and_a_short_one_goes_in_between() -> None:
    async def story(s: Story) -> None:
        bulk = await s.ask("1", "22", "333", "4444", "55555", "666666", "7777777")
        short = await s.ask("ab")
        await s.finish_all()
        assert s.encoder.batches == [["1", "22", "333"], ["ab", "4444", "55555"], ["666666", "7777777"]]
        assert await bulk == [[float(n)] for n in range(1, 8)]
        assert await short == [[2.0]]

    told(story)


def test_who_gives_up_takes_only_its_own_texts_out_of_the_line() -> None:
    async def story(s: Story) -> None:
        first, second, third = await s.ask("a"), await s.ask("bb"), await s.ask("ccc")
        second.cancel()
        await s.finish_all()
        assert s.encoder.batches == [["a"], ["ccc"]]
        assert second.cancelled()
        assert (await first, await third) == ([[1.0]], [[3.0]])

    told(story)


def test_who_gives_up_in_the_middle_of_its_batches_is_not_encoded_further() -> None:
    async def story(s: Story) -> None:
        bulk, other = await s.ask("a", "b", "c", "d"), await s.ask("ee")
        bulk.cancel()
        await s.finish_all()
        assert s.encoder.batches == [["a", "b", "c"], ["ee"]]
        assert await other == [[2.0]]

    told(story)


def test_a_failure_is_of_its_batch_alone() -> None:
    async def story(s: Story) -> None:
        s.encoder.fault = MemoryError("too much")
        first, second = await s.ask("a", "b", "c", "d"), await s.ask("ee")
        await s.finish_all()
        with pytest.raises(MemoryError):
            await first
        assert await second == [[2.0]]
        assert s.encoder.batches == [["a", "b", "c"], ["ee"]]  # the rest of a failed request is not encoded

    told(story)


def test_an_encoder_that_loses_a_text_is_an_error_and_not_a_hang() -> None:
    async def story(s: Story) -> None:
        s.batcher = Batcher(lambda texts: [[0.0]], s.bench, max_batch=3)
        request = await s.ask("a", "b")
        await s.bench.finish()
        with pytest.raises(ValueError, match="1 vectors for 2 texts"):
            await request

    told(story)


def test_nothing_to_encode_encodes_nothing() -> None:
    async def story(s: Story) -> None:
        assert await s.batcher.encode([]) == []
        assert s.bench.waiting == []

    told(story)


def test_closing_ends_the_batch_that_runs_and_refuses_the_rest() -> None:
    async def story(s: Story) -> None:
        running, bulk, waiting = await s.ask("a"), await s.ask("1", "2", "3", "4"), await s.ask("bb")
        await s.bench.finish()  # the bulk request's first batch is running now
        closing = asyncio.create_task(s.batcher.close())
        await settle()
        assert not closing.done()
        await s.bench.finish()
        await closing
        assert s.bench.waiting == []
        assert await running == [[1.0]]
        for refused in (bulk, waiting):
            with pytest.raises(errors.Unavailable):
                await refused
        with pytest.raises(errors.Unavailable):
            await s.batcher.encode(["late"])

    told(story)


def test_closing_when_nothing_was_ever_asked_is_quiet() -> None:
    async def story(s: Story) -> None:
        await s.batcher.close()
        await s.batcher.close()

    told(story)


@given(
    requests=st.lists(st.lists(st.text(max_size=5), max_size=9), max_size=12),
    seed=st.integers(0, 2**32),
)
def test_everybody_gets_the_vectors_of_their_own_texts_in_order(requests: list[list[str]], seed: int) -> None:
    async def story(s: Story) -> None:
        chance = Random(seed)
        asked = []
        for texts in requests:
            asked.append(await s.ask(*texts))
            if s.bench.waiting and chance.random() < 0.5:
                await s.bench.finish()
        await s.finish_all()
        for texts, request in zip(requests, asked, strict=True):
            assert await request == [[float(len(text))] for text in texts]
        assert all(0 < len(batch) <= 3 for batch in s.encoder.batches)

    told(story)
