"""Envelopes of every kind for hypothesis: well-formed, and otherwise anything that the wire can carry."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from wrk_base.rpc import wire

U64 = st.integers(0, 2**64 - 1)
I64 = st.integers(-(2**63), 2**64 - 1)
PLAIN = st.recursive(
    st.none() | st.booleans() | I64 | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
MAPS = st.dictionaries(st.text(max_size=8), PLAIN, max_size=4)
MAYBE_MAPS = st.none() | MAPS
HEADS = st.none() | st.binary() | MAPS.map(wire.pack_head)
TYPES = st.integers(0, 9)


def _of(kind: int, *fields: st.SearchStrategy[Any]) -> st.SearchStrategy[wire.Envelope]:
    return st.tuples(st.just(kind), *fields)


BY_KIND: dict[int, st.SearchStrategy[wire.Envelope]] = {
    wire.HELLO: _of(wire.HELLO, st.just(0), st.just(0), MAPS),
    wire.HELLO_OK: _of(wire.HELLO_OK, st.just(0), st.just(0), MAPS),
    wire.REQUEST: _of(wire.REQUEST, U64, U64, U64, st.text(), U64, HEADS, TYPES, st.binary(), MAYBE_MAPS),
    wire.REPLY: _of(wire.REPLY, U64, U64, HEADS, TYPES, st.binary(), MAYBE_MAPS),
    wire.ERROR: _of(
        wire.ERROR,
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
    ),
    wire.ITEM: _of(wire.ITEM, st.just(0), U64, U64, TYPES, st.lists(st.binary(), min_size=1, max_size=4)),
    wire.END: _of(wire.END, U64, U64, U64, HEADS, TYPES, st.binary(), MAYBE_MAPS),
    wire.CREDIT: _of(wire.CREDIT, st.just(0), U64, U64, U64),
    wire.CANCEL: _of(wire.CANCEL, st.just(0), U64),
    wire.PING: _of(wire.PING, st.just(0), U64, MAYBE_MAPS),
    wire.PONG: _of(wire.PONG, st.just(0), U64, MAYBE_MAPS),
    wire.GOAWAY: _of(wire.GOAWAY, st.just(0), U64, st.text()),
    wire.BYE: _of(wire.BYE, st.just(0), U64),
    wire.REJECT: _of(wire.REJECT, st.just(0), U64, st.text()),
    wire.CHUNK: _of(wire.CHUNK, U64, U64),
}
ENVELOPES = st.one_of(*BY_KIND.values())
