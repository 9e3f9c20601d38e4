"""The simulated rack behind OpenAI's endpoints: its answers are read by the types of OpenAI's own client.

The rack is a whole one, called over a network in memory and in virtual time.
"""

from __future__ import annotations

import asyncio
import math
import struct
from base64 import b64decode
from typing import Any

import msgspec
import pytest
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from racks.openai_texts import MAX_TEXTS
from racks.prefix_cache import BLOCK
from racks.sim_openai import MAX_STOPS
from racks.sim_script import text
from racks.sim_vectors import MAX_NUMBERS, shared, vector
from tests.fakes.sim_rack import Caller, serving
from tests.fakes.virtual_time import run_virtual
from wrk_base import errors

HELLO = "clear kettle evening corner mirror gravel cotton golden"  # what `hello` is answered
ANY_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def chat(content: Any = "hello", **fields: Any) -> dict[str, Any]:
    return {"model": "sim-model", "messages": [{"role": "user", "content": content}], **fields}


def completion(prompt: Any = "hello", **fields: Any) -> dict[str, Any]:
    return {"model": "sim-model", "prompt": prompt, **fields}


def response(given: Any = "hello", **fields: Any) -> dict[str, Any]:
    return {"model": "sim-model", "input": given, **fields}


def ask(task: str, body: Any, **flags: str) -> dict[str, Any]:
    """The answer of a rack that was started with these flags."""

    async def story() -> dict[str, Any]:
        async with serving(**flags) as caller:
            return await caller.ask(task, body)

    answer: dict[str, Any] = run_virtual(story())
    return answer


def stream(task: str, body: Any, **flags: str) -> tuple[list[Any], Any]:
    """The items that it streams, and the final value."""

    async def story() -> tuple[list[Any], Any]:
        async with serving(**flags) as caller:
            items = caller.stream(task, body)
            return [item async for item in items], items.value

    told: tuple[list[Any], Any] = run_virtual(story())
    return told


def refusal(task: str, body: Any) -> errors.BadRequest:
    with pytest.raises(errors.BadRequest) as refused:
        ask(task, body)
    return refused.value


# --- chat


def test_a_chat_is_answered_with_the_words_that_the_raw_prompt_is() -> None:
    answer = ChatCompletion.model_validate(ask("chat", chat()))
    (choice,) = answer.choices
    assert (answer.object, answer.model) == ("chat.completion", "sim-model")
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", HELLO, "stop")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (
        1,
        8,
        9,
    )


def test_all_messages_count_and_of_their_parts_the_texts() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "what"}, picture]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "tool_call_id": "1", "content": "is this"},
    ]
    answer = ChatCompletion.model_validate(ask("chat", {"messages": messages, "temperature": 2, "tools": []}))
    assert answer.choices[0].message.content == text("be brief\nwhat\n\nis this", 0, 8)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 5


def test_a_stream_of_chat_is_what_the_clients_expect() -> None:
    items, whole = stream("chat", chat(stream=True, stream_options={"include_usage": True}))
    opening, *words, ending, usage = [ChatCompletionChunk.model_validate(item) for item in items]
    assert (opening.choices[0].delta.role, opening.choices[0].delta.content) == ("assistant", "")
    assert "".join(chunk.choices[0].delta.content or "" for chunk in words) == HELLO
    assert len(words) == 8
    assert {chunk.choices[0].finish_reason for chunk in (opening, *words)} == {None}
    assert ending.choices[0].finish_reason == "stop"
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.total_tokens == 9
    final = ChatCompletion.model_validate(whole)
    assert final.choices[0].message.content == HELLO
    assert {chunk.id for chunk in (opening, *words, ending, usage)} == {final.id}


def test_a_stream_tells_usage_only_to_who_asks_for_it() -> None:
    for options in (None, {}, {"include_usage": False}):
        items, _ = stream("chat", chat(stream=True, stream_options=options))
        assert items[-1]["choices"][0]["finish_reason"] == "stop"
        assert not any("usage" in item for item in items)


