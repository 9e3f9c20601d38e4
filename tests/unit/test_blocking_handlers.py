"""Handlers that block, in threads and processes: nobody waits for them who need not, a caller that gives up
is answered at once, and a slot is free when the function has really ended."""

from __future__ import annotations

import asyncio
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from tests.fakes import pool_functions as functions
from tests.fakes.aio import PATIENCE, eventually
from tests.fakes.fifo import Fifo
from tests.fakes.rpc import request
from tests.fakes.streaming import Place, StreamHouse, books_of, told
from wrk_base import errors
from wrk_base.rpc import wire
from wrk_base.rpc.request import Request
from wrk_base.rpc.server import Server

both_loops = pytest.mark.parametrize("place", ["asyncio", "uvloop"])


class Bench:
    """A handler that sits in a thread until it is let go, and sees whether anybody still waits."""

    def __init__(self, server: Server, limit: int | None = None) -> None:
        self.begun: list[Any] = []
        self.given_up: list[Any] = []
        self.free = Event()
        server.respond("bench", self.sit, blocking="thread", limit=limit)

    def sit(self, body: Any, request: Request) -> Any:
        self.begun.append(body)
        assert self.free.wait(PATIENCE)
        if request.cancelled:
            self.given_up.append(body)
        return body

    async def taken(self, count: int) -> None:
        await eventually(lambda: len(self.begun) == count)


@both_loops
def test_a_blocking_handler_holds_nobody_up(place: Place) -> None:
    async def story(house: StreamHouse) -> None:
        bench = Bench(house.serve())
        caller = house.caller()
        asked = asyncio.create_task(house.ask(caller, "bench", "patient"))
        await bench.taken(1)
        assert [await house.ask(caller, "echo", number) for number in range(20)] == list(range(20))
        bench.free.set()
        assert await asked == "patient"
        assert bench.given_up == []

    told(story, place)


@both_loops
@pytest.mark.parametrize("how", ["cancel", "deadline", "leave"])
def test_whoever_gives_up_is_answered_at_once_and_the_slot_stays_taken(place: Place, how: str) -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve(threads=1)
        bench = Bench(server)
        guest = await house.guest()
        await guest.say(request(1, "bench", "gone", remaining=500 if how == "deadline" else 60_000))
        await bench.taken(1)
        if how == "leave":
            guest.link.close()
            await eventually(lambda: not server.callers)
        else:
            if how == "cancel":
                await guest.say((wire.CANCEL, 0, 1), (wire.CANCEL, 0, 1))
            (error,) = await guest.hears(wire.ERROR)
            assert error[4] == {"cancel": "ERR_CANCELLED", "deadline": "ERR_DEADLINE_EXCEEDED"}[how]
            assert not error[9], "it had begun"
        assert not bench.free.is_set()
        assert (server.in_flight, server.handlers["bench"].stats.in_flight) == (1, 1)
        assert books_of(server).get("bytes of the process") is None, "what it held is given back already"
        other = asyncio.create_task(house.ask(house.caller(), "bench", "next"))
        await eventually(lambda: server.in_flight == 2)
        assert bench.begun == ["gone"], "there is one thread, and it is taken"
        bench.free.set()
        assert await other == "next"
        await server.drained()
        assert bench.given_up == ["gone"]
        assert how == "leave" or len(guest.answers(1)) == 1

    told(story, place)


def test_more_calls_than_threads_wait_in_order_and_one_that_is_given_up_never_runs() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve(threads=1)
        bench = Bench(server)
        caller = house.caller()
        calls = []
        for number in range(4):
            calls.append(asyncio.create_task(house.ask(caller, "bench", number)))
            await eventually(lambda: server.in_flight == len(calls))
        await bench.taken(1)
        calls[2].cancel()
        await eventually(lambda: server.in_flight == 3)
        bench.free.set()
        await asyncio.wait(calls)
        assert [call.result() for call in calls if not call.cancelled()] == [0, 1, 3]
        assert bench.begun == [0, 1, 3]

    told(story, "asyncio")


