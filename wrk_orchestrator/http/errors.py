"""From an error of ours to an HTTP answer: status, headers and JSON body, here and nowhere else.

    {"error": {"code": "ERR_BAD_REQUEST", "message": "…", "requestId": "…", "field": "modelId", "data": {}}}

`field` and `data` are there when there is something to say. The status is the one of the error's class,
with two exceptions: a model that was never seen is not found, while one whose workers are gone is
unavailable; and what a server behind a rack refused has the status that it gave. What only HTTP can get
wrong has its class here; its `code` is one that callers already know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from wrk_base import contract, errors

LEAST_RETRY_S = 1  # Retry-After has whole seconds, and 0 would invite a storm


class BodyTooLarge(errors.BadRequest):
    """The body is longer than what is accepted."""

    http_status = 413


class HeadTooLarge(errors.BadRequest):
    """The request line and the headers are longer than what is accepted."""

    http_status = 431


class WrongMediaType(errors.BadRequest):
    """The body is not JSON."""

    http_status = 415


class BodyTooSlow(errors.DeadlineExceeded):
    """The body did not arrive in time."""

    http_status = 408


class WrongHost(errors.PermissionDenied):
    """The caller has a name for this server that is not its own."""

    http_status = 421


class MethodNotAllowed(errors.MethodNotFound):
    """The path exists, but not for this method; `data["allow"]` lists what it takes."""

    http_status = 405


class ErrorFacts(msgspec.Struct, rename="camel", omit_defaults=True):
    """What went wrong. `code` is for programs, `message` for people, `field` the part of the request."""

    code: str
    message: str
    request_id: str
    field: str | msgspec.UnsetType = msgspec.UNSET
    data: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class ErrorBody(msgspec.Struct):
    """The body of every answer that is not a success."""

    error: ErrorFacts


def status_of(error: errors.WrkError) -> int:
    """The HTTP status of an error."""
    if isinstance(error, errors.NoWorkersAvailable) and error.data.get("modelSeen") is False:
        return 404
    if isinstance(error, errors.UpstreamFailed):
        said = error.data.get("status")
        return said if type(said) is int and 400 <= said < 600 else error.http_status
    return error.http_status


def headers_of(error: errors.WrkError) -> list[tuple[bytes, bytes]]:
    """Headers that the status calls for: when to come again, what is allowed instead, what to show."""
    if isinstance(error, errors.Unauthenticated):
        return [(b"www-authenticate", b"Bearer")]
    if isinstance(error, MethodNotAllowed):
        return [(b"allow", str(error.data["allow"]).encode())]
    headers = idempotency_headers(error.data)
    if status_of(error) in (429, 503):
        seconds = max(LEAST_RETRY_S, -(-(error.retry_after_ms or 0) // 1000))
        headers.append((b"retry-after", str(seconds).encode()))
    return headers


def idempotency_headers(facts: Mapping[str, Any]) -> list[tuple[bytes, bytes]]:
    """How the answer to a request with an idempotency key came about, where that is known."""
    said = facts.get(contract.IDEMPOTENCY)
    return [(b"x-wrk-idempotency", said.encode())] if said in contract.IDEMPOTENCY_SAYS else []


def body_of(error: errors.WrkError, request_id: str) -> bytes:
    """The JSON body. `data` of another process is left out when JSON cannot carry it."""
    data = dict(error.data)
    field = str(data.pop("field", "")) or msgspec.UNSET
    facts = ErrorFacts(error.name, error.message, request_id, field, data or msgspec.UNSET)
    try:
        return msgspec.json.encode(ErrorBody(facts))
    except (TypeError, ValueError, OverflowError, RecursionError):
        facts.field = facts.data = msgspec.UNSET
        return msgspec.json.encode(ErrorBody(facts))
