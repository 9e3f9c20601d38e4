"""Models that nobody has loaded: who loads them, who waits for that, and what happens when it fails.

A whole orchestrator and its racks on a fake network, in virtual time: a load takes ten seconds unless said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from racks.sim_shelf import Shelf
from tests.fakes.aio import eventually, run
from tests.fakes.context import FakeRack, Offer, Site
from wrk_base import contract, errors
from wrk_base.rpc.peers import Peers
from wrk_base.worker import WorkerContext
from wrk_orchestrator.health_table import Observation
from wrk_orchestrator.load_book import REST_S
from wrk_orchestrator.orchestrator import OrchestratorWorker

LOAD_S = 10.0
SOON = 2.0
DRAIN = Observation.OPERATOR_DRAIN


class LoadingRack(FakeRack):
    """Serves the models of its shelf, and loads those that are cold. `broken` is why it cannot."""

    def __init__(self, context: WorkerContext, offer: Offer, cold: tuple[str, ...], room: int) -> None:
        super().__init__(context, offer)
        self.shelf = Shelf(offer.models, cold, room)
        self.loads: list[str] = []
        self.load_seconds = LOAD_S
        self.answer_seconds = 0.0
        self.broken = ""
        self.tells = True

    def describe(self) -> contract.Description:
        return contract.Description(
            models=list(self.shelf.loaded),
            cold=list(self.shelf.cold),
            max_concurrent=self.offer.capacity,
            labels=dict(self.offer.labels),
        )

    async def infer(self, model_id: str, input_data: Any, options: contract.Options) -> Any:
        self.shelf.use(model_id)
        await asyncio.sleep(self.answer_seconds)
        return await super().infer(model_id, input_data, options)

    async def load_model(self, model_id: str) -> None:
        self.loads.append(model_id)
        await asyncio.sleep(self.load_seconds)
        if self.broken:
            raise errors.Internal(self.broken)
        self.shelf.load(model_id)
        if self.tells:
            self.offer_changed()


class Mesh(Site):
    """An orchestrator, racks by name, and somebody who asks."""

    orc: OrchestratorWorker
    asker: Peers

    async def opened(self, **flags: str) -> Mesh:
        settings = {name.replace("_", "."): value for name, value in flags.items()}
        self.orc = await self.orchestrator(flags=settings)
        self.asker = self.caller()
        return self

    async def joins(
        self,
        name: str,
        *,
        models: tuple[str, ...] = (),
        cold: tuple[str, ...] = ("big",),
        room: int = 0,
        capacity: int = 4,
        labels: tuple[tuple[str, str], ...] = (),
    ) -> LoadingRack:
        offer = Offer(models=models, capacity=capacity, labels=labels)
        rack = await self.start(LoadingRack(self.context(name, "rack"), offer, cold, room))
        await eventually(lambda: self.orc.balancer.limit(name), SOON)
        return rack

    async def ask(self, model: str = "big", **options: Any) -> Any:
        body = {"modelId": model, "inputData": "x", "options": options}
        return await self.asker.request(self.orc.endpoint, "routeInferenceRequest", body, timeout=600.0)

    def asks(self, model: str = "big", times: int = 1, **options: Any) -> list[asyncio.Task[Any]]:
        return [asyncio.create_task(self.ask(model, **options)) for _ in range(times)]

    async def refused(self, model: str = "big", **options: Any) -> errors.WrkError:
        with pytest.raises(errors.WrkError) as caught:
            await self.ask(model, **options)
        return caught.value

    def waiting(self) -> int:
        return self.orc.admission.waiting

    def took(self) -> float:
        return asyncio.get_running_loop().time()


def story(tell: Callable[[Mesh], Awaitable[None]], directory: Path, **flags: str) -> None:
    async def told() -> None:
        async with Mesh(directory) as mesh:
            assert isinstance(mesh, Mesh)
            await mesh.opened(**flags)
            await tell(mesh)
            assert mesh.waiting() == 0
            assert mesh.orc.balancer.leases == 0

    run(told(), "virtual", within=1e6)


# --- loading


def test_cold_model_is_loaded_once_for_all_who_ask(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.joins("r1")
        begun = mesh.took()
        tasks = mesh.asks(times=20)
        await eventually(lambda: mesh.waiting() == 20, SOON)
        assert mesh.orc.service_status()["loadBalancer"]["loading"] == {"big": "r1"}
        answers = await asyncio.gather(*tasks)
        assert {answer["workerId"] for answer in answers} == {"r1"}
        assert rack.loads == ["big"]
        assert mesh.took() - begun == pytest.approx(LOAD_S, abs=0.5)
        await mesh.ask()
        assert rack.loads == ["big"]

    story(told, tmp_path)


def test_cold_models_are_listed_and_not_taken_for_served(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        await mesh.joins("r1", models=("small",))
        (worker,) = mesh.orc.list_workers({})["workers"]
        assert worker["capabilities"]["models"] == ["small"]
        assert worker["capabilities"]["cold"] == ["big"]
        assert mesh.orc.service_status()["registry"]["models"] == {"small": 1, "big": 0}
        error = await mesh.refused("unheard")
        assert sorted(error.data["models"]) == ["big", "small"]

    story(told, tmp_path)


def test_load_may_take_longer_than_anybody_waits_for_a_slot(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        await mesh.joins("r1")
        assert (await mesh.ask())["workerId"] == "r1"

    story(told, tmp_path, routing_queueTimeout="1000")


def test_least_loaded_rack_loads_it(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        busy = await mesh.joins("r1", models=("small",))
        busy.hold()
        works = mesh.asks("small", times=2)
        await eventually(lambda: len(busy.seen) == 2, SOON)
        idle = await mesh.joins("r2")
        assert (await mesh.ask())["workerId"] == "r2"
        assert (busy.loads, idle.loads) == ([], ["big"])
        busy.let_go()
        await asyncio.gather(*works)

    story(told, tmp_path)


def test_rack_that_meets_the_requirements_loads_it(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        await mesh.joins("r1", labels=(("room", "1"),))
        await mesh.joins("r2", labels=(("room", "2"),))
        error = await mesh.refused(requirements={"labels": {"room": "3"}})
        assert isinstance(error, errors.NoWorkersAvailable)
        answer = await mesh.ask(requirements={"labels": {"room": "2"}})
        assert answer["workerId"] == "r2"
        assert (await mesh.ask())["workerId"] == "r2"
        error = await mesh.refused(requirements={"labels": {"room": "3"}})
        assert isinstance(error, errors.NoWorkersMatch)

    story(told, tmp_path)


def test_one_copy_at_a_time_is_loaded_and_another_one_for_other_requirements(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        one = await mesh.joins("r1", labels=(("room", "1"),))
        other = await mesh.joins("r2", labels=(("room", "2"),))
        plain = mesh.asks(times=3)
        await eventually(lambda: mesh.waiting() == 3, SOON)
        picky = mesh.asks(requirements={"labels": {"room": "2"}})
        await asyncio.sleep(LOAD_S / 2)
        assert (one.loads, other.loads) == (["big"], [])
        await asyncio.gather(*plain)
        assert (await picky[0])["workerId"] == "r2"

    story(told, tmp_path)


def test_rack_that_does_not_tell_what_it_loaded_is_asked(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.joins("r1")
        rack.tells = False
        begun = mesh.took()
        await mesh.ask()
        assert mesh.took() - begun == pytest.approx(LOAD_S, abs=0.5)

    story(told, tmp_path)


# --- loads that fail


def test_other_racks_are_asked_when_one_fails_and_the_reasons_are_told_at_last(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        racks = [await mesh.joins(name) for name in ("r1", "r2")]
        for rack in racks:
            rack.broken = f"{rack.context.rack} has no memory"
        tasks = mesh.asks(times=3)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for error in outcomes:
            assert isinstance(error, errors.NoWorkersAvailable)
            assert error.data["failures"] == {"r1": "r1 has no memory", "r2": "r2 has no memory"}
            assert "r1 has no memory" in error.message
            assert error.not_started
        assert [rack.loads for rack in racks] == [["big"], ["big"]]

    story(told, tmp_path)


def test_who_failed_is_left_alone_for_a_while_and_then_asked_again(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.joins("r1")
        rack.broken = "no memory"
        await mesh.refused()
        rack.broken = ""
        begun = mesh.took()
        error = await mesh.refused()
        assert mesh.took() - begun < 1.0
        assert error.retry_after_ms == pytest.approx(REST_S * 1000, rel=0.1)
        await asyncio.sleep(error.retry_after_ms / 1000)
        assert (await mesh.ask())["workerId"] == "r1"
        assert rack.loads == ["big", "big"]

    story(told, tmp_path)


def test_rack_that_dies_while_it_loads_is_replaced(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        dying, other = await mesh.joins("r1"), await mesh.joins("r2")
        (task,) = mesh.asks()
        await eventually(lambda: dying.loads, SOON)
        await mesh.crash(dying)
        assert (await task)["workerId"] == "r2"
        assert other.loads == ["big"]

    story(told, tmp_path)


def test_load_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        slow = await mesh.joins("r1")
        slow.load_seconds = 1000.0
        error = await mesh.refused()
        assert isinstance(error, errors.NoWorkersAvailable)
        assert "r1" in error.data["failures"]
        assert mesh.took() < 10.0

    story(told, tmp_path, routing_loadTimeout="5000")


def test_rack_that_leaves_takes_its_cold_models_along(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.joins("r1")
        (task,) = mesh.asks()
        await eventually(lambda: rack.loads, SOON)
        mesh.orc.unregister("r1")
        with pytest.raises(errors.NoWorkersAvailable):
            await asyncio.wait_for(task, SOON)

    story(told, tmp_path)


# --- waiting for it


def test_without_a_queue_the_load_begins_and_the_caller_is_told_when_to_come_again(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.joins("r1")
        error = await mesh.refused()
        assert isinstance(error, errors.NoWorkersAvailable)
        assert error.retry_after_ms == 20_000  # the first guess
        await eventually(lambda: "big" in rack.shelf.loaded, LOAD_S + SOON)
        await eventually(lambda: mesh.orc.registry.serves("big"), SOON)
        assert (await mesh.ask())["workerId"] == "r1"

    story(told, tmp_path, routing_queueLimit="0")


def test_estimate_of_a_full_queue_counts_the_load(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        await mesh.joins("r1")
        tasks = mesh.asks(times=2)
        await eventually(lambda: mesh.waiting() == 2, SOON)
        await asyncio.sleep(5.0)
        error = await mesh.refused()
        assert isinstance(error, errors.CapacityExceeded)
        assert error.retry_after_ms == pytest.approx(15_000 + 3 * 1000, abs=500)
        await asyncio.gather(*tasks)

    story(told, tmp_path, routing_queueLimit="2")


def test_time_of_the_load_is_not_taken_for_the_pace_of_the_queue(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.joins("r1", capacity=1)
        rack.answer_seconds = 1.0
        tasks = mesh.asks(times=10)
        await asyncio.wait(tasks[:3])
        (queue,) = mesh.orc.admission.queues()
        assert queue["estimateMs"] == pytest.approx((queue["waiting"] + 1) * 1000, rel=0.2)
        await asyncio.gather(*tasks)

    story(told, tmp_path)


def test_callers_deadline_ends_the_wait_and_not_the_load(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.joins("r1")
        error = await mesh.refused(timeoutMs=3000)
        assert isinstance(error, errors.QueueTimeout)
        assert "not loaded" in error.message
        assert error.retry_after_ms == pytest.approx(18_000, abs=1000)
        await asyncio.sleep(LOAD_S)
        assert mesh.orc.registry.serves("big")
        assert rack.loads == ["big"]

    story(told, tmp_path)


# --- warm ones first


def test_warm_rack_is_waited_for_where_that_is_sooner(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        warm = await mesh.joins("r1", models=("big",), cold=(), capacity=1)
        warm.answer_seconds = 1.0
        cold = await mesh.joins("r2")
        answers = await asyncio.gather(*mesh.asks(times=4))
        assert {answer["workerId"] for answer in answers} == {"r1"}
        assert cold.loads == []

    story(told, tmp_path)


def test_copy_is_loaded_where_the_queue_takes_longer_than_that(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        warm = await mesh.joins("r1", models=("big",), cold=(), capacity=1)
        warm.answer_seconds = 5.0
        idle = await mesh.joins("r2", capacity=1)
        busy = await mesh.joins("r3", models=("small",))
        busy.hold()
        work = mesh.asks("small")
        await mesh.ask()  # how long one answer takes is known now
        answers = await asyncio.gather(*mesh.asks(times=10))
        assert {answer["workerId"] for answer in answers} == {"r1", "r2"}
        assert (idle.loads, busy.loads) == (["big"], [])
        busy.let_go()
        await asyncio.gather(*work)

    story(told, tmp_path)


def test_no_copy_is_loaded_where_others_are_served(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        warm = await mesh.joins("r1", models=("big",), cold=(), capacity=1)
        warm.answer_seconds = 5.0
        busy = await mesh.joins("r2", models=("small",))
        busy.hold()
        work = mesh.asks("small")
        await mesh.ask()
        await asyncio.gather(*mesh.asks(times=10))
        assert busy.loads == []
        busy.let_go()
        await asyncio.gather(*work)

    story(told, tmp_path, routing_queueTimeout="600000")


def test_failure_of_the_warm_rack_is_no_reason_to_load_a_copy(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        warm = await mesh.joins("r1", models=("big",), cold=())
        warm.failure = errors.Unavailable("the power failed")
        cold = await mesh.joins("r2")
        assert "power" in (await mesh.refused()).message
        assert cold.loads == []

    story(told, tmp_path)


def test_cold_rack_steps_in_while_the_warm_one_is_out_of_service(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        warm = await mesh.joins("r1", models=("big",), cold=(), capacity=1)
        cold = await mesh.joins("r2")
        warm.hold()
        first, second = mesh.asks(times=2)
        await eventually(lambda: mesh.waiting() == 1, SOON)
        mesh.orc.hold({"workerId": "r1"}, DRAIN)
        assert (await second)["workerId"] == "r2"
        assert cold.loads == ["big"]
        warm.let_go()
        assert (await first)["workerId"] == "r1"

    story(told, tmp_path)


def test_fallback_answers_where_the_load_fails_and_not_before(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.joins("r1", models=("small",))
        answer = await mesh.ask()
        assert (answer["workerId"], answer.get("modelId")) == ("r1", None)
        rack.shelf.unload("big")
        rack.offer_changed()
        rack.broken = "no memory"
        await eventually(lambda: not mesh.orc.registry.serves("big"), SOON)
        assert (await mesh.ask())["modelId"] == "small"

    story(told, tmp_path, routing_fallbacks='{"big": ["small"]}')


# --- models that are put out again


def test_who_waits_for_a_rack_that_leaves_is_told(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.joins("r1", models=("big",), cold=(), capacity=1)
        rack.hold()
        first, second = mesh.asks(times=2)
        await eventually(lambda: mesh.waiting() == 1, SOON)
        mesh.orc.unregister("r1")
        with pytest.raises(errors.NoWorkersAvailable):
            await asyncio.wait_for(second, SOON)
        rack.let_go()
        await asyncio.wait((first,))

    story(told, tmp_path)


def test_model_that_is_put_out_while_requests_wait_for_it_is_loaded_again(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.joins("r1", models=("big",), cold=(), capacity=1)
        rack.hold()
        tasks = mesh.asks(times=2)
        await eventually(lambda: mesh.waiting() == 1, SOON)
        rack.shelf.unload("big")
        rack.offer_changed()
        await eventually(lambda: rack.loads == ["big"], SOON)
        rack.let_go()
        assert [answer["workerId"] for answer in await asyncio.gather(*tasks)] == ["r1", "r1"]

    story(told, tmp_path)


def test_model_that_was_put_out_is_loaded_again(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.joins("r1", models=("small",), room=1)
        await mesh.ask("big")
        assert list(rack.shelf.cold) == ["small"]
        await mesh.ask("small")
        assert rack.loads == ["big", "small"]

    story(told, tmp_path)


def test_request_that_finds_its_model_put_out_waits_for_it_to_be_loaded(tmp_path: Path) -> None:
    """The rack has put it out and nobody knows yet."""

    async def told(mesh: Mesh) -> None:
        rack = await mesh.joins("r1", models=("big",), cold=())
        rack.shelf.unload("big")
        answers = await asyncio.gather(*mesh.asks(times=50))
        assert {answer["workerId"] for answer in answers} == {"r1"}
        assert {answer["attempts"] for answer in answers} <= {1, 2}
        assert rack.loads == ["big"]

    story(told, tmp_path, routing_retryBudgetMin="0", routing_retryBudgetShare="0")


def test_request_for_a_model_that_went_for_good_is_refused_with_the_reason(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.joins("r1", models=("big", "small"), cold=())
        rack.shelf.unload("big")
        del rack.shelf.cold["big"]
        error = await mesh.refused()
        assert isinstance(error, errors.NoWorkersAvailable)
        assert error.data["attempts"] == 1

    story(told, tmp_path)


def test_two_models_that_share_one_place_are_both_served(tmp_path: Path) -> None:
    async def told(mesh: Mesh) -> None:
        rack = await mesh.joins("r1", cold=("a", "b"), room=1, capacity=1)
        rack.answer_seconds = 1.0
        tasks = [*mesh.asks("a", times=5), *mesh.asks("b", times=5)]
        await asyncio.gather(*tasks)
        assert rack.loads[:2] == ["a", "b"]
        assert mesh.orc.loader.under_way == {}

    story(told, tmp_path)
