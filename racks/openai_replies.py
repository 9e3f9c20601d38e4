"""What OpenAI's clients read: whole answers, the chunks of a stream, vectors, rankings.

Each function returns a plain map that goes to the client as it is, so the names, the nulls and the
order of chunks are those of OpenAI's reference. Chance and the clock are arguments: an answer's id is
made of bits that were given, `created` is Unix seconds. The invariant: all chunks of one answer carry
the same id, `created` and model; the first has the role, the last with a choice the reason why it
ended, and where usage was asked for it comes after that, alone, and is null before.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from struct import pack
from typing import Any, Literal

Finish = Literal["stop", "length"]
Encoding = Literal["float", "base64"]
Map = dict[str, Any]

ID_BITS = 96


def make_id(kind: Literal["chatcmpl", "cmpl", "rerank"], bits: int) -> str:
    """`chatcmpl-` and 24 hexadecimal digits, from `ID_BITS` bits of chance."""
    return f"{kind}-{bits:0{ID_BITS // 4}x}"


def bits_of(made: str) -> int:
    """What an id was made of, whatever its kind; raises ValueError for what is none."""
    return int(made[-ID_BITS // 4 :], 16)


def usage(prompt_tokens: int, completion_tokens: int = 0) -> Map:
    """Of an answer that was generated. Of vectors and rankings it is `input_usage`."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def input_usage(tokens: int) -> Map:
    return {"prompt_tokens": tokens, "total_tokens": tokens}


class Chat:
    """The objects of one answer to `/v1/chat/completions`.

    A stream is `opening`, `piece` as often as there is text, `ending`, and `closing` where the caller
    asked for usage (`stream_options.include_usage`); `whole` is for who does not stream.
    """

    def __init__(self, bits: int, created: int, model: str, *, include_usage: bool = False) -> None:
        self.id = make_id("chatcmpl", bits)
        self._head: Map = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
        }
        self._tail: Map = {"usage": None} if include_usage else {}

    def opening(self) -> list[Map]:
        return [self._chunk({"role": "assistant", "content": "", "refusal": None}, None)]

    def piece(self, text: str) -> Map:
        return self._chunk({"content": text}, None)

    def ending(self, finish: Finish) -> Map:
        return self._chunk({}, finish)

    def closing(self, usage: Map) -> Map:
        return {**self._head, "choices": [], "usage": usage}

    def whole(self, text: str, finish: Finish, usage: Map) -> Map:
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": usage}

    def _chunk(self, delta: Map, finish: Finish | None) -> Map:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**self._head, "choices": [choice], **self._tail}


class Completion:
    """The objects of one answer to `/v1/completions`, in the same order as those of `Chat`."""

    def __init__(self, bits: int, created: int, model: str, *, include_usage: bool = False) -> None:
        self.id = make_id("cmpl", bits)
        self._head: Map = {"id": self.id, "object": "text_completion", "created": created, "model": model}
        self._tail: Map = {"usage": None} if include_usage else {}

    def opening(self) -> list[Map]:
        return []  # no role is told here: the first chunk is the first text

    def piece(self, text: str) -> Map:
        return {**self._head, "choices": [_text_choice(text, None)], **self._tail}

    def ending(self, finish: Finish) -> Map:
        return {**self._head, "choices": [_text_choice("", finish)], **self._tail}

    def closing(self, usage: Map) -> Map:
        return {**self._head, "choices": [], "usage": usage}

    def whole(self, text: str, finish: Finish, usage: Map) -> Map:
        return {**self._head, "choices": [_text_choice(text, finish)], "usage": usage}


def _text_choice(text: str, finish: Finish | None) -> Map:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}


def embeddings(
    vectors: Sequence[Sequence[float]], model: str, usage: Map, encoding: Encoding = "float"
) -> Map:
    """The answer to `/v1/embeddings`, vectors in the order of the inputs. OpenAI's Python client asks for
    `base64`, unless told otherwise: 32-bit floats, least significant byte first."""
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(vector, encoding)}
        for index, vector in enumerate(vectors)
    ]
    return {"object": "list", "data": data, "model": model, "usage": usage}


def _encoded(vector: Sequence[float], encoding: Encoding) -> list[float] | str:
    if encoding == "float":
        return list(vector)
    return b64encode(pack(f"<{len(vector)}f", *vector)).decode()


def rerank(
    bits: int,
    scores: Sequence[float],
    model: str,
    usage: Map,
    *,
    documents: Sequence[str] | None = None,
    top_n: int | None = None,
) -> Map:
    """The answer to `/v1/rerank`, best first; equals keep the order they came in. `scores` are those of the
    documents in order; their texts come back where `documents` is given."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[:top_n]
    results: list[Map] = [{"index": index, "relevance_score": scores[index]} for index in order]
    if documents is not None:
        for result in results:
            result["document"] = {"text": documents[result["index"]]}
    return {"id": make_id("rerank", bits), "results": results, "model": model, "usage": usage}
