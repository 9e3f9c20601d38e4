"""Books of records that agree: whatever is lost, repeated or overtaken on the way, all come to the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wrk_base import errors
from wrk_orchestrator import replication
from wrk_orchestrator.replication import (
    DAY_MS,
    KEPT_MS,
    LONGEST_BODY,
    PAGE_CHARACTERS,
    PAGE_ROWS,
    Allowance,
    Book,
    Row,
    SentRow,
    sent,
    stamp_of,
)

NOW = 1_800_000_000_000


def write(
    book: Book, id: str, body: str | None, writer: str = "o1", now: int = NOW, kind: str = "hold"
) -> Row:
    row = book.next((kind, id), body, writer, now)
    book.check(row)
    book.take(row)
    return row


def hear(book: Book, row: Row, now: int = NOW) -> bool:
    news = book.is_news(row, now)
    if news:
        book.take(row)
    return news


def reconcile(one: Book, other: Book) -> int:
    """As two orchestrators do it; how many rounds it took."""
    for rounds in range(1000):
        buckets, stamps = other.stamps(other.differing(one.digest()))
        difference = one.compare(buckets, stamps)
        if not (difference.wanted or difference.offered):
            return rounds
        offered, given_back = one.page(difference.offered), other.page(difference.wanted[:PAGE_ROWS])
        assert any([hear(other, row) for row in offered] + [hear(one, row) for row in given_back])
    raise AssertionError("they never agree")


# --- which of two is newer


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        (Row("k", "a", 1, "o9", False, "x"), Row("k", "a", 2, "o1", False, "y")),
        (Row("k", "a", 2, "o1", False, "x"), Row("k", "a", 2, "o2", False, "x")),
        (Row("k", "a", 2, "o1", False, "x"), Row("k", "a", 2, "o1", True, "", NOW)),
    ],
    ids=["version", "then writer", "then the deletion"],
)
def test_the_higher_version_wins_then_the_higher_writer(older: Row, newer: Row) -> None:
    for rows in ((older, newer), (newer, older), (older, newer, older)):
        book = Book()
        for row in rows:
            hear(book, row)
        assert book.get(("k", "a")) == newer


def test_two_bodies_of_one_version_and_writer_are_told_apart_alike_everywhere() -> None:
    """A store that was restored from a copy writes a version for the second time."""
    one, other = Row("k", "a", 2, "o1", False, "x"), Row("k", "a", 2, "o1", False, "y")
    books = Book(), Book()
    for book, rows in zip(books, ((one, other), (other, one)), strict=True):
        for row in rows:
            hear(book, row)
    assert books[0].all() == books[1].all()


def test_a_change_is_above_what_was_there_and_a_deletion_too() -> None:
    book = Book()
    assert [write(book, "a", body).version for body in ("x", "y", None, "z")] == [1, 2, 3, 4]
    assert [row.body for row in book.alive("hold")] == ["z"]


# --- any order, duplication and loss


@dataclass
class World:
    """Books of some orchestrators, and messages between them that may come at any time, often or never."""

    books: list[Book] = field(default_factory=lambda: [Book() for _ in range(3)])
    under_way: list[Row] = field(default_factory=list)
    newest: dict[str, Row] = field(default_factory=dict)

    def change(self, who: int, id: str, body: str | None) -> None:
        row = write(self.books[who], id, body, f"o{who}")
        self.under_way.append(row)
        held = self.newest.get(id)
        if held is None or stamp_of(row) > stamp_of(held):
            self.newest[id] = row

    def deliver(self, who: int, which: int) -> None:
        if self.under_way:
            hear(self.books[who], self.under_way[which % len(self.under_way)])

    def meet(self, who: int, other: int) -> None:
        if who != other:
            reconcile(self.books[who], self.books[other])


who = st.integers(0, 2)
ids = st.sampled_from(["a", "b", "c", "d"])
steps = st.one_of(
    st.tuples(st.just("change"), who, ids, st.none() | st.text(max_size=3)),
    st.tuples(st.just("deliver"), who, st.integers(0, 100)),
    st.tuples(st.just("meet"), who, who),
)


@settings(max_examples=300)
@given(st.lists(steps, max_size=40))
def test_whatever_happened_on_the_way_all_come_to_hold_the_newest_of_each(history: list[Any]) -> None:
    world = World()
    for name, *arguments in history:
        getattr(world, name)(*arguments)
    for who, other in ((0, 1), (1, 2), (0, 1)):  # a chain is enough: not everybody meets everybody
        world.meet(who, other)
    held = [{row.id: row for row in book.all()} for book in world.books]
    assert held == [world.newest] * 3
    assert len({book.digest() for book in world.books}) == 1
    assert {book.digest() for book in world.books} == {replayed(world.newest).digest()}


def replayed(rows: dict[str, Row]) -> Book:
    """A book that never saw anything else: sums that were kept up are as if they were made anew."""
    book = Book()
    for row in rows.values():
        book.take(row)
    return book


@settings(max_examples=50)
@given(st.permutations(range(6)), st.lists(st.integers(0, 5), max_size=6))
def test_the_same_rows_in_any_order_and_twice_are_the_same_book(order: list[int], again: list[int]) -> None:
    source = Book()
    rows = [
        write(source, id, body) for id, body in zip("aababc", ["1", None, "3", "4", None, "6"], strict=True)
    ]
    book = Book()
    for number in (*order, *again):
        hear(book, rows[number])
    assert book.digest() == source.digest()


# --- comparing


def test_books_that_agree_exchange_nothing_but_a_digest() -> None:
    one, other = Book(), Book()
    hear(other, write(one, "a", "x"))
    assert one.differing(other.digest()) == []
    assert other.stamps([]) == ([], [])


def test_one_difference_among_many_costs_its_bucket_and_no_more() -> None:
    one, other = Book(), Book()
    for number in range(2000):
        hear(other, write(one, f"w{number}", "x"))
    write(one, "w7", None)
    buckets, stamps = other.stamps(other.differing(one.digest()))
    assert len(buckets) == 1
    assert len(stamps) < 100
    assert one.compare(buckets, stamps).offered == [("hold", "w7")]


def test_a_first_meeting_goes_by_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication, "PAGE_STAMPS", 100)
    one, other = Book(), Book()
    for number in range(600):
        write(one, f"a{number}", "x")
        write(other, f"b{number}", "y", "o2")
    assert reconcile(one, other) > 2
    assert one.digest() == other.digest()
    assert len(one) == 1200


def test_a_page_has_so_many_rows_or_characters_and_one_at_least() -> None:
    book = Book()
    for number in range(PAGE_ROWS + 5):
        write(book, f"a{number}", "x")
    assert len(book.page([("hold", f"a{n}") for n in range(PAGE_ROWS + 5)])) == PAGE_ROWS
    for id in "bc":
        write(book, id, "y" * PAGE_CHARACTERS)
    assert [row.id for row in book.page([("hold", "nobody"), ("hold", "b"), ("hold", "c")])] == ["b"]


@pytest.mark.parametrize("digest", [b"", b"x" * 511, b"x" * 513])
def test_a_digest_of_another_length_is_refused(digest: bytes) -> None:
    with pytest.raises(ValueError, match="512"):
        Book().differing(digest)


# --- deletions


def test_a_tombstone_keeps_an_old_copy_away_for_seven_days_and_then_goes() -> None:
    book = Book()
    old = write(book, "a", "x")
    write(book, "a", None)
    later = NOW + KEPT_MS - 1
    assert not hear(book, old, later)
    assert book.expired(later) == []
    (gone,) = book.expired(NOW + KEPT_MS)
    book.purge(gone)
    assert len(book) == 0
    assert book.digest() == Book().digest()


def test_a_tombstone_that_one_has_purged_is_not_taken_back_from_another() -> None:
    book, other = Book(), Book()
    row = write(book, "a", None)
    hear(other, row)
    book.purge(row)
    assert not hear(book, sent_over(other, "a", NOW + KEPT_MS), NOW + KEPT_MS)


def test_what_is_made_anew_after_a_purge_is_above_what_others_still_have() -> None:
    book, behind = Book(), Book()
    write(book, "a", "x")
    tombstone = write(book, "a", None)
    hear(behind, tombstone)
    book.purge(tombstone)
    again = write(book, "a", "y")
    assert hear(behind, again)
    assert write(book, "b", "z", kind="registration").version == 1


def sent_over(book: Book, id: str, now: int, their_clock: int = 0) -> Row:
    """A row as it arrives at a machine whose clock is so much ahead."""
    row = book.get(("hold", id))
    assert row is not None
    wire = msgspec.msgpack.decode(msgspec.msgpack.encode(sent(row, now)), type=SentRow)
    return wire.arrived(now + their_clock)


@pytest.mark.parametrize("ahead", [-40 * 365 * DAY_MS, 0, 40 * 365 * DAY_MS])
def test_ages_travel_so_machines_with_other_clocks_purge_at_the_same_time(ahead: int) -> None:
    book = Book()
    write(book, "a", None)
    arrived = sent_over(book, "a", NOW + DAY_MS, ahead)
    there = Book()
    assert hear(there, arrived, NOW + DAY_MS + ahead)
    assert there.expired(NOW + KEPT_MS - 1 + ahead) == []
    assert there.expired(NOW + KEPT_MS + ahead) == [arrived]


# --- bounds


def test_no_more_than_so_many_of_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication, "MOST_ROWS", 3)
    book = Book()
    for id in "abc":
        write(book, id, "x")
    with pytest.raises(errors.CapacityExceeded, match="3 records of the kind hold"):
        write(book, "d", "x")
    write(book, "d", "x", kind="registration")
    assert book.crowding(Row("hold", "d", 1, "o1", False, "x")) is None
    older, newer = write(book, "b", None, now=NOW - 5), write(book, "a", None)
    assert book.crowding(Row("hold", "d", 1, "o1", False, "x")) == older
    assert book.crowding(older._replace(id="d", changed=NOW - 6)) is None
    assert book.crowding(newer._replace(id="d")) == older
    book.purge(older)
    write(book, "d", "x")


@pytest.mark.parametrize("size", [LONGEST_BODY + 1, LONGEST_BODY // 2])
def test_a_body_and_all_of_them_have_a_longest(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication, "MOST_CHARACTERS", LONGEST_BODY // 2 + 1)
    book = Book()
    write(book, "a", "xy")
    with pytest.raises(errors.CapacityExceeded, match="cannot be kept"):
        write(book, "b", "x" * size)
    write(book, "a", None)
    write(book, "b", "x" * (LONGEST_BODY // 2))
    write(book, "b", "y" * (LONGEST_BODY // 2))


def test_a_version_that_leaves_no_room_above_it_cannot_be_written_over() -> None:
    book = Book()
    hear(book, Row("hold", "a", 2**53, "o9", False, "{}"))
    with pytest.raises(errors.CapacityExceeded, match="written"):
        write(book, "a", None)


GOOD = ("hold", "a", 1, "o1", False, "{}", 0)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda row: ("", *row[1:]),
        lambda row: (row[0], "x" * 129, *row[2:]),
        lambda row: (*row[:2], 0, *row[3:]),
        lambda row: (*row[:2], 2**53 + 1, *row[3:]),
        lambda row: (*row[:3], "", *row[4:]),
        lambda row: (*row[:4], 1, *row[5:]),
        lambda row: (*row[:5], b"{}", *row[6:]),
        lambda row: (*row[:5], "x" * (LONGEST_BODY + 1), *row[6:]),
        lambda row: (*row[:6], -1),
        lambda row: row[:6],
    ],
)
def test_a_row_that_is_none_is_not_read(spoil: Callable[[Any], Any]) -> None:
    assert msgspec.convert(GOOD, SentRow).arrived(NOW) == Row("hold", "a", 1, "o1", False, "{}")
    with pytest.raises(ValueError):
        msgspec.convert(spoil(GOOD), SentRow, strict=True)


def test_a_tombstone_with_a_body_is_none() -> None:
    with pytest.raises(ValueError, match="no body"):
        SentRow("hold", "a", 1, "o1", True, "{}", 0).arrived(NOW)


def test_a_peer_may_ask_in_a_burst_and_then_so_often_a_second() -> None:
    allowance = Allowance(0.0)
    assert sum(allowance.take(0.0) for _ in range(1000)) == Allowance.BURST
    assert sum(allowance.take(1.0) for _ in range(1000)) == Allowance.A_SECOND
    assert sum(allowance.take(0.5) for _ in range(1000)) == 0
