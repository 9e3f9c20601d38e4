"""Calls between a server and its peers: exactly one outcome each, and it says whether anything ran."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.fakes.aio import eventually, run
from tests.fakes.rpc import EPOCH, House, ask, hold_up_the_loop, request
from wrk_base import errors
from wrk_base.rpc import wire
from wrk_base.rpc.peers import call_with_body
from wrk_base.rpc.request import Request
from wrk_base.rpc.server import Server

MAX_MESSAGE = 1_048_576


def told(story: Callable[[House], Coroutine[Any, Any, None]]) -> None:
    async def tell() -> None:
        async with House() as house:
            await story(house)

    run(tell(), "virtual")


class Diary:
    """Handlers that write down what happens to them."""

    def __init__(self, server: Server) -> None:
        self.begun: list[Any] = []
        self.ended: list[str] = []
        self.release = asyncio.Event()
        self.arrived = asyncio.Event()
        server.respond("note", self.note)
        server.respond("wait", self.wait)

    def note(self, body: Any) -> Any:
        self.begun.append(body)
        return body

    async def wait(self, body: Any) -> Any:
        self.begun.append(body)
        self.arrived.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        self.ended.append("done")
        return body


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


def test_fields_that_cannot_travel_are_refused_before_they_spoil_the_message_of_others() -> None:
    async def story(house: House) -> None:
        server = house.serve()
        server.respond("runInference", lambda body: {"result": 1, "usage": {1: 2}})
        peer = house.peer()
        deadline = asyncio.get_running_loop().time() + 10
        neighbour = asyncio.create_task(ask(peer, "echo", 1))
        with pytest.raises(errors.BadRequest, match="text as keys") as refusal:
            await call_with_body(peer, "runInference", {"options": {50256: -100}}, deadline)
        assert refusal.value.not_started
        with pytest.raises(errors.Internal, match="runInference returned fields"):
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
        peer = house.peer()
        neighbour = asyncio.create_task(ask(peer, "echo", 1))
        with pytest.raises(errors.BadRequest, match=f"limit of {MAX_MESSAGE} bytes") as refusal:
            await ask(peer, "note", "x" * MAX_MESSAGE)
        assert refusal.value.not_started
        assert diary.begun == []
        assert await neighbour == 1
        assert len(house.fake.dials) == 1, "the link never broke"

    told(story)


def test_an_answer_that_is_too_long_is_an_internal_error_and_the_link_lives() -> None:
    async def story(house: House) -> None:
        house.serve().respond("long", lambda body: "x" * MAX_MESSAGE)
        peer = house.peer()
        with pytest.raises(errors.Internal, match=f"limit of {MAX_MESSAGE} bytes"):
            await ask(peer, "long")
        assert await ask(peer, "echo", 1) == 1
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
            await ask(house.peer(), "echo", "x" * 700_000)
        house.serve().respond("long", lambda body: "x" * 700_000)
        with pytest.raises(errors.Internal, match="limit of 600000 bytes"):
            await ask(house.peer(max_message=600_000), "long")

    told(story)


# --- giving up


def test_a_cancel_right_behind_its_request_wins() -> None:
    async def story(house: House) -> None:
        server = house.serve()
        diary = Diary(server)
        guest = await house.guest()
        await guest.say(request(1, "note"), request(2, "wait"), (wire.CANCEL, 0, 1), (wire.CANCEL, 0, 2))
        for _, _, call_id, code, name, _, _, _, _, not_started, _ in await guest.hears(wire.ERROR, 2):
            assert call_id in (1, 2)
            assert (code, name, not_started) == (1, "ERR_CANCELLED", True)
        assert diary.begun == []
        assert server.counters["cancels"] == 2

    told(story)


def test_a_caller_that_gives_up_stops_the_handler() -> None:
    async def story(house: House) -> None:
        server = house.serve()
        diary = Diary(server)
        peer = house.peer()
        call = asyncio.create_task(ask(peer, "wait"))
        await diary.arrived.wait()
        assert server.in_flight == 1
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await server.drained()
        assert diary.ended == ["cancelled"]
        assert peer.idle

    told(story)


def test_a_cancel_is_answered_when_the_handler_has_really_stopped() -> None:
    async def story(house: House) -> None:
        server = house.serve()
        order: list[str] = []
        begun = asyncio.Event()

        async def stubborn(body: Any) -> Any:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(5)
                order.append("stopped")

        server.respond("stubborn", stubborn)
        guest = await house.guest()
        await guest.say(request(1, "stubborn"))
        await begun.wait()
        await guest.say((wire.CANCEL, 0, 1))
        (answer,) = await guest.hears(wire.ERROR)
        assert order == ["stopped"]
        assert (answer[4], answer[9]) == ("ERR_CANCELLED", False)
        assert guest.answers(1) == [answer]

    told(story)


def test_a_handler_that_answers_in_spite_of_a_cancel_is_believed() -> None:
    async def story(house: House) -> None:
        begun = asyncio.Event()

        async def unimpressed(body: Any) -> Any:
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return "done anyway"

        house.serve().respond("unimpressed", unimpressed)
        guest = await house.guest()
        await guest.say(request(1, "unimpressed"))
        await begun.wait()
        await guest.say((wire.CANCEL, 0, 1))
        (reply,) = await guest.hears(wire.REPLY)
        assert wire.unpack_body(reply[5]) == "done anyway"
        assert guest.answers(1) == [reply]

    told(story)


def test_a_lost_caller_stops_its_handlers_and_nobody_elses() -> None:
    async def story(house: House) -> None:
        server = house.serve()
        diary = Diary(server)
        leaving, staying = house.peer(), house.peer()
        lost = asyncio.create_task(ask(leaving, "wait", "lost"))
        kept = asyncio.create_task(ask(staying, "wait", "kept"))
        await diary.arrived.wait()
        leaving.close()
        with pytest.raises(errors.Unavailable):
            await lost
        await eventually(lambda: server.in_flight == 1)
        assert diary.ended == ["cancelled"]
        diary.release.set()
        assert await kept == "kept"

    told(story)


def test_a_caller_that_is_lost_before_its_handlers_begin_leaves_nothing_running() -> None:
    async def story(house: House) -> None:
        server = house.serve()
        diary = Diary(server)
        guest = await house.guest()
        await guest.say(*[request(number, "wait") for number in range(1, 4)])
        guest.link.close()  # its end arrives in the same turn as its requests
        await ask(house.peer())
        await server.drained()
        assert (server.in_flight, diary.begun) == (0, [])
        assert server.handlers["wait"].stats.in_flight == 0

    told(story)


def test_a_stop_right_after_an_arrival_leaves_nothing_running_and_answers() -> None:
    async def story(house: House) -> None:
        server = house.serve()
        diary = Diary(server)

        def stop(body: Any) -> None:
            server.cancel_all()

        server.respond("stop", stop)
        guest = await house.guest()
        await guest.say(request(1, "wait"), request(2, "stop"))
        await server.drained()
        (answer,) = await guest.hears(wire.ERROR)
        assert guest.answers(1) == [answer]
        assert (answer[4], answer[9]) == ("ERR_UNAVAILABLE", True)
        assert diary.begun == []

    told(story)


# --- deadlines


def test_a_caller_hears_of_its_deadline_at_once_and_the_handler_is_stopped() -> None:
    async def story(house: House) -> None:
        server = house.serve()
        diary = Diary(server)
        loop = asyncio.get_running_loop()
        peer = house.peer()
        await ask(peer)
        begun = loop.time()
        with pytest.raises(errors.DeadlineExceeded) as late:
            await ask(peer, "wait", seconds=2.0)
        assert loop.time() - begun == pytest.approx(2.0, abs=0.01)
        assert not late.value.not_started, "it may have begun, and it had"
        await server.drained()
        assert diary.ended == ["cancelled"]
        assert peer.idle

    told(story)


def test_a_handler_is_stopped_at_the_deadline_even_if_its_caller_says_nothing() -> None:
    async def story(house: House) -> None:
        diary = Diary(house.serve())
        guest = await house.guest()
        await guest.say(request(1, "wait", remaining=1500))
        (answer,) = await guest.hears(wire.ERROR)
        assert (answer[4], answer[9]) == ("ERR_DEADLINE_EXCEEDED", False)
        assert diary.ended == ["cancelled"]

    told(story)


def test_a_request_that_lay_in_buffers_past_its_deadline_is_dropped_unrun() -> None:
    async def story(house: House) -> None:
        server = house.serve()
        diary = Diary(server)
        guest = await house.guest()
        guest.clock_ms -= 5000  # it left five seconds ago, as far as the server can tell
        await guest.say(request(1, "note", remaining=4900), request(2, "note", "in time", remaining=60_000))
        (answer,) = await guest.hears(wire.ERROR)
        assert (answer[2], answer[4], answer[9]) == (1, "ERR_DEADLINE_EXCEEDED", True)
        await guest.hears(wire.REPLY)
        assert diary.begun == ["in time"]
        assert server.counters["deadlineDrops"] == 1

    told(story)


def test_time_in_buffers_is_taken_off_what_remains() -> None:
    async def story(house: House) -> None:
        Diary(house.serve())
        loop = asyncio.get_running_loop()
        guest = await house.guest()
        guest.clock_ms -= 5000
        begun = loop.time()
        await guest.say(request(1, "wait", remaining=8000))
        await guest.hears(wire.ERROR)
        assert loop.time() - begun == pytest.approx(3.0, abs=0.01)

    told(story)


def test_a_request_whose_deadline_passes_behind_a_slow_handler_is_not_run() -> None:
    async def story(house: House) -> None:
        server = house.serve()
        diary = Diary(server)
        server.respond("slow", lambda body: hold_up_the_loop(3.0))
        guest = await house.guest()
        await guest.say(
            request(1, "slow"), request(2, "note", remaining=2000), request(3, "wait", remaining=1)
        )
        await guest.hears(wire.ERROR, 2)
        assert [(answer[2], answer[9]) for answer in guest.of(wire.ERROR)] == [(2, True), (3, True)]
        assert diary.begun == []
        assert server.counters["deadlineDrops"] == 2

    told(story)


@pytest.mark.parametrize("remaining", [0, -1, -(2**60)])
def test_a_request_that_has_no_time_left_is_not_run(remaining: int) -> None:
    async def story(house: House) -> None:
        diary = Diary(house.serve())
        guest = await house.guest()
        await guest.say(request(1, "note", remaining=remaining))
        assert (await guest.hears(wire.ERROR))[0][4] == "ERR_DEADLINE_EXCEEDED"
        assert diary.begun == []

    told(story)


def test_a_deadline_of_centuries_is_cut_to_a_day() -> None:
    async def story(house: House) -> None:
        Diary(house.serve())
        loop = asyncio.get_running_loop()
        guest = await house.guest()
        begun = loop.time()
        await guest.say(request(1, "wait", remaining=2**63))
        await guest.until(lambda: guest.of(wire.ERROR), within=1e6)
        assert loop.time() - begun == pytest.approx(86_400, abs=1)

    async def tell() -> None:
        async with House() as house:
            await story(house)

    run(tell(), "virtual", within=1e6)


def test_an_inline_handler_that_holds_everybody_up_is_named_and_a_quick_one_is_not() -> None:
    async def story(house: House) -> None:
        server = house.serve()
        server.respond("slow", lambda body: hold_up_the_loop(0.002))
        server.respond("quick", lambda body: hold_up_the_loop(0.001))  # one tick of a clock of milliseconds
        peer = house.peer()
        for _ in range(5):
            await ask(peer, "slow")
            await ask(peer, "quick")
        logged = [facts for event, facts in house.log.events if event == "rpc.inline_handler_slow"]
        assert [(facts["method"], facts["times"]) for facts in logged] == [
            ("slow", 1),
            ("slow", 2),
            ("slow", 4),
        ]

    told(story)


# --- exactly one answer


def test_whatever_a_request_is_it_gets_exactly_one_answer() -> None:
    async def story(house: House) -> None:
        server = house.serve(max_in_flight=3)
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
            ("wait", {}),  # the fourth of three places
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
        server = house.serve(max_in_flight=2)
        diary = Diary(server)
        peer = house.peer()
        calls = [asyncio.create_task(ask(peer, "wait", number)) for number in range(5)]
        quick = asyncio.create_task(ask(peer, "echo", "quick"))
        await diary.arrived.wait()
        assert await quick == "quick", "who is full can still say so"
        for refused in calls[2:]:
            with pytest.raises(errors.CapacityExceeded) as refusal:
                await refused
            assert refusal.value.not_started
        diary.release.set()
        assert await asyncio.gather(*calls[:2]) == [0, 1]
        assert await ask(peer, "wait", 9) == 9, "places that are free again are given again"

    told(story)