def test_two_answers_have_two_ids() -> None:
    async def story() -> None:
        async with serving() as caller:
            first, second = await caller.ask("chat", chat()), await caller.ask("chat", chat())
            assert first["id"] != second["id"]
            assert first["choices"] == second["choices"]

    run_virtual(story())


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_limit_of_tokens_ends_an_answer_early_and_says_so(name: str) -> None:
    short = ask("chat", chat(**{name: 3}))
    assert short["choices"][0]["message"]["content"] == "clear kettle evening"
    assert short["choices"][0]["finish_reason"] == "length"
    assert short["usage"]["completion_tokens"] == 3
    assert ask("chat", chat(**{name: 8}))["choices"][0]["finish_reason"] == "stop"
    assert ask("chat", chat(**{name: None}))["usage"]["completion_tokens"] == 8


@pytest.mark.parametrize(
    ("stop", "words", "finish"),
    [
        ("mirror", "clear kettle evening corner ", "stop"),
        (["nowhere", "rner", "mirror"], "clear kettle evening co", "stop"),
        ("clear", "", "stop"),
        ([], HELLO, "stop"),
        (["", "nowhere"], HELLO, "stop"),
        (None, HELLO, "stop"),
    ],
)
def test_an_answer_ends_before_a_stop(stop: Any, words: str, finish: str) -> None:
    whole = ask("chat", chat(stop=stop))["choices"][0]
    items, _ = stream("chat", chat(stop=stop))
    assert (whole["message"]["content"], whole["finish_reason"]) == (words, finish)
    assert "".join(item["choices"][0]["delta"].get("content", "") for item in items) == words


def test_the_script_stands_beside_the_fields_of_openai() -> None:
    seeded = ask("chat", chat(sim={"seed": 1, "words": 3}))
    assert seeded["choices"][0]["message"]["content"] == text("hello", 1, 3)
    with pytest.raises(errors.Internal, match="simulated failure: out of memory"):
        ask("chat", chat(sim={"fail": "out of memory"}))
    assert refusal("chat", chat(sim={"latncy": 1})).data == {"field": "sim"}


def test_a_reader_that_lost_its_rack_goes_on_at_the_word_that_is_next() -> None:
    first, _ = stream("chat", chat())
    rest, _ = stream("chat", chat(sim={"index": 5, "words": 3}))
    said = [item["choices"][0]["delta"].get("content", "") for item in first[1:-1]]
    more = [item["choices"][0]["delta"].get("content", "") for item in rest[1:-1]]
    assert "".join(said[:5]) + " " + "".join(more) == HELLO


def test_words_come_at_their_interval_and_the_reader_may_leave() -> None:
    async def story() -> None:
        async with serving(interval="1000", words="10000") as caller:
            before, items = asyncio.get_running_loop().time(), caller.stream("chat", chat())
            async with items:
                async for item in items:
                    if item["choices"][0]["delta"].get("content") == " evening":
                        break
            assert asyncio.get_running_loop().time() - before == pytest.approx(2.02, abs=0.01)
            await asyncio.sleep(1.0)
            assert caller.rack.running == 0

    run_virtual(story())


# --- completion


def test_a_completion_is_answered_with_the_same_words() -> None:
    answer = Completion.model_validate(ask("completion", completion(["hello"], max_tokens=2)))
    (choice,) = answer.choices
    assert (answer.object, choice.text, choice.finish_reason) == ("text_completion", "clear kettle", "length")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (1, 2)


def test_a_stream_of_completion_is_what_the_clients_expect() -> None:
    items, _ = stream("completion", completion(stream_options={"include_usage": True}))
    # Not validated: the type knows no null, which OpenAI sends in all chunks but the last.
    *words, ending, usage = [Completion.construct(**item) for item in items]
    assert {chunk.choices[0].finish_reason for chunk in words} == {None}
    assert "".join(chunk.choices[0].text for chunk in words) == HELLO
    assert (ending.choices[0].text, ending.choices[0].finish_reason) == ("", "stop")
    assert usage.usage is not None
    assert (usage.choices, usage.usage.completion_tokens) == ([], 8)


# --- response


def test_a_response_is_answered_with_the_same_words() -> None:
    answer = Response.model_validate(ask("response", response()))
    assert (answer.object, answer.status, answer.output_text) == ("response", "completed", HELLO)
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (1, 8, 9)


def test_the_input_of_a_response_is_its_instructions_and_all_its_messages() -> None:
    given = [
        {"role": "user", "content": [{"type": "input_text", "text": "what"}]},
        {"type": "function_call_output", "call_id": "1", "output": "5"},
        {"role": "user", "content": "is this"},
    ]
    answer = Response.model_validate(ask("response", response(given, instructions="be brief")))
    assert answer.output_text == text("be brief\nwhat\n\nis this", 0, 8)
    assert answer.instructions == "be brief"


