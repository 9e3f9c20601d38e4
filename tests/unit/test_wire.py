"""Bytes and messages: what is packed comes back the same, and no bytes whatever do harm."""

from __future__ import annotations

import math
import struct
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wrk_base.rpc import wire

U64 = st.integers(0, 2**64 - 1)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
MAPS = st.dictionaries(st.text(max_size=8), PLAIN, max_size=4)
MAYBE_MAPS = st.none() | MAPS

REQUESTS = st.tuples(
    st.just(wire.REQUEST),
    U64,
    U64,
    U64,
    st.text(),
    U64,
    MAYBE_MAPS,
    st.integers(0, 9),
    st.binary(),
    MAYBE_MAPS,
)
REPLIES = st.tuples(st.just(wire.REPLY), U64, U64, MAYBE_MAPS, st.integers(0, 9), st.binary(), MAYBE_MAPS)
ERRORS = st.tuples(
    st.just(wire.ERROR),
    st.just(0),
    U64,
    st.integers(0, 16),
    st.text(),
    st.text(),
    st.booleans(),
    st.none() | U64,
    st.text(),
    st.booleans(),
    MAYBE_MAPS,
)
GREETINGS = st.tuples(st.sampled_from([wire.HELLO, wire.HELLO_OK]), st.just(0), st.just(0), MAPS)
BARE = st.tuples(st.sampled_from([wire.CANCEL, wire.BYE]), st.just(0), U64)
BEATS = st.tuples(st.sampled_from([wire.PING, wire.PONG]), st.just(0), U64, MAYBE_MAPS)
TEXTS = st.tuples(st.sampled_from([wire.GOAWAY, wire.REJECT]), st.just(0), U64, st.text())
ENVELOPES = st.one_of(REQUESTS, REPLIES, ERRORS, GREETINGS, BARE, BEATS, TEXTS)


def as_tuples(value: Any) -> Any:
    """What msgpack makes of a value when it reads arrays as tuples."""
    if isinstance(value, list | tuple):
        return tuple(as_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: as_tuples(item) for key, item in value.items()}
    return value


# --- messages


@given(st.lists(ENVELOPES, max_size=5), U64)
def test_every_message_comes_back_as_it_was_and_well_formed(
    envelopes: list[wire.Envelope], sent_ms: int
) -> None:
    decoded = wire.decode(wire.encode(envelopes, sent_ms))
    assert decoded == (sent_ms, as_tuples(envelopes))
    assert all(wire.well_formed(envelope) for envelope in decoded[1])


