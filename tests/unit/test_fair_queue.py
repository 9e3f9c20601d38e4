"""Whose turn it is among those that wait for one model: classes by weight, callers by turns.

Held against what it promises, also with callers and requirements made up by chance.
"""

from __future__ import annotations

from collections import Counter
from itertools import count
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrk_orchestrator.fair_queue import CLASSES, RANKS, FairQueue, Place, Wish
from wrk_orchestrator.records import Want, WorkerRecord

ANY = Wish(Want("m1"), frozenset())
GPU = Wish(Want("m1", frozenset({"gpu"})), frozenset())
BIG = WorkerRecord(worker_id="big", address="", tags=frozenset({"gpu"}), max_concurrent=100)
SMALL = WorkerRecord(worker_id="small", address="")


class Line:
    """A queue, and the number of the next turn."""

    def __init__(self) -> None:
        self.turn = 1
        self.queue: FairQueue[Place] = FairQueue(self.turn)
        self._times = count()

    def joins(self, caller: str, priority: str = "default", wish: Wish = ANY) -> Place:
        place = Place(wish, RANKS[priority], caller, float(next(self._times)))
        self.queue.join(place, self.turn)
        return place

    def join(self, caller: str, times: int, priority: str = "default", wish: Wish = ANY) -> list[Place]:
        return [self.joins(caller, priority, wish) for _ in range(times)]

    def next(self, worker: WorkerRecord = BIG) -> Place | None:
        """Who is next among those that the worker fits."""
        heads = list(self.queue.heads(worker))
        return max(heads, key=lambda place: self.queue.claim(place, self.turn), default=None)

    def serves(self, worker: WorkerRecord = BIG) -> Place:
        place = self.next(worker)
        assert place is not None
        self.queue.served(place, self.turn)
        self.turn += 1
        return place

    def callers(self, times: int, worker: WorkerRecord = BIG) -> str:
        return "".join(self.serves(worker).caller for _ in range(times))

    def classes(self, times: int) -> Counter[str]:
        return Counter(CLASSES[self.serves().rank] for _ in range(times))


# --- callers


def test_callers_take_turns() -> None:
    line = Line()
    line.join("a", 4)
    line.join("b", 2)
    line.join("c", 1)
    assert line.callers(7) == "abcabaa"


def test_thousand_of_one_do_not_delay_the_first_of_another() -> None:
    line = Line()
    line.join("a", 1000)
    line.callers(10)
    line.join("b", 2)
    assert line.callers(4) == "abab"


def test_coming_one_by_one_gains_nothing() -> None:
    """A caller that asks again as soon as it was served stands behind those who wait."""
    line = Line()
    line.join("a", 10)
    line.join("b", 10)
    order = ""
    line.joins("c")
    for _ in range(9):
        order += line.callers(1)
        if order[-1] == "c":
            line.joins("c")
    assert order == "abcabcabc"


def test_giving_up_costs_a_caller_nothing() -> None:
    line = Line()
    gone = line.join("a", 100)
    line.join("b", 3)
    for place in gone:
        line.queue.leave(place)
    line.join("a", 3)
    assert line.callers(6) == "bababa"


def test_different_requirements_are_no_way_to_get_more() -> None:
    line = Line()
    for number in range(20):
        line.joins("a", wish=Wish(Want("m1", min_capacity=number), frozenset()))
    line.join("b", 20)
    assert Counter(line.callers(20)) == {"a": 10, "b": 10}


# --- classes


def test_classes_get_turns_by_weight() -> None:
    line = Line()
    for name in CLASSES:
        line.join("a", 2100, name)
    served = line.classes(2100)
    assert served["interactive"] > 12 * served["bulk"]
    assert 3 < served["default"] / served["bulk"] < 5
    assert served["bulk"] >= 2100 / 22


@pytest.mark.parametrize(("higher", "share"), [("interactive", 17), ("default", 5)])
def test_bulk_waits_for_a_bounded_number_of_others(higher: str, share: int) -> None:
    line = Line()
    line.joins("a", "bulk")
    line.join("b", 100, higher)
    assert line.callers(share).count("a") == 1


def test_interactive_that_comes_is_next() -> None:
    line = Line()
    line.join("a", 100, "bulk")
    line.callers(50)
    line.joins("b", "interactive")
    assert line.callers(1) == "b"


def test_class_that_wanted_nothing_for_long_has_saved_nothing_up() -> None:
    line = Line()
    line.join("a", 1000, "interactive")
    line.callers(500)
    line.join("b", 100, "bulk")
    assert line.callers(16).count("b") == 0


# --- requirements


def test_who_does_not_fit_is_passed_over_and_keeps_its_turn() -> None:
    line = Line()
    line.join("a", 2, wish=GPU)
    line.join("b", 2)
    assert line.callers(2, SMALL) == "bb"
    assert line.next(SMALL) is None
    assert line.callers(2) == "aa"


def test_among_different_requirements_that_fit_whoever_stands_first_is_next() -> None:
    line = Line()
    line.join("a", 2, wish=GPU)
    line.join("b", 2)
    assert line.callers(4) == "abab"


# --- who gives way


