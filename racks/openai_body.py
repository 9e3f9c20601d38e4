"""The bodies of the OpenAI protocol, as far as a rack looks into them. Pure.

A request's body is passed on byte for byte unless it names another model than the one that is meant, or
asks for a stream where none is wanted or the reverse. Then the fields are put together anew, and every
other value keeps its bytes: numbers that no float holds, escapes, whatever servers invent. What servers
answer is checked for being JSON and for errors in the guise of a success, and is not decoded besides.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from wrk_base import errors

_OURS = ("model", "stream")
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_anything = msgspec.json.Decoder(msgspec.Raw)
_text = msgspec.json.Decoder(str)


class Failure(msgspec.Struct):
    """The one field of an answer by which servers say that it is none. `object` tells what it is."""

    error: Any = None
    object: Any = None


_failure = msgspec.json.Decoder(Failure)


def prepare(body: bytes | bytearray, model_id: str, *, stream: bool | None) -> bytes | bytearray:
    """The body with this model, and as a stream or not; None leaves that open. Raises `BadRequest`."""
    try:
        fields = _fields.decode(body)
    except (ValueError, RecursionError) as error:
        raise _malformed(error) from None
    changes: dict[str, bytes] = {}
    if not _is_text(fields.get("model"), model_id):
        changes["model"] = msgspec.json.encode(model_id)
    if stream is not None and _streams(fields.get("stream")) is not stream:
        changes["stream"] = b"true" if stream else b"false"
    # Go's JSON reader, Ollama's, takes `Model` for `model`, and the last one wins: one that stayed would
    # ask for a model that the caller may not use.
    twins = [name for name in fields if name not in _OURS and name.lower() in _OURS]
    if not changes and not twins:
        return body
    if changes.get("stream") == b"false":
        fields.pop("stream_options", None)  # servers refuse it where there is no stream
    kept = {name: bytes(value) for name, value in fields.items() if name not in twins}
    return _join({**kept, **changes})


def _malformed(error: Exception) -> errors.BadRequest:
    if isinstance(error, msgspec.ValidationError):
        return errors.BadRequest("the body must be a JSON object", not_started=True)
    return errors.BadRequest(f"the body is not JSON: {error}", not_started=True)


def _is_text(raw: msgspec.Raw | None, text: str) -> bool:
    try:
        return raw is not None and _text.decode(raw) == text
    except ValueError:
        return False


def _streams(raw: msgspec.Raw | None) -> bool:
    """Whether servers take it for true: what is neither true nor false is theirs to refuse."""
    return raw is not None and bytes(raw) not in (b"false", b"null")


def _join(fields: dict[str, bytes]) -> bytes:
    return b"{" + b",".join(msgspec.json.encode(name) + b":" + value for name, value in fields.items()) + b"}"


def is_json(body: bytes | bytearray) -> bool:
    """Whether these bytes are one JSON value in UTF-8."""
    try:
        if not body.isascii():
            body.decode()  # the decoder skips what it does not make, and takes any bytes in a text for good
        _anything.decode(body)
    except UnicodeDecodeError:
        return False
    except (ValueError, RecursionError):
        return _is_odd_json(body)
    return True


def _is_odd_json(body: bytes | bytearray) -> bool:
    """Half of a surrogate pair, escaped, is JSON to everybody but msgspec; models do emit such."""
    if b"\\u" not in body:
        return False
    try:
        json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return False
    return True


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def error_in(body: bytes | bytearray) -> Any:
    """The error that an answer holds instead of a result; None in one that is well.

    The Responses API tells of a failed generation in a whole answer of its own, which is one.
    """
    if b'"error"' not in body:
        return None
    try:
        found = _failure.decode(body)
    except (ValueError, RecursionError):
        return None
    return None if found.object == "response" else found.error


def status_in(error: Any) -> int:
    """The HTTP status that an error object names, else 502."""
    code = error.get("code") if isinstance(error, dict) else None
    return code if type(code) is int and 400 <= code <= 599 else 502
