"""One peer as its caller sees it: dialling, greeting, losing, dialling again, and what calls hear of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.fakes.rpc import EPOCH, Happenings, House, ask, timers, told
from wrk_base import errors
from wrk_base.rpc import wire
from wrk_base.rpc.identity import Identity

NOWHERE = "tcp://127.0.0.1:1"


async def wait_forever(body: Any) -> None:
    await asyncio.Event().wait()


# --- reaching it


def test_nothing_is_dialled_before_it_is_needed_and_one_link_serves_all_calls() -> None:
    async def story(house: House) -> None:
        house.serve()
        peer = house.peer()
        assert house.fake.dials == []
        assert await asyncio.gather(*[ask(peer, "echo", number) for number in range(100)]) == list(range(100))
        assert len(house.fake.dials) == 1
        assert peer.info is not None
        assert (peer.info.worker_id, peer.info.epoch, peer.ready) == ("server-1", EPOCH, True)

    told(story)


def test_who_cannot_be_reached_fails_calls_as_not_started_after_the_connect_timeout() -> None:
    async def story(house: House) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        with pytest.raises(errors.Unavailable, match=r"cannot reach .*: nothing accepts") as failure:
            await ask(house.peer(NOWHERE, connect_timeout=3.0))
        assert failure.value.not_started
        assert loop.time() - begun == pytest.approx(3.0, abs=0.01)
        assert len(house.fake.dials) > 3, "it was tried again meanwhile"

    told(story)


def test_a_deadline_before_the_connect_timeout_counts_and_is_not_started() -> None:
    async def story(house: House) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        peer = house.peer(NOWHERE)
        with pytest.raises(errors.DeadlineExceeded, match="nothing accepts") as failure:
            await ask(peer, seconds=0.5)
        assert failure.value.not_started
        assert loop.time() - begun == pytest.approx(0.5, abs=0.01)
        assert peer.idle

    told(story)


def test_who_comes_up_while_calls_wait_gets_them() -> None:
    async def story(house: House) -> None:
        house.serve()
        house.fake.refuse(house.endpoint)
        call = asyncio.create_task(ask(house.peer(), "echo", 1))
        await asyncio.sleep(1.0)
        house.fake.allow(house.endpoint)
        assert await call == 1

    told(story)


def test_who_accepts_but_never_greets_is_left_and_tried_again() -> None:
    async def story(house: House) -> None:
        impostor = house.impostor()
        impostor.silent = True
        heard = Happenings()
        call = asyncio.create_task(ask(house.peer(events=heard, greeting_timeout=1.0, connect_timeout=9.0)))
        await heard.until(lambda: heard.story)
        assert heard.story == ["down: no answer to the greeting"]
        impostor.silent = False
        await impostor.until(lambda: impostor.of(wire.REQUEST))
        impostor.say((wire.REPLY, 0, 1, None, 0, wire.pack_body("at last"), None))
        assert await call == "at last"

    told(story)


def test_a_dial_without_an_end_is_given_up_and_tried_again() -> None:
    async def story(house: House) -> None:
        house.serve()
        house.fake.pause(house.endpoint)  # neither up nor down
        heard = Happenings()
        peer = house.peer(events=heard, keep=True, greeting_timeout=3.0)
        peer.dial()
        await heard.until(lambda: heard.story)
        assert heard.story == ["down: the dial had no end"]
        house.fake.resume(house.endpoint)
        await heard.until(lambda: peer.ready)

    told(story)


def test_a_paused_process_is_given_up_by_its_callers_in_time_and_is_fine_afterwards() -> None:
    async def story(house: House) -> None:
        house.serve()
        peer = house.peer()
        await ask(peer)
        house.fake.pause(house.endpoint)
        with pytest.raises(errors.DeadlineExceeded) as late:
            await ask(peer, seconds=2.0)
        assert not late.value.not_started
        house.fake.resume(house.endpoint)
        assert await ask(peer, "echo", 1) == 1

    told(story)


@pytest.mark.parametrize(
    "greeting",
    [
        {"versions": [2, 3]},
        {"versions": None},
        {"id": ""},
        {"epoch": -1},
    ],
)
def test_an_answer_to_the_greeting_that_does_not_do_ends_the_link(greeting: dict[str, Any]) -> None:
    async def story(house: House) -> None:
        impostor = house.impostor()
        impostor.silent = True
        heard = Happenings()
        peer = house.peer(events=heard)
        call = asyncio.create_task(ask(peer))
        await impostor.until(lambda: impostor.of(wire.HELLO))
        impostor.say((wire.HELLO_OK, 0, 0, {**Identity("x", 1, "rack").greeting({}), **greeting}))
        await heard.until(lambda: heard.story)
        assert heard.story[0].startswith("down: ")
        with pytest.raises(errors.Unavailable) as failure:
            await call
        assert failure.value.not_started
        assert impostor.of(wire.REQUEST) == []

    told(story)


def test_a_refusal_is_believed_even_if_a_welcome_stands_behind_it() -> None:
    async def story(house: House) -> None:
        impostor = house.impostor()
        impostor.silent = True
        heard = Happenings()
        peer = house.peer(events=heard)
        peer.dial()
        await impostor.until(lambda: impostor.of(wire.HELLO))
        welcome = (wire.HELLO_OK, 0, 0, Identity("x", 1, "rack").greeting({}))
        impostor.say((wire.REJECT, 0, 0, "not you"), welcome)
        await heard.until(lambda: heard.story)
        assert heard.story == ["down: it refused us: not you"]
        assert not peer.ready

    told(story)


def test_a_server_that_speaks_something_else_is_left() -> None:
    async def story(house: House) -> None:
        impostor = house.impostor()
        impostor.silent = True
        heard = Happenings()
        house.peer(events=heard).dial()
        await impostor.until(lambda: impostor.of(wire.HELLO))
        impostor.listener.send(impostor.callers[-1], b"220 mail.example ESMTP")
        await heard.until(lambda: heard.story)
        assert heard.story == ["down: not a message: ExtraData"]

    told(story)


# --- losing it


def test_a_lost_link_fails_what_was_sent_at_once_and_it_may_have_begun() -> None:
    async def story(house: House) -> None:
        server = house.serve()
        server.respond("wait", wait_forever)
        peer = house.peer()
        loop = asyncio.get_running_loop()
        calls = [asyncio.create_task(ask(peer, "wait", seconds=500.0)) for _ in range(3)]
        await asyncio.sleep(1.0)
        begun = loop.time()
        house.fake.cut(house.endpoint)
        for call in calls:
            with pytest.raises(errors.Unavailable, match="lost") as failure:
                await call
            assert not failure.value.not_started
        assert loop.time() == begun, "no time passed"
        await server.drained()
        assert peer.idle

    told(story)


def test_after_a_loss_the_next_call_dials_anew() -> None:
    async def story(house: House) -> None:
        house.serve()
        peer = house.peer()
        assert await ask(peer, "echo", 1) == 1
        house.fake.cut(house.endpoint)
        await asyncio.sleep(1.0)
        assert not peer.ready
        assert len(house.fake.dials) == 1, "nobody needs it"
        assert await ask(peer, "echo", 2) == 2
        assert len(house.fake.dials) == 2

    told(story)


def test_a_call_that_meets_the_loss_in_the_same_tick_hears_of_it() -> None:
    async def story(house: House) -> None:
        house.serve()
        peer = house.peer()
        await ask(peer)
        house.fake.cut(house.endpoint)
        with pytest.raises(errors.Unavailable):
            await ask(peer, "echo", 1)
        assert await ask(peer, "echo", 2) == 2

    told(story)


def test_a_kept_peer_comes_back_by_itself_and_a_new_start_is_seen() -> None:
    async def story(house: House) -> None:
        first = house.serve(epoch=1)
        endpoint = house.endpoint
        heard = Happenings()
        peer = house.peer(events=heard, keep=True)
        peer.dial()
        await heard.until(lambda: heard.story)
        first.close()
        await asyncio.sleep(20.0)
        house.serve(endpoint, epoch=2)
        await heard.until(lambda: heard.story[-1] == "ready: server-1 2")
        assert heard.story[0] == "ready: server-1 1"
        assert all(event.startswith("down: ") for event in heard.story[1:-1])
        assert await ask(peer, "echo", 1) == 1

    told(story)


def test_redials_slow_down_to_the_most_and_start_over_after_a_success() -> None:
    async def story(house: House) -> None:
        house.serve()
        house.fake.refuse(house.endpoint)
        loop = asyncio.get_running_loop()
        heard = Happenings()
        peer = house.peer(events=heard, keep=True, redial_min=0.1, redial_max=1.0)
        begun = loop.time()
        peer.dial()
        await asyncio.sleep(60.0)
        dials = len(house.fake.dials)
        assert 60 <= dials <= 90, "about one a second in the end, a quarter less at the least"
        house.fake.allow(house.endpoint)
        await heard.until(lambda: peer.ready)
        house.fake.cut(house.endpoint)
        await heard.until(lambda: not peer.ready)
        begun = loop.time()
        await heard.until(lambda: peer.ready)
        assert loop.time() - begun <= 0.1

    told(story)


def test_nothing_that_was_meant_for_one_process_reaches_the_next() -> None:
    async def story(house: House) -> None:
        house.serve(epoch=1)
        endpoint = house.endpoint
        peer = house.peer(keep=True)
        await ask(peer)
        house.fake.pause(endpoint)
        calls = [asyncio.create_task(ask(peer, "note", number)) for number in range(10)]
        await asyncio.sleep(0.1)
        house.servers.pop().close()
        house.fake.resume(endpoint)
        ran: list[Any] = []
        house.serve(endpoint, epoch=2).respond("note", ran.append)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(outcome, errors.Unavailable) for outcome in outcomes)
        await ask(peer, "note", "new")
        assert ran == ["new"]

    told(story)


# --- answers nobody waits for


def test_late_and_double_answers_are_counted_and_change_nothing() -> None:
    async def story(house: House) -> None:
        impostor = house.impostor()
        peer = house.peer()
        call = asyncio.create_task(ask(peer))
        await impostor.until(lambda: impostor.of(wire.REQUEST))
        reply = (wire.REPLY, 0, 1, None, 0, wire.pack_body("first"), None)
        error = (wire.ERROR, 0, 1, 13, "ERR_INTERNAL", "", False, None, "", False, None)
        impostor.say(
            reply, reply, error, (wire.REJECT, 0, 1, ""), (wire.REPLY, 0, 99, None, 0, b"\xc0", None)
        )
        assert await call == "first"
        assert peer.late_answers == 4

    told(story)


def test_the_load_beside_answers_and_on_beats_reaches_the_owner() -> None:
    async def story(house: House) -> None:
        impostor = house.impostor()
        heard = Happenings()
        peer = house.peer(events=heard)
        call = asyncio.create_task(ask(peer))
        await impostor.until(lambda: impostor.of(wire.REQUEST))
        answer = (wire.REPLY, 0, 1, None, 0, wire.pack_body(1), None)
        impostor.say(answer, (wire.PONG, 0, 0, {"load": {"inFlight": 3}}))
        await call
        impostor.say((wire.PONG, 0, 0, {"load": {"inFlight": 2}}))
        await heard.until(lambda: len(heard.loads) == 3)
        assert heard.loads == [None, {"load": {"inFlight": 3}}, {"load": {"inFlight": 2}}]

    told(story)


@pytest.mark.parametrize("noise", [b"", b"garbage", wire.encode([(99, 0, 0), "x"], 0)])  # type: ignore[list-item]
def test_noise_from_a_server_that_has_greeted_is_counted_and_the_link_lives(noise: bytes) -> None:
    async def story(house: House) -> None:
        impostor = house.impostor()
        peer = house.peer()
        call = asyncio.create_task(ask(peer))
        await impostor.until(lambda: impostor.of(wire.REQUEST))
        impostor.listener.send(impostor.callers[-1], noise)
        impostor.say((wire.REPLY, 0, 1, None, 0, wire.pack_body(1), None))
        assert await call == 1
        assert peer.malformed >= 1

    told(story)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("ERR_NO_WORKERS_AVAILABLE", errors.NoWorkersAvailable), ("ERR_OF_THE_FUTURE", errors.Internal)],
)
def test_an_error_is_raised_as_what_it_is_called(name: str, kind: type[errors.WrkError]) -> None:
    async def story(house: House) -> None:
        impostor = house.impostor()
        call = asyncio.create_task(ask(house.peer()))
        await impostor.until(lambda: impostor.of(wire.REQUEST))
        impostor.say((wire.ERROR, 0, 1, 14, name, "text", True, 50, "w9", True, {"a": 1}))
        with pytest.raises(kind, match="text") as failure:
            await call
        error = failure.value
        assert (error.retryable, error.retry_after_ms, error.origin, error.not_started) == (
            True,
            50,
            "w9",
            True,
        )

    told(story)


# --- bounds


def test_no_more_calls_wait_than_are_allowed() -> None:
    async def story(house: House) -> None:
        house.serve().respond("wait", wait_forever)
        peer = house.peer(max_pending=3)
        calls = [asyncio.create_task(ask(peer, "wait")) for _ in range(3)]
        await asyncio.sleep(1.0)
        with pytest.raises(errors.CapacityExceeded) as refusal:
            await ask(peer)
        assert refusal.value.not_started
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert await ask(peer, "echo", 1) == 1

    told(story)


def test_many_calls_that_run_out_while_they_wait_are_ended_in_one_go() -> None:
    """Each costs the same however many wait: 20,000 took many seconds when each searched them all."""

    async def story(house: House) -> None:
        loop = asyncio.get_running_loop()
        peer = house.peer(NOWHERE, connect_timeout=100.0)
        calls = [peer.call("echo", b"", deadline=loop.time() + 1.0) for _ in range(20_000)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {errors.DeadlineExceeded}
        assert peer.idle

    told(story)


# --- the end


def test_closing_fails_what_is_open_and_leaves_no_timer() -> None:
    async def story(house: House) -> None:
        server = house.serve()
        server.respond("wait", wait_forever)
        peer, far = house.peer(keep=True), house.peer(NOWHERE, keep=True)
        sent = asyncio.create_task(ask(peer, "wait"))
        await asyncio.sleep(1.0)
        waiting = asyncio.create_task(ask(far))
        await asyncio.sleep(0.5)
        for _ in range(2):
            peer.close()
            far.close()
        with pytest.raises(errors.Unavailable, match="closed") as failure:
            await sent
        assert not failure.value.not_started
        with pytest.raises(errors.Unavailable, match="closed") as failure:
            await waiting
        assert failure.value.not_started
        with pytest.raises(errors.Unavailable, match="closed"):
            await ask(peer)
        await server.drained()
        server.close()
        dials = len(house.fake.dials)
        await asyncio.sleep(60.0)
        assert timers() == 0
        assert len(house.fake.dials) == dials

    told(story)