def test_whoever_has_most_gives_way_to_who_has_fewer() -> None:
    line = Line()
    line.join("a", 2)
    newest = line.join("b", 3)[-1]
    assert line.queue.crowding(Place(ANY, RANKS["default"], "c", 0.0)) is newest
    assert line.queue.crowding(Place(ANY, RANKS["default"], "a", 0.0)) is None
    assert line.queue.crowding(Place(ANY, RANKS["default"], "b", 0.0)) is None


def test_a_place_of_bulk_counts_as_sixteen() -> None:
    line = Line()
    bulk = line.join("a", 2, "bulk")
    line.join("b", 16, "interactive")
    assert line.queue.crowding(Place(ANY, RANKS["interactive"], "c", 0.0)) is bulk[-1]
    assert line.queue.crowding(Place(ANY, RANKS["bulk"], "c", 0.0)) is bulk[-1]
    line.queue.leave(bulk[-1])
    assert line.queue.crowding(Place(ANY, RANKS["bulk"], "c", 0.0)) is None


# --- the books


Step = tuple[str, str, str, bool]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["join", "join", "serve", "leave"]),
        st.sampled_from("abc"),
        st.sampled_from(CLASSES),
        st.booleans(),
    ),
    max_size=80,
)


@given(STEPS, st.integers(0, 2**32))
def test_books_agree_with_who_is_there(steps: list[Step], seed: int) -> None:
    chance, line = Random(seed), Line()
    there: list[Place] = []
    for step, caller, priority, gpu in steps:
        if step == "join":
            there.append(line.joins(caller, priority, GPU if gpu else ANY))
        elif step == "serve" and there:
            there.remove(line.serves())
        elif there:
            place = there.pop(chance.randrange(len(there)))
            line.queue.leave(place)
        agree(line, there)
    for place in there:
        line.queue.leave(place)
    assert line.queue._flows == line.queue._lines == {}
    assert [lengths._rows for lengths in line.queue._longest] == [[], [], []]


def agree(line: Line, there: list[Place]) -> None:
    queue = line.queue
    assert len(queue) == len(there)
    assert queue.counts == [sum(place.rank == rank for place in there) for rank in range(len(CLASSES))]
    assert set(queue.wishes()) == {place.wish for place in there}
    for wish in (ANY, GPU):
        assert set(queue.standing(wish)) == {place for place in there if place.wish == wish}
    for worker in (SMALL, BIG):
        heads = list(queue.heads(worker))
        assert [head.rank for head in heads] == sorted({p.rank for p in there if p.wish.fits(worker)})
        for head in heads:  # nobody of the same caller, class and wish came before
            kind = (head.wish, head.rank, head.caller)
            assert head.since == min(p.since for p in there if (p.wish, p.rank, p.caller) == kind)
    if there:
        assert queue.oldest() == min(place.since for place in there)
    crowds = Counter((place.rank, place.caller) for place in there)
    for rank, rows in enumerate(queue._longest):
        longest = rows.longest()
        most = max((n for (of, _), n in crowds.items() if of == rank), default=0)
        assert (len(longest.places) if longest is not None else 0) == most


# --- who goes before


def newcomer(caller: str, priority: str = "default", wish: Wish = ANY) -> Place:
    return Place(wish, RANKS[priority], caller, 0.0)


def test_nobody_goes_before_the_first() -> None:
    assert Line().queue.before(newcomer("a")) == 0


def test_own_requests_go_before_and_of_others_as_many_as_their_turns_come() -> None:
    line = Line()
    line.join("a", 100)
    line.join("b", 3)
    assert line.queue.before(newcomer("a")) == 103
    assert line.queue.before(newcomer("b")) == 3 + 4
    assert line.queue.before(newcomer("c")) == 2


def test_other_classes_go_before_by_their_weights() -> None:
    line = Line()
    line.join("a", 100, "bulk")
    line.join("b", 40, "default")
    assert line.queue.before(newcomer("c", "interactive")) == 0
    assert line.queue.before(newcomer("c", "bulk")) == 1 + 8
    assert line.queue.before(newcomer("b", "default")) == 40 + 41 // 4


def test_those_who_wait_for_something_else_are_not_counted() -> None:
    line = Line()
    line.join("a", 10, wish=GPU)
    assert line.queue.before(newcomer("a")) == 0
    assert line.queue.before(newcomer("b", wish=GPU)) == 1


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(CLASSES)), max_size=60),
    st.integers(0, 30),
    st.tuples(st.sampled_from("abcd"), st.sampled_from(CLASSES)),
)
def test_estimate_of_who_goes_before_is_near_the_truth(
    waiting: list[tuple[str, str]], served: int, who: tuple[str, str]
) -> None:
    """Within one turn of each caller of the class and of each class, which is what it leaves open."""
    line = Line()
    for caller, priority in waiting:
        line.joins(caller, priority)
    for _ in range(min(served, len(line.queue))):
        line.serves()
    estimate = line.queue.before(newcomer(*who))
    place = line.joins(*who)
    truth = 0
    while line.serves() is not place:
        truth += 1
    if len({priority for _, priority in [*waiting, who]}) == 1:
        assert truth <= estimate <= truth + 4
    assert estimate <= len(waiting)
