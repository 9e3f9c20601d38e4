"""A whole answer as the one event of a stream, for racks that do not stream. Pure.

Who asked for a stream reads `delta` where the whole has `message`, and another `object`.
"""

from __future__ import annotations

from typing import Any

import msgspec

WHOLE, CHUNK = "chat.completion", "chat.completion.chunk"
_SIGN = b'chat.completion"'


def chunk_of(item: bytes) -> bytes:
    """The item, or if it is a whole answer to a chat, that as a chunk. What is no JSON is not judged here."""
    if _SIGN not in item:
        return item
    try:
        whole = msgspec.json.decode(item)
    except (ValueError, RecursionError):
        return item
    if not isinstance(whole, dict) or whole.get("object") != WHOLE:
        return item
    choices = whole.get("choices")
    if isinstance(choices, list):
        whole["choices"] = [_delta_of(choice) for choice in choices]
    return msgspec.json.encode({**whole, "object": CHUNK})


def _delta_of(choice: Any) -> Any:
    if not isinstance(choice, dict) or "message" not in choice:
        return choice
    return {("delta" if key == "message" else key): value for key, value in choice.items()}
