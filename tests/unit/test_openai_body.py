"""Bodies of the OpenAI protocol: untouched where nothing has to change, else changed in that place alone."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from racks.openai_body import error_in, is_json, prepare, status_in
from wrk_base import errors

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
ODD = {  # a value's bytes, which no decoding and encoding would give back
    "big": b"123456789012345678901234567890123456789",
    "huge": b"1e400",
    "exact": b"0.1000000000000000055511151231257827021181583404541015625",
    "zero": b"-0.0",
    "escaped": b'"\\u0041\\/\\u00e9\\ud83d\\ude00"',
    "spaced": b'[ 1 ,\n 2,\t{"a" : "b"} ]',
    "twice": b'{"a":1,"a":2}',
    "raw": "\u00e9\u2028".encode().join([b'"', b'"']),
}


def body_of(**fields: bytes) -> bytes:
    return (
        b"{ " + b" , ".join(b'"%b" :  %b' % (name.encode(), value) for name, value in fields.items()) + b"}"
    )


@pytest.mark.parametrize("model", [b'"m1"', b'"\\u006d1"'])
def test_a_body_that_fits_is_the_very_same(model: bytes) -> None:
    body = body_of(**ODD, model=model, stream=b"true")
    assert prepare(body, "m1", stream=True) is body
    assert prepare(body, "m1", stream=None) is body
    array = bytearray(body)
    assert prepare(array, "m1", stream=True) is array


@pytest.mark.parametrize("stream", [b"false", b"null"])
def test_what_does_not_stream_may_say_so_or_not(stream: bytes) -> None:
    for body in (body_of(model=b'"m1"', stream=stream), body_of(model=b'"m1"')):
        assert prepare(body, "m1", stream=False) is body


@pytest.mark.parametrize("name", ODD)
def test_another_model_changes_no_other_byte(name: str) -> None:
    body = body_of(model=b'"alias"', **{name: ODD[name]}, stream=b"true")
    changed = prepare(body, 'm"1\u00e9', stream=True)
    assert b'"%b":%b' % (name.encode(), ODD[name]) in changed
    assert msgspec.json.decode(changed, type=dict[str, msgspec.Raw]).keys() == {"model", name, "stream"}
    assert json.loads(changed)["model"] == 'm"1\u00e9'


@given(st.dictionaries(NAMES, VALUES, max_size=6), NAMES, st.sampled_from([True, False, None]))
def test_all_but_what_was_meant_stays(fields: dict[str, Any], model: str, stream: bool | None) -> None:
    fields = {name: value for name, value in fields.items() if name.lower() not in ("model", "stream")}
    for asked in (fields, {"model": "alias", **fields}, {**fields, "model": 7, "stream": stream}):
        sent = json.loads(prepare(json.dumps(asked).encode(), model, stream=stream))
        assert sent.pop("model") == model
        streams = sent.pop("stream", None)
        assert stream is None or bool(streams) is stream
        dropped = {"stream_options"} if "stream_options" not in sent else set()
        assert {k: v for k, v in asked.items() if k not in ("model", "stream", *dropped)} == sent


@pytest.mark.parametrize("stream", [True, False])
def test_the_flag_follows_what_the_caller_wants(stream: bool) -> None:
    body = b'{"model":"m1","stream":%b}' % (b"false" if stream else b"true")
    assert prepare(body, "m1", stream=stream) == b'{"model":"m1","stream":%b}' % (
        b"true" if stream else b"false"
    )


def test_options_of_a_stream_go_with_it() -> None:
    body = b'{"model":"m1","stream":true,"stream_options":{"include_usage":true}}'
    assert prepare(body, "m1", stream=True) is body
    assert prepare(body, "m1", stream=False) == b'{"model":"m1","stream":false}'


def test_one_model_is_named_once() -> None:
    """The last of several counts, and an upstream that reads keys in any case finds no second one."""
    assert prepare(b'{"model":"a","model":"b","x":1}', "m1", stream=None) == b'{"model":"m1","x":1}'
    for twin in (b"Model", b"MODEL", b"mode\\u004c"):
        body = b'{"model":"m1","%b":"secret"}' % twin
        assert prepare(body, "m1", stream=None) == b'{"model":"m1"}'


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON"),
        (b"[]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b'{"model":"m1"', "not JSON"),
        (b'{"model":"m1"}{}', "not JSON"),
        (b'{"a":' * 100_000, "not JSON"),
        (b"\xff", "not JSON"),
    ],
)
def test_what_is_no_object_is_refused_as_never_started(body: bytes, message: str) -> None:
    with pytest.raises(errors.BadRequest, match=message) as refused:
        prepare(body, "m1", stream=None)
    assert refused.value.not_started


@given(st.binary(max_size=60))
def test_any_bytes_are_prepared_or_refused(body: bytes) -> None:
    try:
        prepare(body, "m1", stream=True)
    except errors.BadRequest:
        pass


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
def test_odd_values_are_json(value: bytes) -> None:
    assert is_json(b'{"a":%b}' % value)


@pytest.mark.parametrize("body", [b'{"a":"\\ud800"}', b'"\\udc00 and text"', b"null", b" [1] "])
def test_so_are_halves_of_surrogate_pairs(body: bytes) -> None:
    assert is_json(body)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"{}{}", b'"\xff"', b"NaN", b'{"a":NaN,"b":"\\u0041"}', b"[1,]", b"<html>", b"[" * 100_000],
)
def test_what_is_no_json_is_found(body: bytes) -> None:
    assert not is_json(body)


@given(VALUES)
def test_whatever_json_makes_is_json(value: Any) -> None:
    assert is_json(json.dumps(value).encode())
    assert is_json(json.dumps(value, ensure_ascii=False).encode())


def test_errors_in_the_guise_of_answers() -> None:
    assert error_in(b'{"error":{"message":"no","code":429}}') == {"message": "no", "code": 429}
    assert error_in(b'{"id":1,"error":"no"}') == "no"
    assert error_in(b'{"id":1,"error":null}') is None
    assert error_in(b'{"choices":[{"message":{"content":"\\"error\\""}}]}') is None
    assert error_in(b'{"choices":[{"error":"of a tool"}]}') is None
    assert error_in(b'{"object":"response","status":"failed","error":{"code":"x"}}') is None


@pytest.mark.parametrize(
    ("error", "status"),
    [({"code": 429}, 429), ({"code": 200}, 502), ({"code": "429"}, 502), ("no", 502), ({"code": True}, 502)],
)
def test_the_status_that_an_error_names(error: Any, status: int) -> None:
    assert status_in(error) == status
