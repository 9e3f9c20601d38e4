"""A stream whose rack is lost goes on at another: its caller reads the same items, the same final value and
the same ids as if nothing had happened, whatever it was that ended the first rack, and whatever the task.

With simulated racks, which make their answer again and leave out what was said. In virtual time.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.fakes.aio import eventually, run
from tests.fakes.context import Site
from tests.fakes.sim_rack import MortalRack, settings_of
from tests.fakes.streaming import quiet
from wrk_base import errors
from wrk_base.rpc.peers import Peers
from wrk_base.rpc.streams import Stream
from wrk_orchestrator.orchestrator import OrchestratorWorker

ASKED: dict[str, Any] = {
    "raw": {"prompt": "once upon a time"},
    "chat": {
        "messages": [{"role": "user", "content": "once"}],
        "stream_options": {"include_usage": True},
    },
    "completion": {"prompt": "once upon a time"},
    "response": {"input": "once upon a time"},
}
ENDS = ("crash", "pause", "stop")


class Mesh(Site):
    """An orchestrator and simulated racks that say a word in 10 ms."""

    orc: OrchestratorWorker
    asker: Peers
    racks: dict[str, MortalRack]

    async def __aenter__(self) -> Mesh:
        return self

    async def open(self, count: int = 3, sim: dict[str, str] | None = None, **flags: str) -> None:
        self.orc = await self.orchestrator(flags=flags)
        self.asker, self.racks = self.caller(), {}
        for number in range(count):
            await self.add(f"r{number + 1}", **(sim or {}))

    async def add(self, name: str, **sim: str) -> None:
        """A further rack, in service."""
        made = settings_of(*{"words": "40", "interval": "10", "latency": "1", **sim}.items())
        context = self.context(name, "rack", flags={"stop.drainTimeout": "100"})
        self.racks[name] = await self.start(MortalRack(replace(context, section=made)))
        await eventually(lambda: self.orc.balancer.limit(name))

    def stream(self, task: str = "raw", asked: Any = None, **options: Any) -> Stream:
        body = {"modelId": "sim-model", "inputData": asked or ASKED[task]}
        body["options"] = {"task": task, **options}
        return self.asker.stream(self.orc.endpoint, "routeInferenceRequest", body, timeout=30.0, idle=30.0)

    def busy(self) -> str:
        """The rack that makes an answer now."""
        (name,) = (name for name, rack in self.racks.items() if rack.running)
        return name

    async def end(self, name: str, how: str) -> None:
        rack = self.racks.pop(name)
        if how == "crash":
            await self.crash(rack)
        elif how == "pause":
            self.network.pause(rack.endpoint)
        else:
            self._workers.remove(rack)
            await rack.stop()

    async def over(self) -> None:
        await quiet()
        assert not self.orc.admission.waiting
        assert self.orc.balancer.leases == 0
        assert self.orc.router.kept.used == 0


Story = Callable[[Mesh], Coroutine[Any, Any, None]]


def told(story: Story, directory: Path, **how: Any) -> None:
    async def tell() -> None:
        async with Mesh(directory) as mesh:
            await mesh.open(**how)
            await story(mesh)
            await mesh.over()

    run(tell(), "virtual", within=10_000.0)


async def read(mesh: Mesh, stream: Stream, losses: dict[int, str]) -> list[Any]:
    """All its items; behind as many of them as `losses` says, its rack ends."""
    items: list[Any] = []
    async for item in stream:
        items.append(item)
        if len(items) in losses:
            await mesh.end(mesh.busy(), losses[len(items)])
    return items


def without_ids(told: Any) -> Any:
    """What two answers have in common: not their ids, nor when they began, nor which rack ended them."""
    if isinstance(told, bytes):
        return re.sub(rb'[0-9a-f]{24}|"created_at":[0-9]+', b"", told)
    private = ("id", "created", "worker", "created_at", "item_id")
    return (
        {key: value for key, value in told.items() if key not in private} if isinstance(told, dict) else told
    )


# --- nobody notices


@pytest.mark.parametrize("task", ASKED)
@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("after", [1, 17])
def test_a_stream_goes_on_as_if_nothing_had_happened(tmp_path: Path, task: str, how: str, after: int) -> None:
    async def story(mesh: Mesh) -> None:
        undisturbed = mesh.stream(task)
        expected = [item async for item in undisturbed]
        stream = mesh.stream(task)
        items = await read(mesh, stream, {after: how})
        assert [without_ids(item) for item in items] == [without_ids(item) for item in expected]
        if task != "response":  # which has ids within
            assert without_ids(stream.value) == without_ids(undisturbed.value)
        assert stream.facts["attempts"] == 2
        assert stream.facts["workerId"] in mesh.racks
        assert mesh.orc.router.counters["moved"] == 1
        if task in ("chat", "completion"):
            assert len({item["id"] for item in items} | {stream.value["id"]}) == 1
            assert len({item["created"] for item in items}) == 1
            assert stream.value["usage"] == undisturbed.value["usage"]

    told(story, tmp_path)


def test_the_role_comes_once_and_usage_at_the_end(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        items = await read(mesh, mesh.stream("chat"), {1: "crash"})
        deltas = [choice["delta"] for item in items for choice in item["choices"]]
        assert [delta for delta in deltas if "role" in delta] == [deltas[0]]
        assert [item["usage"] is not None for item in items] == [False] * (len(items) - 1) + [True]

    told(story, tmp_path)


def test_events_that_rack_and_caller_number_go_on_with_their_numbers(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        items = await read(mesh, mesh.stream("response"), {9: "crash"})
        assert all(b'"sequence_number":%d' % number in item for number, item in enumerate(items))
        assert len({item.split(b"resp_")[1][:24] for item in items if b"resp_" in item}) == 1

    told(story, tmp_path)


def test_a_stream_moves_as_often_as_retries_are_allowed(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        stream = mesh.stream()
        items = await read(mesh, stream, {5: "crash", 11: "stop", 30: "crash"})
        assert [item["index"] for item in items] == list(range(40))
        assert stream.facts["attempts"] == 4

    told(story, tmp_path, count=4)


def test_streams_cut_anywhere_say_what_an_undisturbed_one_says(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        expected = [item["text"] async for item in mesh.stream()]
        chance = Random(7)
        for number in range(20):
            items = await read(mesh, mesh.stream(), {chance.randint(1, 39): "crash"})
            assert [item["text"] for item in items] == expected
            await mesh.add(f"again{number}")

    told(story, tmp_path)


# --- credit


def test_a_slow_reader_of_a_moved_stream_is_sent_no_more_than_it_takes(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        stream = mesh.stream(asked={"prompt": "long", "sim": {"words": 2000, "interval": 0}})
        items: list[int] = []
        async for item in stream:
            items.append(item["index"])
            if len(items) == 3:
                await quiet()  # 32 are here, and 29 of them unread
                await mesh.end(mesh.busy(), "crash")
                await eventually(lambda: mesh.orc.router.counters["moved"])
                await quiet()
        assert items == list(range(2000)), "the caller's own window throws out who sends too much"

    told(story, tmp_path)


def test_who_has_all_that_it_granted_waits_for_its_frozen_rack_until_it_reads_on(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        stream = mesh.stream(asked={"prompt": "long", "sim": {"words": 100, "interval": 0}})
        reading = aiter(stream)
        items = [await anext(reading)]
        await quiet()
        (name,) = (name for name in mesh.racks if mesh.orc.balancer.load(name))
        mesh.network.pause(mesh.racks[name].endpoint)
        await eventually(lambda: mesh.orc.health_monitor.state(name) == "suspect")
        assert mesh.orc.router.counters["moved"] == 0, "nothing is missing yet"
        items += [item async for item in reading]
        assert [item["index"] for item in items] == list(range(100))
        assert mesh.orc.router.counters["moved"] == 1

    told(story, tmp_path)


def test_who_reads_nothing_for_long_behind_a_move_blames_nobody(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        stream = mesh.stream(asked={"prompt": "long", "sim": {"words": 100, "interval": 0}})
        reading = aiter(stream)
        items = [await anext(reading)]
        await quiet()
        await mesh.end(mesh.busy(), "crash")
        await asyncio.sleep(60.0)
        items += [item async for item in reading]
        assert [item["index"] for item in items] == list(range(100))
        assert stream.facts["attempts"] == 2

    told(story, tmp_path, **{"routing.streamIdleTimeout": "5000"})


def test_a_move_is_counted_as_a_retry_and_not_refused_as_one(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        stream = mesh.stream()
        assert len(await read(mesh, stream, {3: "crash", 9: "crash"})) == 40
        budget = mesh.orc.router.book("sim-model").budget
        now = asyncio.get_running_loop().time()
        assert sum(budget.spend(now) for _ in range(20)) == 10 - 2

    told(story, tmp_path, **{"routing.retryBudgetMin": "1"})


def test_a_stream_that_moves_stays_with_its_model(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        await mesh.add("other", models="other-model")
        stream = mesh.stream()
        error = await broken(mesh, stream)
        assert list(error.data["workers"]) == ["r1"]

    told(story, tmp_path, count=1, **{"routing.fallbacks": '{"sim-model": ["other-model"]}'})


def test_who_leaves_a_long_stream_is_no_deadline_that_its_rack_missed(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        body = {"modelId": "sim-model", "inputData": {"prompt": "p", "sim": {"words": 100, "interval": 1000}}}
        method = "routeInferenceRequest"
        async for item in mesh.asker.stream(mesh.orc.endpoint, method, body, timeout=5.0, idle=30.0):
            if item["index"] == 10:
                break
        await quiet()
        now = asyncio.get_running_loop().time()
        assert mesh.orc.health_monitor.describe("r1", now)["deadlineMisses"] == 0

    told(story, tmp_path, count=1)


# --- what cannot move says how far it came


async def broken(mesh: Mesh, stream: Stream, after: int = 5, how: str = "crash") -> errors.WrkError:
    got: list[int] = []

    async def reading() -> None:
        async for item in stream:
            got.append(item["index"])
            if len(got) == after:
                await mesh.end(mesh.busy(), how)

    with pytest.raises(errors.WrkError) as caught:
        await reading()
    assert got == list(range(len(got)))
    assert caught.value.data["items"] == len(got)
    assert not caught.value.not_started
    return caught.value


def test_without_another_rack_it_ends_with_the_count(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        error = await broken(mesh, mesh.stream())
        assert type(error) is errors.Unavailable
        assert list(error.data["workers"]) == ["r1"]

    told(story, tmp_path, count=1)


@pytest.mark.parametrize("how", ["crash", "stop"])
def test_a_stream_of_racks_that_cannot_go_on_ends_with_the_count(tmp_path: Path, how: str) -> None:
    async def story(mesh: Mesh) -> None:
        error = await broken(mesh, mesh.stream(), how=how)
        assert type(error) is errors.Unavailable
        assert error.data["attempts"] == 1

    told(story, tmp_path, sim={"resumable": "false"})


def test_a_stream_that_must_not_run_twice_does_not_move(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        assert (await broken(mesh, mesh.stream(repeatable=False))).data["attempts"] == 1

    told(story, tmp_path)


@pytest.mark.parametrize("limit", ["routing.resumeBytes", "routing.resumeTotal"])
def test_a_stream_beyond_what_is_kept_does_not_move_and_keeps_nothing(tmp_path: Path, limit: str) -> None:
    async def story(mesh: Mesh) -> None:
        error = await broken(mesh, mesh.stream(), after=20)
        assert error.data["attempts"] == 1
        assert mesh.orc.router.kept.used == 0

    told(story, tmp_path, **{limit: "1000"})


def test_what_is_kept_is_bounded_and_given_back(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        kept = mesh.orc.router.kept
        async for item in mesh.stream():
            assert item["index"] == 39 or 0 < kept.used <= 40 * 100
        assert kept.used == 0
        reading = aiter(mesh.stream())
        await anext(reading)
        assert kept.used
        del reading
        await eventually(lambda: not kept.used)

    told(story, tmp_path)


def test_a_rack_that_would_say_something_else_says_nothing(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        stream = mesh.stream()
        reading = asyncio.create_task(broken(mesh, stream, after=30))
        await eventually(lambda: stream.received)
        await mesh.add("other", seed="8")
        error = await reading
        assert type(error) is errors.Unavailable
        assert "differs" in error.message
        assert error.data["attempts"] == 2

    told(story, tmp_path, count=1)


def test_a_stream_waits_for_a_full_rack_that_can_go_on(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        (first,) = mesh.racks
        stream = mesh.stream()
        reading = asyncio.create_task(read(mesh, stream, {}))
        await eventually(lambda: stream.received)
        await mesh.add("r2", capacity="1")
        other = asyncio.create_task(read(mesh, mesh.stream(), {}))
        await eventually(lambda: mesh.racks["r2"].running)
        await mesh.end(first, "crash")
        await eventually(lambda: mesh.orc.admission.waiting)
        assert not reading.done()
        assert len(await other) == len(await reading) == 40
        assert stream.facts["attempts"] == 2

    told(story, tmp_path, count=1, sim={"capacity": "1"})


# --- with an idempotency key


@pytest.mark.parametrize("how", ENDS)
def test_who_comes_again_gets_all_of_a_stream_that_moved(how: str, tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        first = mesh.stream(idempotencyKey="k")
        items = await read(mesh, first, {5: how})
        assert len(items) == 40
        assert (first.facts["attempts"], first.facts["idempotency"]) == (2, "ran")
        again = mesh.stream(idempotencyKey="k")
        assert await read(mesh, again, {}) == items
        assert again.value == first.value
        assert (again.facts["workerId"], again.facts["idempotency"]) == (first.facts["workerId"], "stored")
        assert sum(rack.requests for rack in mesh.racks.values()) == 1

    told(story, tmp_path)


async def moved_to_who_has_it(mesh: Mesh, task: str, got: list[Any]) -> Stream:
    """A stream whose rack is lost behind item 7, where the other one has answered the same already."""
    first = mesh.stream(task, idempotencyKey="k")
    await read(mesh, first, {})
    has_it = str(first.facts["workerId"])
    mesh.orc.balancer.set_limit(has_it, 0)
    second = mesh.stream(task, idempotencyKey="k")
    async for item in second:
        got.append(item)
        if len(got) == 7:
            mesh.orc.balancer.set_limit(has_it, 4)
            await mesh.end(mesh.busy(), "crash")
    assert second.facts["workerId"] == has_it
    return second


def test_a_stream_that_moves_to_a_rack_which_has_it_gets_the_rest_of_that(tmp_path: Path) -> None:
    async def story(mesh: Mesh) -> None:
        got: list[Any] = []
        stream = await moved_to_who_has_it(mesh, "raw", got)
        assert [item["index"] for item in got] == list(range(40))
        assert stream.facts["idempotency"] == "stored"
        assert [rack.requests for rack in mesh.racks.values()] == [1]

    told(story, tmp_path, count=2)


def test_what_another_answer_says_never_follows(tmp_path: Path) -> None:
    """Chats have ids: what the other rack keeps is not the one that was begun."""

    async def story(mesh: Mesh) -> None:
        got: list[Any] = []
        with pytest.raises(errors.Unavailable, match="another answer") as caught:
            await moved_to_who_has_it(mesh, "chat", got)
        assert len(got) == caught.value.data["items"] == 7
        assert [rack.requests for rack in mesh.racks.values()] == [1]

    told(story, tmp_path, count=2)
