"""The book of results: what is found again, what gives way to what, and what is counted.

Held against a search from scratch, with requests that begin, grow, end and are read by chance.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrk_base import errors
from wrk_base.results import ENTRY_BYTES, Entry, Name, Results, State

KEEP = 600.0
BODY = b"a body"
SIZE = 20_000  # of a result


class Book:
    """A book with room for `room` results, and a clock."""

    def __init__(self, room: int = 10) -> None:
        self.limit = room * (ENTRY_BYTES + SIZE)
        self.results: Results[str] = Results(KEEP, self.limit)
        self.now = 0.0

    def begin(self, key: str, caller: str = "alice") -> Entry[str]:
        return self.results.begin((caller, key), BODY, f"{caller} {key}", self.now)

    def stored(self, key: str, size: int = SIZE) -> Entry[str]:
        entry = self.begin(key)
        self.results.store(entry, size, self.now)
        return entry

    def state(self, key: str, caller: str = "alice") -> State | None:
        entry = self.results.find((caller, key), BODY, self.now)
        return None if entry is None else entry.state


def test_what_ended_is_found_for_its_time_and_no_longer() -> None:
    book = Book()
    book.stored("k")
    book.now = KEEP - 0.001
    assert book.state("k") is State.STORED
    book.now = KEEP
    assert book.state("k") is None
    assert book.results.bytes == 0


def test_what_runs_is_found_for_as_long_as_it_runs() -> None:
    book = Book()
    entry = book.begin("k")
    book.now = 10 * KEEP
    assert book.state("k") is State.RUNNING
    book.results.store(entry, 10, book.now)
    book.now += KEEP / 2
    assert book.state("k") is State.STORED


def test_nobody_finds_what_another_caller_asked() -> None:
    book = Book()
    book.stored("k")
    assert book.state("k", "bob") is None


def test_another_request_with_the_same_key_is_refused_whatever_came_of_the_first() -> None:
    book = Book()
    entry = book.begin("k")
    for come_of in (
        lambda: None,
        lambda: book.results.store(entry, 1, 0.0),
        lambda: book.results.spend(entry, 0.0),
    ):
        come_of()
        with pytest.raises(errors.IdempotencyKeyReused) as refusal:
            book.results.find(("alice", "k"), b"another body", 0.0)
        assert refusal.value.data == {"field": "options.idempotencyKey"}


def test_the_oldest_gives_way_and_a_mark_stays() -> None:
    book = Book(room=3)
    for key in ("a", "b", "c"):
        book.stored(key)
        book.now += 1
    book.stored("d", SIZE // 2)
    assert [book.state(key) for key in "abcd"] == [State.SPENT, *3 * [State.STORED]]


def test_what_runs_or_is_read_never_gives_way() -> None:
    book = Book(room=3)
    running, read = book.begin("a"), book.stored("b")
    book.results.open(read)
    book.stored("c")
    book.results.grow(running, SIZE, 0.0)
    book.stored("d", SIZE // 2)
    assert [book.state(key) for key in "abc"] == [State.RUNNING, State.STORED, State.SPENT]
    book.results.close(read)
    book.stored("e", SIZE // 2)
    assert book.state("b") is State.SPENT


def test_what_is_read_stays_beyond_its_time_until_it_was_read() -> None:
    book = Book()
    entry = book.stored("k")
    book.results.open(entry)
    book.now = 2 * KEEP
    book.results.expire(book.now)
    assert entry.work == "alice k"
    book.results.close(entry)
    book.results.expire(book.now)
    assert book.results.bytes == 0


def test_a_result_that_never_fits_leaves_a_mark_and_all_others_alone() -> None:
    book = Book(room=3)
    book.stored("a")
    book.stored("b", book.limit)
    assert (book.state("a"), book.state("b")) == (State.STORED, State.SPENT)


def test_marks_have_at_most_their_share() -> None:
    book = Book(room=100)
    most = book.limit // 8 // ENTRY_BYTES
    for number in range(3 * most):
        book.results.spend(book.begin(str(number)), book.now)
    assert len(book.results) == most
    assert book.state(str(3 * most - 1)) is State.SPENT
    assert book.state("0") is None


def test_where_all_of_it_runs_no_other_begins() -> None:
    book = Book(room=1)
    book.results.grow(book.begin("a"), SIZE, 0.0)
    with pytest.raises(errors.CapacityExceeded) as refusal:
        book.begin("b")
    assert refusal.value.not_started
    assert "idempotency.keepBytes" in refusal.value.message


def test_what_is_passed_on_keeps_its_count_beside_the_one_that_took_its_name() -> None:
    book = Book()
    first = book.begin("k")
    book.results.grow(first, 5000, 0.0)
    book.results.pass_on(first)
    second = book.begin("k")
    assert book.results.bytes == first.bytes + second.bytes
    book.results.shrink(first, 5000)
    book.results.store(first, 0, 0.0)
    assert book.state("k") is State.RUNNING
    assert book.results.bytes == second.bytes == ENTRY_BYTES


def test_what_never_ran_is_forgotten() -> None:
    book = Book()
    book.results.forget(book.begin("k"))
    assert book.state("k") is None
    assert book.results.bytes == 0


# --- by chance


class Walk:
    """Steps by chance, and all entries that are still somebody's."""

    def __init__(self, seed: int) -> None:
        self.chance, self.book = Random(seed), Book(room=8)
        self.live: list[Entry[str]] = []
        self.read: list[Entry[str]] = []

    def step(self, what: str) -> None:
        book, chance = self.book, self.chance
        size = chance.choice((0, 10, SIZE // 2, SIZE, 5 * SIZE))
        if what == "wait":
            book.now += chance.choice((0.0, 1.0, KEEP / 3, KEEP))
            book.results.expire(book.now)
        elif what == "ask":
            self._ask(chance.choice("abcdefghijkl"))
        elif what == "close" and self.read:
            book.results.close(self.read.pop(chance.randrange(len(self.read))))
        elif self.live:
            entry = self.live[chance.randrange(len(self.live))]
            if what == "grow":
                if entry.state is State.RUNNING and not book.results.grow(entry, size, book.now):
                    book.results.pass_on(entry)
            else:
                self.live.remove(entry)
                ends = (
                    lambda: book.results.store(entry, size, book.now),
                    lambda: book.results.spend(entry, book.now),
                    lambda: book.results.forget(entry),
                )
                chance.choice(ends)()

    def _ask(self, key: str) -> None:
        book = self.book
        entry = book.results.find(("alice", key), BODY, book.now)
        if entry is None or entry.state in (State.SPENT, State.PASSING):
            try:
                entry = book.begin(key)
            except errors.CapacityExceeded:
                return
            self.live.append(entry)
        book.results.open(entry)
        self.read.append(entry)

    def check(self) -> None:
        results = self.book.results
        there = {*results._known.values(), *self.live, *(e for e in self.read if e.state is State.STORED)}
        assert results.bytes == sum(entry.bytes for entry in there) <= self.book.limit
        assert results._firm_bytes == sum(entry.bytes for entry in there if entry.firm)
        for entry in {*self.live, *self.read}:
            if entry.state is not State.SPENT and (entry in self.live or entry.readers):
                assert entry.work is not None
        names: list[Name] = [entry.name for entry in results._known.values()]
        assert len(names) == len(set(names))
        for aged in (results._stored, results._spent):
            assert [entry.at for entry in aged] == sorted(entry.at for entry in aged)


STEPS = st.lists(st.sampled_from(("ask", "ask", "grow", "end", "close", "wait")), max_size=120)


@given(STEPS, st.integers(0, 2**32))
def test_what_is_counted_is_what_is_there_and_never_more_than_may(steps: list[str], seed: int) -> None:
    walk = Walk(seed)
    for what in steps:
        walk.step(what)
        walk.check()
    for entry in walk.read:
        walk.book.results.close(entry)
    for entry in walk.live:
        walk.book.results.forget(entry)
    walk.book.results.expire(walk.book.now + KEEP)
    assert (walk.book.results.bytes, walk.book.results._firm_bytes, len(walk.book.results)) == (0, 0, 0)
