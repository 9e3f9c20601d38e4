"""What a caller hears of a server process that dies, sleeps, ends or is replaced: over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.fakes.aio import LoopName, closed, eventually, run
from tests.fakes.rpc import Happenings, House, ask
from tests.fakes.rpc_process import CALLS, calling, serving
from wrk_base import errors
from wrk_base.rpc.client import Peer
from wrk_base.rpc.zmq_link import ZmqNetwork

LONG = 60.0  # a deadline that no story waits for: who fails before was told, and did not time out
LOOPS: list[LoopName] = ["asyncio", "uvloop"]


@asynccontextmanager
async def house_of_sockets() -> AsyncIterator[House]:
    network = ZmqNetwork(asyncio.get_running_loop())
    async with House(network) as house:
        yield house
    await closed(network)


async def sent(peer: Peer, method: str, count: int, seconds: float = LONG) -> list[asyncio.Task[Any]]:
    """Calls that have left: an answer to a later one is not waited for."""
    calls = [asyncio.create_task(ask(peer, method, number, seconds)) for number in range(count)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return calls


@pytest.mark.parametrize("loop", LOOPS)
def test_the_death_of_a_server_fails_its_calls_at_once_and_they_may_have_begun(loop: LoopName) -> None:
    async def story() -> None:
        with serving() as server:
            async with house_of_sockets() as house:
                peer, bystander = house.peer(server.endpoint), house.peer(server.endpoint, keep=True)
                await asyncio.gather(ask(peer), ask(bystander))
                calls = await sent(peer, "wait", 50)
                await ask(peer)
                server.kill()
                for call in calls:
                    with pytest.raises(errors.Unavailable, match="lost") as failure:
                        await call
                    assert not failure.value.not_started
                with pytest.raises(errors.Unavailable) as failure:
                    await ask(house.peer(server.endpoint, connect_timeout=0.2))
                assert failure.value.not_started, "nobody is there who could begin"

    run(story(), loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_request_that_waited_in_a_sleeping_process_past_its_deadline_never_runs(loop: LoopName) -> None:
    async def story() -> None:
        with serving() as server:
            async with house_of_sockets() as house:
                peer = house.peer(server.endpoint)
                for _ in range(20):
                    await ask(peer)
                server.stop()
                late = await sent(peer, "note", 10, seconds=0.2)
                for call in late:
                    with pytest.raises(errors.DeadlineExceeded):
                        await call
                patient = await sent(peer, "echo", 10)
                with pytest.raises(errors.DeadlineExceeded):
                    await ask(peer, "wait", seconds=0.5)  # time goes on while it sleeps
                server.go_on()
                assert await asyncio.gather(*patient) == list(range(10)), "who has time left is answered"
                notes = await ask(peer, "notes")
                assert notes["runs"] == 0
                assert notes["drops"] >= 10

    run(story(), loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_who_takes_the_port_over_runs_nothing_that_was_meant_for_the_one_before(loop: LoopName) -> None:
    async def story() -> None:
        async with house_of_sockets() as house:
            with serving() as before:
                heard = Happenings()
                peer = house.peer(before.endpoint, events=heard, keep=True, redial_max=0.2)
                await ask(peer)
                before.stop()
                lost = await sent(peer, "note", 1000)
                before.kill()
                for call in lost:
                    with pytest.raises(errors.Unavailable):
                        await call
                with serving(before.endpoint) as after:
                    assert after.endpoint == before.endpoint
                    await heard.until(lambda: len([event for event in heard.story if "ready" in event]) == 2)
                    assert (await ask(peer, "notes"))["runs"] == 0
                    await ask(peer, "note")
                    assert (await ask(peer, "notes"))["runs"] == 1

    run(story(), loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_server_that_is_asked_to_end_loses_no_answer_and_begins_nothing_it_does_not_finish(
    loop: LoopName,
) -> None:
    async def story() -> None:
        for _ in range(5):
            with serving() as server:
                async with house_of_sockets() as house:
                    peer = house.peer(server.endpoint)
                    await ask(peer)
                    calls = await sent(peer, "soon", 200)
                    await asyncio.sleep(0.01)
                    server.ask_to_end()
                    calls += await sent(peer, "soon", 200)
                    outcomes = await asyncio.gather(*calls, return_exceptions=True)
                    failed = [outcome for outcome in outcomes if isinstance(outcome, errors.WrkError)]
                    assert all(error.not_started for error in failed)
                    assert len(failed) <= 200

    run(story(), loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_the_death_of_a_caller_stops_its_handlers_and_nobody_elses(loop: LoopName) -> None:
    async def story() -> None:
        async with house_of_sockets() as house:
            server = house.serve()
            server.respond("wait", wait_forever)
            mine = asyncio.create_task(ask(house.peer(), "wait", seconds=LONG))
            with calling(house.endpoint) as caller:
                await eventually(lambda: server.in_flight == 1 + CALLS)
                caller.kill()
                await eventually(lambda: server.in_flight == 1)
                assert server.counters["lostCallers"] == 1
            assert not mine.done()
            mine.cancel()
            await server.drained()
            await asyncio.gather(mine, return_exceptions=True)

    run(story(), loop)


def test_a_process_that_stands_still_is_given_up_by_the_one_that_calls_it_and_by_the_one_it_calls() -> None:
    """Heartbeats of ZeroMQ, without which neither would ever notice: nothing is sent, nothing is closed."""

    async def story() -> None:
        async with house_of_sockets() as house:
            server = house.serve()
            server.respond("wait", wait_forever)
            with serving() as called, calling(house.endpoint) as caller:
                peer = house.peer(called.endpoint)
                await ask(peer)
                (call,) = await sent(peer, "wait", 1)
                await eventually(lambda: server.in_flight == CALLS)
                called.stop()
                caller.stop()
                with pytest.raises(errors.Unavailable, match="lost"):
                    await call
                await eventually(lambda: server.in_flight == 0)

    run(story())


async def wait_forever(body: Any) -> None:
    await asyncio.Event().wait()
