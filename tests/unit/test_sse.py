"""Server-sent events: however the bytes are cut and the lines ended, the same events come out, in bounds."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from racks.sse import EventTooLong, SseSplitter, data_of, name_of

LIMIT = 1000
LINE = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=20)
ENDS = st.sampled_from(["\n", "\r\n", "\r"])


@st.composite
def events(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """(an event with its blank line, its data); CR alone is not mixed in, where LF could follow it."""
    end = draw(ENDS)
    data = draw(st.lists(LINE, min_size=1, max_size=4))
    before = draw(st.sampled_from(["", f": comment{end}", f"id: 7{end}event: x{end}"]))
    lines = "".join(f"data: {line}{end}" for line in data)
    return (before + lines + end).encode(), "\n".join(data).encode()


def fed(stream: bytes, cuts: list[int], limit: int = LIMIT) -> list[bytes]:
    splitter = SseSplitter(limit)
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    pieces = (stream[a:b] for a, b in itertools.pairwise(edges))
    found = [event for piece in pieces for event in splitter.feed(piece)]
    assert splitter.rest == b""
    return found


@given(st.lists(events(), max_size=6), st.lists(st.integers(0, 10_000), max_size=12))
def test_events_are_the_same_however_they_are_cut(made: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    stream = b"".join(event for event, _ in made)
    found = [data for event in fed(stream, cuts) if (data := data_of(event)) is not None]
    assert found == [data for _, data in made]


@given(st.lists(events(), max_size=6))
def test_nothing_is_lost_byte_by_byte(made: list[tuple[bytes, bytes]]) -> None:
    stream = b"".join(event for event, _ in made)
    whole = fed(stream, list(range(len(stream))))
    assert b"".join(whole).replace(b"\r", b"").replace(b"\n", b"") == stream.replace(b"\r", b"").replace(
        b"\n", b""
    )


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_any_bytes_are_events_or_too_long(stream: bytes, cuts: list[int]) -> None:
    splitter = SseSplitter(40)
    edges = [0, *sorted(cuts), len(stream)]
    try:
        for a, b in itertools.pairwise(edges):
            for event in splitter.feed(stream[a:b]):
                assert len(event) <= 40
                data_of(event)
                name_of(event)
    except EventTooLong:
        return
    assert len(splitter.rest) <= 40


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: x\n\n", b"x"),
        (b"data:x\n\n", b"x"),
        (b"data:  x\r\n\r\n", b" x"),
        (b"data\n\n", b""),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b": only a comment\n\n", None),
        (b"event: ping\n\n", None),
        (b"database: x\n\n", None),
        (b"\n", None),
        (b"event: e\nid: 1\ndata: {}\nretry: 5\n\n", b"{}"),
    ],
)
def test_data_of_an_event(event: bytes, data: bytes | None) -> None:
    assert data_of(event) == data


def test_name_of_an_event() -> None:
    assert name_of(b"event: a\nevent: b\ndata: 1\n\n") == b"b"
    assert name_of(b'data: {"event": 1}\n\n') == b""


def test_a_mark_at_the_very_beginning_is_dropped_and_nowhere_else() -> None:
    splitter = SseSplitter(LIMIT)
    assert splitter.feed(b"\xef\xbb\xbfdata: 1\n\n\xef\xbb\xbfdata: 2\n\n") == [
        b"data: 1\n\n",
        b"\xef\xbb\xbfdata: 2\n\n",
    ]


def test_events_of_the_limit_pass_and_longer_ones_do_not() -> None:
    event = b"data: " + b"x" * (LIMIT - 8) + b"\n\n"
    assert SseSplitter(LIMIT).feed(event) == [event]
    with pytest.raises(EventTooLong, match="1000"):
        SseSplitter(LIMIT).feed(b"x" + event)
    splitter = SseSplitter(LIMIT)
    splitter.feed(b"y" * LIMIT)
    with pytest.raises(EventTooLong):
        splitter.feed(b"y")


def test_what_was_searched_is_not_searched_again() -> None:
    """A line that comes in bytes would otherwise cost the square of its length: minutes, at this one's."""
    splitter = SseSplitter(262_144)
    for _ in range(200_000):
        assert splitter.feed(b"x") == []
    assert splitter.feed(b"\n\n") == [b"x" * 200_000 + b"\n\n"]