def read_events(items: list[bytes]) -> list[Any]:
    """Each item is a whole event of a stream of server-sent events."""
    told = []
    for item in items:
        name, data, *rest = item.decode().split("\n")
        assert rest == ["", ""]
        event = ANY_EVENT.validate_json(data.removeprefix("data: "))
        assert name == f"event: {event.type}"
        told.append(event)
    return told


def test_a_stream_of_a_response_is_whole_events_up_to_its_completion() -> None:
    items, whole = stream("response", response(stream=True))
    events = read_events(items)
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 8,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(16))
    assert "".join(event.delta for event in events[4:12]) == HELLO
    assert (events[0].response.status, events[0].response.output) == ("in_progress", [])
    last = events[-1].response
    assert (last.status, last.output_text) == ("completed", HELLO)
    assert last == Response.model_validate(whole)
    assert {event.item_id for event in events[3:14]} == {last.output[0].id}


def test_a_response_that_met_its_limit_is_incomplete() -> None:
    items, whole = stream("response", response(max_output_tokens=2))
    events = read_events(items)
    assert (events[-1].type, events[-1].response.status) == ("response.incomplete", "incomplete")
    assert Response.model_validate(whole).output_text == "clear kettle"
    assert whole["incomplete_details"] == {"reason": "max_output_tokens"}


# --- vectors


def test_a_text_has_a_direction_of_its_own_on_every_rack() -> None:
    body = {"input": ["a cat", "a dog", "a cat"]}
    answer = CreateEmbeddingResponse.model_validate(ask("embedding", body))
    first, other, again = (found.embedding for found in answer.data)
    assert [found.index for found in answer.data] == [0, 1, 2]
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (6, 6)
    assert first == again == vector("a cat", 0, 64)
    assert math.hypot(*first) == pytest.approx(1)
    assert abs(sum(x * y for x, y in zip(first, other, strict=True))) < 0.5
    (seeded,) = ask("embedding", {"input": "a cat", "sim": {"seed": 1}})["data"]
    assert seeded["embedding"] == vector("a cat", 1, 64) != first


def test_vectors_have_as_many_numbers_as_the_rack_or_the_request_says() -> None:
    assert len(ask("embedding", {"input": "a"}, dimensions="384")["data"][0]["embedding"]) == 384
    (found,) = ask("embedding", {"input": "a", "dimensions": 3}, dimensions="384")["data"]
    assert found["embedding"] == vector("a", 0, 3)
    assert math.hypot(*found["embedding"]) == pytest.approx(1)


def test_vectors_come_as_the_bytes_that_openais_client_asks_for() -> None:
    (found,) = ask("embedding", {"input": "a", "encoding_format": "base64"})["data"]
    assert struct.unpack("<64f", b64decode(found["embedding"])) == pytest.approx(vector("a", 0, 64))


def test_a_request_has_a_bounded_number_of_texts_and_of_numbers() -> None:
    assert len(ask("embedding", {"input": ["a"] * MAX_TEXTS, "dimensions": 1})["data"]) == MAX_TEXTS
    assert refusal("embedding", {"input": ["a"] * (MAX_TEXTS + 1)}).data == {"field": "input"}
    most = MAX_NUMBERS // 4
    assert len(ask("embedding", {"input": ["a"] * 4, "dimensions": most})["data"]) == 4
    assert f"4 vectors of {most + 1}" in str(
        refusal("embedding", {"input": ["a"] * 4, "dimensions": most + 1})
    )


# --- ranking


DOCUMENTS = ["a dog barks", "The cat sleeps", {"text": "a cat and a dog"}]


def test_documents_are_ranked_by_the_words_that_they_share_with_the_query() -> None:
    answer = ask("rerank", {"query": "the cat sleeps", "documents": DOCUMENTS})
    assert [(found["index"], found["relevance_score"]) for found in answer["results"]] == [
        (1, 1.0),
        (2, pytest.approx(1 / 3)),
        (0, 0.0),
    ]
    assert answer["usage"] == {"prompt_tokens": 14, "total_tokens": 14}
    assert shared("", "a") == 0.0


def test_a_ranking_may_be_cut_and_may_repeat_its_documents() -> None:
    body = {"query": "dog cat", "documents": DOCUMENTS, "top_n": 1, "return_documents": True}
    answer = ask("rerank", body)
    assert answer["results"] == [
        {"index": 2, "relevance_score": 1.0, "document": {"text": "a cat and a dog"}},
    ]