@given(st.binary())
@example(b"")
@example(b"\xc0")
@example(b"\x93\x01\x02")  # an array of three that ends after two
@example(b"\xa3abc")  # text has three parts, too
@example(b"\x83\xa1a\x01\xa1b\x02\xa1c\x03")
@example(b"\x91" * 2_000)
@example(b"\x93\x01\x00" + b"\x91" * 1500 + b"\xc0")
@example(b"\xdd\xff\xff\xff\xff")  # four milliards of items, it says
@example(b"\x93\x01\x00\xd4\x05\x00")
@example(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
@example(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
def test_any_bytes_are_a_message_or_a_bad_message(data: bytes) -> None:
    try:
        sent_ms, envelopes = wire.decode(data)
    except wire.BadMessage:
        return
    assert type(sent_ms) is int
    assert type(envelopes) is tuple
    assert all(wire.well_formed(envelope) in (True, False) for envelope in envelopes)


@given(st.lists(ENVELOPES, min_size=1, max_size=3), st.data())
def test_a_damaged_message_is_a_message_or_a_bad_message(envelopes: list[wire.Envelope], data: Any) -> None:
    message = bytearray(wire.encode(envelopes, 12345))
    cut = data.draw(st.integers(0, len(message)), label="cut")
    for _ in range(data.draw(st.integers(0, 3), label="flips")):
        message[data.draw(st.integers(0, len(message) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        _, decoded = wire.decode(bytes(message[:cut] if cut else message))
    except wire.BadMessage:
        return
    assert all(wire.well_formed(envelope) in (True, False) for envelope in decoded)


@pytest.mark.parametrize(
    "message",
    [(2, 0, []), (0, 0, []), (True, 0, []), (1.0, 0, []), ("1", 0, []), (None, 0, []), ([1], 0, [])],
)
def test_another_version_is_told_apart_from_noise(message: tuple[Any, ...]) -> None:
    with pytest.raises(wire.BadVersion):
        wire.decode(msgpack.packb(message))


@pytest.mark.parametrize(
    "message",
    [
        (1, -1, []),
        (1, 0.5, []),
        (1, None, []),
        (1, True, []),
        (1, 0, None),
        (1, 0, {}),
        (1, 0, b""),
        (1, 0),
        (1, 0, [], 0),
        {1: 2},
        {"a": 1, "b": 2, "c": 3, "d": 4},
        1,
        None,
    ],
)
def test_a_message_of_another_shape_is_bad(message: Any) -> None:
    with pytest.raises(wire.BadMessage):
        wire.decode(msgpack.packb(message))


@pytest.mark.parametrize("inner", [msgpack.ExtType(5, b""), msgpack.ExtType(5, b"x"), msgpack.Timestamp(1)])
def test_no_extension_type_gets_in_not_even_an_empty_one(inner: Any) -> None:
    packed = msgpack.packb(inner)
    with pytest.raises(wire.BadMessage):
        wire.decode(msgpack.packb((1, 0, [(wire.PING, 0, 1, {"at": inner})])))
    with pytest.raises(ValueError):
        wire.unpack_body(packed)


@pytest.mark.parametrize("key", [1, None, True, 1.5])
def test_only_text_and_bytes_are_keys(key: Any) -> None:
    with pytest.raises(wire.BadMessage):
        wire.decode(msgpack.packb((1, 0, [(wire.PING, 0, 1, {key: 1})])))
    with pytest.raises(ValueError):
        wire.unpack_body(msgpack.packb({key: 1}))


@pytest.mark.parametrize("value", [object(), {1, 2}, 2**64, -(2**63) - 1, 1j, "\ud800"])
def test_what_msgpack_cannot_carry_is_refused_and_the_next_message_is_intact(value: Any) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        wire.encode([(wire.PING, 0, 1, {"a": value})], 0)
    assert wire.decode(wire.encode([(wire.BYE, 0, 0)], 1)) == (1, ((wire.BYE, 0, 0),))


def test_what_is_nested_without_end_is_refused_and_the_next_message_is_intact() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError):
        wire.pack_body(endless)
    assert wire.unpack_body(wire.pack_body([1])) == [1]


# --- envelopes

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=12).map(tuple) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)
KINDS = st.sampled_from(range(20))


@given(
    ANYTHING
    | st.tuples(KINDS)
    | st.builds(lambda kind, rest: (kind, *rest), KINDS, st.lists(ANYTHING, max_size=11))
)
def test_whether_an_envelope_is_well_formed_is_always_answered(envelope: Any) -> None:
    assert wire.well_formed(envelope) in (True, False)


@given(ENVELOPES, st.data())
def test_an_envelope_with_a_field_too_many_or_too_few_is_none(envelope: wire.Envelope, data: Any) -> None:
    assert wire.well_formed(envelope)
    assert not wire.well_formed((*envelope, None))
    assert not wire.well_formed(envelope[:-1])
    assert not wire.well_formed(list(envelope))


@pytest.mark.parametrize("position", range(1, 10))
def test_every_field_of_a_request_is_checked(position: int) -> None:
    request = (wire.REQUEST, 0, 1, 7, "echo", 1000, None, 0, b"", None)
    assert wire.well_formed(request)
    for wrong in (1.5, (), True):
        assert not wire.well_formed((*request[:position], wrong, *request[position + 1 :]))


@pytest.mark.parametrize("position", range(1, 7))
def test_every_field_of_a_reply_is_checked(position: int) -> None:
    reply = (wire.REPLY, 0, 1, None, 0, b"", None)
    assert wire.well_formed(reply)
    for wrong in (1.5, (), True):
        assert not wire.well_formed((*reply[:position], wrong, *reply[position + 1 :]))


@pytest.mark.parametrize("position", [*range(2, 11)])
def test_every_field_of_an_error_that_is_read_is_checked(position: int) -> None:
    error = (wire.ERROR, 0, 1, 13, "ERR_INTERNAL", "it failed", False, None, "w1", True, None)
    assert wire.well_formed(error)
    assert not wire.well_formed((*error[:position], 1.5, *error[position + 1 :]))


@pytest.mark.parametrize("kind", [0, 6, 7, 8, 15, 99, -1, 2**63, None, "HELLO", (), {}])
def test_an_unknown_kind_has_no_form(kind: Any) -> None:
    assert not wire.well_formed((kind, 0, 1))
    assert not wire.well_formed((kind, 0, 1, None))
    assert not wire.well_formed((kind, 0, 1, {}))


def test_an_envelope_without_head_and_payload_is_smaller_than_its_budget() -> None:
    request = (
        wire.REQUEST,
        0,
        2**63,
        2**64 - 1,
        "routeInferenceRequest",
        wire.MAX_REMAINING_MS,
        None,
        0,
        b"",
        None,
    )
    assert len(msgpack.packb(request)) <= wire.ENVELOPE_BYTES


# --- bodies


@given(PLAIN)
def test_a_body_comes_back_as_it_was(body: Any) -> None:
    assert wire.unpack_body(wire.pack_body(body)) == body


@given(
    st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), st.lists, max_leaves=5)
)
def test_a_json_body_comes_back_as_it_was(body: Any) -> None:
    assert wire.unpack_body(wire.pack_body(body, wire.JSON), wire.JSON) == body


@given(st.binary())
def test_raw_bytes_come_back_as_they_were(body: bytes) -> None:
    for given_as in (body, bytearray(body), memoryview(body)):
        assert wire.unpack_body(wire.pack_body(given_as, wire.OCTETS), wire.OCTETS) == body


@given(st.binary(), st.integers(-1, 5))
@example(b"[" * 2_000, wire.JSON)
@example(b"\x91" * 2_000, wire.MSGPACK)
@example(b"\xc7\x00\xff", wire.MSGPACK)
@example(b"\xd7\xff" + struct.pack(">Q", 2**64 - 1), wire.MSGPACK)
@example(b'"\xff"', wire.JSON)
def test_any_payload_is_a_body_or_a_value_error(payload: bytes, content_type: int) -> None:
    problem = "none"
    try:
        wire.unpack_body(payload, content_type)
    except ValueError as error:
        problem = str(error)
    assert problem, "people read it"


@pytest.mark.parametrize("body", ["text", 1, None, ["a"]])
def test_a_raw_body_must_be_bytes(body: Any) -> None:
    with pytest.raises(TypeError):
        wire.pack_body(body, wire.OCTETS)


def test_numbers_that_are_none_pass_through() -> None:
    assert math.isnan(wire.unpack_body(wire.pack_body(math.nan)))
    assert wire.unpack_body(wire.pack_body(math.inf)) == math.inf


def test_an_unknown_content_type_is_refused_both_ways() -> None:
    with pytest.raises(ValueError):
        wire.unpack_body(b"", 77)
    with pytest.raises(TypeError):
        wire.pack_body({}, 77)
