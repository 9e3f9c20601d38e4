"""A real model that writes: a rack process that loads it, and a gateway before it, asked over RPC and HTTP.

The model is tiny, made by the test, and says noise, but the same noise each time. Needs torch and
transformers; where they are missing the tests are skipped, and the summary of the run says what to install.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.fakes.aio import run
from tests.fakes.gateway import Gateway, gateway
from tests.fakes.processes import START_S, ProcessHandle, client, spawn_worker, start_worker
from tests.fakes.tiny_model import CONTEXT, make_model
from wrk_base import SyncClient, contract, errors
from wrk_base.rpc import wire
from wrk_base.rpc.peers import Peers

MODEL = "tiny"
RACK = ("--wtype", "racks.transformers:TransformersRack")
PLACES = 4
FLAGS = ("--rack", "t1", "--threads", "1", "--maxConcurrent", str(PLACES), "--maxTokens", "200")
CHAT = [{"role": "user", "content": "the cat sat on the mat"}]
GREEDY: dict[str, Any] = {"messages": CHAT, "max_tokens": 40, "temperature": 0}

MISSING = [name for name in ("torch", "transformers") if find_spec(name) is None]
needs_model = pytest.mark.skipif(
    bool(MISSING),
    reason=f"NO REAL MODEL WROTE: {', '.join(MISSING)} missing; bin/setup --with transformers installs it",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / MODEL)


@pytest.fixture(scope="module")
def g(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Gateway]:
    # Whoever reaches for the hub in spite of the files on this disk fails here.
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:1"}
    with (
        gateway(tmp_path_factory.mktemp("mesh")) as made,
        start_worker([*RACK, *FLAGS, "--model", str(model)], made.folder, env=nowhere) as rack,
    ):
        made.racks["t1"] = rack
        made.knows(MODEL, 1)
        yield made


@pytest.fixture(scope="module")
def rack(g: Gateway) -> ProcessHandle:
    return g.racks["t1"]


@pytest.fixture
def ai(g: Gateway) -> Iterator[openai.OpenAI]:
    with g.openai() as made:
        yield made
    g.quiet()


@pytest.fixture
def mesh(g: Gateway) -> Iterator[SyncClient]:
    with g.rpc() as made:
        yield made
    g.quiet()


def ask(rack: ProcessHandle, method: str, body: Any = None) -> Any:
    async def call() -> Any:
        async with client(rack) as peers:
            return await peers.request(rack.endpoint, method, body, timeout=60.0)

    return run(call())


def said(answer: Any) -> str:
    """The text of a whole chat."""
    text: str = answer["choices"][0]["message"]["content"]
    return text


@needs_model
def test_it_says_what_it_offers(rack: ProcessHandle) -> None:
    info = ask(rack, "getInfo")
    assert (info["models"], info["tags"]) == ([MODEL], ["chat", "completion"])
    assert info["labels"] == {"device": "cpu"}
    assert info["capacity"] == {"maxConcurrent": PLACES}
    assert info["facts"] == {MODEL: {"capabilities": ["chat", "completion"], "contextLength": CONTEXT}}


# --- over RPC


@needs_model
def test_a_stream_and_the_whole_answer_are_the_same(mesh: SyncClient) -> None:
    body = {**GREEDY, "stream_options": {"include_usage": True}}
    with mesh.stream(MODEL, body, task="chat") as stream:
        opening, *pieces, ending, closing = stream
        assert stream.value["object"] == "chat.completion"
        streamed = said(stream.value)
    whole = mesh.infer(MODEL, body, task="chat")
    assert opening["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert len(pieces) > 10
    assert "".join(piece["choices"][0]["delta"]["content"] for piece in pieces) == streamed == said(whole)
    assert ending["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}
    assert (closing["choices"], closing["usage"]) == ([], whole["usage"])
    assert whole["usage"]["completion_tokens"] == 40
    assert len({chunk["id"] for chunk in (opening, *pieces, ending, closing)}) == 1


@needs_model
def test_a_raw_text_is_continued(mesh: SyncClient) -> None:
    stream = mesh.stream(MODEL, {"prompt": "the cat", "max_tokens": 20, "temperature": 0})
    items = list(stream)
    assert [item["index"] for item in items] == list(range(len(items)))
    assert "".join(item["text"] for item in items) == stream.value["text"]
    assert (items[-1]["finishReason"], stream.value["model"]) == ("length", MODEL)
    assert mesh.infer(MODEL, "the cat")["usage"]["prompt_tokens"] == 2


@needs_model
def test_a_seed_says_the_same_again_in_whatever_company(mesh: SyncClient) -> None:
    body = {**GREEDY, "temperature": 1.5, "seed": 11}
    alone = said(mesh.infer(MODEL, body, task="chat"))

    async def story() -> list[str]:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(asyncio.to_thread(mesh.infer, MODEL, {**body, "seed": seed}, task="chat"))
                for seed in (11, 12, 13, 11)
            ]
        return [said(task.result()) for task in tasks]

    first, second, third, again = run(story())
    assert first == again == alone
    assert len({first, second, third}) == 3


@needs_model
@pytest.mark.parametrize(
    "sampling", [{"temperature": 0}, {"temperature": 1.5, "seed": 3}, {"temperature": 1.5}]
)
def test_it_goes_on_with_a_stream_that_another_rack_began(
    rack: ProcessHandle, sampling: dict[str, Any]
) -> None:
    asked = {**GREEDY, **sampling, "stream_options": {"include_usage": True}}

    async def read(peers: Peers, options: dict[str, Any]) -> tuple[list[Any], Any]:
        body = {"modelId": MODEL, "inputData": asked, "options": {"task": "chat", **options}}
        stream = peers.stream(rack.endpoint, "runInference", body, timeout=60.0, idle=60.0)
        return [item async for item in stream], stream.value

    async def story() -> None:
        async with client(rack) as peers:
            items, value = await read(peers, {})
            packed = [wire.pack_body(item) for item in items[:15]]
            progress = contract.Progress(wire.MSGPACK, packed, 1000, 2**20)
            rest = await read(peers, {"resumeFrom": contract.as_body(progress)})
            assert rest == (items[15:], value)

    run(story())


@needs_model
def test_a_stop_string_is_never_shown_nor_any_part_of_it(mesh: SyncClient) -> None:
    """Whatever of the text it is, and wherever its tokens begin and end."""
    text = said(mesh.infer(MODEL, GREEDY, task="chat"))
    assert len(text) > 20
    for start in range(4, 12):
        stop = text[start : start + 4]
        shown = "".join(
            chunk["choices"][0]["delta"].get("content", "")
            for chunk in mesh.stream(MODEL, {**GREEDY, "stop": stop}, task="chat")
        )
        assert shown == text[: text.index(stop)]


@needs_model
def test_the_rack_answers_others_while_the_model_works(rack: ProcessHandle) -> None:
    async def story() -> None:
        async with client(rack) as peers:
            body = {"modelId": MODEL, "inputData": {"prompt": "the", "max_tokens": 200}}
            answers = [
                asyncio.create_task(peers.request(rack.endpoint, "runInference", body, timeout=60.0))
                for _ in range(PLACES)
            ]
            pings = 0
            while not all(task.done() for task in answers):
                await peers.request(rack.endpoint, "ping", timeout=60.0)
                pings += 1
            assert {task.result()["success"] for task in answers} == {True}
            # Many hundreds come through; a loop that stood still meanwhile lets one through in all.
            assert pings >= 20

    run(story())


@needs_model
def test_who_leaves_frees_a_place(mesh: SyncClient, g: Gateway) -> None:
    for _ in range(2 * PLACES):
        for _ in mesh.stream(MODEL, {**GREEDY, "max_tokens": 200}, task="chat"):
            break
    g.quiet()
    assert mesh.infer(MODEL, {**GREEDY, "max_tokens": 2}, task="chat")["usage"]["completion_tokens"] == 2


@needs_model
def test_more_than_there_are_places_for_is_refused_as_not_started(rack: ProcessHandle) -> None:
    async def story() -> None:
        async with client(rack) as peers:
            body = {"modelId": MODEL, "inputData": {"prompt": "the", "max_tokens": 200}}
            asked = [peers.request(rack.endpoint, "runInference", body, timeout=60.0) for _ in range(20)]
            answers = await asyncio.gather(*asked, return_exceptions=True)
            refused = [answer for answer in answers if isinstance(answer, errors.CapacityExceeded)]
            assert len(answers) - len(refused) >= PLACES
            assert refused
            assert all(error.not_started for error in refused)

    run(story())


@needs_model
def test_told_to_end_it_ends_whatever_it_is_at(tmp_path: Path, model: Path) -> None:
    async def story(rack: ProcessHandle) -> None:
        async with client(rack) as peers:
            body = {"modelId": MODEL, "inputData": {"prompt": "the", "max_tokens": 200}}
            asked = [peers.request(rack.endpoint, "runInference", body, timeout=60.0) for _ in range(PLACES)]
            answers = asyncio.gather(*asked, return_exceptions=True)
            await peers.request(rack.endpoint, "ping", timeout=60.0)
            rack.signal(15)
            assert all(isinstance(answer, dict | errors.Unavailable) for answer in await answers)
            assert await rack.ended() == 0

    flags = (*FLAGS, "--model", str(model), "--stop.drainTimeout", "20")
    with start_worker([*RACK, *flags], tmp_path) as rack:
        run(story(rack))


# --- over HTTP, with OpenAI's own client


@needs_model
def test_openais_client_chats(ai: openai.OpenAI) -> None:
    answer = ai.chat.completions.create(model=MODEL, **GREEDY)
    (choice,) = answer.choices
    assert (choice.message.role, choice.finish_reason, answer.model) == ("assistant", "length", MODEL)
    text = choice.message.content or ""
    stop = text[10:14]
    with ai.chat.completions.stream(model=MODEL, **GREEDY, stop=stop) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
        (choice,) = stream.get_final_completion().choices
    assert "".join(pieces) == choice.message.content == text[: text.index(stop)]
    assert choice.finish_reason == "stop"


@needs_model
def test_openais_client_completes(ai: openai.OpenAI) -> None:
    wish: dict[str, Any] = {"model": MODEL, "prompt": "one two three", "temperature": 0}
    whole = ai.completions.create(**wish)
    assert whole.usage is not None
    assert (whole.usage.completion_tokens, whole.choices[0].finish_reason) == (16, "length")
    *pieces, last = ai.completions.create(**wish, stream=True, stream_options={"include_usage": True})
    assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text
    assert last.usage == whole.usage


@needs_model
def test_a_prompt_beyond_the_context_is_refused_with_openais_code(ai: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ai.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "cat " * CONTEXT}])
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "messages")
    assert f"at most {CONTEXT - 1} tokens fit" in refused.value.message


@needs_model
def test_an_answer_ends_where_the_context_does(ai: openai.OpenAI) -> None:
    answer = ai.completions.create(model=MODEL, prompt=[5] * (CONTEXT - 3), max_tokens=100, temperature=0)
    assert answer.usage is not None
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (3, "length")


@needs_model
def test_what_is_not_served_is_refused_by_name(ai: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ai.chat.completions.create(model=MODEL, messages=CHAT, n=2)  # type: ignore[arg-type]
    assert refused.value.param == "n"


# --- starts that fail


@needs_model
def test_a_folder_without_a_model_ends_the_start(tmp_path: Path) -> None:
    with spawn_worker([*RACK, "--model", str(tmp_path)], tmp_path) as process:
        assert process.wait(START_S) == 1
        assert f"wrk: cannot load the model {tmp_path}" in process.log()


def test_a_folder_that_is_not_there_ends_the_start(tmp_path: Path) -> None:
    with spawn_worker([*RACK, "--model", "./nowhere"], tmp_path) as process:
        assert process.wait() == 1
        assert process.log() == "wrk: transformers.model: there is no folder ./nowhere\n"


def test_a_start_without_a_model_says_how_to_name_one(tmp_path: Path) -> None:
    with spawn_worker(RACK, tmp_path) as process:
        assert process.wait() == 1
        assert process.log() == "wrk: no model: name a folder or an id of the hub by --model\n"


@pytest.mark.skipif(find_spec("transformers") is not None, reason="the extra is installed here")
def test_without_the_extra_the_start_ends_with_how_to_get_it(tmp_path: Path) -> None:
    with spawn_worker([*RACK, "--model", str(tmp_path)], tmp_path) as process:
        assert process.wait() == 1
        assert "install the extra: pip install 'wrk-orchestrator[transformers]'" in process.log()
