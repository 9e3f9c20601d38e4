"""The books of a stream: a sender that obeys its credit is never refused, one that oversteps is caught, and
what is under way is bounded whatever the reader does."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrk_base.rpc import wire
from wrk_base.rpc.pace import ITEMS_PER_SECOND, LOOK_SECONDS, Pace
from wrk_base.rpc.stream import FIRST_BYTES, FIRST_ITEMS, NEXT, Credit, Phase, Window

MAX_ITEMS, MAX_BYTES = 256, 1024 * 1024
SIZES = st.one_of(st.integers(0, 200), st.integers(0, wire.CHUNK_BYTES), st.just(wire.CHUNK_BYTES))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.lists(SIZES, min_size=1, max_size=64)),
        st.tuples(st.just("arrive"), st.just([])),
        st.tuples(st.just("read"), st.lists(st.just(0), min_size=1, max_size=64)),
        st.tuples(st.just("grant"), st.just([])),
    ),
    max_size=200,
)


class Talk:
    """A sender that obeys, a reader, and what is on its way between them in both directions."""

    def __init__(self, max_items: int = MAX_ITEMS, max_bytes: int = MAX_BYTES) -> None:
        self.credit, self.window = Credit(), Window(max_items, max_bytes)
        self.items: deque[list[int]] = deque()
        self.grants: deque[tuple[int, int]] = deque()
        self.unread: deque[int] = deque()
        self.told: list[tuple[int, int]] = [(FIRST_ITEMS, FIRST_BYTES)]

    def send(self, sizes: list[int]) -> None:
        """As many of these items as credit allows, in one envelope."""
        batch = []
        for size in sizes:
            if not self.credit.open:
                break
            self.credit.spend(size)
            batch.append(size)
        if batch:
            self.items.append(batch)

    def arrive(self) -> None:
        if self.items:
            batch = self.items.popleft()
            first = self.window.received_items
            assert self.window.received(first, sum(batch), len(batch)), "its sender obeyed"
            self.unread.extend(batch)

    def read(self, count: int) -> None:
        for _ in range(min(count, len(self.unread))):
            grant = self.window.consumed(self.unread.popleft())
            if grant is not None:
                self.told.append(grant)
                self.grants.append(grant)

    def grant(self) -> None:
        if self.grants:
            self.credit.grant(*self.grants.popleft())

    def step(self, action: str, sizes: list[int]) -> None:
        if action == "send":
            self.send(sizes)
        elif action == "read":
            self.read(len(sizes))
        elif action == "arrive":
            self.arrive()
        else:
            self.grant()

    def settle(self) -> None:
        """All that is on its way arrives, and is read."""
        while self.items or self.unread or self.grants:
            self.arrive()
            self.read(1)
            self.grant()


@given(STEPS)
def test_whoever_obeys_is_never_refused_and_what_is_under_way_is_bounded(
    steps: list[tuple[str, list[int]]],
) -> None:
    talk = Talk()
    for action, sizes in steps:
        talk.step(action, sizes)
        credit, window = talk.credit, talk.window
        assert credit.sent_items - window.read_items <= MAX_ITEMS
        assert credit.sent_bytes - window.read_bytes <= MAX_BYTES + wire.CHUNK_BYTES
    assert talk.told == sorted(talk.told), "grants only rise"
    assert [size for _, size in talk.told] == sorted(size for _, size in talk.told)


@given(STEPS)
def test_a_reader_that_has_read_everything_always_lets_its_sender_go_on(
    steps: list[tuple[str, list[int]]],
) -> None:
    talk = Talk()
    for action, sizes in steps:
        talk.step(action, sizes)
    talk.settle()
    assert talk.credit.open


@given(STEPS, st.integers(1, 1000))
def test_items_beyond_the_grant_or_out_of_order_are_caught(
    steps: list[tuple[str, list[int]]], step: int
) -> None:
    def after() -> Window:
        talk = Talk()
        for action, sizes in steps:
            talk.step(action, sizes)
        return talk.window

    left = after().granted_items - after().received_items
    assert not after().received(after().received_items, 0, left + step)
    assert not after().received(after().received_items + step, 0, 0), "a gap"
    if after().received_items:
        assert not after().received(after().received_items - 1, 0, 1), "one that was here before"


def test_items_after_all_bytes_were_used_are_caught() -> None:
    window = Window(MAX_ITEMS, MAX_BYTES)
    assert window.received(0, FIRST_BYTES - 1, 1)
    assert window.received(1, wire.CHUNK_BYTES, 1), "the last one may go beyond: an item is never cut"
    assert not window.received(2, 0, 1)


def test_one_envelope_cannot_carry_many_items_beyond_the_bytes() -> None:
    window = Window(MAX_ITEMS, MAX_BYTES)
    obeying = FIRST_BYTES - 1 + wire.CHUNK_BYTES  # the most that a sender who obeys has under way
    assert not window.received(0, obeying + 1, 3)


def test_the_window_doubles_while_the_reader_keeps_up_and_stops_at_its_maximum() -> None:
    talk = Talk()
    ahead = []
    for _ in range(5000):
        talk.send([10])
        talk.settle()
        ahead.append(talk.window.granted_items - talk.window.read_items)
    assert max(ahead) == MAX_ITEMS
    doubled = [talk.told[0][0], *(items - read for items, read in _windows(talk))]
    assert doubled[:5] == [32, 64, 128, 256, 256]


def _windows(talk: Talk) -> list[tuple[int, int]]:
    """(granted, read at that time) of each grant, found anew by reading one item after the other."""
    window, found = Window(MAX_ITEMS, MAX_BYTES), []
    for number in range(talk.window.read_items):
        window.received(number, 10, 1)
        grant = window.consumed(10)
        if grant is not None:
            found.append((grant[0], window.read_items))
    return found


def test_the_window_of_a_reader_that_lags_does_not_grow() -> None:
    talk = Talk()
    for _ in range(500):  # it always leaves as much unread as it may
        talk.send([10] * 64)
        talk.arrive()
        talk.read(1)
        talk.grant()
    assert talk.window.read_items == 500
    assert talk.window.granted_items - talk.window.read_items <= FIRST_ITEMS


def test_bytes_grow_with_the_items_up_to_a_maximum_of_their_own() -> None:
    talk = Talk()
    for _ in range(200):
        talk.send([FIRST_BYTES // 4])
        talk.settle()
    assert max(size for _, size in talk.told) - talk.window.read_bytes <= MAX_BYTES
    assert talk.window.granted_bytes - talk.window.read_bytes > MAX_BYTES // 2


@pytest.mark.parametrize("maximum", [0, 1, FIRST_ITEMS - 1, FIRST_ITEMS])
def test_a_maximum_below_the_first_window_is_that_window(maximum: int) -> None:
    talk = Talk(maximum, maximum)
    for _ in range(200):
        talk.send([1])
        talk.settle()
    assert talk.window.granted_items - talk.window.read_items <= FIRST_ITEMS
    assert talk.credit.open


@given(st.lists(st.tuples(st.integers(-(2**63), 2**64), st.integers(-(2**63), 2**64))))
def test_a_grant_is_never_taken_back(grants: list[tuple[int, int]]) -> None:
    credit = Credit()
    for items, size in grants:
        before = (credit.items, credit.bytes)
        credit.grant(items, size)
        assert (credit.items, credit.bytes) == (max(before[0], items), max(before[1], size))


@pytest.mark.parametrize(
    ("items", "size", "is_open"),
    [
        (FIRST_ITEMS - 1, 0, True),
        (FIRST_ITEMS, 0, False),
        (1, FIRST_BYTES - 1, True),
        (1, FIRST_BYTES, False),
        (1, FIRST_BYTES + 1, False),
    ],
)
def test_credit_closes_with_the_last_item_and_with_the_last_byte(
    items: int, size: int, is_open: bool
) -> None:
    credit = Credit()
    for _ in range(items):
        credit.spend(size)
    assert credit.open is is_open
    credit.grant(FIRST_ITEMS + 1, FIRST_BYTES + 2)
    assert credit.open is True


# --- which envelope may follow which


def test_every_way_through_the_table_ends_once() -> None:
    answers = {wire.REPLY, wire.ERROR, wire.REJECT, wire.ITEM, wire.END}
    for (phase, kind), after in NEXT.items():
        assert kind in answers
        assert phase is not Phase.DONE, "nothing follows an end"
        assert (after is Phase.DONE) == (kind is not wire.ITEM), "items go on, everything else is an end"
    assert {kind for phase, kind in NEXT if phase is Phase.WAITING} == answers
    assert (Phase.STREAMING, wire.REPLY) not in NEXT, "items have one kind of final value"
    assert (Phase.STREAMING, wire.REJECT) not in NEXT, "what sent items did begin"


def test_every_phase_can_be_reached() -> None:
    assert {Phase.WAITING, *NEXT.values()} == set(Phase)


# --- pace


def test_a_link_is_fast_while_many_items_leave_and_no_longer() -> None:
    pace, now = Pace(), 100.0
    pace.note(1, now)  # the first look: nothing was known before
    rates = [(ITEMS_PER_SECOND * 2, True), (ITEMS_PER_SECOND // 2, False)]
    for rate, fast in rates:
        for _ in range(10):
            now += LOOK_SECONDS
            pace.note(int(rate * LOOK_SECONDS), now)
        assert pace.fast is fast, rate


@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 0.2)), max_size=100))
def test_pace_says_what_the_last_look_saw(steps: list[tuple[int, float]]) -> None:
    pace, now, since, count, fast = Pace(), 50.0, 0.0, 0, False
    for items, passed in steps:
        now += passed
        count += items
        if now - since >= LOOK_SECONDS:
            fast, since, count = count > ITEMS_PER_SECOND * (now - since), now, 0
        pace.note(items, now)
        assert pace.fast is fast
