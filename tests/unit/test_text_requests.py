"""What is asked of a rack that writes text: three forms of a request, and what is refused in them."""

from __future__ import annotations

from typing import Any

import pytest

from racks.text_requests import (
    COMPLETION_TOKENS,
    MAX_STOP_LENGTH,
    MAX_STOPS,
    UNSERVED,
    Defaults,
    Sampling,
    TextRequest,
    read_request,
)
from wrk_base import errors

DEFAULTS = Defaults(100, Sampling(0.6, 0.9, 20))
HELLO = [{"role": "user", "content": "hello"}]


def chat(**fields: Any) -> TextRequest:
    return read_request("chat", {"model": "m", "messages": HELLO, **fields}, DEFAULTS)


def refusal(task: str, body: Any) -> errors.BadRequest:
    with pytest.raises(errors.BadRequest) as refused:
        read_request(task, body, DEFAULTS)
    return refused.value


def test_a_chat_that_says_nothing_else_gets_what_is_usual() -> None:
    request = chat()
    assert (request.messages, request.prompt, request.field) == (HELLO, "", "messages")
    assert (request.max_tokens, request.sampling, request.stops) == (100, Sampling(0.6, 0.9, 20), ())
    assert not request.include_usage


def test_a_null_is_as_good_as_nothing() -> None:
    nulls = dict.fromkeys(
        ["max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "stream_options", *UNSERVED]
    )
    assert chat(**nulls) == chat()


def test_what_is_said_counts() -> None:
    request = chat(
        temperature=0, top_p=0.5, top_k=-1, seed=7, stop="\n", stream_options={"include_usage": True}
    )
    assert request.sampling == Sampling(0.0, 0.5, 0, 7)
    assert (request.stops, request.include_usage) == (("\n",), True)


def test_the_newer_name_of_the_length_comes_first_and_the_racks_own_limit_is_kept() -> None:
    assert chat(max_tokens=5).max_tokens == 5
    assert chat(max_tokens=5, max_completion_tokens=7).max_tokens == 7
    assert chat(max_tokens=5000).max_tokens == 100


def test_unknown_fields_are_nobodys_concern() -> None:
    assert chat(user="somebody", metadata={"a": 1}, presence_penalty=0.5) == chat()


def test_parts_of_a_message_become_one_text_and_the_rest_of_it_stays() -> None:
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "this?"}]
    messages = [
        {"role": "developer", "content": "be short", "name": "boss"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None, "tool_calls": []},
    ]
    assert read_request("chat", {"messages": messages}, DEFAULTS).messages == [
        {"role": "system", "content": "be short", "name": "boss"},
        {"role": "user", "content": "What is this?"},
        {"role": "assistant", "content": "", "tool_calls": []},
    ]


def test_an_image_is_refused_where_it_stands() -> None:
    image = {"type": "image_url", "image_url": {"url": "http://127.0.0.1/cat.png"}}
    parts = [{"type": "text", "text": "What is this?"}, image]
    error = refusal("chat", {"messages": [*HELLO, {"role": "user", "content": parts}]})
    assert error.data == {"field": "messages[1].content[1]"}
    assert "this model reads text only, no image_url" in error.message


@pytest.mark.parametrize("prompt", ["once", ["once"]])
def test_a_completion_takes_a_text_and_is_short_unless_told(prompt: Any) -> None:
    request = read_request("completion", {"prompt": prompt}, DEFAULTS)
    assert (request.prompt, request.max_tokens, request.field) == ("once", COMPLETION_TOKENS, "prompt")


@pytest.mark.parametrize("prompt", [[5, 6], [[5, 6]]])
def test_a_prompt_may_be_tokens(prompt: Any) -> None:
    assert read_request("completion", {"prompt": prompt}, DEFAULTS).prompt == [5, 6]


def test_an_empty_prompt_is_one() -> None:
    assert read_request("completion", {"prompt": ""}, DEFAULTS).prompt == ""
    assert read_request("completion", {"prompt": []}, DEFAULTS).prompt == []


@pytest.mark.parametrize("prompt", [["a", "b"], [[1], [2]], ["a", 5]])
def test_several_prompts_are_refused(prompt: Any) -> None:
    error = refusal("completion", {"prompt": prompt})
    assert error.message == "body: prompt: it holds 2 prompts; this rack answers one a request"


def test_a_raw_request_is_a_text_or_a_prompt_with_what_is_said_beside_it() -> None:
    assert read_request("raw", "once", DEFAULTS).prompt == "once"
    request = read_request("raw", {"prompt": "once", "max_tokens": 5, "temperature": 0}, DEFAULTS)
    assert (request.prompt, request.max_tokens, request.sampling.temperature) == ("once", 5, 0)
    assert read_request("raw", "once", DEFAULTS).max_tokens == 100


@pytest.mark.parametrize(
    ("task", "body", "field"),
    [
        ("chat", None, "messages"),
        ("chat", {}, "messages"),
        ("chat", {"messages": []}, "messages"),
        ("chat", {"messages": "hello"}, "messages"),
        ("chat", {"messages": [{"content": "hello"}]}, "messages[0].role"),
        ("chat", {"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ("chat", {"messages": HELLO, "max_tokens": 0}, "max_tokens"),
        ("chat", {"messages": HELLO, "temperature": 2.1}, "temperature"),
        ("chat", {"messages": HELLO, "temperature": float("nan")}, "temperature"),
        ("chat", {"messages": HELLO, "top_p": -0.1}, "top_p"),
        ("chat", {"messages": HELLO, "seed": "x"}, "seed"),
        ("chat", {"messages": HELLO, "stop": [""]}, "stop[0]"),
        ("chat", {"messages": HELLO, "stop": ["x"] * (MAX_STOPS + 1)}, "stop"),
        ("chat", {"messages": HELLO, "stop": "x" * (MAX_STOP_LENGTH + 1)}, "stop"),
        ("chat", {"messages": HELLO, "stream_options": True}, "stream_options"),
        ("completion", {}, "prompt"),
        ("completion", {"prompt": 5}, "prompt"),
        ("raw", None, "prompt"),
        ("embedding", {"input": "hello"}, "options.task"),
    ],
)
def test_what_is_wrong_is_refused_with_the_field(task: str, body: Any, field: str) -> None:
    assert refusal(task, body).data["field"].split("[...]")[0] == field


@pytest.mark.parametrize("body", [5, "hello", [1], True])
def test_a_body_that_is_no_map_is_refused(body: Any) -> None:
    refusal("chat", body)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("best_of", 3),
        ("logprobs", True),
        ("logprobs", 0),  # of /v1/completions: those of the chosen tokens
        ("top_logprobs", 5),
        ("logit_bias", {"50256": -100}),
        ("echo", True),
        ("suffix", "the end"),
        ("tools", [{"type": "function"}]),
        ("functions", [{}]),
        ("response_format", {"type": "json_object"}),
    ],
)
def test_what_would_make_another_answer_is_refused_by_name(field: str, value: Any) -> None:
    error = refusal("chat", {"messages": HELLO, field: value})
    assert error.data == {"field": field}
    assert error.message.startswith(f"body: {field}: ")


@pytest.mark.parametrize("field", UNSERVED)
def test_asking_for_nothing_of_it_is_no_reason_to_refuse(field: str) -> None:
    for harmless in UNSERVED[field][0]:
        assert chat(**{field: harmless}) == chat()
