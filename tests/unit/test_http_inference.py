"""What becomes of an inference request's body on the way to a rack, and of the reply on the way back."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrk_base import errors
from wrk_base.rpc import wire
from wrk_base.rpc.call import Reply
from wrk_orchestrator.http.inference import put_together, take_apart

ROUTED = {"success": True, "workerId": "r1", "routedAt": 5, "attempts": 1}
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def answer(
    payload: bytes, content_type: int = wire.JSON, head: dict[str, Any] | None = None
) -> dict[str, Any]:
    body = put_together(
        Reply(wire.pack_head(ROUTED if head is None else head), content_type, payload), "id-1"
    )
    decoded: dict[str, Any] = msgspec.json.decode(body)
    return decoded


# --- the way there


def test_the_input_leaves_as_the_bytes_that_came() -> None:
    odd = b'{ "b":1.0,   "a":[1e2, "\\u00e9"],"b":2 }'
    _, _, payload = take_apart(b'{"modelId":"m","inputData":' + odd + b"}")
    assert payload == odd


def test_null_is_an_input_too() -> None:
    assert take_apart(b'{"modelId":"m","inputData":null}')[2] == b"null"


def test_options_are_checked_and_go_on_as_they_were_sent() -> None:
    body = b'{"modelId":"m","inputData":1,"options":{"task":"chat","later":{"x":[1]}},"unknown":2}'
    head, wire_head, _ = take_apart(body)
    assert head.options.task == "chat"
    assert wire_head == {"modelId": "m", "options": {"task": "chat", "later": {"x": [1]}}}


@pytest.mark.parametrize("written", [b"30000", b"30000.0", b"3e4", b"3.0E+4"])
def test_a_whole_number_may_be_written_as_json_writes_numbers(written: bytes) -> None:
    body = b'{"modelId":"m","inputData":1,"options":{"timeoutMs":%s,"temperature":0.5}}' % written
    head, wire_head, _ = take_apart(body)
    assert head.options.timeout_ms == 30_000
    assert wire_head["options"] == {"timeoutMs": 30_000, "temperature": 0.5}


def test_no_options_are_invented() -> None:
    assert take_apart(b'{"modelId":"m","inputData":1}')[1] == {"modelId": "m"}


def test_simulate_is_for_this_orchestrator_alone() -> None:
    head, wire_head, _ = take_apart(b'{"modelId":"m","inputData":1,"simulate":true}')
    assert head.simulate
    assert "simulate" not in wire_head


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "modelId"),
        (b"{}", "modelId"),
        (b'{"modelId":"m"}', "inputData"),
        (b'{"modelId":5,"inputData":1}', "modelId"),
        (b'{"modelId":"","inputData":1}', "modelId"),
        (b'{"modelId":"m","inputData":1,"options":[]}', "options"),
        (b'{"modelId":"m","inputData":1,"options":{"timeoutMs":0}}', "options.timeoutMs"),
        (b'{"modelId":"m","inputData":1,"simulate":"yes"}', "simulate"),
        (b"[]", None),
        (b"nonsense", None),
        (b'{"modelId":"m","inputData":1}{}', None),
        (b'{"modelId":"m","inputData":', None),
        (b'{"modelId":"m\xff","inputData":1}', None),
        (b'{"modelId":"m","inputData":' + b"[" * 100_000, None),
        (b'{"modelId":"m","inputData":1,"options":' + b'{"a":' * 100_000, None),
    ],
)
def test_a_bad_body_is_refused_in_words(body: bytes, field: str | None) -> None:
    with pytest.raises(errors.BadRequest) as caught:
        take_apart(body)
    assert caught.value.data.get("field") == field
    assert len(caught.value.message) < 300


@given(st.binary(max_size=200) | st.text(alphabet='{}[]":,modelIdinputData01e.', max_size=60).map(str.encode))
def test_no_bytes_do_worse_than_be_refused(body: bytes) -> None:
    try:
        take_apart(body)
    except errors.BadRequest:
        pass


# --- the way back


@given(PLAIN)
def test_a_result_in_json_is_put_in_as_it_is(result: Any) -> None:
    payload = msgspec.json.encode(result)
    body = put_together(Reply(wire.pack_head(ROUTED), wire.JSON, payload), "id-1")
    assert b'"result":' + payload + b"," in body
    assert msgspec.json.decode(body) == {
        **ROUTED,
        "result": msgspec.json.decode(payload),
        "requestId": "id-1",
    }


def test_a_result_in_msgpack_is_written_anew() -> None:
    assert answer(wire.pack_body({"vector": [0.5, 1]}), wire.MSGPACK)["result"] == {"vector": [0.5, 1]}


def test_raw_bytes_become_base64() -> None:
    assert answer(b"\x00\xff", wire.OCTETS)["result"] == "AP8="


def test_what_the_router_adds_later_is_passed_on() -> None:
    assert answer(b"1", head={**ROUTED, "simulated": True})["simulated"] is True


@pytest.mark.parametrize(
    ("payload", "content_type"),
    [
        (b"", wire.JSON),
        (b'{"a":', wire.JSON),
        (b'1,"workerId":"forged"', wire.JSON),
        (b"[" * 100_000, wire.JSON),
        (b"\xc1", wire.MSGPACK),
        (b"1", 77),
    ],
)
def test_a_result_that_is_no_json_is_the_workers_fault(payload: bytes, content_type: int) -> None:
    with pytest.raises(errors.Internal):
        answer(payload, content_type)
