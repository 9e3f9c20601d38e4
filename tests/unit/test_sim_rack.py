"""The simulated rack: what it answers, how long it takes, and the faults that it stages.

The rack is a whole one, called over a network in memory and in virtual time, so that times are exact.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from racks.sim import SimSettings, cast_lots
from racks.sim_script import WORDS, Script, read_input, text, word
from tests.fakes.sim_rack import serving, settings_of
from tests.fakes.virtual_time import run_virtual
from wrk_base import errors


def now() -> float:
    return asyncio.get_running_loop().time()


# --- words


def test_the_words_of_an_answer_never_change() -> None:
    assert text("hello", seed=0, words=8) == "clear kettle evening corner mirror gravel cotton golden"
    assert text("hello", seed=1, words=3) != text("hello", seed=0, words=3)
    assert text("hallo", seed=0, words=3) != text("hello", seed=0, words=3)
    assert len(set(WORDS)) == len(WORDS) == 64


@given(st.text(), st.integers(-(2**53), 2**53), st.integers(0, 2**53), st.integers(0, 30), st.data())
def test_an_answer_can_go_on_at_any_word(
    prompt: str, seed: int, start: int, words: int, data: st.DataObject
) -> None:
    whole = text(prompt, seed, words, start).split()
    assert whole == [word(prompt, seed, index) for index in range(start, start + words)]
    cut = data.draw(st.integers(0, words))
    assert text(prompt, seed, words - cut, start + cut).split() == whole[cut:]


# --- requests


@pytest.mark.parametrize(
    ("input_data", "prompt"),
    [
        ("hello", "hello"),
        ({"prompt": "hello"}, "hello"),
        ({"prompt": "hello", "sim": {"latency": 5}}, "hello"),
        ({"prompt": "hello", "temperature": 0.5}, "hello"),
        ({"b": 1, "a": [2], "sim": {"hang": True}}, '{"a":[2],"b":1}'),
        ([1, "x"], '[1,"x"]'),
        (None, "null"),
    ],
)
def test_any_input_has_a_prompt(input_data: Any, prompt: str) -> None:
    assert read_input(input_data).prompt == prompt


@pytest.mark.parametrize(
    ("sim", "field"),
    [
        ({"latency": "soon"}, "sim.latency"),
        ({"latency": -1}, "sim.latency"),
        ({"words": 10_001}, "sim.words"),
        ({"fail": 1}, "sim.fail"),
        ({"fial": True}, "sim"),
        ("hang", "sim"),
    ],
)
def test_a_script_that_cannot_be_staged_is_refused_with_its_field(sim: Any, field: str) -> None:
    with pytest.raises(errors.BadRequest) as refused:
        read_input({"prompt": "hello", "sim": sim})
    assert refused.value.data == {"field": field}


# --- answers


def test_every_answer_says_that_it_is_simulated() -> None:
    async def story() -> None:
        async with serving() as caller:
            assert await caller.infer("hello") == {
                "simulated": True,
                "model": "sim-model",
                "text": "clear kettle evening corner mirror gravel cotton golden",
                "index": 0,
                "worker": "r1-1",
            }

    run_virtual(story())


def test_racks_agree_on_the_text_and_a_request_may_ask_for_another() -> None:
    async def story() -> None:
        async with serving("r1") as one, serving("r2", latency="300") as other:
            first, second = await one.infer("hello"), await other.infer("hello")
            assert first["text"] == second["text"]
            assert first["worker"] != second["worker"]
            rest = await other.infer({"prompt": "hello", "sim": {"index": 6, "words": 2}})
            assert (rest["text"], rest["index"]) == ("cotton golden", 6)
            seeded = await other.infer({"prompt": "hello", "sim": {"seed": 1}})
            assert seeded["text"] == text("hello", 1, 8)

    run_virtual(story())


def test_models_tags_labels_and_capacity_are_as_the_flags_say() -> None:
    async def story() -> None:
        flags = {"models": "m1,m2", "tags": "chat", "labels": "room=5", "capacity": "2", "weight": "1.5"}
        async with serving(**flags) as caller:
            offer = caller.rack.describe()
            assert (offer.models, offer.tags, offer.labels) == (["m1", "m2"], ["chat"], {"room": "5"})
            assert (offer.max_concurrent, offer.weight) == (2, 1.5)
            assert (await caller.infer("hello", model="m2"))["model"] == "m2"
            with pytest.raises(errors.ModelNotAvailable):
                await caller.infer("hello", model="sim-model")

    run_virtual(story())


def test_requests_above_the_capacity_are_refused_as_never_started() -> None:
    async def story() -> None:
        async with serving(capacity="2") as caller:
            asked = [caller.infer("hello") for _ in range(3)]
            *answered, refused = await asyncio.gather(*asked, return_exceptions=True)
            assert [isinstance(answer, dict) for answer in answered] == [True, True]
            assert isinstance(refused, errors.CapacityExceeded)
            assert refused.not_started
            assert (await caller.infer("hello"))["simulated"]

    run_virtual(story())


def test_an_answer_takes_its_latency_and_up_to_its_jitter() -> None:
    async def story() -> None:
        async with serving(latency="2000", jitter="1000") as caller:
            took = set()
            for _ in range(5):
                before = now()
                await caller.infer("hello")
                took.add(now() - before)
            assert all(2.0 <= seconds <= 3.0 for seconds in took)
            assert len(took) == 5
            before = now()
            await caller.infer({"sim": {"latency": 500, "jitter": 0}})
            assert now() - before == pytest.approx(0.5)

    run_virtual(story())


def test_loading_takes_its_time_before_anybody_can_call() -> None:
    async def story() -> None:
        async with serving(loadTime="90000") as caller:
            assert now() >= 90.0
            assert caller.rack.started.is_set()

    run_virtual(story())


def test_cold_models_take_their_time_and_the_place_of_what_was_used_longest_ago() -> None:
    async def story() -> None:
        flags = {"models": "a,b", "cold": "c", "modelLoadTime": "3000", "maxLoaded": "2"}
        async with serving(**flags) as caller:
            assert caller.offer() == (["a", "b"], ["c"])
            await caller.infer("x", "a")
            assert caller.offer() == (["a", "b"], ["c"]), "what is used is no news"
            with pytest.raises(errors.ModelNotAvailable):
                await caller.infer("x", "c")
            begun = now()
            await caller.tell("loadModel", "c")
            assert now() - begun == 3.0
            assert caller.offer() == (["a", "c"], ["b"])
            await caller.infer("x", "c")
            await caller.tell("loadModel", "c")
            assert now() - begun < 4.0
            await caller.tell("unloadModel", "c")
            assert caller.offer() == (["a"], ["b", "c"])

    run_virtual(story())


# --- faults


def test_a_staged_failure_is_the_racks_own_error_and_says_what_it_is() -> None:
    async def story() -> None:
        async with serving() as caller:
            with pytest.raises(errors.Internal, match="simulated failure: out of memory") as failed:
                await caller.infer({"sim": {"fail": "out of memory"}})
            assert not failed.value.not_started
            with pytest.raises(errors.Internal, match="simulated failure"):
                await caller.infer({"sim": {"fail": True}})
            assert (await caller.infer({"sim": {"fail": False}}))["simulated"]

    run_virtual(story())


def test_a_hang_lasts_until_the_deadline_and_gives_its_slot_back() -> None:
    async def story() -> None:
        async with serving(capacity="1") as caller:
            before = now()
            with pytest.raises(errors.DeadlineExceeded):
                await caller.infer({"sim": {"hang": True}}, timeout=3600.0)
            assert now() - before == pytest.approx(3600.0, abs=0.01)
            assert (await caller.infer("hello"))["simulated"]

    run_virtual(story())


def test_it_crashes_at_the_request_that_was_named_or_that_says_so() -> None:
    async def story() -> None:
        async with serving(crashAfter="3") as caller:
            for crashes in (0, 0, 1, 1):
                await caller.infer("hello")
                assert caller.rack.crashes == crashes
            await caller.infer({"sim": {"crash": True}})
            assert caller.rack.crashes == 2

    run_virtual(story())


def outcomes(rack: str, settings: SimSettings, script: Script | None = None) -> list[str]:
    chance = Random(f"{settings.seed} {rack}")
    return [cast_lots(script or Script(), settings, number, chance).outcome for number in range(1, 1001)]


def test_shares_of_faults_come_out_and_can_be_repeated() -> None:
    settings = SimSettings(failure_rate=0.2, hang_rate=0.1)
    first = outcomes("r1", settings)
    assert 150 < first.count("failure") < 250
    assert 70 < first.count("hang") < 130
    assert first == outcomes("r1", settings)
    assert first != outcomes("r2", settings)
    assert first != outcomes("r1", msgspec.structs.replace(settings, seed=1))
    assert set(outcomes("r1", SimSettings())) == {"answer"}
    assert set(outcomes("r1", SimSettings(failure_rate=1))) == {"failure"}


def test_a_staged_fault_does_not_shift_the_fate_of_the_others() -> None:
    settings = SimSettings(failure_rate=0.2)
    plain, chance = outcomes("r1", settings), Random("0 r1")
    staged = [
        cast_lots(Script(hang=number == 7, latency=float(number)), settings, number, chance).outcome
        for number in range(1, 1001)
    ]
    assert staged[6] == "hang"
    assert staged[:6] + staged[7:] == plain[:6] + plain[7:]


@pytest.mark.parametrize(
    ("flag", "value", "allowed"),
    [
        ("failureRate", "1.5", "a number from 0 to 1"),
        ("capacity", "0", "an integer from 1"),
        ("latency", "-1", "a number from 0 to 3600000 (ms)"),
        ("labels", "room", "a map"),
        ("weight", "0", "above 0 or null"),
    ],
)
def test_a_flag_out_of_range_is_refused_with_what_is_allowed(flag: str, value: str, allowed: str) -> None:
    with pytest.raises(errors.SettingsError) as refused:
        settings_of((flag, value))
    assert f"flag --{flag}" in str(refused.value)
    assert allowed in str(refused.value)
