"""The streams of the protocol as items: what ends them, what is wrong with them, and what was good before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from racks.openai_stream import BadStream, ChunkStream, ErrorInStream, EventStream, ResponseStream
from wrk_base.rpc import wire

COMPLETED = b'event: response.completed\ndata: {"type":"response.completed"}\n\n'


def items(stream: EventStream, *pieces: bytes) -> list[bytes]:
    found = [item for piece in pieces for item in stream.feed(piece)]
    stream.end()
    return found


def test_chunks_are_the_data_of_events_up_to_done() -> None:
    stream = ChunkStream()
    found = items(
        stream, b': hi\n\ndata: {"a":1}\n', b'\ndata: {"b":\ndata: 2}\n\ndata: [DONE]\n\ndata: 3\n\n'
    )
    assert found == [b'{"a":1}', b'{"b":\n2}']
    assert (stream.finished, stream.content_type) == (True, wire.JSON)


def test_events_of_a_response_are_whole_and_as_they_came() -> None:
    created = (
        b'event: response.created\r\ndata: {"type":"response.created","response":{"error":null}}\r\n\r\n'
    )
    stream = ResponseStream()
    assert items(stream, created + COMPLETED[:9], COMPLETED[9:]) == [created, COMPLETED]
    assert stream.content_type == wire.OCTETS


@pytest.mark.parametrize(
    "last",
    [
        COMPLETED,
        b'data: {"type":"response.completed"}\n\n',
        b'event: response.failed\ndata: {"response":{}}\n\n',
        b'event: error\ndata: {"message":"no"}\n\n',
        COMPLETED + b"data: [DONE]\n\n",
        COMPLETED + b": bye\n\n",
    ],
)
def test_a_response_ends_with_an_event_that_says_so(last: bytes) -> None:
    assert items(ResponseStream(), b'data: {"type":"response.created"}\n\n', last)


@pytest.mark.parametrize(
    ("stream", "came", "why"),
    [
        (ChunkStream, b"", "without"),
        (ChunkStream, b'data: {"a":1}\n\n', "without"),
        (ChunkStream, b'data: {"a":1}\n\ndata: [DO', "without"),
        (ChunkStream, b"data: nonsense\n\n", "no JSON"),
        (ChunkStream, b'data: "\xff"\n\n', "no JSON"),
        (ChunkStream, b"data: " + b"1" * wire.CHUNK_BYTES, "262144"),
        (ResponseStream, b"", "before the response was complete"),
        (ResponseStream, b'data: {"type":"response.created"}\n\n', "before the response was complete"),
        (ResponseStream, b'data: {"type":7}\n\n', "before the response was complete"),
        (ResponseStream, COMPLETED + b"data: {", "in the middle"),
        (ResponseStream, b"data: nonsense\n\n", "no JSON"),
    ],
)
def test_what_is_no_such_stream(stream: type[EventStream], came: bytes, why: str) -> None:
    with pytest.raises(BadStream, match=why):
        items(stream(), came)


def test_what_was_good_comes_before_what_was_not() -> None:
    made = ChunkStream().feed(b'data: {"a":1}\n\ndata: {"error":{"message":"no"}}\n\n')
    assert next(made) == b'{"a":1}'
    with pytest.raises(ErrorInStream) as failed:
        next(made)
    assert (failed.value.error, failed.value.data) == ({"message": "no"}, b'{"error":{"message":"no"}}')


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_items_or_a_known_error(stream: bytes, chunks: bool) -> None:
    try:
        items(ChunkStream() if chunks else ResponseStream(), stream[:50], stream[50:])
    except (BadStream, ErrorInStream):
        pass
