"""The thread that generates, seen from the event loop: what comes out, who stops, and how it ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from racks.generator import Generator
from racks.scheduler import Scheduler, Update
from tests.fakes.aio import run
from tests.fakes.parrot import Parrot, question
from tests.fakes.rpc import RecordedLog
from wrk_base import errors


class Faulty(Scheduler):
    """Fails once, as only a mistake in it could."""

    broken = True

    def step(self) -> list[Update]:
        if self.broken:
            self.broken = False
            raise RuntimeError("a mistake")
        return super().step()


@asynccontextmanager
async def generating(
    parrot: Parrot | None = None, kind: Callable[..., Scheduler] = Scheduler
) -> AsyncIterator[Generator]:
    log: Any = RecordedLog()
    made = Generator(kind(parrot or Parrot(), max_rows=4, max_cached=1_000_000), log)
    try:
        yield made
    finally:
        await made.close()


async def answer(generator: Generator, text: str) -> str:
    return "".join([update.text async for update in generator.updates(question(text))])


class Gate:
    """Keeps the model's thread in its step until it is opened, and says when it is there."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        self.opened.wait()


def test_many_answers_come_out_each_whole() -> None:
    async def story() -> None:
        async with generating() as generator:
            texts = [f"answer number {number}" for number in range(20)]
            said = await asyncio.gather(*(answer(generator, text) for text in texts))
            assert said == [text[::-1] for text in texts]

    run(story())


def test_the_loop_goes_on_while_the_model_works_and_what_arrives_then_joins() -> None:
    async def story() -> None:
        gate = Gate()
        parrot = Parrot(before_step=gate)
        async with generating(parrot) as generator:
            first = asyncio.create_task(answer(generator, "abc"))
            await asyncio.to_thread(gate.reached.wait)
            second = asyncio.create_task(answer(generator, "xyz"))
            await asyncio.sleep(0)
            gate.opened.set()
            assert await asyncio.gather(first, second) == ["cba", "zyx"]
            assert parrot.rows[:2] == [1, 2]

    run(story())


def test_who_leaves_gives_its_place_back_before_the_next_step() -> None:
    async def story() -> None:
        parrot = Parrot()
        async with generating(parrot) as generator:
            async with aclosing(generator.updates(question("a" * 10_000, max_tokens=10_000))) as updates:
                async for _ in updates:
                    break
            assert await answer(generator, "abc") == "cba"
            assert parrot.held == set()
            assert not generator._readers

    run(story())


def test_who_is_cancelled_while_it_waits_gives_its_place_back() -> None:
    async def story() -> None:
        gate = Gate()
        parrot = Parrot(before_step=gate)
        async with generating(parrot) as generator:
            asking = asyncio.create_task(answer(generator, "a" * 100))
            await asyncio.to_thread(gate.reached.wait)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            gate.opened.set()
            assert await answer(generator, "abc") == "cba"
            assert parrot.held == set()

    run(story())


def test_an_error_of_the_model_is_raised_where_the_answer_is_read() -> None:
    async def story() -> None:
        parrot = Parrot()
        parrot.breaks = MemoryError("no room")
        async with generating(parrot) as generator:
            with pytest.raises(MemoryError, match="no room"):
                await answer(generator, "abc")
            assert await answer(generator, "abc") == "cba"

    run(story())


def test_a_mistake_in_the_scheduler_does_not_end_the_thread() -> None:
    async def story() -> None:
        async with generating(kind=Faulty) as generator:
            with pytest.raises(RuntimeError, match="a mistake"):
                await answer(generator, "abc")
            assert await answer(generator, "abc") == "cba"

    run(story())


def test_closed_it_ends_what_runs_after_its_step_and_takes_no_more() -> None:
    async def story() -> None:
        gate = Gate()
        async with generating(Parrot(before_step=gate)) as generator:
            running = asyncio.create_task(answer(generator, "abc"))
            await asyncio.to_thread(gate.reached.wait)
            closing = asyncio.create_task(generator.close())
            await asyncio.sleep(0)
            gate.opened.set()
            await closing
            with pytest.raises(errors.Unavailable, match="being closed"):
                await running
            with pytest.raises(errors.Unavailable, match="being closed"):
                await answer(generator, "abc")

    run(story())
