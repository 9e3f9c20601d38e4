"""The parts of the embeddings rack that need no model: its input, likeness, and the counting of tokens."""

from __future__ import annotations

from math import inf
from types import SimpleNamespace
from typing import Any

import pytest

from racks.embeddings import context_of, cosine, count_tokens, read_texts
from wrk_base import errors


@pytest.mark.parametrize(
    ("input_data", "texts"),
    [
        ("a", ["a"]),
        ("", [""]),
        (["a", "b"], ["a", "b"]),
        ({"input": "a"}, ["a"]),
        ({"input": ["a"], "user": "somebody"}, ["a"]),
    ],
)
def test_texts_come_in_three_forms(input_data: Any, texts: list[str]) -> None:
    assert read_texts(input_data) == texts


@pytest.mark.parametrize(
    ("input_data", "field"),
    [(None, "input"), (5, "input"), ([], "input"), (["a", 5], "input[1]"), ({"text": "a"}, "input")],
)
def test_anything_else_is_refused_with_the_field(input_data: Any, field: str) -> None:
    with pytest.raises(errors.BadRequest) as refused:
        read_texts(input_data)
    assert refused.value.data == {"field": field}


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1.0, 0.0], [2.0, 0.0], 1.0),
        ([1.0, 0.0], [0.0, 3.0], 0.0),
        ([1.0, 1.0], [-2.0, -2.0], -1.0),
        ([3.0, 4.0], [4.0, 3.0], 0.96),
        ([0.0, 0.0], [1.0, 0.0], 0.0),
    ],
)
def test_likeness_is_the_cosine_whatever_the_lengths(a: list[float], b: list[float], expected: float) -> None:
    assert cosine(a, b) == pytest.approx(expected)


class Splitter:
    """A tokenizer of either kind: of transformers (called), or of models that only look words up."""

    def encode_batch(self, texts: list[str], *, add_special_tokens: bool) -> list[SimpleNamespace]:
        assert not add_special_tokens
        return [SimpleNamespace(ids=text.split()) for text in texts]


class CallableSplitter(Splitter):
    def __call__(self, texts: list[str], *, truncation: bool, max_length: int) -> dict[str, list[list[str]]]:
        assert truncation
        return {"input_ids": [text.split()[:max_length] for text in texts]}


def test_tokens_are_counted_as_far_as_the_model_reads() -> None:
    reading = SimpleNamespace(tokenizer=CallableSplitter(), max_seq_length=2)
    looking_up = SimpleNamespace(tokenizer=Splitter(), max_seq_length=inf)
    assert count_tokens(reading, ["a", "a b c d"]) == [1, 2]
    assert count_tokens(looking_up, ["a", "a b c d"]) == [1, 4]
    assert [context_of(model) for model in (reading, looking_up)] == [2, 0]
