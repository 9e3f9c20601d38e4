"""Bytes and messages: what is packed comes back the same, and no bytes whatever do harm."""

from __future__ import annotations

import math
import struct
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz.envelopes import BY_KIND, ENVELOPES, MAPS, PLAIN, U64
from tests.fuzz.samples import SAMPLES
from wrk_base.rpc import wire


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


def test_there_is_an_example_of_every_kind() -> None:
    kinds = set(range(wire.HELLO, wire.CHUNK + 1))
    assert set(SAMPLES) == set(BY_KIND) == kinds
    assert all(wire.well_formed(envelope) and envelope[0] == kind for kind, envelope in SAMPLES.items())


@given(ENVELOPES)
def test_an_envelope_with_a_field_too_many_or_too_few_is_none(envelope: wire.Envelope) -> None:
    (received,) = wire.decode(wire.encode([envelope], 0))[1]
    assert wire.well_formed(received)
    assert not wire.well_formed((*received, None))
    assert not wire.well_formed(received[:-1])
    assert not wire.well_formed(list(received))


NOT_READ = {
    **dict.fromkeys((wire.HELLO, wire.HELLO_OK), (1, 2)),  # flags and id: a greeting has neither
    **dict.fromkeys((wire.ERROR, wire.ITEM, wire.CREDIT, wire.CANCEL, wire.PING, wire.PONG), (1,)),
    **dict.fromkeys((wire.GOAWAY, wire.BYE, wire.REJECT), (1,)),
}
"""Kind -> positions that nobody looks at, so that a later version may give them a meaning."""

ONE_OF_EACH: tuple[Any, ...] = (1.5, 7, True, None, "text", b"bytes", (b"",), {})


OR_NIL = {
    (wire.REQUEST, 6),
    (wire.REQUEST, 9),
    (wire.REPLY, 3),
    (wire.REPLY, 6),
    (wire.ERROR, 7),
    (wire.ERROR, 10),
    (wire.END, 4),
    (wire.END, 7),
    (wire.PING, 3),
    (wire.PONG, 3),
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_every_field_that_is_read_has_its_type(kind: int) -> None:
    sample = SAMPLES[kind]
    for position in set(range(1, len(sample))) - set(NOT_READ.get(kind, ())):
        allowed = {type(sample[position])} | ({type(None)} if (kind, position) in OR_NIL else set())
        for value in ONE_OF_EACH:
            changed = (*sample[:position], value, *sample[position + 1 :])
            assert wire.well_formed(changed) == (type(value) in allowed), (position, value)


@pytest.mark.parametrize("items", [("text",), (b"", None), (b"", 1), ((b"",),), [b""], b"", None, {}])
def test_items_are_an_array_of_bytes(items: Any) -> None:
    item = (wire.ITEM, 0, 1, 0, wire.MSGPACK)
    assert wire.well_formed((*item, (b"", b"more")))
    assert not wire.well_formed((*item, ())), "an ITEM without items would move a deadline and bring nothing"
    assert not wire.well_formed((*item, items))


@pytest.mark.parametrize("kind", [True, 3.0])
def test_a_kind_is_a_whole_number(kind: Any) -> None:
    sample = SAMPLES[int(kind)]
    assert not wire.well_formed((kind, *sample[1:]))


@pytest.mark.parametrize("kind", [0, 16, 99, -1, 2**63, None, "HELLO", (), {}])
def test_an_unknown_kind_has_no_form(kind: Any) -> None:
    for sample in SAMPLES.values():
        assert not wire.well_formed((kind, *sample[1:]))


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


# --- data and extras


@given(MAPS)
def test_plain_data_is_readable(fields: dict[str, Any]) -> None:
    assert wire.readable(fields)


@pytest.mark.parametrize(
    "fields",
    [{1: "a"}, {None: "a"}, {"a": {1: 2}}, {"a": object()}, {"a": 2**64}, {"a": {1, 2}}, {"a": "\ud800"}],
)
def test_what_would_take_its_message_with_it_is_not_readable(fields: dict[Any, Any]) -> None:
    assert not wire.readable(fields)
    assert wire.decode(wire.encode([(wire.BYE, 0, 0)], 1)) == (1, ((wire.BYE, 0, 0),))


# --- heads


@given(MAPS)
def test_a_head_comes_back_as_it_was(head: dict[str, Any]) -> None:
    assert wire.unpack_head(wire.pack_head(head)) == head


def test_no_head_is_an_empty_one() -> None:
    assert wire.unpack_head(None) == {}


@given(st.binary() | PLAIN.map(wire.pack_body))
@example(b"")
@example(b"\x80\x80")
@example(b"\x81\x01\x02")  # keys are text or bytes
@example(b"\x81\xa1a" + b"\x91" * 2_000)
@example(b"\x81\xa1a\xd4\x05\x00")
def test_any_bytes_are_a_head_or_a_value_error(head: bytes) -> None:
    problem = "none"
    try:
        assert type(wire.unpack_head(head)) is dict
    except ValueError as error:
        problem = str(error)
    assert problem, "people read it"


@pytest.mark.parametrize("value", [object(), {1, 2}, 2**64, -(2**63) - 1, 1j, "\ud800"])
def test_what_a_head_cannot_carry_is_refused_and_the_next_one_is_intact(value: Any) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        wire.pack_head({"modelId": "m", "a": value})
    assert wire.unpack_head(wire.pack_head({"a": 1})) == {"a": 1}


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
