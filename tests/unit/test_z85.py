"""Keys as text: what was written is read again, as the reference and the library write it, too."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85 as reference

from wrk_base.security import z85

whole_words = st.binary(max_size=64).map(lambda raw: raw[: len(raw) // 4 * 4])


def test_the_example_of_the_specification() -> None:
    assert z85.encode(bytes.fromhex("864fd26fb559f75b")) == "HelloWorld"
    assert z85.decode("HelloWorld") == bytes.fromhex("864fd26fb559f75b")


@given(whole_words)
def test_what_was_written_is_read_again_and_is_what_the_library_writes(raw: bytes) -> None:
    text = z85.encode(raw)

    assert z85.decode(text) == raw
    assert text == reference.encode(raw).decode()


@given(st.text(max_size=45))
def test_a_text_is_one_that_encode_writes_or_a_value_error(text: str) -> None:
    try:
        raw = z85.decode(text)
    except ValueError:
        return
    assert z85.encode(raw) == text


def test_the_largest_word_and_the_next() -> None:
    assert z85.decode("%nSc0") == b"\xff" * 4
    with pytest.raises(ValueError, match="more than four bytes"):
        z85.decode("%nSc1")


@pytest.mark.parametrize(
    ("text", "complaint"), [("abcd", "by fives"), ("abc d", "a character"), ("abcdé", "a character")]
)
def test_what_is_off_is_named(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        z85.decode(text)


def test_bytes_that_make_no_whole_words_are_refused() -> None:
    with pytest.raises(ValueError, match="by fours"):
        z85.encode(b"abc")
