"""One request and its answer, without a server: reading within bounds, and callers who leave.

`Wire` is the other side: what it says next is in the test's hand, and what it hears is kept.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.fakes.virtual_time import run_virtual
from wrk_base import errors
from wrk_base.rpc.body import Budget
from wrk_orchestrator.http.errors import BodyTooLarge, BodyTooSlow
from wrk_orchestrator.http.exchange import BODY_RATE, LINGER_S, PIECE, ClientGone, Exchange, Message

GONE: Message = {"type": "http.disconnect"}


def part(body: bytes, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


class Wire:
    def __init__(self, *messages: Message, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        self.heard: list[Message] = []
        self._said: asyncio.Queue[Message] = asyncio.Queue()
        for message in messages:
            self.say(message)
        self.exchange = Exchange({"headers": headers or []}, self._said.get, self._send)

    def say(self, message: Message) -> None:
        self._said.put_nowait(message)

    async def _send(self, message: Message) -> None:
        self.heard.append(message)

    @property
    def unread(self) -> int:
        return self._said.qsize()


def room(size: int = 1000) -> Budget:
    return Budget(size, "rpc.processBytes")


def now() -> float:
    return asyncio.get_running_loop().time()


# --- reading


def test_a_body_in_parts_is_put_together() -> None:
    async def story() -> None:
        assert (
            await Wire(part(b"a", True), part(b"", True), part(b"bc")).exchange.read(3, 1, room()) == b"abc"
        )
        assert await Wire(part(b"")).exchange.read(3, 1, room()) == b""

    run_virtual(story())


def test_one_byte_above_the_limit_is_too_many_declared_or_not() -> None:
    async def story() -> None:
        undeclared = Wire(part(b"ab", True), part(b"cd", True), part(b"e"))
        with pytest.raises(BodyTooLarge):
            await undeclared.exchange.read(3, 1, room())
        assert undeclared.unread == 1
        declared = Wire(headers=[(b"content-length", b"4")])
        with pytest.raises(BodyTooLarge):
            await declared.exchange.read(3, 1, room())

    run_virtual(story())


def test_bodies_of_all_callers_share_what_the_process_may_hold() -> None:
    async def story() -> None:
        shared = room(5)
        first = Wire(part(b"abc")).exchange
        assert await first.read(9, 1, shared) == b"abc"
        second = Wire(part(b"ab", True), part(b"c")).exchange
        with pytest.raises(errors.CapacityExceeded, match="processBytes"):
            await second.read(9, 1, shared)
        assert (first.held, second.held, shared.used) == (3, 2, 5)

    run_virtual(story())


def test_a_body_that_stalls_is_too_slow() -> None:
    async def story() -> None:
        with pytest.raises(BodyTooSlow):
            await Wire(part(b"a", True)).exchange.read(3, 7, room())
        assert now() == pytest.approx(7, abs=0.001)

    run_virtual(story())


def test_a_body_may_take_as_long_as_it_needs_if_only_it_keeps_coming() -> None:
    async def story() -> None:
        wire, size = Wire(), 40 * BODY_RATE
        reading = asyncio.create_task(wire.exchange.read(size, 10, room(2 * size)))
        for sent in range(40):
            await asyncio.sleep(1)
            wire.say(part(b"x" * BODY_RATE, more=sent < 39))
        assert len(await reading) == size
        assert now() == 40

    run_virtual(story())


def test_a_body_that_trickles_is_too_slow_however_long_it_says_it_is() -> None:
    async def story() -> None:
        wire = Wire(headers=[(b"content-length", b"16000000")])
        reading = asyncio.create_task(wire.exchange.read(16_000_000, 10, room(16_000_000)))
        for _ in range(3):
            await asyncio.sleep(4)
            wire.say(part(b"x", more=True))
        with pytest.raises(BodyTooSlow):
            await reading
        assert now() == 12

    run_virtual(story())


def test_a_caller_who_leaves_in_the_middle_is_gone() -> None:
    async def story() -> None:
        with pytest.raises(ClientGone):
            await Wire(part(b"a", True), GONE).exchange.read(3, 1, room())

    run_virtual(story())


# --- working for a caller who may leave


def test_work_that_ends_gives_its_result_or_its_error() -> None:
    async def fine() -> int:
        await asyncio.sleep(1)
        return 5

    async def broken() -> None:
        raise errors.Unavailable("no")

    async def story() -> None:
        wire = Wire()
        assert await wire.exchange.unless_gone(fine()) == 5
        with pytest.raises(errors.Unavailable):
            await wire.exchange.unless_gone(broken())
        wire.say(GONE)  # too late to matter
        await asyncio.sleep(1)

    run_virtual(story())


def test_work_for_a_caller_who_leaves_is_cancelled_and_only_the_work() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def story() -> None:
        wire = Wire()
        asyncio.get_running_loop().call_later(3, wire.say, GONE)
        with pytest.raises(ClientGone):
            await wire.exchange.unless_gone(work())
        assert (ended, now()) == (["cancelled"], 3)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        assert wire.heard == []

    run_virtual(story())


def test_a_cancellation_from_elsewhere_stays_one() -> None:
    async def story() -> None:
        wire = Wire()
        task = asyncio.create_task(wire.exchange.unless_gone(asyncio.sleep(100)))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_virtual(story())


# --- answering


@pytest.mark.parametrize("size", [0, 1, PIECE, PIECE + 1, 2 * PIECE, 5 * PIECE + 7])
def test_a_long_answer_goes_through_tls_piece_by_piece(size: int) -> None:
    async def story() -> None:
        body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        wire = Wire()
        wire.exchange.scope["scheme"] = "https"
        await wire.exchange.answer(200, body)
        pieces = wire.heard[1:]
        assert b"".join(piece["body"] for piece in pieces) == body
        assert all(len(piece["body"]) <= PIECE for piece in pieces)
        assert [bool(piece.get("more_body")) for piece in pieces] == [True] * (len(pieces) - 1) + [False]

    run_virtual(story())


def heads(wire: Wire) -> list[dict[bytes, bytes]]:
    return [dict(message["headers"]) for message in wire.heard if message["type"] == "http.response.start"]


def test_an_answer_carries_the_request_id_and_its_length() -> None:
    async def story() -> None:
        wire = Wire()
        wire.exchange.request_id = "id-1"
        await wire.exchange.answer(200, b"{}")
        (head,) = heads(wire)
        assert (head[b"x-request-id"], head[b"content-length"]) == (b"id-1", b"2")
        assert b"connection" not in head

    run_virtual(story())


@pytest.mark.parametrize("in_haste", [False, True])
def test_the_rest_of_a_refused_body_is_thrown_away_unless_there_is_no_time(in_haste: bool) -> None:
    async def story() -> None:
        wire = Wire(part(b"abcd", True), part(b"ef", True), part(b"gh", True), part(b"i"))
        with pytest.raises(BodyTooLarge) as caught:
            await wire.exchange.read(3, 1, room())
        await wire.exchange.fail(caught.value, in_haste=in_haste)
        assert wire.unread == (3 if in_haste else 0)
        assert wire.heard[0]["status"] == 413
        assert not wire.heard[-1].get("more_body")

    run_virtual(story())


def test_a_refused_caller_who_neither_sends_nor_leaves_is_not_waited_for_long() -> None:
    async def story() -> None:
        wire = Wire(headers=[(b"content-length", b"4")])
        with pytest.raises(BodyTooLarge) as caught:
            await wire.exchange.read(3, 1, room())
        await wire.exchange.fail(caught.value)
        assert now() == LINGER_S
        assert heads(wire)[0][b"connection"] == b"close"
        whole: list[Any] = [message["type"] for message in wire.heard]
        assert whole == ["http.response.start", "http.response.body", "http.response.body"]

    run_virtual(story())
