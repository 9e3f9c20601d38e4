"""OpenAI's own Python client, and curl, at a gateway of real processes: what their users see.

One orchestrator and two simulated racks serve the whole module. What a rack says is known: the words of
`sim_script`. The field `sim` of a body stages what a test needs.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from racks.sim_script import text
from racks.sim_vectors import vector
from tests.fakes.aio import run
from tests.fakes.gateway import MODEL, Gateway, gateway
from tests.fakes.processes import until, wait_until
from wrk_base import errors
from wrk_base.discovery.addresses import is_loopback, list_interfaces
from wrk_orchestrator.http import api_keys
from wrk_orchestrator.http.key_files import KeyFile

HELLO = text("hello", 0, 8)
ASK: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}
OWN = [entry.address for entry in list_interfaces() if not is_loopback(entry.address)]


def sim(**script: Any) -> dict[str, Any]:
    """What a request stages in its rack."""
    return {"extra_body": {"sim": script}}


SLOWLY = sim(words=10_000, interval=20)
NEVER = sim(hang=True)


@pytest.fixture(scope="module")
def g(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    # Where all racks are full, callers are told at once.
    with gateway(tmp_path_factory.mktemp("gateway"), "--routing.queueLimit", "0") as made:
        yield made


@pytest.fixture
def client(g: Gateway) -> Iterator[openai.OpenAI]:
    """At the end of each test nothing may run any more."""
    with g.openai() as made:
        yield made
    g.quiet()


# --- answers


def test_a_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**ASK)
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", HELLO, "stop")
    assert answer.model == MODEL
    assert answer.usage is not None
    assert answer.usage.total_tokens == 9


def test_an_answer_says_who_gave_it_at_which_attempt(g: Gateway, client: openai.OpenAI) -> None:
    workers = set()
    for _ in range(2):
        raw = client.chat.completions.with_raw_response.create(**ASK, extra_headers={"x-request-id": "mine"})
        assert (raw.headers["x-request-id"], raw.headers["x-wrk-attempts"]) == ("mine", "1")
        workers.add(raw.headers["x-wrk-worker"])
        assert raw.parse().choices[0].message.content == HELLO
    assert workers == {rack.worker_id for rack in g.racks.values()}


def test_a_stream_of_chat(client: openai.OpenAI) -> None:
    with client.chat.completions.create(**ASK, stream=True) as stream:
        assert stream.response.headers["content-type"].startswith("text/event-stream")
        opening, *words, ending = stream
    assert (opening.choices[0].delta.role, opening.choices[0].delta.content) == ("assistant", "")
    assert [chunk.choices[0].delta.content for chunk in words] == [
        word if number == 0 else f" {word}" for number, word in enumerate(HELLO.split())
    ]
    assert ending.choices[0].finish_reason == "stop"
    assert len({chunk.id for chunk in (opening, *words, ending)}) == 1
    assert {chunk.usage for chunk in (opening, *words, ending)} == {None}


def test_a_stream_that_tells_usage_at_its_end(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    *chunks, last = client.chat.completions.create(**ASK, stream=True, stream_options=options)
    assert last.choices == []
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (1, 8)
    assert {chunk.usage for chunk in chunks} == {None}


def test_the_clients_own_reader_puts_a_stream_together(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(**ASK) as stream:
        said = [event.delta for event in stream if event.type == "content.delta"]
        whole = stream.get_final_completion()
    assert "".join(said) == whole.choices[0].message.content == HELLO
    short = client.chat.completions.create(**ASK, max_tokens=2)
    assert (short.choices[0].message.content, short.choices[0].finish_reason) == ("clear kettle", "length")


def test_words_arrive_while_later_ones_are_not_made_yet(client: openai.OpenAI) -> None:
    """The rest would take ten hours."""
    with client.chat.completions.create(**ASK, stream=True, **sim(interval=3_600_000)) as stream:
        chunks = iter(stream)
        assert [next(chunks).choices[0].delta.content for _ in range(2)] == ["", "clear"]


def test_a_completion(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="hello", max_tokens=3)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("clear kettle evening", "length")
    *words, ending = client.completions.create(model=MODEL, prompt="hello", stop="corner", stream=True)
    assert "".join(chunk.choices[0].text for chunk in words) == "clear kettle evening "
    assert ending.choices[0].finish_reason == "stop"


def test_a_response(client: openai.OpenAI) -> None:
    answer = client.responses.create(model=MODEL, input="hello")
    assert (answer.status, answer.output_text) == ("completed", HELLO)
    assert answer.usage is not None
    assert answer.usage.output_tokens == 8


def test_a_stream_of_a_response(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model=MODEL, input="hello", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    said = [event.delta for event in events if event.type == "response.output_text.delta"]
    last = events[-1]
    assert last.type == "response.completed"
    assert "".join(said) == last.response.output_text == HELLO
    with client.responses.stream(model=MODEL, input="hello") as stream:
        for event in stream:
            assert event.type.startswith("response.")
        assert stream.get_final_response().output_text == HELLO


def test_vectors_as_the_client_asks_for_them_and_as_numbers(client: openai.OpenAI) -> None:
    packed = client.embeddings.create(model=MODEL, input=["a cat", "a dog"])
    plain = client.embeddings.create(model=MODEL, input=["a cat", "a dog"], encoding_format="float")
    for answer in (packed, plain):
        assert [found.embedding for found in answer.data] == [
            pytest.approx(vector(words, 0, 64), abs=1e-6) for words in ("a cat", "a dog")
        ]
        assert answer.usage.total_tokens == 4
    short = client.embeddings.create(model=MODEL, input="a cat", dimensions=8)
    assert len(short.data[0].embedding) == 8


def test_a_ranking_for_which_the_client_has_no_word(client: openai.OpenAI) -> None:
    body = {"model": MODEL, "query": "the cat", "documents": ["a dog", "the cat"], "top_n": 1}
    answer: Any = client.post("/rerank", body=body, cast_to=object)
    assert answer["results"] == [{"index": 1, "relevance_score": 1.0}]


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    model = client.models.retrieve(MODEL)
    assert (model.id, model.object) == (MODEL, "model")
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("m9")
    assert missing.value.code == "model_not_found"


# --- errors


def test_a_model_that_was_never_seen_is_not_found(client: openai.OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.NotFoundError) as missing:
            client.chat.completions.create(**{**ASK, "model": "m9"}, stream=stream)
        assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
        assert "m9" in missing.value.message


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({**ASK, "messages": []}, "messages"),
        ({**ASK, "n": 2}, "n"),
        ({**ASK, "model": ""}, "model"),
        ({**ASK, **sim(words=-1)}, "sim.words"),
    ],
)
def test_what_the_caller_can_mend_is_a_bad_request(client: openai.OpenAI, body: Any, param: str) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(**body, stream=stream)
        assert (refused.value.param, refused.value.type) == (param, "invalid_request_error")
        assert refused.value.response.headers["x-request-id"]


def test_what_fails_in_a_rack_is_an_internal_error_with_its_reason(client: openai.OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError, match="out of memory") as failed:
            client.chat.completions.create(**ASK, stream=stream, **sim(fail="out of memory"))
        assert (failed.value.status_code, failed.value.type) == (500, "server_error")


def test_a_stream_whose_rack_dies_ends_in_an_error_and_not_as_if_it_were_whole(g: Gateway) -> None:
    with g.openai() as client, g.rack("r3", "--models", "mortal") as rack:
        g.knows("mortal", 1)
        with client.chat.completions.create(**{**ASK, "model": "mortal"}, stream=True, **SLOWLY) as stream:
            chunks = iter(stream)
            next(chunks)
            rack.kill()
            with pytest.raises(openai.APIError, match="lost") as broken:
                list(chunks)
        assert not isinstance(broken.value, openai.APIConnectionError)
        assert broken.value.code == "unavailable"
        with pytest.raises(openai.InternalServerError) as gone:
            client.chat.completions.create(**{**ASK, "model": "mortal"})
        assert (gone.value.status_code, gone.value.code) == (503, "model_unavailable")
    g.quiet()


def test_a_full_gateway_says_when_to_come_again_and_the_client_does(g: Gateway) -> None:
    ask = {**ASK, "model": "small"}
    with g.openai() as holder, g.rack("r4", "--models", "small", "--capacity", "1"):
        g.knows("small", 1)
        held = holder.chat.completions.create(**ask, stream=True, **SLOWLY)
        next(iter(held))
        with g.openai() as client:
            with pytest.raises(openai.RateLimitError) as full:
                client.chat.completions.create(**ask)
            assert full.value.code == "rate_limit_exceeded"
        g.on_answer = lambda _: held.close()  # its place is free before the client comes again
        with g.openai(max_retries=1) as client:
            assert client.chat.completions.create(**ask).choices[0].message.content == HELLO
        first, second = g.heard
        assert (first.status, second.status) == (429, 200)
        assert second.at - first.at >= int(first.headers["retry-after"])
    g.quiet()


def test_a_model_that_is_gone_is_asked_for_again_when_the_gateway_says_so(g: Gateway) -> None:
    with g.openai(max_retries=1) as client:
        with g.rack("r5", "--models", "passing"):
            g.knows("passing", 1)
        wait_until(lambda: g.healthy("passing") == 0, what="it is gone")
        with pytest.raises(openai.InternalServerError) as gone:
            client.chat.completions.create(**{**ASK, "model": "passing"})
        assert (gone.value.status_code, gone.value.code) == (503, "model_unavailable")
        first, second = g.heard
        assert second.at - first.at >= int(first.headers["retry-after"])


def test_a_deadline_of_the_gateway_is_a_timeout_of_its_own(g: Gateway, tmp_path: Any) -> None:
    with gateway(tmp_path, "--http.inferenceTimeout", "300") as impatient, impatient.openai() as client:
        with pytest.raises(openai.InternalServerError) as late:
            client.chat.completions.create(**ASK, **NEVER)
        assert (late.value.status_code, late.value.code) == (504, "timeout")
        impatient.quiet()


# --- callers who leave


def test_a_client_that_waits_no_longer_stops_the_rack(g: Gateway) -> None:
    with g.openai(timeout=0.3) as client:
        for stream in (False, True):
            with pytest.raises(openai.APITimeoutError):
                client.chat.completions.create(**ASK, stream=stream, **NEVER)
    g.quiet()


def test_a_stream_that_is_closed_stops_the_rack(g: Gateway, client: openai.OpenAI) -> None:
    with client.chat.completions.create(**ASK, stream=True, **SLOWLY) as stream:
        for _, _ in zip(range(5), stream, strict=False):
            pass
        assert (g.load(), g.running()) == (1, 1)
    g.quiet()


def test_a_client_that_is_killed_stops_the_rack(g: Gateway) -> None:
    with subprocess.Popen(
        curl(g, "chat/completions", {**ASK, "stream": True, "sim": {"hang": True}})
    ) as waiting:
        wait_until(lambda: g.running() == 1, what="the rack runs it")
        waiting.send_signal(signal.SIGKILL)
    g.quiet()


# --- many at once


def test_the_async_client_asks_many_at_once(g: Gateway) -> None:
    async def words(client: openai.AsyncOpenAI, number: int) -> str:
        stream = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": str(number)}], stream=True, **sim(interval=5)
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def story() -> None:
        async with g.openai_async() as client:
            whole = await asyncio.gather(*[client.chat.completions.create(**ASK) for _ in range(50)])
            assert {answer.choices[0].message.content for answer in whole} == {HELLO}
            streamed = await asyncio.gather(*[words(client, number) for number in range(50)])
            assert streamed == [text(str(number), 0, 8) for number in range(50)]
            embedded = await client.embeddings.create(model=MODEL, input="a cat")
            assert embedded.data[0].embedding == pytest.approx(vector("a cat", 0, 64), abs=1e-6)

    run(story())
    g.quiet()


def test_a_task_of_the_async_client_that_is_cancelled_stops_the_rack(g: Gateway) -> None:
    async def story() -> None:
        async with g.openai_async() as client:
            asking = asyncio.create_task(client.chat.completions.create(**ASK, **NEVER))
            await until(lambda: asyncio.to_thread(lambda: g.running() == 1))
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await asyncio.to_thread(g.quiet)

    run(story())


# --- keys


@pytest.mark.skipif(not OWN, reason="this machine has no address but loopback")
def test_where_keys_are_asked_for_the_client_shows_its_own(tmp_path: Any) -> None:
    key = api_keys.made_of(b"alice".ljust(32, b"."))
    (tmp_path / "state").mkdir(mode=0o700)
    KeyFile(tmp_path / "state").add(api_keys.entry(key, "alice", 0, models=[MODEL]))
    with gateway(tmp_path, "--http.interface", OWN[0], "--http.withoutTls", "true", key=key) as keyed:
        with keyed.openai() as client:
            assert client.chat.completions.create(**ASK).choices[0].message.content == HELLO
            with pytest.raises(openai.PermissionDeniedError):
                client.chat.completions.create(**{**ASK, "model": "m2"})
        with keyed.openai(api_key="sk-wrong") as client:
            for ask in (lambda: client.models.list(), lambda: client.chat.completions.create(**ASK)):
                with pytest.raises(openai.AuthenticationError) as refused:
                    ask()
                assert (refused.value.code, refused.value.type) == ("invalid_api_key", "authentication_error")


# --- curl


def curl(g: Gateway, path: str, body: Any) -> list[str]:
    json_header = "content-type: application/json"
    return ["curl", "-sN", "--noproxy", "*", f"{g.url}/{path}", "-H", json_header, "-d", json.dumps(body)]


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@needs_curl
def test_curl_shows_events_up_to_done(g: Gateway) -> None:
    ran = subprocess.run(curl(g, "chat/completions", {**ASK, "stream": True}), capture_output=True, text=True)
    *events, done, rest = ran.stdout.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == HELLO


@needs_curl
def test_curl_shows_whole_answers_and_errors(g: Gateway) -> None:
    whole = subprocess.run(curl(g, "completions", {"model": MODEL, "prompt": "hello"}), capture_output=True)
    assert json.loads(whole.stdout)["choices"][0]["text"] == HELLO
    missing = subprocess.run(curl(g, "completions", {"model": "m9", "prompt": "hello"}), capture_output=True)
    assert json.loads(missing.stdout)["error"]["code"] == "model_not_found"


# --- the same bodies without HTTP


def test_the_same_bodies_are_answered_over_rpc(g: Gateway) -> None:
    body = {"messages": ASK["messages"]}
    with g.rpc() as client:
        whole = client.infer(MODEL, body, task="chat")
        assert whole["choices"][0]["message"]["content"] == HELLO
        chunks = client.stream(MODEL, body, task="chat")
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == HELLO
        events = list(client.stream(MODEL, {"input": "hello"}, task="response"))
        assert events[-1].startswith(b"event: response.completed\n")
        (found,) = client.infer(MODEL, {"input": "a cat"}, task="embedding")["data"]
        assert found["embedding"] == pytest.approx(vector("a cat", 0, 64))
        with pytest.raises(errors.BadRequest, match="messages: it is required"):
            client.infer(MODEL, {"prompt": "hello"}, task="chat")
