"""A request that goes on at a second worker before the first has failed: since that one is silent, or late.

In virtual time, with an orchestrator and racks that answer when they are let go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.aio import eventually, run
from tests.fakes.context import FakeRack, Offer, Site
from tests.fakes.streaming import quiet
from wrk_base import errors
from wrk_base.rpc.peers import Peers
from wrk_orchestrator.hedging import KNOWN_AFTER
from wrk_orchestrator.orchestrator import OrchestratorWorker


class Mesh(Site):
    """An orchestrator, two racks unless said otherwise, and somebody who asks."""

    orc: OrchestratorWorker
    asker: Peers
    racks: dict[str, FakeRack]

    async def __aenter__(self) -> Mesh:
        return self

    async def open(self, count: int = 2, capacity: int = 4, **flags: str) -> None:
        self.orc = await self.orchestrator(flags=flags)
        self.asker, self.racks = self.caller(), {}
        for number in range(count):
            await self.add(f"r{number + 1}", capacity)

    async def add(self, name: str, capacity: int = 4) -> None:
        self.racks[name] = await self.rack(name, Offer(capacity=capacity))
        await eventually(lambda: self.orc.balancer.limit(name))

    async def ask(self, seconds: float = 60.0, **options: Any) -> dict[str, Any]:
        body = {"modelId": "m1", "inputData": "x", "options": options}
        answer = await self.asker.request(self.orc.endpoint, "routeInferenceRequest", body, timeout=seconds)
        return dict(answer)

    async def asking(self, **options: Any) -> asyncio.Task[dict[str, Any]]:
        """A request that a rack holds."""
        before = self.held()
        task = asyncio.create_task(self.ask(**options))
        await eventually(lambda: len(self.held()) > len(before))
        return task

    async def asking_of(self, name: str, **options: Any) -> asyncio.Task[dict[str, Any]]:
        """The same, held by this rack, which holds no other; the others answer."""
        self.racks[name].hold()
        while True:
            task = asyncio.create_task(self.ask(**options))
            await eventually(lambda task=task: task.done() or self.racks[name].running)
            if not task.done():
                return task

    def held(self) -> list[str]:
        return [name for name, rack in self.racks.items() for _ in range(rack.running)]

    def counts(self, *names: str) -> tuple[int, ...]:
        return tuple(self.orc.router.counters[name] for name in names)

    async def learn(self, requests: int = KNOWN_AFTER) -> None:
        """Answers enough for the orchestrator to know how long they take: about 100 ms."""
        for rack in self.racks.values():
            rack.hold()
        for _ in range(requests):
            task = await self.asking()
            await asyncio.sleep(0.1)
            for rack in self.racks.values():
                rack.let_go()
            await task
            for rack in self.racks.values():
                rack.hold()
        for rack in self.racks.values():
            rack.let_go()

    async def over(self) -> None:
        for rack in self.racks.values():
            rack.let_go()
        await quiet()
        assert self.orc.balancer.leases == 0
        assert all(self.orc.balancer.load(name) == 0 for name in self.racks)


Story = Callable[[Mesh], Coroutine[Any, Any, None]]


def told(story: Story, directory: Path, **how: Any) -> None:
    async def tell() -> None:
        async with Mesh(directory) as mesh:
            await mesh.open(**how)
            await story(mesh)
            await mesh.over()

    run(tell(), "virtual", within=10_000.0)


# --- silent workers


def test_a_request_leaves_a_frozen_rack_when_its_beats_are_missed(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        loop = asyncio.get_running_loop()
        waiting = await mesh.asking_of("r1")
        frozen = loop.time()
        mesh.network.pause(mesh.racks["r1"].endpoint)
        answer = await waiting
        assert (answer["result"], answer["workerId"], answer["attempts"]) == ({"from": "r2"}, "r2", 2)
        assert loop.time() - frozen < 3.0, "not when it is given up, which is later"
        assert mesh.counts("moved", "retried", "failed") == (1, 0, 0)
        assert mesh.orc.health_monitor.describe("r1", loop.time())["callFailures"] == 0
        mesh.network.resume(mesh.racks["r1"].endpoint)
        await eventually(lambda: not mesh.racks["r1"].running)
        assert mesh.racks["r1"].cancelled == 1, "it is told that nobody waits"

    told(story, tmp_path)


def test_the_late_answer_of_a_rack_that_was_left_is_counted_and_dropped(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        waiting = await mesh.asking_of("r1")
        mesh.network.pause(mesh.racks["r1"].endpoint)
        mesh.racks["r1"].let_go()  # its answer is made, and lies in its buffers
        answer = await waiting
        assert answer["workerId"] == "r2"
        before = mesh.orc.peers.stats()["lateAnswers"]
        mesh.network.resume(mesh.racks["r1"].endpoint)
        await eventually(lambda: mesh.orc.peers.stats()["lateAnswers"] == before + 1)

    told(story, tmp_path)


def test_without_room_elsewhere_it_waits_on_and_goes_when_there_is_some(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        waiting = await mesh.asking()
        (first,) = mesh.held()
        mesh.network.pause(mesh.racks[first].endpoint)
        await eventually(lambda: mesh.orc.health_monitor.state(first) == "suspect")
        assert mesh.counts("moved", "failed") == (0, 0)
        await mesh.add("late")
        assert (await waiting)["workerId"] == "late"

    async def held(mesh: Mesh) -> None:
        mesh.racks["r1"].hold()
        await story(mesh)

    told(held, tmp_path, count=1)


def test_without_anybody_else_a_rack_that_wakes_in_time_has_lost_nothing(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        waiting = await mesh.asking_of("r1")
        mesh.network.pause(mesh.racks["r1"].endpoint)
        await eventually(lambda: mesh.orc.health_monitor.state("r1") == "suspect")
        mesh.network.resume(mesh.racks["r1"].endpoint)
        mesh.racks["r1"].let_go()
        answer = await waiting
        assert (answer["workerId"], answer["attempts"]) == ("r1", 1)
        assert mesh.counts("moved", "retried", "failed") == (0, 0, 0)

    told(story, tmp_path, count=1)


def test_what_must_not_run_twice_stays(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        waiting = await mesh.asking_of("r1", repeatable=False)
        mesh.network.pause(mesh.racks["r1"].endpoint)
        await eventually(lambda: mesh.orc.health_monitor.state("r1") == "suspect")
        mesh.network.resume(mesh.racks["r1"].endpoint)
        mesh.racks["r1"].let_go()
        assert (await waiting)["workerId"] == "r1"
        assert mesh.counts("moved") == (0,)

    told(story, tmp_path)


def test_leaving_takes_from_the_retry_budget_and_stays_where_that_is_spent(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        mesh.racks["r1"].hold()
        tasks = [asyncio.create_task(mesh.ask()) for _ in range(8)]
        await eventually(lambda: mesh.racks["r1"].running == 4)
        mesh.network.pause(mesh.racks["r1"].endpoint)
        await eventually(lambda: mesh.orc.health_monitor.state("r1") == "suspect")
        assert mesh.counts("moved") == (1,), "a fifth of eight requests"
        mesh.network.resume(mesh.racks["r1"].endpoint)
        mesh.racks["r1"].let_go()
        answers = await asyncio.gather(*tasks)
        assert sorted(answer["attempts"] for answer in answers) == [1] * 7 + [2]

    told(story, tmp_path, **{"routing.retryBudgetMin": "0"})


def test_whoever_leaves_meanwhile_stops_both(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        waiting = await mesh.asking_of("r1")
        mesh.racks["r2"].hold()
        mesh.network.pause(mesh.racks["r1"].endpoint)
        await eventually(lambda: mesh.racks["r2"].running)
        waiting.cancel()
        await eventually(lambda: not mesh.racks["r2"].running)
        mesh.network.resume(mesh.racks["r1"].endpoint)
        await eventually(lambda: not mesh.racks["r1"].running)

    told(story, tmp_path)


# --- late workers


def test_a_late_request_is_sent_to_a_second_rack_and_the_first_answer_wins(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        await mesh.learn()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        waiting = await mesh.asking_of("r1", explain=True)
        asked = loop.time()
        answer = await waiting
        assert (answer["workerId"], answer["attempts"]) == ("r2", 2)
        assert 0.05 < loop.time() - asked < 0.3, begun
        assert [(hop["workerId"], hop["outcome"]) for hop in answer["explain"]["hops"]] == [
            ("r1", "left"),
            ("r2", "ok"),
        ]
        assert mesh.counts("hedged", "retried", "failed") == (1, 0, 0)
        await eventually(lambda: mesh.racks["r1"].cancelled == 1)

    told(story, tmp_path)


def test_the_first_rack_may_still_win(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        await mesh.learn()
        waiting = await mesh.asking_of("r1")
        mesh.racks["r2"].hold()
        await eventually(lambda: mesh.racks["r2"].running)
        mesh.racks["r1"].let_go()
        answer = await waiting
        assert (answer["workerId"], answer["attempts"]) == ("r1", 2)
        await eventually(lambda: mesh.racks["r2"].cancelled == 1)

    told(story, tmp_path)


@pytest.mark.parametrize("fails", ["r1", "r2"])
def test_an_error_of_one_waits_for_the_other(tmp_path: Path, fails: str) -> None:
    async def story(mesh: Mesh) -> None:
        (other,) = {"r1", "r2"} - {fails}
        await mesh.learn()
        waiting = await mesh.asking_of("r1")
        mesh.racks["r2"].hold()
        await eventually(lambda: mesh.racks["r2"].running)
        mesh.racks[fails].failure = errors.Internal("it failed")
        mesh.racks[fails].let_go()
        await eventually(lambda: not mesh.racks[fails].running)
        assert not waiting.done()
        mesh.racks[other].let_go()
        assert (await waiting)["workerId"] == other

    told(story, tmp_path)


def test_where_both_fail_the_last_error_is_told(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        await mesh.learn()
        waiting = await mesh.asking_of("r1")
        mesh.racks["r2"].hold()
        await eventually(lambda: mesh.racks["r2"].running)
        for rack in mesh.racks.values():
            rack.failure = errors.Internal("it failed")
            rack.let_go()
        with pytest.raises(errors.Internal) as caught:
            await waiting
        assert sorted(caught.value.data["workers"]) == ["r1", "r2"]
        assert caught.value.data["attempts"] == 2

    told(story, tmp_path)


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({"repeatable": False}, {}),
        ({"idempotencyKey": "its loser would run on"}, {}),
        ({}, {"routing.hedgeShare": "0"}),
        ({}, {"maxRetries": "0"}),
        ({}, {"routing.retryBudgetMin": "0", "routing.retryBudgetShare": "0"}),
        ({}, {"capacity": 1}),
    ],
    ids=["not repeatable", "a key", "never", "no retries", "no budget", "the last free slot"],
)
def test_nobody_else_is_asked_where(tmp_path: Path, options: dict[str, Any], flags: dict[str, Any]) -> None:
    async def story(mesh: Mesh) -> None:
        await mesh.learn()
        waiting = await mesh.asking_of("r1", **options)
        await asyncio.sleep(1.5)
        mesh.racks["r1"].let_go()
        answer = await waiting
        assert (answer["workerId"], answer["attempts"]) == ("r1", 1)
        assert mesh.counts("hedged") == (0,)

    told(story, tmp_path, **flags)


def test_hedges_are_few_however_many_requests_are_late(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        await mesh.learn()
        for rack in mesh.racks.values():
            rack.hold()
        saved = int(KNOWN_AFTER * 0.05)
        tasks = [asyncio.create_task(mesh.ask()) for _ in range(20)]
        await asyncio.sleep(1.5)
        assert mesh.counts("hedged")[0] <= saved + 1
        assert mesh.counts("hedged")[0] >= saved - 1
        for rack in mesh.racks.values():
            rack.let_go()
        answers = await asyncio.gather(*tasks)
        assert sum(answer["attempts"] for answer in answers) == 20 + mesh.counts("hedged")[0]

    told(story, tmp_path, count=3, capacity=16)


def test_no_timer_is_left_when_the_orchestrator_stops(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        await mesh.learn()
        waiting = await mesh.asking_of("r1", repeatable=False)
        mesh.racks["r1"].let_go()
        await waiting
        mesh.orc.router.close()
        mesh.orc.router.close()

    told(story, tmp_path)
