"""An error of ours in the shape that clients of OpenAI's API read.

    {"error": {"message": "…", "type": "invalid_request_error", "param": "model", "code": "model_not_found"}}

Clients decide by the status, and show the rest. `code` is ours in small letters unless there is a word that
they know. What the server behind a rack said passes through as it is.
"""

from __future__ import annotations

import msgspec

from wrk_base import errors

from .errors import status_of

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
CODES: dict[type[errors.WrkError], str] = {
    errors.NoWorkersAvailable: "model_unavailable",
    errors.CapacityExceeded: "rate_limit_exceeded",
    errors.Unauthenticated: "invalid_api_key",
    errors.DeadlineExceeded: "timeout",
}
PARAMS = {"modelId": "model"}


class OpenAiError(msgspec.Struct):
    """What went wrong. `param` is the field at fault, if it is one."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAiErrorBody(msgspec.Struct):
    """The body of every answer that is not a success, and the event that ends a stream which broke."""

    error: OpenAiError


def body_of(error: errors.WrkError, request_id: str = "") -> bytes:
    """The JSON body; the request id is in a header."""
    return msgspec.json.encode(OpenAiErrorBody(_facts_of(error)))


def _facts_of(error: errors.WrkError) -> OpenAiError:
    status = status_of(error)
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    code = error.data.get("code") or CODES.get(type(error), error.name.removeprefix("ERR_").lower())
    field = str(error.data.get("field", ""))
    if status == 404 and isinstance(error, errors.NoWorkersAvailable):
        code, field = "model_not_found", "model"
    return OpenAiError(error.message, kind, PARAMS.get(field, field) or None, str(code))


def said_upstream(error: errors.WrkError) -> tuple[bytes, bytes] | None:
    """(content type, body) of the server behind the rack, if that is what failed and it said something."""
    body = error.data.get("body")
    if not isinstance(error, errors.UpstreamFailed) or not isinstance(body, str) or not body:
        return None
    kind = str(error.data.get("contentType") or "application/json")
    sane = kind.isprintable() and kind.isascii()
    return kind.encode() if sane else b"application/octet-stream", body.encode(errors="replace")