# --- refusals


@pytest.mark.parametrize(
    ("task", "body", "field"),
    [
        ("chat", None, "messages"),
        ("chat", "hello", ""),
        ("chat", {"messages": []}, "messages"),
        ("chat", {"messages": [{"content": "hello"}]}, "messages[0].role"),
        ("chat", {"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ("chat", chat(n=2), "n"),
        ("chat", chat(max_tokens=0), "max_tokens"),
        ("chat", chat(stop=["a"] * (MAX_STOPS + 1)), "stop"),
        ("chat", chat(stream_options={"include_usage": "yes"}), "stream_options.include_usage"),
        ("completion", {}, "prompt"),
        ("completion", completion([]), "prompt"),
        ("completion", completion(["a", "b"]), "prompt"),
        ("completion", completion([1, 2]), "prompt"),
        ("completion", completion([[1, 2]]), "prompt"),
        ("response", {}, "input"),
        ("response", response(previous_response_id="resp_1"), "previous_response_id"),
        ("response", response(background=True), "background"),
        ("embedding", {}, "input"),
        ("embedding", {"input": []}, "input"),
        ("embedding", {"input": [1, 2]}, "input"),
        ("embedding", {"input": [[1, 2], [3]]}, "input"),
        ("embedding", {"input": "a", "dimensions": 0}, "dimensions"),
        ("embedding", {"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ("rerank", {"documents": ["a"]}, "query"),
        ("rerank", {"query": "a", "documents": []}, "documents"),
        ("rerank", {"query": "a", "documents": [{"title": "a"}]}, "documents[0].text"),
        ("rerank", {"query": "a", "documents": ["a"], "top_n": 0}, "top_n"),
        ("speech", {"input": "a"}, "options.task"),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_field(task: str, body: Any, field: str) -> None:
    assert refusal(task, body).data == ({"field": field} if field else {})


# --- the memory of prompts


def conversation(*turns: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": turn * BLOCK} for turn in turns]}


async def timed(caller: Caller, body: Any) -> tuple[float, int]:
    """(seconds, cached tokens)"""
    before = asyncio.get_running_loop().time()
    answer = await caller.ask("chat", body)
    took = asyncio.get_running_loop().time() - before
    return took, answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_what_is_remembered_of_a_prompt_takes_no_time_and_is_counted() -> None:
    async def story() -> None:
        async with serving(latency="0", prefillTime="1000", prefixCache="100") as caller:
            took, cached = await timed(caller, conversation("hello ", "a"))
            assert (took, cached) == (pytest.approx(7 * 0.064 + 0.001), 0)
            took, cached = await timed(caller, conversation("hello ", "b"))
            assert (took, cached) == (pytest.approx(0.064 + 0.001), BLOCK)
            assert caller.rack.stats()["prefixCache"] == {"hits": 6, "asked": 14}

    run_virtual(story())


def test_without_a_memory_the_whole_prompt_takes_its_time() -> None:
    async def story() -> None:
        async with serving(latency="0", prefillTime="1000") as caller:
            for _ in range(2):
                took, cached = await timed(caller, conversation("a"))
                assert (took, cached) == (pytest.approx(0.064), 0)
            assert caller.rack.stats()["prefixCache"] == {"hits": 0, "asked": 2}

    run_virtual(story())


def test_every_way_of_giving_a_prompt_fills_one_memory() -> None:
    prompt = "a" * BLOCK

    async def story() -> None:
        async with serving(prefixCache="100") as caller:
            await caller.infer({"prompt": prompt})
            await caller.ask("completion", completion(prompt))
            told = await caller.ask("response", response(prompt))
            assert told["usage"]["input_tokens_details"]["cached_tokens"] == 1
            assert caller.rack.stats()["prefixCache"] == {"hits": 2, "asked": 3}

    run_virtual(story())


def test_it_says_what_its_models_can_do() -> None:
    async def story() -> None:
        async with serving(models="m1,m2") as caller:
            facts = msgspec.to_builtins(caller.rack.describe().facts)
            can = ["chat", "completion", "responses", "embeddings", "rerank"]
            assert {model: found["capabilities"] for model, found in facts.items()} == {"m1": can, "m2": can}

    run_virtual(story())
