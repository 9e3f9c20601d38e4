"""Who may ask, and until when: greetings, strangers, other starts of a worker, draining and leaving."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.fakes.rpc import CLIENT, EPOCH, House, ask, request, told
from wrk_base import errors
from wrk_base.rpc import wire
from wrk_base.rpc.identity import Identity
from wrk_base.rpc.server import MALFORMED_LOGGED

# --- greetings


def test_a_greeting_is_answered_with_who_the_server_is() -> None:
    async def story(house: House) -> None:
        server = house.serve(max_in_flight=9, link_window=2_000_000)
        stranger = house.stranger()
        await stranger.greet()
        ((_, _, _, facts),) = await stranger.hears(wire.HELLO_OK)
        assert (facts["id"], facts["epoch"], facts["role"], facts["proof"]) == (
            "server-1",
            EPOCH,
            "rack",
            b"",
        )
        assert facts["versions"] == (wire.VERSION, wire.VERSION)
        assert facts["limits"] == {
            "maxMessage": 1_048_576,
            "maxInFlight": 9,
            "window": 2_000_000,
        }
        (caller,) = server.callers.values()
        assert caller.info is not None
        assert (caller.info.worker_id, caller.info.role) == ("client-1", "client")

    told(story)


@pytest.mark.parametrize(
    "facts", [{"versions": [2, 3]}, {"versions": None}, {"id": ""}, {"id": None}, {"epoch": -1}, {"role": 5}]
)
def test_a_greeting_that_does_not_do_is_refused_with_the_reason(facts: dict[str, Any]) -> None:
    async def story(house: House) -> None:
        server = house.serve()
        stranger = house.stranger()
        await stranger.greet(**facts)
        ((_, _, call_id, reason),) = await stranger.hears(wire.REJECT)
        assert call_id == 0
        assert reason
        await stranger.say(request(1))
        await stranger.hears(wire.REJECT, 2)
        assert stranger.of(wire.REPLY) == []
        assert server.counters["rejected"] == 2

    told(story)


def test_no_request_runs_before_a_greeting() -> None:
    async def story(house: House) -> None:
        server = house.serve()
        ran: list[Any] = []
        server.respond("note", ran.append)
        stranger = house.stranger()
        await stranger.say(request(1, "note"))
        ((_, _, call_id, reason),) = await stranger.hears(wire.REJECT)
        assert (call_id, reason) == (1, "greet first")
        assert ran == []
        await stranger.greet()
        await stranger.say(request(2, "note", "now"))
        await stranger.hears(wire.REPLY)
        assert ran == ["now"]

    told(story)


def test_a_greeting_and_a_request_in_one_message_are_taken_in_order() -> None:
    async def story(house: House) -> None:
        house.serve()
        stranger = house.stranger()
        await stranger.say((wire.HELLO, 0, 0, CLIENT.greeting({})), request(1, "echo", "x"))
        assert wire.unpack_body((await stranger.hears(wire.REPLY))[0][5]) == "x"

    told(story)


@pytest.mark.parametrize("said_something", [False, True])
def test_nothing_long_is_read_before_a_greeting(said_something: bool) -> None:
    async def story(house: House) -> None:
        server = house.serve()
        stranger = house.stranger()
        if said_something:
            await stranger.say()  # a message without envelopes makes nobody known
        await stranger.greet(padding="x" * wire.MAX_GREETING)
        await stranger.say((wire.PING, 0, 5, None)) if said_something else await stranger.greet()
        await stranger.until(lambda: stranger.heard)
        assert stranger.heard[0][0] in (wire.PONG, wire.HELLO_OK)
        assert len(stranger.of(wire.HELLO_OK)) == (0 if said_something else 1)
        assert server.counters["malformed"] == 1

    told(story)


def test_another_version_is_told_which_one_is_spoken() -> None:
    async def story(house: House) -> None:
        server = house.serve()
        stranger = house.stranger()
        await stranger.say_bytes(b"\x93\x02\x00\x90")
        ((_, _, call_id, reason),) = await stranger.hears(wire.REJECT)
        assert (call_id, reason) == (0, "version 1 is spoken here")
        assert server.counters["malformed"] == 1
        assert len(server.callers) == 0, "who speaks another language is not remembered"

    told(story)


def test_a_request_for_another_start_of_the_worker_is_not_run() -> None:
    async def story(house: House) -> None:
        server = house.serve()
        guest = await house.guest()
        for number, epoch in enumerate((EPOCH - 1, EPOCH + 1, 0, 2**64 - 1, -1), 1):
            await guest.say(request(number, epoch=epoch))
        await guest.hears(wire.REJECT, 5)
        assert guest.of(wire.REPLY) == []
        assert server.counters["rejected"] == 5

    told(story)


def test_a_client_takes_a_refused_request_elsewhere() -> None:
    async def story(house: House) -> None:
        impostor = house.impostor()
        peer = house.peer()
        call = asyncio.create_task(ask(peer))
        await impostor.until(lambda: impostor.of(wire.REQUEST))
        impostor.say((wire.REJECT, 0, 1, "it was meant for another start of this worker"))
        with pytest.raises(errors.Unavailable, match="another start") as refusal:
            await call
        assert refusal.value.not_started
        assert peer.ready, "one refused request is no reason to leave"

    told(story)


# --- what is malformed


NOISE = [
    b"",
    b"garbage",
    b"\x93\x01\x00",
    b"\x93\x01\x00" + b"\x91" * 2000,
    b"\x93\x01\x00\xdd\xff\xff\xff\xff",
    wire.encode([()], 0),
    wire.encode([(99, 0, 1)], 0),
    wire.encode([(wire.REQUEST, 0, 1)], 0),
    wire.encode([(wire.CANCEL, 0, "x")], 0),
    wire.encode(["text"], 0),  # type: ignore[list-item]
]


@pytest.mark.parametrize("noise", NOISE, ids=range(len(NOISE)))
def test_noise_is_counted_and_neither_its_sender_nor_a_neighbour_suffers(noise: bytes) -> None:
    async def story(house: House) -> None:
        server = house.serve()
        neighbour = house.peer()
        stranger, guest = house.stranger(), await house.guest()
        for number in range(1, 4):
            await stranger.say_bytes(noise)
            await guest.say_bytes(noise)
            assert await ask(neighbour, "echo", number) == number
        await guest.say(request(1, "echo", "still welcome"))
        await guest.hears(wire.REPLY)
        assert server.counters["malformed"] == 6
        assert stranger.heard == []

    told(story)


def test_a_bad_envelope_does_not_take_the_good_ones_of_its_message_with_it() -> None:
    async def story(house: House) -> None:
        server = house.serve()
        guest = await house.guest()
        await guest.say(request(1), (99, 0, 1), "what?", (wire.REQUEST, 0, 2), request(3))
        assert [reply[2] for reply in await guest.hears(wire.REPLY, 2)] == [1, 3]
        assert server.counters["malformed"] == 3

    told(story)


def test_who_talks_much_nonsense_is_named_in_the_log_once() -> None:
    async def story(house: House) -> None:
        house.serve()
        guest = await house.guest()
        for _ in range(3 * MALFORMED_LOGGED):
            await guest.say_bytes(b"nonsense")
        await guest.say(request(1))
        await guest.hears(wire.REPLY)
        assert house.log.events == [
            ("rpc.caller_malformed", {"caller": "client-1", "malformed": MALFORMED_LOGGED})
        ]

    told(story)


# --- life signs


def test_a_ping_is_answered_both_ways_and_a_beat_carries_the_load() -> None:
    async def story(house: House) -> None:
        server = house.serve()
        guest = await house.guest()
        await guest.say((wire.PING, 0, 77, None))
        assert await guest.hears(wire.PONG) == [(wire.PONG, 0, 77, None)]
        beat = (wire.PONG, 0, 0, {"load": {"inFlight": 1}})
        await asyncio.sleep(1.0)
        server.tell(beat, ("client",), quiet_for=0.5)
        assert (await guest.hears(wire.PONG, 2))[1] == beat
        server.tell(beat, ("client",), quiet_for=0.5)  # it has just been told
        server.tell(beat, ("orchestrator",), quiet_for=0.0)  # it is none
        await asyncio.sleep(5.0)
        assert len(guest.of(wire.PONG)) == 2

    told(story)


def test_loads_do_not_pile_up_for_an_orchestrator_that_does_not_read() -> None:
    async def story(house: House) -> None:
        server = house.serve()
        server.piggyback = lambda: {"load": {"inFlight": 0}}
        stranger = house.stranger()
        await stranger.greet(Identity("orc-1", epoch=1, role="orchestrator"))
        await stranger.hears(wire.HELLO_OK)
        server.respond("much", lambda body: b"x" * 200_000)
        for number in range(1, 101):  # far more than the window, and nothing is said to be read
            await stranger.say(request(number, "much"))
            await asyncio.sleep(0.01)
        (caller,) = server.callers.values()
        waiting = [envelope[0] for envelope in caller.outbox._envelopes]
        assert waiting.count(wire.REPLY) > 50
        assert waiting.count(wire.PONG) <= 1

    told(story)


# --- leaving


def test_who_says_goodbye_is_forgotten_and_its_handlers_are_stopped() -> None:
    async def story(house: House) -> None:
        server = house.serve()
        stopped: list[str] = []

        async def wait(body: Any) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                stopped.append(body)

        server.respond("wait", wait)
        guest = await house.guest()
        await guest.say(request(1, "wait", "mine"))
        await asyncio.sleep(1.0)
        assert server.in_flight == 1
        await guest.say((wire.BYE, 0, 0))
        await server.drained()
        assert stopped == ["mine"]
        assert len(server.callers) == 0
        await guest.say(request(2))
        assert (await guest.hears(wire.REJECT))[0][3] == "greet first"

    told(story)


def test_a_peer_that_closes_says_goodbye() -> None:
    async def story(house: House) -> None:
        server = house.serve()
        peer = house.peer()
        await ask(peer)
        assert len(server.callers) == 1
        peer.close()
        await asyncio.sleep(1.0)
        assert len(server.callers) == 0
        assert server.counters["lostCallers"] == 1

    told(story)


def test_a_draining_server_finishes_what_runs_and_starts_nothing_new() -> None:
    async def story(house: House) -> None:
        server = house.serve()
        release = asyncio.Event()
        ran: list[Any] = []

        async def wait(body: Any) -> Any:
            ran.append(body)
            await release.wait()
            return body

        server.respond("wait", wait)
        peer = house.peer()
        running = asyncio.create_task(ask(peer, "wait", "running"))
        await asyncio.sleep(1.0)
        server.drain("it stops")
        meanwhile = asyncio.create_task(ask(peer, "wait", "sent before the word arrived"))
        with pytest.raises(errors.Unavailable, match="drains") as refusal:
            await meanwhile
        assert refusal.value.not_started
        assert peer.draining
        with pytest.raises(errors.Unavailable, match="draining") as refusal:
            await ask(peer, "wait", "sent afterwards")
        assert refusal.value.not_started
        guest = await house.guest()
        assert guest.of(wire.GOAWAY), "who comes late is told as well"
        await guest.say(request(1, "wait", "of a guest"))
        (refused,) = await guest.hears(wire.ERROR)
        assert (refused[4], refused[9]) == ("ERR_UNAVAILABLE", True)
        release.set()
        assert await running == "running"
        await server.drained()
        assert ran == ["running"]

    told(story)


def test_calls_above_the_last_one_that_will_run_fail_at_once_as_not_started() -> None:
    async def story(house: House) -> None:
        impostor = house.impostor()
        peer = house.peer()
        calls = [asyncio.create_task(ask(peer, "echo", number)) for number in range(4)]
        await impostor.until(lambda: len(impostor.of(wire.REQUEST)) == 4)
        impostor.say((wire.GOAWAY, 0, 2, "it stops"))
        for late in calls[2:]:
            with pytest.raises(errors.Unavailable, match="it stops") as refusal:
                await late
            assert refusal.value.not_started
        assert not calls[0].done()
        impostor.say(
            *[(wire.REPLY, 0, number, None, 0, wire.pack_body(number), None) for number in (1, 2, 3, 4)]
        )
        assert await asyncio.gather(*calls[:2]) == [1, 2]
        assert peer.late_answers == 2

    told(story)


def test_everybody_has_read_all_answers_before_a_careful_server_closes() -> None:
    async def story(house: House) -> None:
        server = house.serve()
        prompt, stopped = await house.guest(), house.peer()
        await ask(stopped)
        order: list[str] = []

        async def farewell() -> None:
            await server.heard(within=3.0)
            order.append("heard")

        waiting = asyncio.create_task(farewell())
        assert await prompt.hears(wire.PING) == [(wire.PING, 0, 1, None)]
        await asyncio.sleep(1.0)
        assert order == [], "one of two has not said so yet"
        await prompt.say((wire.PONG, 0, 1, None))
        await waiting
        assert order == ["heard"]

    told(story)


@pytest.mark.parametrize("leaves", [False, True])
def test_nobody_waits_for_long_for_a_caller_that_does_not_read(leaves: bool) -> None:
    async def story(house: House) -> None:
        server = house.serve()
        await server.heard(within=1.0)  # nobody is there
        guest = await house.guest()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        if leaves:
            loop.call_later(0.5, guest.link.close)
        await server.heard(within=1.0)
        assert loop.time() - begun == pytest.approx(0.5 if leaves else 1.0, abs=0.01)

    told(story)


# --- figures


def test_every_method_has_its_figures() -> None:
    async def story(house: House) -> None:
        server = house.serve()

        async def slow(body: Any) -> None:
            await asyncio.sleep(2.0)

        server.respond("slow", slow)
        server.respond("fails", lambda body: 1 / 0)
        peer = house.peer()
        await asyncio.gather(ask(peer, "slow"), ask(peer, "slow"), ask(peer), ask(peer), ask(peer))
        with pytest.raises(errors.Internal):
            await ask(peer, "fails")
        slow_facts = server.handlers["slow"].stats.facts()
        assert (slow_facts["requests"], slow_facts["errors"], slow_facts["inFlight"]) == (2, 0, 0)
        assert slow_facts["averageProcessingTime"] == pytest.approx(2000)
        assert server.handlers["echo"].stats.facts()["requests"] == 3
        failed = server.handlers["fails"].stats.facts()
        assert (failed["requests"], failed["errors"]) == (1, 1)
        assert "ERR_INTERNAL" in failed["lastError"]

    told(story)


@pytest.mark.parametrize("name", ["", "x" * 129])
def test_a_method_needs_a_name_of_sensible_length(name: str) -> None:
    async def story(house: House) -> None:
        with pytest.raises(ValueError):
            house.serve().respond(name, lambda body: body)

    told(story)


def test_what_cannot_serve_a_call_is_refused_when_it_is_offered() -> None:
    async def story(house: House) -> None:
        server = house.serve()

        def generator(body: Any) -> Any:
            yield body

        for unfit in (generator, lambda: None, lambda a, b, c: None):
            with pytest.raises(TypeError, match="unfit"):
                server.respond("unfit", unfit)
        with pytest.raises(errors.MethodNotFound, match=r"there are echo$") as refusal:
            await ask(house.peer(), "unfit")
        assert refusal.value.not_started

    told(story)
