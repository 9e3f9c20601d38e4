"""Calls between a server and its peers: exactly one outcome each, and it says whether anything ran."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.fakes.rpc import EPOCH, Diary, House, ask, request, told
from wrk_base import errors
from wrk_base.rpc import wire
from wrk_base.rpc.client import Peer
from wrk_base.rpc.peers import call_with_body
from wrk_base.rpc.request import Request

MAX_MESSAGE = 1_048_576


# --- answers


def test_every_form_of_handler_answers() -> None:
    async def story(house: House) -> None:
        server = house.serve()
        peer = house.peer()

        async def later(body: Any) -> Any:
            await asyncio.sleep(1)
            return ["later", body]

        def asked_by(body: Any, request: Request) -> Any:
            return [request.peer.worker_id, request.peer.role, body]

        async def asked_later_by(body: Any, request: Request) -> Any:
            await asyncio.sleep(0)
            return asked_by(body, request)

        server.respond("later", later)
        server.respond("askedBy", asked_by)
        server.respond("askedLaterBy", asked_later_by)
        assert await ask(peer, "echo", {"a": [1, None, b"x"]}) == {"a": [1, None, b"x"]}
        assert await ask(peer, "later", 1) == ["later", 1]
        assert await ask(peer, "askedBy", 2) == ["client-1", "client", 2]
        assert await ask(peer, "askedLaterBy", 3) == ["client-1", "client", 3]
        assert server.in_flight == 0

    told(story)


def test_answers_find_their_calls_whatever_their_order() -> None:
    async def story(house: House) -> None:
        async def after(body: float) -> float:
            await asyncio.sleep(body)
            return body

        house.serve().respond("after", after)
        peer = house.peer()
        delays = [3.0, 1.0, 2.0, 0.0]
        assert await asyncio.gather(*[ask(peer, "after", delay) for delay in delays]) == delays

    told(story)


@pytest.mark.parametrize("is_async", [False, True], ids=["inline", "task"])
def test_what_a_handler_raises_reaches_the_caller_but_no_traceback_does(is_async: bool) -> None:
    async def story(house: House) -> None:
        server = house.serve()

        def fails(body: Any) -> Any:
            secret = {"password": 1}
            return secret[body]

        async def fails_later(body: Any) -> Any:
            return fails(body)

        server.respond("fails", fails_later if is_async else fails)
        with pytest.raises(errors.Internal) as failure:
            await ask(house.peer(), "fails", "hunter2")
        text = failure.value.message
        assert "fails" in text
        for inside in ("hunter2", "password", "KeyError", "Traceback", ".py"):
            assert inside not in text
        assert not failure.value.not_started
        assert failure.value.origin == "server-1"
        assert "rpc.handler_failed" in house.log.names(), "the log has what the caller has not"
        assert server.handlers["fails"].stats.errors == 1

    told(story)


def test_an_error_of_the_tree_crosses_the_wire_with_its_facts() -> None:
    async def story(house: House) -> None:
        def refuses(body: Any) -> Any:
            raise errors.CapacityExceeded("full", data={"field": "x", "n": [1]}, retry_after_ms=250)

        house.serve().respond("refuses", refuses)
        with pytest.raises(errors.CapacityExceeded, match=r"^full$") as failure:
            await ask(house.peer(), "refuses")
        assert failure.value.data == {"field": "x", "n": (1,)}
        assert failure.value.retry_after_ms == 250
        assert failure.value.retryable
        assert not failure.value.not_started

    told(story)


@pytest.mark.parametrize(
    "result", [object(), {1, 2}, 2**70, "\ud800", 1j], ids=lambda value: type(value).__name__
)
@pytest.mark.parametrize("is_async", [False, True], ids=["inline", "task"])
def test_a_result_that_cannot_be_encoded_is_an_internal_error(result: Any, is_async: bool) -> None:
    async def story(house: House) -> None:
        async def later(body: Any) -> Any:
            return result

        house.serve().respond("odd", later if is_async else lambda body: result)
        peer = house.peer()
        with pytest.raises(errors.Internal, match="odd returned what cannot be encoded"):
            await ask(peer, "odd")
        assert await ask(peer, "echo", 1) == 1

    told(story)


@pytest.mark.parametrize("data", [{"a": 1j}, {1: 2}, {"a": {2: 3}}, {"a": "\ud800"}], ids=repr)
def test_an_error_whose_data_cannot_travel_arrives_without_it(data: dict[Any, Any]) -> None:
    async def story(house: House) -> None:
        def refuses(body: Any) -> Any:
            raise errors.BadRequest("no", data=data, retry_after_ms=1.6)  # type: ignore[arg-type]

        house.serve().respond("refuses", refuses)
        peer = house.peer()
        neighbours = asyncio.gather(*[ask(peer, "echo", number) for number in range(3)])
        with pytest.raises(errors.BadRequest, match=r"^no$") as failure:
            await ask(peer, "refuses")
        assert failure.value.data == {}
        assert await neighbours == [0, 1, 2], "what shares a message with it arrives, too"

    told(story)


@pytest.mark.parametrize("text", ["x" * MAX_MESSAGE, "\ud800"], ids=["too long", "no text"])
def test_an_error_whose_text_cannot_travel_is_an_internal_error(text: str) -> None:
    async def story(house: House) -> None:
        def refuses(body: Any) -> Any:
            raise errors.BadRequest(text)

        house.serve().respond("refuses", refuses)
        with pytest.raises(errors.Internal, match="cannot be sent"):
            await ask(house.peer(), "refuses")

    told(story)


def test_fields_that_cannot_travel_do_not_spoil_the_message_of_others() -> None:
    async def story(house: House) -> None:
        server = house.serve()
        server.respond("runInference", lambda body: {"result": 1, "usage": {1: 2}})
        peer = house.peer()
        deadline = asyncio.get_running_loop().time() + 10
        neighbour = asyncio.create_task(ask(peer, "echo", 1))
        with pytest.raises(errors.BadRequest, match="head is malformed: int is not allowed") as refusal:
            await call_with_body(peer, "runInference", {"options": {50256: -100}}, deadline)
        assert refusal.value.not_started
        with pytest.raises(errors.Internal, match="answer is malformed: int is not allowed"):
            await call_with_body(peer, "runInference", {"inputData": 1}, deadline)
        assert await neighbour == 1

    told(story)


def test_a_future_that_was_cancelled_fails_its_own_handler_only() -> None:
    async def story(house: House) -> None:
        def looks_at_a_cancelled_future(body: Any) -> Any:
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            return future.result()

        house.serve().respond("looks", looks_at_a_cancelled_future)
        peer = house.peer()
        await ask(peer)
        looking, behind = ask(peer, "looks"), ask(peer, "echo", 1)
        outcomes = await asyncio.gather(looking, behind, return_exceptions=True)
        assert isinstance(outcomes[0], errors.Cancelled)
        assert outcomes[1] == 1

    told(story)


# --- sizes


def test_a_body_that_is_too_long_is_refused_before_it_is_sent() -> None:
    async def story(house: House) -> None:
        diary = Diary(house.serve())
        peer = house.peer(max_body=MAX_MESSAGE)
        neighbour = asyncio.create_task(ask(peer, "echo", 1))
        with pytest.raises(errors.BadRequest, match=f"rpc.maxBody = {MAX_MESSAGE}") as refusal:
            await ask(peer, "note", "x" * MAX_MESSAGE)
        assert refusal.value.not_started
        assert diary.begun == []
        assert await neighbour == 1
        assert len(house.fake.dials) == 1, "the link never broke"

    told(story)


def test_an_answer_that_is_too_long_is_refused_by_its_caller_and_the_link_lives() -> None:
    async def story(house: House) -> None:
        house.serve().respond("long", lambda body: "x" * MAX_MESSAGE)
        peer = house.peer(max_body=MAX_MESSAGE)
        with pytest.raises(errors.CapacityExceeded, match=f"rpc.maxBody = {MAX_MESSAGE}") as refusal:
            await ask(peer, "long")
        assert not refusal.value.not_started, "it ran"
        assert await ask(peer, "echo", 1) == 1
        assert len(house.fake.dials) == 1

    told(story)


def test_a_head_that_no_message_can_carry_is_refused_before_it_is_sent() -> None:
    async def story(house: House) -> None:
        diary = Diary(house.serve())
        peer = house.peer()
        neighbour = asyncio.create_task(ask(peer, "echo", 1))
        with pytest.raises(errors.BadRequest, match=f"limit of {MAX_MESSAGE} bytes") as refusal:
            await ask_with_head(peer, "note", MAX_MESSAGE)
        assert refusal.value.not_started
        assert diary.begun == []
        assert await neighbour == 1
        assert peer.idle
        assert len(house.fake.dials) == 1, "the link never broke"

    told(story)


def test_an_answer_that_no_message_can_carry_is_an_internal_error_and_the_link_lives() -> None:
    async def story(house: House) -> None:
        server = house.serve()
        server.respond("long", answering_with_head(MAX_MESSAGE), raw=True)
        peer = house.peer()
        with pytest.raises(errors.Internal, match=f"limit of {MAX_MESSAGE} bytes"):
            await ask(peer, "long")
        assert await ask(peer, "echo", 1) == 1
        assert server.in_flight == 0
        assert len(house.fake.dials) == 1

    told(story)


def test_many_long_bodies_in_one_tick_are_cut_into_messages_that_fit() -> None:
    async def story(house: House) -> None:
        house.serve()
        peer = house.peer()
        bodies = [bytes([number]) * 300_000 for number in range(12)]
        assert await asyncio.gather(*[ask(peer, "echo", body) for body in bodies]) == bodies
        assert len(house.fake.dials) == 1

    told(story)


def test_the_smaller_limit_of_both_sides_counts() -> None:
    async def story(house: House) -> None:
        house.serve(max_message=600_000)
        with pytest.raises(errors.BadRequest, match="limit of 600000 bytes"):
            await ask_with_head(house.peer(), "echo", 700_000)
        house.serve().respond("long", answering_with_head(700_000), raw=True)
        with pytest.raises(errors.Internal, match="limit of 600000 bytes"):
            await ask(house.peer(max_message=600_000), "long")

    told(story)


# --- exactly one answer


def test_whatever_a_request_is_it_gets_exactly_one_answer() -> None:
    async def story(house: House) -> None:
        server = house.serve(max_in_flight=3, max_waiting=2)
        diary = Diary(server)
        server.respond("odd", lambda body: object())
        server.respond("fails", lambda body: 1 / 0)
        guest = await house.guest()
        cases: list[tuple[str, dict[str, Any]]] = [
            ("echo", {}),
            ("no such method", {}),
            ("odd", {}),
            ("fails", {}),
            ("echo", {"flags": wire.STREAM_WANTED}),
            ("echo", {"flags": wire.MORE_CHUNKS}),
            ("echo", {"epoch": EPOCH + 1}),
            ("echo", {"remaining": 0}),
            ("wait", {}),
            ("wait", {"remaining": 500}),
            ("wait", {}),
            ("wait", {}),
            ("wait", {}),  # it waits for one of three places
            ("wait", {"remaining": 200}),  # and this one does so for too long
            ("wait", {}),  # the third who waits, where two may
            ("echo", {"extras": {"unheard": "of"}}),
            ("x" * 10_000, {}),
        ]
        envelopes = [request(number, method, **fields) for number, (method, fields) in enumerate(cases, 1)]
        await guest.say(*envelopes, (wire.CANCEL, 0, 9))
        await diary.arrived.wait()
        await asyncio.sleep(1.0)
        diary.release.set()
        await guest.until(lambda: all(guest.answers(number) for number in range(1, len(cases) + 1)))
        await asyncio.sleep(15)
        assert [len(guest.answers(number)) for number in range(1, len(cases) + 1)] == [1] * len(cases)
        assert server.in_flight == 0

    told(story)


def test_a_request_that_comes_twice_runs_once() -> None:
    async def story(house: House) -> None:
        server = house.serve()
        diary = Diary(server)
        guest = await house.guest()
        await guest.say(request(5, "note", "first"), request(5, "note", "again"))
        await guest.say(request(5, "note", "later"), request(4, "note", "older"), request(6, "note", "next"))
        await guest.hears(wire.REPLY, 2)
        assert diary.begun == ["first", "next"]
        assert len(guest.answers(5)) == 1
        assert server.counters["malformed"] == 3

    told(story)


def test_no_more_run_at_once_than_are_allowed_even_if_they_arrive_together() -> None:
    async def story(house: House) -> None:
        server = house.serve(max_in_flight=2, max_waiting=2)
        diary = Diary(server)
        peer = house.peer()
        calls = [asyncio.create_task(ask(peer, "wait", number)) for number in range(7)]
        quick = asyncio.create_task(ask(peer, "echo", "quick"))
        await diary.arrived.wait()
        assert await quick == "quick", "who is full can still say so"
        for refused in calls[4:]:
            with pytest.raises(errors.CapacityExceeded) as refusal:
                await refused
            assert refusal.value.not_started
            assert refusal.value.retry_after_ms
        assert (diary.begun, server.in_flight, server.waiting) == ([0, 1], 2, 2)
        diary.release.set()
        assert await asyncio.gather(*calls[:4]) == [0, 1, 2, 3]
        assert diary.begun == [0, 1, 2, 3], "who waits is served in the order of arrival"
        assert await ask(peer, "wait", 9) == 9, "places that are free again are given again"
        assert (server.in_flight, server.waiting) == (0, 0)

    told(story)


# --- helpers


async def ask_with_head(peer: Peer, method: str, size: int) -> None:
    """A call whose head has about `size` bytes: that always travels in the envelope itself."""
    head = wire.pack_head({"pad": "x" * size})
    await peer.call(method, b"\xc0", deadline=asyncio.get_running_loop().time() + 10.0, head=head)


def answering_with_head(size: int) -> Callable[[Request], None]:
    """A raw handler that does the same."""
    head = wire.pack_head({"pad": "x" * size})
    return lambda request: request.answer(head, wire.MSGPACK, b"\xc0")
