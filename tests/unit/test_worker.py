"""What every worker does: its methods, its calls, its start and its end; and what every rack adds.

Real workers on a fake network in virtual time. Each story ends with nothing left: no timer, task or socket.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.aio import run
from tests.fakes.context import FakeRack, Offer, Site
from tests.fakes.rpc import Happenings
from wrk_base import __version__, contract, errors
from wrk_base.discovery import Found
from wrk_base.rpc.peers import Peers
from wrk_base.rpc.request import Request
from wrk_base.rpc.server import LOAD_SECONDS
from wrk_base.worker import CLOSE_SECONDS, Worker, WorkerContext


class Diary(Worker):
    """Writes down what happens to it. `slow` steps take a second, a `failing` one raises."""

    def __init__(self, context: WorkerContext, slow: str = "", failing: str = "") -> None:
        super().__init__(context)
        self.story: list[str] = []
        self.slow, self.failing = slow, failing

    async def open(self) -> None:
        await self._step("open")

    async def close(self) -> None:
        await self._step("close")

    async def _step(self, name: str) -> None:
        if name == self.slow:
            self.story.append(f"{name} begins")
            await asyncio.sleep(1.0)
        if name == self.failing:
            raise RuntimeError(f"{name} failed")
        self.story.append(name)


class Place(Site):
    """A site with one worker, `worker`, and somebody who calls it."""

    worker: Worker
    asker: Peers

    def make(self, name: str = "w1", kind: Callable[..., Any] = Worker, **more: Any) -> Any:
        own = {key: more.pop(key) for key in ("slow", "failing") if key in more}
        return kind(self.context(name, "worker", **more), **own)

    async def __aenter__(self) -> Place:
        self.worker = await self.start(self.make())
        self.asker = self.caller()
        return self

    async def ask(self, method: str, body: Any = None, timeout: float = 60.0) -> Any:
        return await self.asker.request(self.worker.endpoint, method, body, timeout=timeout)

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [facts for name, facts in self.log.events if name == event]


def story(tell: Callable[[Place], Awaitable[None]], directory: Path) -> None:
    async def told() -> None:
        async with Place(directory) as place:
            await tell(place)
        await asyncio.sleep(0)
        timers = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
        left = [timer for timer in timers if not timer.cancelled() and "imeout" not in repr(timer)]
        assert left == []

    run(told(), "virtual", within=1e6)


# --- methods of every worker


@pytest.mark.parametrize("method", ["ping", "echo"])
@pytest.mark.parametrize("body", [None, 0, "text", b"bytes", [1, [2.5]], {"a": {"b": None}}, 2**63, ""])
def test_ping_and_echo_give_back_what_they_got(tmp_path: Path, method: str, body: Any) -> None:
    async def told(place: Place) -> None:
        assert await place.ask(method, body) == body

    story(told, tmp_path)


def test_instance_id_is_the_identity(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        assert await place.ask("getInstanceId") == {"instanceId": "w1"}

    story(told, tmp_path)


def test_info_says_who_it_is_what_it_offers_and_where(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        info = await place.ask("getInfo")
        started_at = info.pop("startedAt")
        assert isinstance(started_at, int)
        assert info == {
            "success": True,
            "workerId": "w1",
            "name": "w1",
            "type": "fake-worker",
            "role": "worker",
            "version": __version__,
            "epoch": 1,
            "address": place.worker.endpoint,
            "models": [],
            "cold": [],
            "facts": {},
            "resumable": False,
            "tags": [],
            "labels": {},
            "weight": None,
            "capacity": {"maxConcurrent": 1},
            "endpoints": ["echo", "getHealth", "getInfo", "getInstanceId", "getStats", "ping"],
        }

    story(told, tmp_path)


def test_info_follows_what_describe_says_now(tmp_path: Path) -> None:
    class Chameleon(Worker):
        tags = ("green",)

        def describe(self) -> contract.Description:
            return contract.Description(tags=list(self.tags), labels={"a": "b"}, weight=2.0, max_concurrent=7)

    async def told(place: Place) -> None:
        place.worker = await place.start(place.make("w2", Chameleon))
        info = await place.ask("getInfo")
        assert (info["tags"], info["labels"], info["weight"]) == (["green"], {"a": "b"}, 2.0)
        assert info["capacity"] == {"maxConcurrent": 7}
        Chameleon.tags = ("red",)
        assert (await place.ask("getInfo"))["tags"] == ["red"]

    story(told, tmp_path)


def test_stats_count_requests_and_errors_by_method(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        def fail(body: Any) -> None:
            raise errors.BadRequest("not like that")

        async def wait(body: Any) -> None:
            await asyncio.sleep(2.0)

        place.worker.respond("fail", fail)
        place.worker.respond("wait", wait)
        await place.ask("ping")
        await place.ask("ping")
        with pytest.raises(errors.BadRequest):
            await place.ask("fail")
        running = asyncio.ensure_future(place.ask("wait"))
        await asyncio.sleep(1.0)
        stats = await place.ask("getStats")
        methods = stats["methods"]
        assert methods.keys() == {"ping", "fail", "wait"}
        assert (methods["ping"]["requests"], methods["ping"]["errors"]) == (2, 0)
        assert (methods["fail"]["requests"], methods["fail"]["errors"]) == (1, 1)
        assert methods["fail"]["lastError"] == "ERR_BAD_REQUEST: not like that"
        assert (methods["wait"]["inFlight"], stats["inFlight"], stats["callers"]) == (1, 1, 1)
        assert stats["loopLag"].keys() == {"lastMs", "p50Ms", "p99Ms"}
        await running
        stats = await place.ask("getStats")
        assert stats["inFlight"] == 0
        assert stats["methods"]["wait"]["processingTime"] == pytest.approx(2000.0)
        assert stats["methods"]["wait"]["averageProcessingTime"] == pytest.approx(2000.0)

    story(told, tmp_path)


def test_health_is_good_until_it_stops(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        health = await place.ask("getHealth")
        assert (health["success"], health["healthy"]) == (True, True)
        assert isinstance(health["timestamp"], int)
        await place.worker.stop()
        assert place.worker.health()["healthy"] is False

    story(told, tmp_path)


def test_status_tells_other_programs_where_it_is(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        status = place.worker.status()
        assert status.pop("startedAt") > 0
        assert status == {
            "prefix": "fake-worker-w1",
            "instanceId": "w1",
            "pid": os.getpid(),
            "endpoint": place.worker.endpoint,
            "role": "worker",
            "mesh": "test-mesh",
            "publicKey": "",  # an open network
        }

    story(told, tmp_path)


# --- methods of one's own


def plain(body: Any) -> Any:
    return ["plain", body]


def plain_with_request(body: Any, request: Request) -> Any:
    return ["plain", body, request.peer.worker_id]


async def slow(body: Any) -> Any:
    await asyncio.sleep(1.0)
    return ["slow", body]


async def slow_with_request(body: Any, request: Request) -> Any:
    await asyncio.sleep(1.0)
    return ["slow", body, request.peer.worker_id]


def with_default(body: Any, more: int = 5) -> Any:
    return ["default", body, type(more).__name__]


IDLE = {"load": {"inFlight": 0, "maxConcurrent": 4, "free": 4, "lagMs": 0}}


def raw(request: Request) -> None:
    request.answer(None, request.content_type, request.payload)


@pytest.mark.parametrize(
    ("handler", "answer"),
    [
        (plain, ["plain", 7]),
        (lambda body: ["lambda", body], ["lambda", 7]),
        (plain_with_request, ["plain", 7, "caller"]),
        (slow, ["slow", 7]),
        (slow_with_request, ["slow", 7, "caller"]),
        (with_default, ["default", 7, "Request"]),
    ],
)
def test_a_method_is_a_function_of_the_body_and_the_request_if_it_wants(
    tmp_path: Path, handler: Callable[..., Any], answer: Any
) -> None:
    async def told(place: Place) -> None:
        place.worker.respond("own", handler)
        assert await place.ask("own", 7) == answer
        assert "own" in (await place.ask("getInfo"))["endpoints"]

    story(told, tmp_path)


def test_raw_method_gets_and_gives_the_packed_payload(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        place.worker.respond("own", raw, raw=True)
        assert await place.ask("own", {"a": [1]}) == {"a": [1]}

    story(told, tmp_path)


def test_a_method_may_be_replaced(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        place.worker.respond("ping", lambda body: "mine")
        assert await place.ask("ping") == "mine"

    story(told, tmp_path)


def generator(body: Any) -> Any:
    yield body


@pytest.mark.parametrize("handler", [generator, lambda: None, lambda a, b, c: None])
def test_what_cannot_answer_a_call_is_refused_when_it_is_given(
    tmp_path: Path, handler: Callable[..., Any]
) -> None:
    async def told(place: Place) -> None:
        with pytest.raises(TypeError, match="own"):
            place.worker.respond("own", handler)

    story(told, tmp_path)


def test_unknown_method_is_answered_with_those_there_are(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        with pytest.raises(errors.MethodNotFound, match="getInfo") as unknown:
            await place.ask("gteInfo")
        assert unknown.value.not_started

    story(told, tmp_path)


@pytest.mark.parametrize("returned", [object(), {1: 2}, {"a": {3}}, 2**70])
def test_what_cannot_be_encoded_is_the_handlers_fault_and_nobody_elses(tmp_path: Path, returned: Any) -> None:
    async def told(place: Place) -> None:
        place.worker.respond("own", lambda body: returned)
        with pytest.raises(errors.Internal) as failed:
            await place.ask("own")
        assert "Traceback" not in failed.value.message
        assert await place.ask("ping", 1) == 1

    story(told, tmp_path)


# --- calling others


def test_a_peer_is_called_by_its_endpoint_with_or_without_its_key(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        other = await place.start(place.make("w2"))
        assert await other.request(place.worker.endpoint, "getInstanceId") == {"instanceId": "w1"}
        assert await other.request(f"{place.worker.endpoint}#KEY", "ping", 5) == 5
        assert len(other.peers) == 1

    story(told, tmp_path)


def test_a_peer_is_called_by_its_id_once_it_was_heard(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        other = await place.start(place.make("w2"))
        assert await other.request("w1", "getInstanceId") == {"instanceId": "w1"}
        assert await place.worker.request("w2", "getInstanceId") == {"instanceId": "w2"}

    story(told, tmp_path)


def test_of_several_starts_the_latest_is_called(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        heard = place.bus.join("test-mesh")
        other = await place.start(place.make("w2", heard=heard))
        heard.hear(Found("tcp://127.0.0.1:1", "mdns", "w1", 9, "worker"))
        heard.hear(Found("tcp://127.0.0.1:2", "mdns", "w1", 3, "worker"))
        assert other.resolve("w1") == "tcp://127.0.0.1:1"

    story(told, tmp_path)


@pytest.mark.parametrize("name", ["nobody", "127.0.0.1:8004", ""])
def test_nobody_is_called_by_an_id_that_was_never_heard(tmp_path: Path, name: str) -> None:
    async def told(place: Place) -> None:
        with pytest.raises(errors.WorkerNotFound, match="heard") as unknown:
            await place.worker.request(name, "ping")
        assert unknown.value.not_started

    story(told, tmp_path)


def test_a_call_takes_no_longer_than_its_timeout_or_the_setting(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        async def never(body: Any) -> None:
            await asyncio.Event().wait()

        place.worker.respond("never", never)
        hasty = await place.start(place.make("w2", flags={"requestTimeout": "3000"}))
        loop = asyncio.get_running_loop()
        for timeout, seconds in ((None, 3.0), (0.5, 0.5)):
            before = loop.time()
            with pytest.raises(errors.DeadlineExceeded):
                await hasty.request("w1", "never", timeout=timeout)
            assert loop.time() - before == pytest.approx(seconds, abs=0.01)

    story(told, tmp_path)


# --- the start


def test_started_means_that_calls_are_answered_and_others_know(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        watcher = place.bus.join("test-mesh")
        found: list[Found] = []
        await watcher.start(None, found.append, found.append)
        worker = place.make("w2", Diary, slow="open")
        starting = asyncio.ensure_future(place.start(worker))
        await asyncio.sleep(0.5)
        assert not worker.started.is_set()
        assert worker.endpoint == ""
        await worker.started.wait()
        await starting
        assert worker.story == ["open begins", "open"]
        assert [f.endpoint for f in found if f.worker_id == "w2"] == [worker.endpoint]
        assert await place.asker.request(worker.endpoint, "ping", 1, timeout=1.0) == 1
        await watcher.stop()

    story(told, tmp_path)


def test_worker_that_cannot_open_closes_and_says_why(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        worker = place.make("w2", Diary, failing="open")
        with pytest.raises(RuntimeError, match="open failed"):
            await worker.start()
        assert worker.story == ["close"]
        assert not worker.started.is_set()
        assert len(place.network.listeners) == 1

    story(told, tmp_path)


def test_port_in_use_ends_the_start(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        port = place.worker.endpoint.rpartition(":")[2]
        worker = place.make("w2", Diary, flags={"rpc.port": port})
        with pytest.raises(errors.StartError, match=port):
            await worker.start()
        assert worker.story == ["open", "close"]
        assert await place.ask("ping", 1) == 1

    story(told, tmp_path)


def test_a_worker_starts_once(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        with pytest.raises(errors.StartError):
            await place.worker.start()
        assert await place.ask("ping", 1) == 1
        await place.worker.stop()
        with pytest.raises(errors.StartError):
            await place.worker.start()
        unborn = place.make("w2", Diary)
        await unborn.stop()
        with pytest.raises(errors.StartError):
            await unborn.start()
        assert unborn.story == ["close"]

    story(told, tmp_path)


# --- the stop


def test_stop_says_goodbye_and_closes_once(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        watcher = place.bus.join("test-mesh")
        gone: list[Found] = []
        await watcher.start(None, lambda found: None, gone.append)
        worker = await place.start(place.make("w2", Diary))
        await asyncio.gather(worker.stop(), worker.stop())
        await worker.stop()
        assert worker.story == ["open", "close"]
        assert [found.worker_id for found in gone] == ["w2"]
        assert worker.endpoint not in place.network.listeners
        await watcher.stop()

    story(told, tmp_path)


def test_stop_waits_for_every_caller_to_see_the_end(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        worker = await place.start(place.make("w2", Diary, slow="close"))
        first = asyncio.ensure_future(worker.stop())
        await asyncio.sleep(0.5)
        await worker.stop()
        assert worker.story[-1] == "close"
        assert first.done()

    story(told, tmp_path)


def test_who_gives_up_waiting_for_the_stop_does_not_end_it(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        worker = await place.start(place.make("w2", Diary, slow="close"))
        impatient = asyncio.ensure_future(worker.stop())
        await asyncio.sleep(0.5)
        impatient.cancel()
        await worker.stop()
        assert worker.story[-1] == "close"

    story(told, tmp_path)


def test_stop_during_a_slow_open_ends_the_start_and_leaves_nothing(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        worker = place.make("w2", Diary, slow="open")
        starting = asyncio.ensure_future(worker.start())
        await asyncio.sleep(0.5)
        await worker.stop()
        with pytest.raises(errors.StartError, match="stopped"):
            await starting
        await asyncio.sleep(5.0)
        assert worker.story == ["open begins", "close"]
        assert not worker.started.is_set()
        assert list(place.network.listeners) == [place.worker.endpoint]
        assert len(place.bus.members) == 1

    story(told, tmp_path)


def test_stop_while_discovery_begins_leaves_nothing(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        heard = place.bus.join("test-mesh")
        begin = heard.start

        async def slow_start(*arguments: Any) -> None:
            await asyncio.sleep(1.0)
            await begin(*arguments)

        heard.start = slow_start  # type: ignore[method-assign]
        worker = place.make("w2", Diary, heard=heard)
        starting = asyncio.ensure_future(worker.start())
        await asyncio.sleep(0.5)
        await worker.stop()
        with pytest.raises(errors.StartError):
            await starting
        await asyncio.sleep(5.0)
        assert heard not in place.bus.members
        assert list(place.network.listeners) == [place.worker.endpoint]

    story(told, tmp_path)


def test_start_that_is_cancelled_is_cleaned_up_and_stays_cancelled(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        worker = place.make("w2", Diary, slow="open")
        starting = asyncio.ensure_future(worker.start())
        await asyncio.sleep(0.5)
        starting.cancel()
        await asyncio.wait((starting,))
        assert starting.cancelled()
        assert worker.story == ["open begins", "close"]

    story(told, tmp_path)


def test_worker_that_stops_itself_while_it_opens_is_stopped(tmp_path: Path) -> None:
    class Suicidal(Diary):
        async def open(self) -> None:
            await self.stop()
            raise AssertionError("never reached")

    async def told(place: Place) -> None:
        worker = place.make("w2", Suicidal)
        with pytest.raises(errors.StartError):
            await worker.start()
        assert worker.story == ["close"]

    story(told, tmp_path)


def test_handlers_finish_before_the_close_and_new_requests_are_refused(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        worker = place.worker = await place.start(place.make("w2", Diary))

        async def work(body: Any) -> str:
            await asyncio.sleep(3.0)
            worker.story.append("work")
            return "done"

        worker.respond("work", work)
        working = asyncio.ensure_future(place.ask("work"))
        await asyncio.sleep(1.0)
        stopping = asyncio.ensure_future(worker.stop())
        await asyncio.sleep(0.5)
        for caller in (place.asker, place.caller("another")):
            with pytest.raises(errors.Unavailable, match="drain") as refused:
                await caller.request(worker.endpoint, "ping", timeout=1.0)
            assert refused.value.not_started
        assert await working == "done"
        await stopping
        assert worker.story == ["open", "work", "close"]

    story(told, tmp_path)


def test_drain_is_bounded_and_who_waited_gets_an_answer(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        place.worker = await place.start(place.make("w2", flags={"stop.drainTimeout": "2000"}))
        place.worker.respond("slow", slow_for_ever)
        working = asyncio.ensure_future(place.ask("slow"))
        await asyncio.sleep(1.0)
        before = asyncio.get_running_loop().time()
        await place.worker.stop()
        assert asyncio.get_running_loop().time() - before == pytest.approx(2.0, abs=0.1)
        with pytest.raises(errors.Unavailable, match="stopped") as cut:
            await working
        assert not cut.value.not_started
        assert place.logged("worker.drain_cut") == [{"running": 1}]

    story(told, tmp_path)


async def slow_for_ever(body: Any) -> None:
    await asyncio.Event().wait()


def test_hurry_ends_the_drain(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        place.worker.respond("slow", slow_for_ever)
        working = asyncio.ensure_future(place.ask("slow"))
        await asyncio.sleep(1.0)
        before = asyncio.get_running_loop().time()
        stopping = asyncio.ensure_future(place.worker.stop())
        await asyncio.sleep(0.5)
        place.worker.hurry()
        await stopping
        assert asyncio.get_running_loop().time() - before < 1.0
        with pytest.raises(errors.Unavailable):
            await working

    story(told, tmp_path)


async def deaf_to_everything(seconds: float) -> None:
    ends = asyncio.get_running_loop().time() + seconds
    while (left := ends - asyncio.get_running_loop().time()) > 0:
        try:
            await asyncio.sleep(left)
        except asyncio.CancelledError:
            continue


def test_handler_or_task_that_does_not_end_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        worker = place.worker = await place.start(place.make("w2", Diary, flags={"stop.drainTimeout": "0"}))

        async def deaf(body: Any) -> None:
            await deaf_to_everything(60.0)

        worker.respond("deaf", deaf)
        worker.spawn(deaf_to_everything(60.0), "deaf task")
        working = asyncio.ensure_future(place.ask("deaf", timeout=30.0))
        await asyncio.sleep(1.0)
        before = asyncio.get_running_loop().time()
        await worker.stop()
        assert asyncio.get_running_loop().time() - before <= 3 * CLOSE_SECONDS + 0.1
        assert worker.story == ["open", "close"]
        assert place.logged("worker.handlers_stuck") == [{"running": 1}]
        assert {facts["task"] for facts in place.logged("worker.task_stuck")} == {"deaf task"}
        with pytest.raises(errors.WrkError):
            await working
        await asyncio.sleep(60.0)

    story(told, tmp_path)


def test_close_that_fails_costs_nothing_else(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        worker = await place.start(place.make("w2", Diary, failing="close"))
        await worker.stop()
        assert worker.endpoint not in place.network.listeners
        assert len(place.logged("worker.close_failed")) == 1

    story(told, tmp_path)


# --- background tasks


def test_background_task_ends_with_the_worker(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        task = place.worker.spawn(slow_for_ever(None), "watch")
        await asyncio.sleep(1.0)
        assert not task.done()
        await place.worker.stop()
        assert task.cancelled()

    story(told, tmp_path)


def test_background_task_that_fails_is_logged(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        async def fail() -> None:
            raise RuntimeError("it broke")

        await asyncio.wait((place.worker.spawn(fail(), "watch"),))
        await asyncio.sleep(0)
        (failure,) = place.logged("worker.task_failed")
        assert failure["task"] == "watch"
        assert str(failure["exc_info"]) == "it broke"
        assert place.worker._tasks == set()

    story(told, tmp_path)


def test_background_task_may_stop_its_worker(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        place.worker.spawn(place.worker.stop(), "enough")
        await asyncio.sleep(0)
        await place.worker.stop()
        assert place.network.listeners == {}

    story(told, tmp_path)


# --- what a rack adds


async def infer(place: Place, model: str = "m1", **more: Any) -> Any:
    return await place.ask("runInference", {"modelId": model, "inputData": "x", **more})


async def as_rack(place: Place, offer: Offer | None = None) -> FakeRack:
    rack = await place.rack("r1", offer)
    place.worker = rack
    return rack


def test_rack_answers_inference_for_its_models(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        rack = await as_rack(place)
        assert await infer(place) == {"success": True, "result": {"from": "r1"}}
        assert rack.seen == ["x"]
        with pytest.raises(errors.ModelNotAvailable, match="m9") as unknown:
            await infer(place, "m9")
        assert unknown.value.not_started
        assert list(unknown.value.data["models"]) == ["m1"]

    story(told, tmp_path)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"inputData": "x"}, "modelId"),
        ({"modelId": 5}, "modelId"),
        ({"modelId": "m1", "options": 1}, "options"),
    ],
)
def test_rack_names_the_field_of_a_request_that_makes_no_sense(
    tmp_path: Path, body: dict[str, Any], field: str
) -> None:
    async def told(place: Place) -> None:
        await as_rack(place)
        with pytest.raises(errors.BadRequest, match=field):
            await place.ask("runInference", body)

    story(told, tmp_path)


def test_rack_keeps_its_capacity_and_says_what_is_free(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        rack = await as_rack(place, Offer(capacity=2))
        rack.hold()
        works = [asyncio.ensure_future(infer(place)) for _ in range(2)]
        await asyncio.sleep(1.0)
        capacity = await place.ask("checkCapacity")
        assert (capacity["inFlight"], capacity["maxConcurrent"], capacity["free"]) == (2, 2, 0)
        with pytest.raises(errors.CapacityExceeded) as full:
            await infer(place)
        assert full.value.not_started
        assert full.value.retry_after_ms is not None
        rack.let_go()
        await asyncio.gather(*works)
        assert (await place.ask("checkCapacity"))["free"] == 2

    story(told, tmp_path)


@pytest.mark.parametrize("end", ["answer", "failure", "cancellation"])
def test_slot_of_a_rack_comes_free_however_the_request_ends(tmp_path: Path, end: str) -> None:
    async def told(place: Place) -> None:
        rack = await as_rack(place, Offer(capacity=1))
        rack.hold()
        rack.failure = errors.Internal("broken") if end == "failure" else None
        work = asyncio.ensure_future(infer(place))
        await asyncio.sleep(1.0)
        assert rack.running == 1
        if end == "cancellation":
            work.cancel()
        else:
            rack.let_go()
        await asyncio.gather(work, return_exceptions=True)
        await asyncio.sleep(0.1)
        assert rack.running == 0
        assert rack.cancelled == (end == "cancellation")

    story(told, tmp_path)


def test_rack_lists_its_models_and_loads_only_those(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        await as_rack(place, Offer(models=("m1", "m2")))
        assert await place.ask("getAvailableModels") == {"success": True, "models": ["m1", "m2"]}
        assert await place.ask("loadModel", {"modelId": "m2"}) == {"success": True, "modelId": "m2"}
        with pytest.raises(errors.BadRequest, match="m2"):
            await place.ask("unloadModel", {"modelId": "m2"})
        for method in ("loadModel", "unloadModel"):
            with pytest.raises(errors.ModelNotAvailable, match="m9"):
                await place.ask(method, {"modelId": "m9"})
            with pytest.raises(errors.BadRequest, match="modelId"):
                await place.ask(method, {})

    story(told, tmp_path)


def test_answers_to_an_orchestrator_come_with_the_load_and_to_others_without(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        rack = await as_rack(place)
        body = {"modelId": "m1", "inputData": "x"}
        for role, loads in (("orchestrator", [IDLE, IDLE]), ("client", [])):
            caller, happenings = place.caller(f"a-{role}", role), Happenings()
            caller.hold(rack.endpoint, happenings)
            await happenings.until(happenings.story.__len__)
            for pause in (LOAD_SECONDS, 0.0):  # right behind a load, another would be no news
                await asyncio.sleep(pause)
                await caller.request(rack.endpoint, "runInference", body, timeout=5.0)
            # With the greeting and with the first answer.
            assert [load for load in happenings.loads if load] == loads

    story(told, tmp_path)


def test_rack_beats_to_orchestrators_alone(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        rack = await as_rack(place)
        heard = {role: Happenings() for role in ("orchestrator", "client", "rack")}
        for role, happenings in heard.items():
            place.caller(f"a-{role}", role).hold(rack.endpoint, happenings)
        await asyncio.sleep(0.1)
        for happenings in heard.values():
            happenings.loads.clear()
        await asyncio.sleep(5.0)
        assert [load["load"]["maxConcurrent"] for load in heard["orchestrator"].loads if load] == [4] * 5
        assert (heard["client"].loads, heard["rack"].loads) == ([], [])

    story(told, tmp_path)


def test_refusals_of_a_full_rack_tell_its_load_too(tmp_path: Path) -> None:
    async def told(place: Place) -> None:
        rack = await as_rack(place, Offer(capacity=1))
        happenings = Happenings()
        orchestrator = place.caller("orc", "orchestrator")
        orchestrator.hold(rack.endpoint, happenings)
        rack.hold()
        work = asyncio.ensure_future(infer(place))
        await asyncio.sleep(0.1)
        happenings.loads.clear()
        body = {"modelId": "m1", "inputData": "x"}
        with pytest.raises(errors.CapacityExceeded):
            await orchestrator.request(rack.endpoint, "runInference", body, timeout=1.0)
        assert [load["load"]["inFlight"] for load in happenings.loads if load] == [1]
        rack.let_go()
        await work

    story(told, tmp_path)
