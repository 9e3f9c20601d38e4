"""Thousands of calls, each given up at a moment of chance: every one has one outcome, nobody says what may
not follow, and afterwards no book of either side holds anything. The seed is in the test's name."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest

from tests.fakes.aio import eventually
from tests.fakes.streaming import Place, StreamHouse, told
from wrk_base import errors
from wrk_base.rpc import wire
from wrk_base.rpc.peers import Peers
from wrk_base.rpc.request import Final, Request
from wrk_base.rpc.server import Server

CALLS = 5000
AT_ONCE = 200
METHODS = ("quick", "task", "slow", "stubborn", "forward", "few", "many", "hanging", "failing", "large")
OUTCOMES = {"answered", "cancelled", "left", "refused", "late"}


class Crowd:
    """Handlers of every kind; `alive` counts those that have begun and not ended."""

    def __init__(self, server: Server, rng: Random) -> None:
        self.alive = 0
        self._rng = rng
        self._forwarded: list[Request] = []
        for method in ("task", "slow", "stubborn", "few", "many", "hanging", "failing"):
            server.respond(method, getattr(self, method))
        server.respond("quick", lambda body: body)
        server.respond("large", lambda body: bytes(self._rng.randrange(2 * wire.CHUNK_BYTES)))
        server.respond("forward", self.forward, raw=True)
        server.respond("limited", self.slow, limit=3)

    async def task(self, body: Any) -> Any:
        await asyncio.sleep(0)
        return body

    async def slow(self, body: Any) -> Any:
        self.alive += 1
        try:
            await asyncio.sleep(self._rng.random() * 0.1)
        finally:
            self.alive -= 1
        return body

    async def stubborn(self, body: Any) -> Any:
        """Answers in spite of everything."""
        try:
            await self.slow(body)
        except asyncio.CancelledError:
            return "anyway"

    def forward(self, request: Request) -> None:
        """Answers later, or hears that it need not."""
        timer = asyncio.get_running_loop().call_later(self._rng.random() * 0.05, self._answer, request)

        def stop(verdict: errors.WrkError) -> None:
            timer.cancel()
            request.fail(verdict)

        request.on_cancel = stop

    def _answer(self, request: Request) -> None:
        request.answer(None, request.content_type, request.payload)

    async def few(self, body: Any) -> AsyncIterator[Any]:
        for number in range(5):
            yield number
        yield Final(body)

    async def many(self, body: Any) -> AsyncIterator[Any]:
        self.alive += 1
        try:
            for number in range(500):
                yield [number, bytes(200)]
                if not number % 50:
                    await asyncio.sleep(self._rng.random() * 0.005)
            yield Final(body)
        finally:
            self.alive -= 1

    async def hanging(self, body: Any) -> AsyncIterator[Any]:
        self.alive += 1
        try:
            yield 1
            await asyncio.sleep(3600)
        finally:
            self.alive -= 1

    async def failing(self, body: Any) -> AsyncIterator[Any]:
        yield 1
        await asyncio.sleep(self._rng.random() * 0.01)
        raise errors.BadRequest("enough")


class Caller:
    """One call after the other, each in a way of chance; writes down how each ends."""

    def __init__(self, house: StreamHouse, caller: Peers, rng: Random) -> None:
        self.house, self.caller, self.rng = house, caller, rng
        self.outcomes: Counter[str] = Counter()
        self.methods: Counter[str] = Counter()

    async def call(self) -> None:
        rng = self.rng
        method = rng.choice(METHODS)
        body = bytes(rng.choice((10, 10, 10, 1000, wire.CHUNK_BYTES + 10)))
        as_stream = rng.random() < 0.5
        task = asyncio.create_task(
            self._read(method, body, rng.choice((1, 3, 10_000)))
            if as_stream
            else self._ask(method, body, rng.choice((0.02, 30.0)))
        )
        if rng.random() < 0.8:
            asyncio.get_running_loop().call_later(rng.random() ** 3 * 0.05, task.cancel)
        else:
            asyncio.get_running_loop().call_later(0.5, task.cancel)  # those that never end
        await asyncio.wait((task,))
        outcome = "cancelled" if task.cancelled() else task.result()
        self.outcomes[outcome] += 1
        self.methods[method] += 1

    async def _ask(self, method: str, body: bytes, timeout: float) -> str:
        try:
            await self.house.ask(self.caller, method, body, timeout)
        except errors.BadRequest:
            return "refused"
        except errors.DeadlineExceeded:
            return "late"
        return "answered"

    async def _read(self, method: str, body: bytes, most: int) -> str:
        read = 0
        stream = self.house.stream(self.caller, method, body, timeout=30.0)
        try:
            async for _ in stream:
                read += 1
                if read == most:
                    return "left"
        except errors.BadRequest as refusal:
            return "refused" if refusal.data["items"] == read else "miscounted"
        assert stream.received == read
        return "answered"


async def storm(house: StreamHouse, callers: int, calls: int, rng: Random) -> Counter[str]:
    """So many calls, spread over the callers, `AT_ONCE` at a time."""
    crowd = Crowd(house.servers[0], Random(rng.random()))
    people = [Caller(house, house.caller(), Random(rng.random())) for _ in range(callers)]
    left = iter(range(calls))

    async def worker(number: int) -> None:
        for _ in left:
            await people[number % callers].call()

    await asyncio.gather(*(worker(number) for number in range(AT_ONCE)))
    await house.over()
    await eventually(lambda: crowd.alive == 0)
    assert house.servers[0].counters["malformed"] == 0
    assert [person.caller.get(house.endpoint).malformed for person in people] == [0] * callers
    return sum((person.outcomes for person in people), Counter())


def check(outcomes: Counter[str], calls: int) -> None:
    assert outcomes.total() == calls, "one outcome each"
    assert set(outcomes) == OUTCOMES, "and every kind of outcome was met"
    assert min(outcomes.values()) > calls // 500


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_calls_that_are_given_up_at_any_moment_leave_nothing(seed: int) -> None:
    async def story(house: StreamHouse) -> None:
        house.serve()
        check(await storm(house, 4, CALLS, Random(seed)), CALLS)

    told(story)


@pytest.mark.parametrize("place", ["asyncio", "uvloop"])
def test_the_same_on_real_sockets(place: Place) -> None:
    async def story(house: StreamHouse) -> None:
        house.serve()
        check(await storm(house, 4, 2000, Random(4)), 2000)

    told(story, place)


def test_the_same_with_few_slots_and_a_small_room() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve(max_in_flight=20, max_waiting=1000)
        outcomes = await storm(house, 4, 2000, Random(5))
        assert outcomes.total() == 2000
        assert server.handlers["slow"].stats.deadline_drops + server.handlers["many"].stats.cancels > 0

    told(story)


def test_the_same_while_links_break() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve()
        Crowd(server, Random(6))
        rng, caller = Random(7), house.caller()
        ended: Counter[str] = Counter()

        async def call(number: int) -> None:
            method = rng.choice(METHODS)
            await asyncio.sleep(rng.random() * 2)
            try:
                if number % 2:
                    [item async for item in house.stream(caller, method, b"x", timeout=30.0, total=31.0)]
                else:
                    await house.ask(caller, method, bytes(300_000), 30.0)
            except errors.WrkError as error:
                ended[type(error).__name__] += 1
            else:
                ended["answered"] += 1

        async def cut() -> None:
            for _ in range(40):
                await asyncio.sleep(0.05)
                house.fake.cut(house.endpoint)

        await asyncio.gather(cut(), *(call(number) for number in range(1500)))
        assert ended.total() == 1500
        assert ended["Unavailable"] > 50
        assert ended["answered"] > 50
        await house.over()

    told(story)
