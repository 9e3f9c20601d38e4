"""The cache of peers: one link an endpoint, bounded in number, closed when idle, and plain bodies on top."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest

from tests.fakes.aio import eventually, run
from tests.fakes.rpc import CLIENT, Happenings, House, timers
from wrk_base import errors
from wrk_base.rpc import wire
from wrk_base.rpc.line import PeerLimits
from wrk_base.rpc.peers import Peers
from wrk_base.rpc.request import Request
from wrk_base.rpc.server import Server

NOWHERE = "tcp://127.0.0.1:1"
LINGER = 300.0


def told(story: Callable[[House, Peers], Coroutine[Any, Any, None]]) -> None:
    async def tell() -> None:
        async with House() as house:
            peers = Peers(
                network=house.network,
                identity=CLIENT,
                rng=Random(1),
                limits=PeerLimits(),
                max_peers=3,
                linger=LINGER,
            )
            await story(house, peers)
            peers.close()

    run(tell(), "virtual", within=10_000.0)


def serve(house: House, count: int) -> list[str]:
    """Endpoints of servers that can also `wait`."""
    endpoints = []
    for _ in range(count):
        house.serve().respond("wait", wait)
        endpoints.append(house.endpoint)
    return endpoints


async def wait(body: Any) -> None:
    await asyncio.Event().wait()


# --- the cache


def test_an_endpoint_is_dialled_once_however_often_it_is_asked() -> None:
    async def story(house: House, peers: Peers) -> None:
        (endpoint,) = serve(house, 1)
        asking = [peers.request(endpoint, "echo", number, timeout=5.0) for number in range(10)]
        assert await asyncio.gather(*asking) == list(range(10))
        assert house.fake.dials == [endpoint]
        assert (len(peers), peers.stats()["ready"]) == (1, 1)

    told(story)


def test_a_borrowed_peer_that_is_idle_for_long_is_closed_and_a_busy_one_is_not() -> None:
    async def story(house: House, peers: Peers) -> None:
        idle, busy = serve(house, 2)
        call = asyncio.create_task(peers.request(busy, "wait", timeout=5000.0))
        await peers.request(idle, "echo", timeout=5.0)
        await asyncio.sleep(LINGER * 0.9)
        assert len(peers) == 2
        await asyncio.sleep(LINGER)
        assert [peer["endpoint"] for peer in peers.stats()["peers"]] == [busy]
        assert peers.evictions == 1
        assert len(house.servers[0].callers) == 0
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await asyncio.sleep(2 * LINGER)
        assert len(peers) == 0
        assert await peers.request(idle, "echo", 1, timeout=5.0) == 1

    told(story)


def test_there_are_never_more_than_allowed_and_the_one_idle_longest_goes() -> None:
    async def story(house: House, peers: Peers) -> None:
        endpoints = serve(house, 4)
        for endpoint in endpoints[:3]:
            await peers.request(endpoint, "echo", timeout=5.0)
            await asyncio.sleep(1.0)
        await peers.request(endpoints[0], "echo", timeout=5.0)
        await peers.request(endpoints[3], "echo", timeout=5.0)
        left = {peer["endpoint"] for peer in peers.stats()["peers"]}
        assert left == {endpoints[0], endpoints[2], endpoints[3]}

    told(story)


def test_when_all_are_busy_another_is_refused_as_not_started() -> None:
    async def story(house: House, peers: Peers) -> None:
        endpoints = serve(house, 4)
        calls = [asyncio.create_task(peers.request(one, "wait", timeout=50.0)) for one in endpoints[:3]]
        await asyncio.sleep(1.0)
        with pytest.raises(errors.CapacityExceeded, match=r"maxPeers = 3") as refusal:
            await peers.request(endpoints[3], "echo", timeout=5.0)
        assert refusal.value.not_started
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert await peers.request(endpoints[3], "echo", 1, timeout=5.0) == 1

    told(story)


def test_a_held_peer_is_dialled_at_once_never_evicted_and_closed_when_released() -> None:
    async def story(house: House, peers: Peers) -> None:
        held, *others = serve(house, 4)
        heard = Happenings()
        peer = peers.hold(held, heard)
        await heard.until(lambda: heard.story)
        for endpoint in others:
            await peers.request(endpoint, "echo", timeout=5.0)
        await asyncio.sleep(3 * LINGER)
        assert peers.get(held) is peer
        assert peer.ready
        again = peers.hold(held, heard)
        assert peer.closed
        assert peers.get(held) is again
        peers.release(held)
        peers.release(held)
        assert again.closed
        assert len(peers) == 0

    told(story)


def test_after_its_end_nobody_is_called_any_more_and_no_timer_is_left() -> None:
    async def story(house: House, peers: Peers) -> None:
        endpoint, other = serve(house, 2)
        await peers.request(endpoint, "echo", timeout=5.0)
        peers.hold(NOWHERE, Happenings())
        for _ in range(2):
            peers.close()
        with pytest.raises(errors.Unavailable) as refusal:
            await peers.request(other, "echo", timeout=5.0)
        assert refusal.value.not_started
        await eventually(lambda: not house.servers[0].callers)
        await asyncio.sleep(1.0)
        assert len(peers) == 0
        assert timers() == 0

    told(story)


# --- plain bodies


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan"), float("-inf")])
def test_without_time_nothing_is_asked(timeout: float) -> None:
    async def story(house: House, peers: Peers) -> None:
        (endpoint,) = serve(house, 1)
        with pytest.raises(errors.DeadlineExceeded) as late:
            await peers.request(endpoint, "echo", timeout=timeout)
        assert late.value.not_started
        assert house.fake.dials == []

    told(story)


def test_endless_time_is_a_day() -> None:
    async def story(house: House, peers: Peers) -> None:
        (endpoint,) = serve(house, 1)
        assert await peers.request(endpoint, "echo", 1, timeout=float("inf")) == 1

    told(story)


@pytest.mark.parametrize("body", [{1, 2}, object(), "\ud800", 2**64], ids=lambda body: type(body).__name__)
def test_a_body_that_cannot_be_encoded_is_the_callers_mistake(body: Any) -> None:
    async def story(house: House, peers: Peers) -> None:
        (endpoint,) = serve(house, 1)
        with pytest.raises(errors.BadRequest, match="cannot be encoded") as refusal:
            await peers.request(endpoint, "echo", body, timeout=5.0)
        assert refusal.value.not_started

    told(story)


def test_a_body_that_nobody_can_read_is_refused_where_it_is_read() -> None:
    async def story(house: House, peers: Peers) -> None:
        (endpoint,) = serve(house, 1)
        house.servers[0].respond("numbers", lambda body: {1: 2})
        with pytest.raises(errors.BadRequest, match="malformed") as refusal:
            await peers.request(endpoint, "echo", {1: 2}, timeout=5.0)
        assert refusal.value.not_started
        with pytest.raises(errors.Internal, match="malformed"):
            await peers.request(endpoint, "numbers", timeout=5.0)

    told(story)


def test_the_input_of_an_inference_travels_apart_from_its_fields_and_nobody_notices() -> None:
    async def story(house: House, peers: Peers) -> None:
        (endpoint,) = serve(house, 1)
        seen: list[Any] = []

        def infer(body: Any, request: Request) -> Any:
            seen.append((wire.unpack_head(request.head), wire.unpack_body(request.payload), body))
            return {"success": True, "result": ["out"], "workerId": "w1"}

        house.servers[0].respond("runInference", infer)
        body = {"modelId": "m", "inputData": {"text": "hi"}, "options": {"task": "raw"}}
        answer = await peers.request(endpoint, "runInference", body, timeout=5.0)
        assert answer == {"success": True, "result": ["out"], "workerId": "w1"}
        assert seen == [({"modelId": "m", "options": {"task": "raw"}}, {"text": "hi"}, body)]

    told(story)


def test_a_raw_handler_answers_with_a_payload_that_it_never_read() -> None:
    async def story(house: House, peers: Peers) -> None:
        (endpoint,) = serve(house, 1)
        server: Server = house.servers[0]
        server.respond(
            "routeInferenceRequest",
            lambda request: request.answer(
                wire.pack_head({"attempts": 1}), request.content_type, request.payload
            ),
            raw=True,
        )
        body = {"modelId": "m", "inputData": [1, 2]}
        answer = await peers.request(endpoint, "routeInferenceRequest", body, timeout=5.0)
        assert answer == {"attempts": 1, "result": [1, 2]}

    told(story)
