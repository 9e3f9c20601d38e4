"""What every mock answers, whoever asks it: one chat completion, and the chunks of a streamed one. Pure.

The HTTP mock and the native rack give the same bytes, and the load checks for `MARK`, which stands once
in the unary answer and once in each token of a stream: a gateway that answers something else is not fast.
Nothing but the standard library here: the mock's process imports it.
"""

from __future__ import annotations

import json
from typing import Any

MODEL = "mock-model"
MARK = b' marble"'  # the end of a token's text with its quote, however the JSON around it is spaced
DONE = b"data: [DONE]"
SYSTEM = "You are a helpful assistant. Answer in one short sentence."
USER = "What is the capital of France built of?"
TOKENS = 16  # of a stream whose request names none
PER_SECOND = 50
_CREATED = 1_767_225_600  # some second; an answer that is always the same can be made once


def completion() -> dict[str, Any]:
    """The answer to a request without `stream`."""
    return {
        "id": "chatcmpl-mock",
        "object": "chat.completion",
        "created": _CREATED,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Paris is built of cream-coloured marble"},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 24, "completion_tokens": 8, "total_tokens": 32},
    }


def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    """One event of a stream."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return {
        "id": "chatcmpl-mock",
        "object": "chat.completion.chunk",
        "created": _CREATED,
        "model": MODEL,
        "choices": [choice],
    }


def token() -> dict[str, Any]:
    return chunk({"content": " marble"})


def last() -> dict[str, Any]:
    return chunk({}, "stop")


def request(
    *, stream: bool = False, tokens: int = TOKENS, model: str = MODEL, system: str = SYSTEM, user: str = USER
) -> bytes:
    """A chat request as a client's library writes it."""
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    body: dict[str, Any] = {"model": model, "messages": messages, "temperature": 0.7, "max_tokens": tokens}
    return encoded({**body, "stream": True} if stream else body)


def status_fault(status: int, body: bytes) -> str:
    """What is wrong with a unary answer whose text is not known, or nothing."""
    return "" if status == 200 else f"status {status}: {body[:80].decode(errors='replace')}"


def fault(status: int, body: bytes) -> str:
    """What is wrong with a unary answer, or nothing."""
    if status == 200 and body.count(MARK) != 1:
        return f"not the mock's answer: {body[:80].decode(errors='replace')}"
    return status_fault(status, body)


def stream_fault(status: int, body: bytes, tokens: int) -> str:
    """What is wrong with a whole streamed answer, or nothing."""
    if status != 200:
        return status_fault(status, body)
    if (seen := body.count(MARK)) != tokens:
        return f"{seen} tokens of {tokens}"
    return "" if DONE in body else "no [DONE]"


def encoded(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
