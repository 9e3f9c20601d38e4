"""Streams through an orchestrator: items pass as they come, credit and cancellation pass through, and what
becomes of a stream whose rack fails depends on whether it had begun."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.aio import eventually, run
from tests.fakes.context import FakeRack, Site
from tests.fakes.streaming import quiet
from wrk_base import contract, errors
from wrk_base.rpc.peers import Peers
from wrk_base.rpc.request import Final
from wrk_base.rpc.streams import Stream
from wrk_orchestrator.orchestrator import OrchestratorWorker


class StreamRack(FakeRack):
    """Streams what its input says: {"items": n, "then": what}; `made` counts, `ended` says how it ended."""

    made = 0
    asked = 0

    def infer(self, model_id: str, input_data: Any, options: contract.Options) -> AsyncIterator[Any]:  # type: ignore[override]
        self.asked += 1
        return self._stream(input_data)

    async def _stream(self, wish: dict[str, Any]) -> AsyncIterator[Any]:
        self.ended: str = "it runs"
        try:
            if wish.get("first") == "wait":
                await self.free.wait()
            for number in range(wish["items"]):
                self.made += 1
                yield {"number": number, "of": self.context.rack}
                if wish.get("pause"):
                    await asyncio.sleep(wish["pause"])
            if wish.get("then") == "hang":
                await asyncio.Event().wait()
            if wish.get("then") == "fail":
                raise errors.BadRequest("that is no picture", data={"field": "inputData"})
        except BaseException as end:
            self.ended = type(end).__name__
            raise
        self.ended = "whole"
        yield Final(["whole", wish["items"]], tokens=wish["items"])


class Mesh(Site):
    """A site with one orchestrator, streaming racks, and somebody who asks."""

    async def __aenter__(self) -> Mesh:
        return self

    orc: OrchestratorWorker
    caller_: Peers
    racks: dict[str, StreamRack]

    async def open(self, *names: str, **flags: str) -> None:
        self.orc = await self.orchestrator(flags=flags)
        self.caller_ = self.caller()
        self.racks = {name: await self.start(StreamRack(self.context(name, "rack"))) for name in names}
        await eventually(lambda: all(self.orc.balancer.limit(name) for name in names))

    def infer(self, items: int, *, options: dict[str, Any] | None = None, **wish: Any) -> dict[str, Any]:
        return {"modelId": "m1", "inputData": {"items": items, **wish}, "options": options or {}}

    def stream(self, items: int, *, terms: dict[str, Any] | None = None, **wish: Any) -> Stream:
        body = self.infer(items, **wish)
        given = {"timeout": 30.0, **(terms or {})}
        return self.caller_.stream(self.orc.endpoint, "routeInferenceRequest", body, **given)

    async def over(self) -> None:
        """Nothing runs for anybody, and nothing is leased."""
        await quiet()
        assert self.orc.balancer.leases == 0
        assert self.orc.server.in_flight == 0
        assert [rack.running for rack in self.racks.values()] == [0] * len(self.racks)
        assert self.orc.balancer.load("r1") == 0


Story = Callable[[Mesh], Coroutine[Any, Any, None]]


def told(story: Story, directory: Path, *racks: str, **flags: str) -> None:
    async def tell() -> None:
        async with Mesh(directory) as mesh:
            await mesh.open(*(racks or ("r1",)), **flags)
            await story(mesh)
            await mesh.over()

    run(tell(), "virtual", within=10_000.0)


async def read_until_error(stream: Stream) -> tuple[list[int], errors.WrkError]:
    got: list[int] = []
    try:
        async for item in stream:
            got.append(item["number"])
    except errors.WrkError as error:
        return got, error
    raise AssertionError(f"it ended well, after {got}")


# --- the whole way


@pytest.mark.parametrize("count", [0, 1, 100, 3000])
def test_items_pass_in_order_and_the_end_tells_who_made_them(tmp_path: Path, count: int) -> None:
    async def story(mesh: Mesh) -> None:
        stream = mesh.stream(count)
        assert [item["number"] async for item in stream] == list(range(count))
        assert stream.value == ["whole", count]
        facts = stream.facts
        assert (facts["workerId"], facts["attempts"], facts["success"]) == ("r1", 1, True)
        assert facts["tokens"] == count, "what the rack said is told, too"
        assert mesh.orc.router.counters["routed"] == 1

    told(story, tmp_path)


def test_a_stream_by_an_alias_or_from_a_fallback_says_at_its_end_which_model_it_was(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        for name, model in (("m1", None), ("alias", "m1"), ("large", "m1")):
            body = {**mesh.infer(3), "modelId": name}
            stream = mesh.caller_.stream(mesh.orc.endpoint, "routeInferenceRequest", body, timeout=30.0)
            assert [item["number"] async for item in stream] == [0, 1, 2]
            assert stream.facts.get("modelId") == model

    names = {"routing.aliases": "alias=m1", "routing.fallbacks": '{"large": ["alias"]}'}
    told(story, tmp_path, **names)


def test_whoever_does_not_stream_gets_the_final_value(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        endpoint = mesh.orc.endpoint
        answer = await mesh.caller_.request(endpoint, "routeInferenceRequest", mesh.infer(50), timeout=9.0)
        assert answer["result"] == ["whole", 50]
        assert answer["workerId"] == "r1"

    told(story, tmp_path)


def test_a_rack_that_answers_whole_gives_one_item(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        await mesh.crash(mesh.racks["r1"])
        await mesh.rack("plain")
        await eventually(lambda: mesh.orc.balancer.limit("plain"))
        stream = mesh.stream(1)
        assert [item async for item in stream] == [{"from": "plain"}]
        assert stream.value == {"from": "plain"}
        assert stream.facts["workerId"] == "plain"

    told(story, tmp_path)


def test_many_streams_spread_over_the_racks_and_do_not_mix(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        async def read() -> str:
            stream = mesh.stream(200, pause=0.01)
            items = [item async for item in stream]
            assert [item["number"] for item in items] == list(range(200))
            (maker,) = {item["of"] for item in items}
            assert stream.facts["workerId"] == maker
            return str(maker)

        makers = await asyncio.gather(*(read() for _ in range(8)))
        assert set(makers) == {"r1", "r2"}

    told(story, tmp_path, "r1", "r2")


# --- credit and cancellation


def test_a_slow_reader_stops_the_rack(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        rack = mesh.racks["r1"]
        items = aiter(mesh.stream(100_000))
        for _ in range(500):
            await anext(items)
        await quiet()
        made = rack.made
        assert made - 500 <= 1024 + 1
        await asyncio.sleep(1000.0)
        assert rack.made == made, "nothing lies in the orchestrator"
        for _ in range(2000):
            await anext(items)
        assert rack.made > made
        del items

    told(story, tmp_path)


@pytest.mark.parametrize("wish", [{"items": 3, "then": "hang"}, {"items": 100_000}])
def test_leaving_reaches_the_rack_at_once(tmp_path: Path, wish: dict[str, Any]) -> None:
    async def story(mesh: Mesh) -> None:
        rack = mesh.racks["r1"]
        loop = asyncio.get_running_loop()
        async for _ in mesh.stream(**wish):
            assert mesh.orc.balancer.leases == 1
            break
        left = loop.time()
        await eventually(lambda: rack.running == 0)
        assert loop.time() - left < 0.01
        assert rack.ended in ("CancelledError", "GeneratorExit")
        assert mesh.orc.balancer.leases == 0

    told(story, tmp_path)


def test_a_caller_that_is_gone_stops_the_rack(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        items = aiter(mesh.stream(3, then="hang"))
        await anext(items)
        mesh.caller_.close()
        await eventually(lambda: mesh.racks["r1"].running == 0)
        assert mesh.racks["r1"].ended == "CancelledError"
        del items

    told(story, tmp_path)


# --- failures


def test_a_rack_that_is_lost_in_the_middle_ends_the_stream_with_the_count(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        stream = mesh.stream(5, then="hang")
        reading = asyncio.create_task(read_until_error(stream))
        await eventually(lambda: stream.received == 5)
        await mesh.crash(mesh.racks["r1"])
        got, error = await reading
        assert got == [0, 1, 2, 3, 4]
        assert type(error) is errors.Unavailable
        assert not error.not_started
        assert error.data["items"] == 5
        assert list(error.data["workers"]) == ["r1"]
        assert mesh.racks["r2"].asked == 0, "a stream that has begun is never begun again"

    _with_first_on_r1(story, tmp_path)


def _with_first_on_r1(story: Story, directory: Path) -> None:
    """r2 comes up only when r1 has the stream: which one gets it is no matter of chance."""

    async def tell() -> None:
        async with Mesh(directory) as mesh:
            await mesh.open("r1")
            late = StreamRack(mesh.context("r2", "rack"))
            mesh.racks["r2"] = late
            begun = asyncio.create_task(story(mesh))
            await eventually(lambda: mesh.racks["r1"].asked)
            await mesh.start(late)
            await begun
            await mesh.over()

    run(tell(), "virtual", within=10_000.0)


def test_a_rack_that_is_lost_before_the_first_item_is_replaced_by_another(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        mesh.racks["r1"].hold()
        stream = mesh.stream(5, first="wait")

        async def read() -> list[dict[str, Any]]:
            return [item async for item in stream]

        reading = asyncio.create_task(read())
        await eventually(lambda: mesh.orc.balancer.limit("r2"))
        await mesh.crash(mesh.racks["r1"])
        assert await reading == [{"number": number, "of": "r2"} for number in range(5)]
        assert (stream.facts["workerId"], stream.facts["attempts"]) == ("r2", 2)

    _with_first_on_r1(story, tmp_path)


def test_what_a_rack_raises_after_its_items_is_the_answer(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        got, error = await read_until_error(mesh.stream(3, pause=0.1, then="fail"))
        assert got == [0, 1, 2]
        assert type(error) is errors.BadRequest
        assert error.origin == "r1"
        assert error.data["field"] == "inputData"
        assert error.data["items"] == 3
        assert sum(rack.asked for rack in mesh.racks.values()) == 1

    told(story, tmp_path, "r1")


def test_no_rack_is_an_error_of_the_stream(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        body = {**mesh.infer(1), "modelId": "unknown"}
        stream = mesh.caller_.stream(mesh.orc.endpoint, "routeInferenceRequest", body, timeout=1.0)
        got, error = await read_until_error(stream)
        assert got == []
        assert type(error) is errors.NoWorkersAvailable
        assert error.data["items"] == 0

    told(story, tmp_path)


# --- time


def test_a_rack_that_makes_nothing_for_long_is_given_up(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        got, error = await read_until_error(mesh.stream(3, then="hang", terms={"idle": 1000.0}))
        assert got == [0, 1, 2]
        assert loop.time() - begun == pytest.approx(5.0, abs=0.1)
        assert type(error) is errors.DeadlineExceeded
        assert error.data["items"] == 3
        await quiet()
        assert mesh.racks["r1"].ended == "CancelledError"

    told(story, tmp_path, **{"routing.streamIdleTimeout": "5000"})


def test_a_rack_whose_reader_is_slow_is_not_given_up(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        got = []
        async for item in mesh.stream(200, terms={"idle": 60.0}):
            got.append(item["number"])
            await asyncio.sleep(60.0 if len(got) % 20 == 0 else 0.0)
        assert got == list(range(200))

    told(story, tmp_path, **{"routing.streamIdleTimeout": "5000"})


@pytest.mark.parametrize(
    ("options", "terms"), [({"timeoutMs": 4000}, {}), ({}, {"timeout": 4.0, "total": 4.0})]
)
def test_a_time_for_all_of_it_ends_the_stream_at_the_rack_too(
    tmp_path: Path, options: dict[str, Any], terms: dict[str, Any]
) -> None:
    async def story(mesh: Mesh) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        stream = mesh.stream(100, pause=1.1, options=options, terms=terms)
        got, error = await read_until_error(stream)
        assert got == [0, 1, 2, 3]
        assert loop.time() - begun == pytest.approx(4.0, abs=0.1)
        assert type(error) is errors.DeadlineExceeded
        await quiet()
        assert mesh.racks["r1"].ended == "CancelledError"

    told(story, tmp_path)


def test_only_the_first_item_is_bound_by_the_time_for_it(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        stream = mesh.stream(20, pause=2.0, terms={"timeout": 3.0})
        assert len([item async for item in stream]) == 20

    told(story, tmp_path)
