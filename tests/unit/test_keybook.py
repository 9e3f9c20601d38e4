"""Keys by endpoint: what a person says stays, what is heard gives way."""

from __future__ import annotations

import pytest

from wrk_base.security import z85
from wrk_base.security.keybook import KeyBook

A, B = bytes(range(32)), bytes(range(32, 64))
END = "tcp://10.0.0.1:8004"


def test_what_is_learnt_last_counts() -> None:
    book = KeyBook()
    assert book.key_of(END) is None
    book.learn(END, z85.encode(A))
    book.learn(END, z85.encode(B))
    assert book.key_of(END) == B


def test_what_a_person_said_is_not_overruled() -> None:
    book = KeyBook()
    book.pin(END, z85.encode(A))
    book.learn(END, z85.encode(B))
    assert book.key_of(END) == A


@pytest.mark.parametrize("text", ["", "short", "x" * 39, "x" * 45, "\n" * 40, "é" * 40])
def test_what_is_no_key_changes_nothing(text: str) -> None:
    book = KeyBook()
    book.learn(END, text)
    assert book.key_of(END) is None


def test_at_the_limit_the_oldest_goes() -> None:
    book = KeyBook(most=2)
    for port in (1, 2, 1, 3):
        book.learn(f"tcp://h:{port}", z85.encode(A))
    assert [book.key_of(f"tcp://h:{port}") for port in (1, 2, 3)] == [A, None, A]
    assert len(book) == 2
