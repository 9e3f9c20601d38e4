"""Any bytes as a message, a head and a body: the documented errors, and nothing else, come out.

Beyond that: what was decoded and can be packed comes back the same, and the router's reading of a head
(msgspec, typed) agrees with the rack's (msgpack, plain), or else a request would be routed as one thing
and run as another.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from wrk_base import contract, errors
from wrk_base.rpc import wire

CONTENT_TYPES = (wire.MSGPACK, wire.JSON, wire.OCTETS, 9)


def run(data: bytes) -> None:
    _as_message(data)
    _as_head(data)
    _as_body(data)


def _as_message(data: bytes) -> None:
    try:
        sent_ms, envelopes = wire.decode(data)
    except wire.BadMessage:
        return
    assert type(sent_ms) is int
    assert type(envelopes) is tuple
    for envelope in envelopes:
        if wire.well_formed(envelope):
            for field in envelope:
                if type(field) is bytes and field != data:
                    _as_head(field)
                    _as_body(field)
    try:
        message = wire.encode(list(envelopes), sent_ms)
    except ValueError:  # nested more deeply than is packed; a receiver takes more than a sender makes
        return
    again = wire.decode(message)
    assert wire.encode(list(again[1]), again[0]) == message


def _as_head(data: bytes) -> None:
    plain, read = _or_words(wire.unpack_head, data), _or_words(contract.read_head, data)
    if isinstance(read, contract.InferenceHead):
        other = contract.read_head(contract.with_model(data, "other"))
        assert other == msgspec.structs.replace(read, model_id="other")
    if data and isinstance(plain, dict) and isinstance(read, contract.InferenceHead):
        options = plain.get("options", {})
        assert plain["modelId"] == read.model_id
        assert plain.get("simulate", False) is read.simulate
        assert options.get("sessionId") == read.options.session_id
        assert options.get("timeoutMs") == read.options.timeout_ms
        assert options.get("repeatable", True) is read.options.repeatable


def _or_words(reader: Callable[[bytes], Any], data: bytes) -> Any:
    """What `reader` makes of the data; None for what it refuses, with words for people."""
    problem = "none"
    try:
        return reader(data)
    except errors.BadRequest as error:
        problem = error.message if wire.readable(error.data) else ""
    except ValueError as error:
        problem = str(error)
    assert problem, "people read it"
    return None


def _as_body(data: bytes) -> None:
    for content_type in CONTENT_TYPES:
        body = _or_words(partial(wire.unpack_body, content_type=content_type), data)
        try:
            packed = wire.pack_body(body, content_type)
        except (TypeError, ValueError):  # as above; None is no octets, and no body of an unknown type
            continue
        assert wire.pack_body(wire.unpack_body(packed, content_type), content_type) == packed
