"""How an error of ours looks over HTTP: its status, its headers, its body.

One table says the status of every class; a class that is added has to be entered here.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrk_base import contract, errors
from wrk_orchestrator.http.errors import (
    BodyTooLarge,
    BodyTooSlow,
    ErrorBody,
    HeadTooLarge,
    MethodNotAllowed,
    WrongHost,
    WrongMediaType,
    body_of,
    headers_of,
    status_of,
)

STATUS: dict[type[errors.WrkError], int] = {
    errors.BadRequest: 400,
    BodyTooLarge: 413,
    WrongMediaType: 415,
    WrongHost: 421,
    HeadTooLarge: 431,
    errors.Unauthenticated: 401,
    errors.PermissionDenied: 403,
    errors.NotFound: 404,
    errors.WorkerNotFound: 404,
    errors.ModelNotAvailable: 404,
    errors.MethodNotFound: 404,
    MethodNotAllowed: 405,
    BodyTooSlow: 408,
    errors.AlreadyRan: 409,
    errors.IdempotencyKeyReused: 422,
    errors.CapacityExceeded: 429,
    errors.Cancelled: 499,
    errors.Internal: 500,
    errors.UpstreamFailed: 502,
    errors.NoWorkersAvailable: 503,
    errors.NoWorkersMatch: 503,
    errors.QueueTimeout: 503,
    errors.Unavailable: 503,
    errors.DeadlineExceeded: 504,
}


def facts_of(error: errors.WrkError) -> dict[str, Any]:
    body = msgspec.json.decode(body_of(error, "id-1"))
    assert list(body) == ["error"]
    facts: dict[str, Any] = body["error"]
    return facts


def retry_after(error: errors.WrkError) -> str | None:
    value = dict(headers_of(error)).get(b"retry-after")
    return value.decode() if value is not None else None


# --- the status


@pytest.mark.parametrize("kind", STATUS, ids=lambda kind: kind.__name__)
def test_every_class_has_its_status(kind: type[errors.WrkError]) -> None:
    assert status_of(kind(data={"allow": "GET"})) == STATUS[kind]


def test_no_class_is_missing_from_the_table() -> None:
    assert set(errors.BY_NAME.values()) <= set(STATUS)


def test_a_model_that_was_never_seen_is_not_found_and_one_that_is_gone_is_unavailable() -> None:
    assert status_of(errors.NoWorkersAvailable(data={"modelSeen": False})) == 404
    assert status_of(errors.NoWorkersAvailable(data={"modelSeen": True})) == 503
    assert status_of(errors.NoWorkersAvailable()) == 503


def test_what_only_http_gets_wrong_has_a_code_that_callers_know() -> None:
    assert {kind.name for kind in STATUS} == set(errors.BY_NAME)


def test_an_error_that_came_over_the_wire_has_the_status_of_its_name() -> None:
    came = errors.from_wire(
        "ERR_CAPACITY_EXCEEDED",
        "full",
        retryable=True,
        retry_after_ms=100,
        origin="r1",
        not_started=True,
        data=None,
    )
    assert status_of(came) == 429


# --- when to come again


@pytest.mark.parametrize(
    ("ms", "seconds"), [(None, "1"), (0, "1"), (1, "1"), (999, "1"), (1000, "1"), (1001, "2"), (2500, "3")]
)
def test_retry_after_is_in_whole_seconds_never_too_few(ms: int | None, seconds: str) -> None:
    assert retry_after(errors.CapacityExceeded(retry_after_ms=ms)) == seconds
    assert retry_after(errors.Unavailable(retry_after_ms=ms)) == seconds


@pytest.mark.parametrize("kind", [kind for kind, status in STATUS.items() if status not in (429, 503)])
def test_nobody_else_is_asked_to_come_again(kind: type[errors.WrkError]) -> None:
    assert retry_after(kind(retry_after_ms=5000, data={"allow": "GET"})) is None


def test_a_model_that_was_never_seen_is_not_worth_coming_again_for() -> None:
    assert retry_after(errors.NoWorkersAvailable(data={"modelSeen": False}, retry_after_ms=1000)) is None


def test_a_wrong_method_is_told_the_right_ones() -> None:
    assert headers_of(MethodNotAllowed("no", data={"allow": "GET, OPTIONS"})) == [(b"allow", b"GET, OPTIONS")]


# --- the body


def test_the_body_has_code_message_and_request_id_and_nothing_empty() -> None:
    assert facts_of(errors.Unavailable("it drains")) == {
        "code": "ERR_UNAVAILABLE",
        "message": "it drains",
        "requestId": "id-1",
    }


def test_the_field_stands_beside_the_data() -> None:
    error = errors.BadRequest("no", data={"field": "options.task", "limit": 3})
    assert facts_of(error)["field"] == "options.task"
    assert facts_of(error)["data"] == {"limit": 3}


@pytest.mark.parametrize(
    ("kind", "body", "field"),
    [
        (contract.Registration, {}, "workerId"),
        (contract.Registration, {"workerId": "w"}, "address"),
        (contract.Registration, {"workerId": "w", "address": 5}, "address"),
        (contract.RegisterRack, {"id": "r", "info": {}}, "info.address"),
        (
            contract.FindWorker,
            {"modelId": "m", "requirements": {"minCapacity": -1}},
            "requirements.minCapacity",
        ),
    ],
)
def test_the_field_at_fault_is_named_by_its_whole_path(kind: type, body: dict[str, Any], field: str) -> None:
    with pytest.raises(errors.BadRequest) as caught:
        contract.parse(kind, body)
    assert facts_of(caught.value)["field"] == field


def test_data_that_json_cannot_carry_does_not_take_the_message_along() -> None:
    error = errors.Internal("broken", data={"a": {b"\xff": object()}})
    assert facts_of(error) == {"code": "ERR_INTERNAL", "message": "broken", "requestId": "id-1"}


@given(st.text(), st.text(max_size=128), st.dictionaries(st.text(), st.integers() | st.text() | st.binary()))
def test_every_body_can_be_read_back(message: str, request_id: str, data: dict[str, Any]) -> None:
    body = msgspec.json.decode(body_of(errors.BadRequest(message, data=data), request_id), type=ErrorBody)
    assert body.error.message == (message or errors.BadRequest.__doc__)
    assert body.error.request_id == request_id
