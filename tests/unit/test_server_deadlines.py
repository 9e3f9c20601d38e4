"""When a call ends before its answer: given up, lost, or out of time. What has begun is stopped, what has
not begun never begins, and the caller hears which it was."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.fakes.aio import eventually
from tests.fakes.rpc import Diary, House, ask, hold_up_the_loop, request, told
from wrk_base import errors
from wrk_base.rpc import wire

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


def test_a_request_that_waits_for_a_slot_past_its_deadline_is_counted_as_dropped() -> None:
    async def story(house: House) -> None:
        server = house.serve(max_in_flight=1)
        diary = Diary(server)
        guest = await house.guest()
        await guest.say(request(1, "wait"), request(2, "wait", remaining=1000))
        ((_, _, call_id, _, name, *_),) = await guest.hears(wire.ERROR)
        assert (call_id, name, diary.begun) == (2, "ERR_DEADLINE_EXCEEDED", [None])
        assert server.counters["deadlineDrops"] == 1
        assert server.handlers["wait"].stats.deadline_drops == 1

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

    told(story, within=1e6)


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
