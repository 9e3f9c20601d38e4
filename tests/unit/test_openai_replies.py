"""Objects that OpenAI's clients read: their names, their nulls, and the order of chunks."""

from __future__ import annotations

import struct
from base64 import b64decode
from typing import Any

import pytest

from racks import openai_replies as replies

BITS = 0xABC
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
KINDS = [replies.Chat, replies.Completion]


def stream(answer: replies.Chat | replies.Completion) -> list[dict[str, Any]]:
    pieces = [answer.piece("Hel"), answer.piece("lo")]
    return [*answer.opening(), *pieces, answer.ending("stop"), answer.closing(USAGE)]


def test_a_chat_answer() -> None:
    answer = replies.Chat(BITS, 1700000000, "m").whole("Hello", "stop", replies.usage(3, 2))
    assert answer == {
        "id": "chatcmpl-000000000000000000000abc",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    }


def test_a_text_answer() -> None:
    answer = replies.Completion(BITS, 1700000000, "m").whole("Hello", "length", replies.usage(3, 2))
    assert answer == {
        "id": "cmpl-000000000000000000000abc",
        "object": "text_completion",
        "created": 1700000000,
        "model": "m",
        "choices": [{"index": 0, "text": "Hello", "logprobs": None, "finish_reason": "length"}],
        "usage": USAGE,
    }


def test_a_stream_of_chat_starts_with_the_role_and_ends_with_the_reason() -> None:
    opening, *pieces, ending, _ = stream(replies.Chat(BITS, 1700000000, "m"))
    assert opening["object"] == "chat.completion.chunk"
    assert opening["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert [piece["choices"][0]["delta"] for piece in pieces] == [{"content": "Hel"}, {"content": "lo"}]
    assert [piece["choices"][0]["finish_reason"] for piece in (opening, *pieces)] == [None] * 3
    assert (ending["choices"][0]["delta"], ending["choices"][0]["finish_reason"]) == ({}, "stop")


def test_a_stream_of_text_tells_no_role() -> None:
    *pieces, ending, _ = stream(replies.Completion(BITS, 1700000000, "m"))
    assert [(piece["object"], piece["choices"][0]["text"]) for piece in pieces] == [
        ("text_completion", "Hel"),
        ("text_completion", "lo"),
    ]
    assert (ending["choices"][0]["text"], ending["choices"][0]["finish_reason"]) == ("", "stop")


@pytest.mark.parametrize("kind", KINDS)
def test_all_chunks_of_an_answer_say_whose_they_are(kind: type[replies.Chat]) -> None:
    chunks = stream(kind(BITS, 1700000000, "m"))
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks}) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_usage_is_null_until_the_last_chunk_where_it_was_asked_for_and_absent_elsewhere(
    kind: type[replies.Chat],
) -> None:
    *before, last = stream(kind(BITS, 1700000000, "m", include_usage=True))
    assert [chunk["usage"] for chunk in before] == [None] * len(before)
    assert (last["choices"], last["usage"]) == ([], USAGE)
    *plain, _ = stream(kind(BITS, 1700000000, "m"))
    assert ["usage" in chunk for chunk in plain] == [False] * len(plain)


def test_vectors_as_numbers() -> None:
    answer = replies.embeddings([[1.0, 2.0], [0.1, 0.2]], "m", replies.input_usage(7))
    assert answer == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [1.0, 2.0]},
            {"object": "embedding", "index": 1, "embedding": [0.1, 0.2]},
        ],
        "model": "m",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }


def test_vectors_as_the_bytes_that_openais_client_asks_for() -> None:
    answer = replies.embeddings([[1.0, -2.5]], "m", replies.input_usage(7), "base64")
    assert struct.unpack("<2f", b64decode(answer["data"][0]["embedding"])) == (1.0, -2.5)


def test_a_ranking_is_best_first_and_keeps_the_order_of_equals() -> None:
    answer = replies.rerank(BITS, [0.1, 0.9, 0.5, 0.9], "m", replies.input_usage(7))
    assert answer == {
        "id": "rerank-000000000000000000000abc",
        "results": [
            {"index": 1, "relevance_score": 0.9},
            {"index": 3, "relevance_score": 0.9},
            {"index": 2, "relevance_score": 0.5},
            {"index": 0, "relevance_score": 0.1},
        ],
        "model": "m",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }


def test_a_ranking_has_the_best_few_with_their_texts_where_that_was_asked_for() -> None:
    answer = replies.rerank(BITS, [0.1, 0.9], "m", replies.input_usage(7), documents=["a", "b"], top_n=1)
    assert answer["results"] == [{"index": 1, "relevance_score": 0.9, "document": {"text": "b"}}]
