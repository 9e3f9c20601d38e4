"""One HTTP response: read the same however its bytes are cut, and within bounds whatever they are."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from racks.http_reader import HEAD_BYTES, MAX_INTERIM, BadResponse, ResponseReader

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
WHOLE = HEAD + b"Content-Length: 5\r\n\r\nhello"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n3;note=1\r\nhel\r\n2\r\nlo\r\n0\r\nX-Sum: 1\r\n\r\n"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n"


def read(stream: bytes, cuts: list[int] | None = None) -> ResponseReader:
    reader = ResponseReader()
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts or ()), len(stream)]
    for a, b in itertools.pairwise(edges):
        if a < b:  # a socket never says nothing
            reader.feed(stream[a:b])
    return reader


@given(st.sampled_from([WHOLE, CHUNKED, INTERIM * 3 + WHOLE]), st.lists(st.integers(0, 1000), max_size=10))
def test_it_is_the_same_however_it_is_cut(stream: bytes, cuts: list[int]) -> None:
    reader = read(stream, cuts)
    assert (reader.status, reader.take(), reader.done, reader.reusable) == (200, b"hello", True, True)
    assert reader.headers[b"content-type"] == b"application/json"


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda tail: HEAD + tail))
def test_any_bytes_are_read_or_refused(stream: bytes) -> None:
    try:
        read(stream)
    except BadResponse:
        pass


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_some_have_no_body(status: bytes) -> None:
    reader = read(b"HTTP/1.1 %b\r\n\r\n" % status)
    assert (reader.done, reader.take()) == (True, b"")


def test_a_body_without_length_ends_with_the_connection() -> None:
    reader = read(b"HTTP/1.0 200 OK\r\n\r\nhel")
    reader.feed(b"lo")
    assert not reader.done
    assert reader.end()
    assert (reader.take(), reader.reusable) == (b"hello", False)


@pytest.mark.parametrize("stream", [b"", WHOLE[:10], WHOLE[:-1], CHUNKED[:-4], INTERIM])
def test_one_that_breaks_off_is_not_whole(stream: bytes) -> None:
    assert not read(stream).end()


@pytest.mark.parametrize("more", [b"HTTP/1.1 200 OK\r\n\r\n", b"\x00", WHOLE])
def test_what_comes_after_the_end_spoils_the_connection_and_nothing_else(more: bytes) -> None:
    for reader in (read(WHOLE + more), read(WHOLE)):
        reader.feed(more)
        assert (reader.done, reader.reusable, reader.status, reader.take()) == (True, False, 200, b"hello")


def test_who_says_close_is_not_asked_again() -> None:
    assert not read(HEAD + b"Connection: close\r\nContent-Length: 0\r\n\r\n").reusable


def test_the_first_of_several_headers_counts() -> None:
    reader = read(HEAD + b"Content-Type: text/html\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n")
    assert reader.headers[b"content-type"] == b"application/json"
    assert reader.headers[b"retry-after"] == b"3"


def test_interim_responses_are_counted() -> None:
    assert read(INTERIM * MAX_INTERIM + WHOLE).take() == b"hello"
    with pytest.raises(BadResponse, match="1xx"):
        read(INTERIM * (MAX_INTERIM + 1))


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (HEAD + b"X-Long: ", b"a"),
        (HEAD, b"X-More: a\r\n"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;note=", b"a"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-More: a\r\n"),
    ],
    ids=["a header", "headers", "a note on a chunk", "trailers"],
)
def test_what_is_around_a_body_is_bounded(begin: bytes, more: bytes) -> None:
    with pytest.raises(BadResponse, match=str(HEAD_BYTES)):
        read(begin + more * (2 * HEAD_BYTES // len(more)), list(range(0, 2 * HEAD_BYTES, 1024)))


def test_chunks_of_one_byte_are_not_too_much() -> None:
    reader = read(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    for _ in range(100_000 // 100):
        reader.feed(b"1\r\nx\r\n" * 100)
    reader.feed(b"0\r\n\r\n")
    assert (reader.done, reader.size) == (True, 100_000)


@pytest.mark.parametrize(
    "stream",
    [
        b"220 smtp\r\n",
        HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nab",
        HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    ],
)
def test_what_can_be_read_in_two_ways_or_in_none_is_refused(stream: bytes) -> None:
    with pytest.raises(BadResponse):
        read(stream)
