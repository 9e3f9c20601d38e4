"""A whole answer as the one event of a stream, for racks that do not stream. Pure.

Who asked for a stream reads `delta` where the whole has `message`, and another `object`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from wrk_base import errors

_OBJECTS = {"chat.completion": "chat.completion.chunk"}


def chunk_of(body: bytes | bytearray) -> bytes:
    """The event's data; raises `Internal` for what is no JSON."""
    try:
        whole = msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:
        raise errors.Internal(f"the worker's result is no JSON: {error}") from None
    if not isinstance(whole, dict):
        return bytes(body)
    kind = whole.get("object")
    if kind in _OBJECTS:
        whole["object"] = _OBJECTS[kind]
    choices = whole.get("choices")
    if isinstance(choices, list):
        whole["choices"] = [_delta_of(choice) for choice in choices]
    return msgspec.json.encode(whole)


def _delta_of(choice: Any) -> Any:
    if not isinstance(choice, dict) or "message" not in choice:
        return choice
    return {("delta" if key == "message" else key): value for key, value in choice.items()}