def test_what_never_left_the_queue_of_the_threads_was_never_started() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve(threads=1)
        bench = Bench(server)
        guest = await house.guest()
        await guest.say(request(1, "bench"), request(2, "bench"))
        await bench.taken(1)
        await guest.say((wire.CANCEL, 0, 2))
        (error,) = await guest.hears(wire.ERROR)
        bench.free.set()
        await guest.hears(wire.REPLY)
        assert bench.begun == [None]
        assert error[9], "not_started"

    told(story, "asyncio")


def test_a_limit_keeps_a_costly_method_from_taking_every_thread() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve(threads=2)
        bench = Bench(server, limit=1)
        server.respond("quick", lambda body: body, blocking="thread")
        caller = house.caller()
        costly = [asyncio.create_task(house.ask(caller, "bench", number)) for number in range(3)]
        await bench.taken(1)
        await eventually(lambda: server.waiting == 2)
        assert await house.ask(caller, "quick", "beside") == "beside"
        assert bench.begun == [0]
        bench.free.set()
        assert await asyncio.gather(*costly) == [0, 1, 2]

    told(story, "asyncio")


@both_loops
def test_errors_of_threads_arrive_as_those_of_other_handlers(place: Place) -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve()

        def typed(body: Any) -> None:
            raise errors.BadRequest("no such image", data={"field": "image"})

        def leaving(body: Any) -> None:
            raise SystemExit(3)

        server.respond("typed", typed, blocking="thread")
        server.respond("leaving", leaving, blocking="thread")
        server.respond("odd", lambda body: object(), blocking="thread")
        caller = house.caller()
        with pytest.raises(errors.BadRequest, match="no such image") as refusal:
            await house.ask(caller, "typed")
        assert refusal.value.data == {"field": "image"}
        for method in ("leaving", "odd"):
            with pytest.raises(errors.Internal):
                await house.ask(caller, method)
        assert await house.ask(caller) is None

    told(story, place)


def test_a_worker_that_stops_waits_for_its_threads() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve()
        bench = Bench(server)
        asked = asyncio.create_task(house.ask(house.caller(), "bench"))
        await bench.taken(1)
        server.cancel_all()
        with pytest.raises(errors.Unavailable):
            await asked
        drained = asyncio.create_task(server.drained())
        await house.ask(house.caller())
        assert not drained.done()
        bench.free.set()
        await drained

    told(story, "asyncio")


# --- processes


@both_loops
def test_a_process_that_is_given_up_is_killed_and_another_serves(place: Place, tmp_path: Path) -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve(processes=1)
        server.respond("compute", functions.compute, blocking="process")
        server.respond("give_back", functions.give_back, blocking="process")
        caller = house.caller()
        with Fifo(tmp_path / "fifo") as fifo:
            asked = asyncio.create_task(house.ask(caller, "compute", fifo.path))
            assert await fifo.heard() != ""
            asked.cancel()
            assert await fifo.heard() == "", "its process is dead"
        await server.drained()
        assert await house.ask(caller, "give_back", {"still": "here"}) == {"still": "here"}

    told(story, place)


def test_a_deadline_kills_a_process_and_its_caller_hears_of_it(tmp_path: Path) -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve(processes=1)
        server.respond("hang", functions.hang, blocking="process")
        server.respond("give_back", functions.give_back, blocking="process")
        await house.ask(house.caller(), "give_back")  # the process is there
        guest = await house.guest()
        with Fifo(tmp_path / "fifo") as fifo:
            await guest.say(request(1, "hang", fifo.path, remaining=1000))
            assert await fifo.heard() != ""
            (error,) = await guest.hears(wire.ERROR)
            assert error[4] == "ERR_DEADLINE_EXCEEDED"
            assert await fifo.heard() == ""
        await server.drained()
        assert guest.answers(1) == [error]

    told(story, "asyncio")


def test_a_process_that_dies_fails_its_own_call_and_another_serves() -> None:
    async def story(house: StreamHouse) -> None:
        server = house.serve(processes=1)
        server.respond("end_with", functions.end_with, blocking="process")
        server.respond("length", functions.length, blocking="process")
        caller = house.caller()
        with pytest.raises(errors.Internal, match="end_with failed: its process"):
            await house.ask(caller, "end_with", 9)
        assert await house.ask(caller, "length", bytes(3_000_000)) == 3_000_000
        stream = house.stream(caller, "length", b"123")
        assert [item async for item in stream] == [3]

    told(story, "asyncio")
