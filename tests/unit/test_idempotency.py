"""Requests with an idempotency key, from callers through orchestrators to racks and back: what comes again
gets what ran already, whoever is asked; and what had to run again says so."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.aio import eventually
from tests.fakes.counting_rack import CountingMesh, refused, said, told
from tests.fakes.streaming import quiet
from wrk_base import callers, contract, errors
from wrk_base.results import ENTRY_BYTES
from wrk_base.rpc import wire
from wrk_base.rpc.identity import PeerInfo
from wrk_base.rpc.streams import Stream


async def read(stream: Stream) -> list[int]:
    return [item["item"] async for item in stream]


# --- the same again


def test_what_comes_again_through_any_orchestrator_gets_what_is_stored(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        first = await mesh.ask("k", at=0)
        assert said(first) == ("ran", 1)
        for at in (1, 0, 1):
            again = await mesh.ask("k", at=at)
            assert said(again) == ("stored", 1)
            assert again["workerId"] == first["workerId"]
        assert mesh.ran == 1

    told(story, tmp_path, racks=5, orchestrators=2)


def test_what_comes_while_it_runs_waits_for_the_same_result(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        for rack in mesh.racks.values():
            rack.hold()
        first = mesh.ask("k", {"wait": True}, at=0)
        rack = await mesh.runs()
        others = [mesh.ask("k", {"wait": True}, at=at) for at in (0, 1, 1)]
        await quiet()
        assert rack.running == 1
        rack.let_go()
        assert said(await first) == ("ran", 1)
        assert {said(await other) for other in others} == {("attached", 1)}
        assert mesh.ran == 1

    told(story, tmp_path, racks=5, orchestrators=2)


def test_a_rack_that_is_full_with_the_very_request_is_asked_first(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        for rack in mesh.racks.values():
            rack.hold()
        first = mesh.ask("k", {"wait": True})
        rack = await mesh.runs()
        again = mesh.ask("k", {"wait": True})
        await quiet()
        assert mesh.ran == 1
        rack.let_go()
        assert [said(await first), said(await again)] == [("ran", 1), ("attached", 1)]

    told(story, tmp_path, racks=3, capacity=1)


def test_a_full_rack_that_does_not_know_it_costs_no_attempt(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        for rack in mesh.racks.values():
            rack.hold()
        first = mesh.ask("k", {"wait": True})
        full = await mesh.runs()
        # Another request whose key belongs to the same rack goes to the next one, at its first attempt.
        owner = mesh.orcs[0].balancer
        key = next(key for key in map(str, range(99)) if _owner(mesh, key) == full.identity.worker_id)
        assert owner.load(full.identity.worker_id) == 1
        other = await mesh.ask(key, maxRetries=0)
        assert other["workerId"] != full.identity.worker_id
        assert other["attempts"] == 1
        assert mesh.orcs[0].router.counters["retried"] == 0
        full.let_go()
        await first

    told(story, tmp_path, racks=3, capacity=1)


def test_where_all_are_full_it_waits_for_its_turn_like_others(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        rack = mesh.racks["r1"]
        rack.hold()
        first = mesh.ask("k", {"wait": True})
        await mesh.runs()
        other = mesh.ask("other")
        await quiet()
        assert mesh.orcs[0].admission.waiting == 1
        rack.let_go()
        await first
        assert said(await other) == ("ran", 2)

    told(story, tmp_path, capacity=1)


def _owner(mesh: CountingMesh, key: str) -> str:
    """The rack that a key belongs to."""
    balancer = mesh.orcs[0].balancer
    pool = balancer._pools.find("m1", None)
    assert pool is not None
    found = balancer._pools.by_key(pool).owner((), key)
    assert found is not None
    return found.worker_id


def test_without_a_key_everything_runs_and_nothing_is_said(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        answers = [await mesh.ask(None) for _ in range(3)]
        assert mesh.ran == 3
        assert all("idempotency" not in answer for answer in answers)

    told(story, tmp_path, racks=2)


# --- whose it is, and what it is


def test_callers_never_see_each_others_results(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        bob = mesh.caller("bob")
        assert said(await mesh.ask("k")) == ("ran", 1)
        assert said(await mesh.ask("k", by=bob)) == ("ran", 2)
        assert said(await mesh.ask("k", by=bob)) == ("stored", 2)
        assert said(await mesh.ask("k")) == ("stored", 1)

    told(story, tmp_path)


def test_a_caller_cannot_say_that_it_is_another(tmp_path: Path) -> None:
    """Neither through an orchestrator, which writes its own word over it, nor at the rack."""

    async def story(mesh: CountingMesh) -> None:
        mallory = mesh.caller("mallory")
        alice = callers.peer(PeerInfo("alice", 1, "client"))
        await mesh.ask("k", {"body": 5})
        forged = {
            "modelId": "m1",
            "inputData": {"body": 5},
            "options": {"idempotencyKey": "k"},
            "origin": {"caller": alice, "modelId": "m1"},
        }
        orchestrator, rack = mesh.orcs[0].endpoint, mesh.racks["r1"].endpoint
        assert said(await mallory.request(rack, "runInference", forged, timeout=9.0)) == ("ran", 2)
        routed = await mallory.request(orchestrator, "routeInferenceRequest", forged, timeout=9.0)
        assert said(routed) == ("stored", 2)
        assert said(await mesh.ask("k", {"body": 5})) == ("stored", 1)

    told(story, tmp_path)


def test_who_asks_the_rack_itself_is_the_same_caller(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        assert said(await mesh.ask("k")) == ("ran", 1)
        assert said(await mesh.ask("k", rack="r1")) == ("stored", 1)

    told(story, tmp_path)


@pytest.mark.parametrize(
    "other", [{"wish": {"body": 1}}, {"model": "m2"}, {"task": "chat"}], ids=["input", "model", "task"]
)
def test_the_same_key_for_another_request_is_refused(other: dict[str, Any], tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        mesh.racks["r1"].offer = mesh.racks["r1"].offer.__class__(models=("m1", "m2"))
        mesh.racks["r1"].offer_changed()
        await eventually(lambda: mesh.orcs[0].registry.serves("m2"))
        await mesh.ask("k")
        wish = other.pop("wish", None)
        error = await refused(mesh.ask("k", wish, **other))
        assert isinstance(error, errors.IdempotencyKeyReused)
        assert error.data["attempts"] == 1
        assert mesh.ran == 1

    told(story, tmp_path)


def test_as_a_stream_it_is_another_request(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        await mesh.ask("k", {"items": 1})
        assert isinstance(await refused(read(mesh.stream("k", {"items": 1}))), errors.IdempotencyKeyReused)

    told(story, tmp_path)


def test_an_empty_key_is_refused(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        error = await refused(mesh.ask(""))
        assert isinstance(error, errors.BadRequest)
        assert error.data["field"] == "options.idempotencyKey"

    told(story, tmp_path)


# --- streams


def test_a_stream_is_read_from_the_beginning_and_then_live_by_everybody(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        loop = asyncio.get_running_loop()
        first = mesh.stream("k", {"items": 5}, at=0)
        reading = asyncio.ensure_future(read(first))
        await asyncio.sleep(2.5)  # three items are there
        again = mesh.stream("k", {"items": 5}, at=1)
        items, began = [], loop.time()
        arrived = []
        async for item in again:
            items.append(item["item"])
            arrived.append(round(loop.time() - began, 1))
        assert items == await reading == [0, 1, 2, 3, 4]
        assert arrived[:3] == [0, 0, 0]
        assert arrived[3:] == [0.5, 1.5]
        assert again.value == first.value
        assert (first.facts["idempotency"], again.facts["idempotency"]) == ("ran", "attached")
        stored = mesh.stream("k", {"items": 5}, at=1)
        assert await read(stored) == items
        assert stored.facts["idempotency"] == "stored"
        assert mesh.ran == 1

    told(story, tmp_path, racks=3, orchestrators=2)


def test_a_slow_reader_holds_nobody_up_and_gets_all_of_it(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        wish = {"items": 500, "pause": 0}
        slow = mesh.stream("k", wish)
        items = aiter(slow)
        got = [(await anext(items))["item"]]
        assert await read(mesh.stream("k", wish)) == [*range(500)]
        got += [item["item"] async for item in items]
        assert got == [*range(500)]
        assert mesh.ran == 1

    told(story, tmp_path)


def test_a_whole_answer_is_one_item_again(tmp_path: Path) -> None:
    """Of a handler that does not stream, asked for a stream."""

    async def story(mesh: CountingMesh) -> None:
        wish = {"items": 0}
        for expected in ("ran", "stored"):
            stream = mesh.stream("k", wish)
            assert [item async for item in stream] == []
            assert (stream.value["execution"], stream.facts["idempotency"]) == (1, expected)

    told(story, tmp_path)


def test_a_stream_that_breaks_breaks_for_everybody_at_the_same_item(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        wish = {"items": 3, "raise": "ERR_BAD_REQUEST"}
        for expected in ("ran", "stored"):
            stream = mesh.stream("k", wish)
            error = await refused(read(stream))
            assert isinstance(error, errors.BadRequest)
            assert (stream.received, error.data["items"], error.data["idempotency"]) == (3, 3, expected)
        assert mesh.ran == 1

    told(story, tmp_path)


# --- errors


def test_the_handlers_own_error_is_a_result(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        for expected in ("ran", "stored"):
            error = await refused(mesh.ask("k", {"raise": "ERR_BAD_REQUEST"}))
            assert (error.message, error.data["idempotency"]) == ("as told", expected)
        assert mesh.ran == 1

    told(story, tmp_path)


def test_a_crash_is_logged_once_and_tells_no_secret(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        found = [await refused(mesh.ask("k", {"crash": True})) for _ in range(3)]
        assert {type(error) for error in found} == {errors.Internal}
        assert not any("secret" in error.message for error in found)
        assert mesh.ran == 1
        assert [event for event, _ in mesh.log.events].count("rpc.handler_failed") == 1

    told(story, tmp_path)


@pytest.mark.parametrize("name", ["ERR_UNAVAILABLE", "ERR_CAPACITY_EXCEEDED", "ERR_DEADLINE_EXCEEDED"])
def test_what_is_no_result_may_run_again_but_not_for_who_says_that_it_must_not(
    name: str, tmp_path: Path
) -> None:
    async def story(mesh: CountingMesh) -> None:
        wish = {"raise": name}
        assert type(await refused(mesh.ask("k", wish, rack="r1"))) is errors.BY_NAME[name]
        assert type(await refused(mesh.ask("k", wish, rack="r1"))) is errors.BY_NAME[name]
        assert mesh.ran == 2
        assert type(await refused(mesh.ask("k", wish, rack="r1", repeatable=False))) is errors.AlreadyRan
        assert mesh.ran == 2

    told(story, tmp_path)


def test_what_was_refused_before_it_began_may_run_for_anybody(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        wish = {"raise": "ERR_UPSTREAM_FAILED", "not_started": True}
        for _ in range(2):
            await refused(mesh.ask("k", wish, rack="r1", repeatable=False))
        assert mesh.ran == 2

    told(story, tmp_path)


# --- callers who leave


def test_who_leaves_stops_nothing_while_others_wait(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        rack = mesh.racks["r1"]
        rack.hold()
        first = mesh.ask("k", {"wait": True})
        await mesh.runs()
        second = mesh.ask("k", {"wait": True})
        await quiet()
        first.cancel()
        await quiet()
        rack.let_go()
        assert said(await second) == ("attached", 1)

    told(story, tmp_path)


def test_when_the_last_has_left_it_goes_on_and_is_there_for_who_comes_again(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        rack = mesh.racks["r1"]
        rack.hold()
        first = mesh.ask("k", {"wait": True})
        await mesh.runs()
        first.cancel()
        await quiet()
        assert rack.running == 1
        rack.let_go()
        await quiet()
        assert rack.ended == ["whole"]
        assert said(await mesh.ask("k", {"wait": True})) == ("stored", 1)

    told(story, tmp_path)


def test_without_readers_it_ends_at_the_latest_deadline_that_one_had(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        rack = mesh.racks["r1"]
        rack.hold()
        tasks = [mesh.ask("k", {"wait": True}, timeout=seconds) for seconds in (10.0, 40.0, 20.0)]
        await mesh.runs()
        await quiet()
        for task in tasks:
            task.cancel()
        await asyncio.sleep(39)
        assert rack.running == 1
        await asyncio.sleep(2)
        assert (rack.running, rack.ended) == (0, ["CancelledError"])
        rack.let_go()
        assert said(await mesh.ask("k", {"wait": True})) == ("ran", 2)

    told(story, tmp_path)


def test_a_deadline_ends_it_for_its_caller_and_not_for_others(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        rack = mesh.racks["r1"]
        rack.hold()
        short = mesh.ask("k", {"wait": True}, timeout=5.0)
        await mesh.runs()
        long = mesh.ask("k", {"wait": True}, timeout=50.0)
        assert isinstance(await refused(short), errors.DeadlineExceeded)
        rack.let_go()
        assert said(await long) == ("attached", 1)

    told(story, tmp_path)


def test_a_stream_that_was_left_is_there_whole_for_who_comes_again(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        wish = {"items": 100}
        stream = mesh.stream("k", wish, timeout=5.0)
        assert (await anext(aiter(stream)))["item"] == 0
        await stream.aclose()
        await asyncio.sleep(50)  # long after the deadline, which was for its first item
        again = mesh.stream("k", wish)
        assert await read(again) == [*range(100)]
        assert again.facts["idempotency"] == "attached"
        assert mesh.ran == 1

    told(story, tmp_path)


def test_a_stop_ends_what_nobody_waits_for(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        rack = mesh.racks["r1"]
        rack.hold()
        task = mesh.ask("k", {"wait": True})
        await mesh.runs()
        task.cancel()
        await quiet()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await rack.stop()
        assert rack.running == 0
        assert loop.time() - begun < 2

    told(story, tmp_path)


# --- when it runs again


def test_when_the_rack_is_lost_the_next_one_runs_it_and_says_so(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        first = await mesh.ask("k", at=0)
        await mesh.crash(mesh.racks.pop(first["workerId"]))
        again = await mesh.ask("k", at=1)
        assert said(again) == ("ran", 1)
        assert again["workerId"] != first["workerId"]
        assert said(await mesh.ask("k", at=0))[0] == "stored"

    told(story, tmp_path, racks=3, orchestrators=2)


def test_a_retry_after_a_loss_carries_the_key_on(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        for rack in mesh.racks.values():
            rack.hold()
        task = mesh.ask("k", {"wait": True})
        lost = await mesh.runs()
        for rack in mesh.racks.values():
            rack.let_go() if rack is not lost else None
        await mesh.crash(mesh.racks.pop(lost.context.rack))
        answer = await task
        assert (answer["idempotency"], answer["attempts"]) == ("ran", 2)
        assert said(await mesh.ask("k", {"wait": True}))[0] == "stored"

    told(story, tmp_path, racks=3)


def test_when_its_time_is_over_it_runs_again(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        await mesh.ask("k")
        await asyncio.sleep(590)
        assert said(await mesh.ask("k")) == ("stored", 1)
        await asyncio.sleep(20)
        assert mesh.racks["r1"]._repeats._results.bytes == 0  # by itself, with the next beat
        assert said(await mesh.ask("k")) == ("ran", 2)

    told(story, tmp_path)


def test_what_gave_way_runs_again_but_not_for_who_says_that_it_must_not(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        wish = {"body": 30_000}
        for key in ("a", "b", "c"):
            assert said(await mesh.ask(key, wish))[0] == "ran"
        assert said(await mesh.ask("c", wish)) == ("stored", 3)
        error = await refused(mesh.ask("a", wish, repeatable=False))
        assert isinstance(error, errors.AlreadyRan)
        assert mesh.ran == 3
        assert said(await mesh.ask("a", wish)) == ("ran", 4)

    told(story, tmp_path, keepBytes="65536")


def test_what_is_being_read_does_not_give_way(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        wish = {"items": 100, "size": 400, "pause": 0}
        assert await read(mesh.stream("a", wish)) == [*range(100)]
        slow = mesh.stream("a", wish)
        items = aiter(slow)
        await anext(items)
        big = {"body": 30_000}
        assert [said(await mesh.ask("b", big))[0] for _ in range(2)] == ["ran", "ran"]  # there is no room
        assert [item["item"] async for item in items] == [*range(1, 100)]
        assert slow.facts["idempotency"] == "stored"
        assert [said(await mesh.ask("b", big))[0] for _ in range(2)] == ["ran", "stored"]

    told(story, tmp_path, keepBytes="65536")


def test_what_was_asked_is_not_kept_once_it_was_answered(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        await mesh.ask("k", {"prompt": "x" * 50_000})
        await quiet()
        results = mesh.racks["r1"]._repeats._results
        assert results.bytes < 2 * ENTRY_BYTES
        (entry,) = results._known.values()
        assert not hasattr(entry.work, "request")
        assert not hasattr(entry.work, "task")

    told(story, tmp_path)


def test_what_must_not_be_repeated_is_given_what_is_there(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        rack = mesh.racks["r1"]
        rack.hold()
        first = mesh.ask("k", {"wait": True}, repeatable=False)
        await mesh.runs()
        second = mesh.ask("k", {"wait": True}, repeatable=False)
        await quiet()
        rack.let_go()
        assert [said(await first), said(await second)] == [("ran", 1), ("attached", 1)]
        assert said(await mesh.ask("k", {"wait": True}, repeatable=False)) == ("stored", 1)

    told(story, tmp_path)


# --- what is too long to be kept


def test_a_whole_answer_that_is_too_long_is_given_and_not_kept(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        wish = {"body": 70_000}
        answer = await mesh.ask("k", wish)
        assert len(answer["result"]["body"]) == 70_000
        assert said(await mesh.ask("k", wish)) == ("ran", 2)
        assert isinstance(await refused(mesh.ask("k", wish, repeatable=False)), errors.AlreadyRan)

    told(story, tmp_path, keepBytes="65536")


def test_a_stream_that_is_too_long_is_passed_on_at_the_pace_of_its_reader(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        wish = {"items": 200, "size": 20_000, "pause": 0}
        stream = mesh.stream("k", wish)
        items = aiter(stream)
        got = [(await anext(items))["item"]]
        await quiet()
        execution = next(iter(mesh.racks["r1"]._repeats._results._known.values())).work
        assert execution is not None
        assert 0 < execution._held < 400_000  # of 4 MB: what the reader has not granted waits in the handler
        error = await refused(mesh.ask("k", wish, repeatable=False))
        assert isinstance(error, errors.IdempotencyKeyReused)
        late = await refused(read(mesh.stream("k", wish, repeatable=False)))
        assert isinstance(late, errors.AlreadyRan)
        got += [item["item"] async for item in items]
        assert got == [*range(200)]

    told(story, tmp_path, keepBytes="65536")


def test_what_is_passed_on_ends_with_its_last_reader(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        stream = mesh.stream("k", {"items": 200, "size": 20_000, "pause": 0})
        await anext(aiter(stream))
        await quiet()
        await stream.aclose()
        await quiet()
        assert mesh.racks["r1"].ended == ["CancelledError"]

    told(story, tmp_path, keepBytes="65536")


def test_where_all_that_may_be_kept_is_taken_by_what_runs_a_request_is_refused(tmp_path: Path) -> None:
    async def story(mesh: CountingMesh) -> None:
        rack, most = mesh.racks["r1"], 65_536 // ENTRY_BYTES
        rack.hold()
        tasks = [mesh.ask(str(number), {"wait": True}, rack="r1") for number in range(most + 1)]
        await quiet()
        assert rack.running == most
        error = await refused(tasks[-1])
        assert isinstance(error, errors.CapacityExceeded)
        assert error.not_started
        rack.let_go()
        await asyncio.gather(*tasks[:-1])

    told(story, tmp_path, capacity=100, keepBytes="65536")


# --- heads


def test_an_orchestrators_word_replaces_any_other() -> None:
    forged = wire.pack_head({"modelId": "m", "origin": {"caller": "x", "modelId": "y"}, "more": 1})
    signed = contract.with_origin(forged, contract.Origin("me", "m"))
    assert contract.read_origin(signed) == contract.Origin("me", "m")
    assert wire.unpack_head(signed)["more"] == 1
    assert contract.read_origin(contract.with_model(signed, "other")) == contract.Origin("me", "m")
    with pytest.raises(errors.BadRequest):
        contract.read_origin(wire.pack_head({"origin": 5}))
