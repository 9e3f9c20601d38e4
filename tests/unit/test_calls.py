"""The books of open calls: one outcome each under any order of events, and time kept by arithmetic alone."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from wrk_base.rpc.calls import DELAY_WINDOW_MS, INFINITY, CallTable, OneWayDelay, redial_delay

# --- CallTable


@dataclass(eq=False)
class Entry:
    deadline: float


class CallBooks(RuleBasedStateMachine):
    """Calls begin, are answered (once, twice, by mistake), run out, are given up and lost, in any order."""

    @initialize()
    def start(self) -> None:
        self.table: CallTable[int, Entry] = CallTable()
        self.now = 0.0
        self.next_id = 0
        self.open: dict[int, Entry] = {}
        self.outcomes: dict[int, int] = {}
        self.strays = 0

    @rule(seconds=st.floats(-1.0, 100.0))
    def a_call_begins(self, seconds: float) -> None:
        self.next_id += 1
        entry = self.open[self.next_id] = Entry(self.now + seconds)
        before = self.table.wake_at
        moved = self.table.add(self.next_id, entry)
        assert moved == (self.table.wake_at < before)

    @rule(which=st.integers(-1, 40))
    def an_answer_comes(self, which: int) -> None:
        entry = self.table.pop(which)
        assert entry is self.open.pop(which, None)
        if entry is None:
            self.strays += 1
        else:
            self._ended(which)

    @rule(which=st.integers(-1, 40))
    def a_call_is_given_up(self, which: int) -> None:
        self.table.discard(which)
        if self.open.pop(which, None) is not None:
            self._ended(which)

    @rule(seconds=st.floats(0.0, 60.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        due = self.table.expire(self.now)
        assert {key for key, _ in due} == {key for key, e in self.open.items() if e.deadline <= self.now}
        for key, entry in due:
            assert self.open.pop(key) is entry
            self._ended(key)
        exact = min((entry.deadline for entry in self.open.values()), default=INFINITY)
        assert self.table.wake_at == exact

    @rule()
    def the_link_is_lost(self) -> None:
        lost = self.table.close_all()
        assert dict(lost) == self.open
        for key, _ in lost:
            self._ended(key)
        self.open.clear()
        assert self.table.wake_at == INFINITY

    def _ended(self, key: int) -> None:
        self.outcomes[key] = self.outcomes.get(key, 0) + 1

    @invariant()
    def every_call_has_at_most_one_outcome_and_is_open_until_then(self) -> None:
        assert all(count == 1 for count in self.outcomes.values())
        assert len(self.table) == len(self.open) == self.next_id - len(self.outcomes)
        assert self.table.unmatched == self.strays

    @invariant()
    def nobody_is_woken_too_late(self) -> None:
        assert self.table.wake_at <= min((entry.deadline for entry in self.open.values()), default=INFINITY)


TestCallBooks = CallBooks.TestCase


def test_the_timer_is_set_anew_only_for_an_earlier_deadline() -> None:
    table: CallTable[int, Entry] = CallTable()
    assert table.add(1, Entry(10.0)) is True
    assert table.add(2, Entry(10.0)) is False
    assert table.add(3, Entry(11.0)) is False
    assert table.add(4, Entry(9.0)) is True


def test_a_call_without_end_never_runs_out() -> None:
    table: CallTable[int, Entry] = CallTable()
    table.add(1, Entry(INFINITY))
    assert table.expire(1e300) == []
    assert len(table) == 1


# --- OneWayDelay


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.floats(0, 1e12)), max_size=50))
def test_no_message_took_less_time_than_none(messages: list[tuple[int, float]]) -> None:
    delay = OneWayDelay()
    for number, (sent, received) in enumerate(messages):
        excess = delay.excess(sent, received)
        assert excess >= 0
        assert number or excess == 0, "the first message is all that is known"


@given(
    clocks=st.integers(0, 2**40),
    usual=st.floats(0, 50),
    noise=st.lists(st.floats(0, 5), min_size=1, max_size=30),
    pause=st.floats(0, 60_000),
)
def test_time_in_buffers_is_found_whatever_the_clocks_say(
    clocks: int, usual: float, noise: list[float], pause: float
) -> None:
    delay = OneWayDelay()
    sent = 10**6
    for jitter in noise:
        sent += 1000
        delay.excess(sent, clocks + sent + usual + jitter)
    sent += 1000
    assert delay.excess(sent, clocks + sent + usual + pause) == pytest.approx(pause, abs=5.1)


def test_a_pause_is_found_in_the_turn_of_the_window_and_right_after_it() -> None:
    for offset in (-1.0, 0.0, 1.0):
        delay = OneWayDelay()
        delay.excess(0, 0.0)
        received = DELAY_WINDOW_MS + offset
        assert delay.excess(int(received) - 700, received) == pytest.approx(700, abs=1)


def test_clocks_that_drift_apart_do_not_look_like_a_pause_for_ever() -> None:
    """A sender whose clock loses 1 ms in 10 s falls 24 ms behind within two windows, and no further."""
    delay, worst = OneWayDelay(), 0.0
    for second in range(3600):
        now = second * 1000.0
        worst = max(worst, delay.excess(int(now - second / 10), now))
    assert worst <= 2 * DELAY_WINDOW_MS / 10_000 + 1


def test_a_minimum_that_no_longer_holds_is_forgotten_after_two_windows() -> None:
    delay = OneWayDelay()
    delay.excess(1000, 1000.0)
    excesses = []
    for second in range(1, 300):  # from now on all messages take half a second longer
        now = 1000.0 + second * 1000
        excesses.append(delay.excess(int(now - 500), now))
    assert excesses[0] == 500
    assert excesses[-1] == 0


def test_after_a_long_silence_the_last_known_minimum_still_counts() -> None:
    delay = OneWayDelay()
    delay.excess(1000, 1000.0)
    later = 1000.0 + 10 * DELAY_WINDOW_MS
    assert delay.excess(int(later - 3000), later) == 3000


# --- redial_delay


@pytest.mark.parametrize(
    ("attempt", "least", "most", "chance", "seconds"),
    [
        (1, 0.1, 1.0, 0.0, 0.1),
        (2, 0.1, 1.0, 0.0, 0.2),
        (4, 0.1, 1.0, 0.0, 0.8),
        (5, 0.1, 1.0, 0.0, 1.0),
        (6, 0.1, 1.0, 0.0, 1.0),
        (1, 0.1, 1.0, 1.0, 0.075),
        (9, 0.1, 1.0, 0.5, 0.875),
        (0, 0.1, 1.0, 0.0, 0.1),  # no attempt yet counts as the first
        (-5, 0.1, 1.0, 0.0, 0.1),
        (10**9, 0.1, 1.0, 0.0, 1.0),  # no overflow, however long it has been down
        (3, 1.0, 1.0, 0.0, 1.0),  # least = most: no doubling
        (1, 2.0, 1.0, 0.0, 1.0),  # the most is never exceeded
        (7, 0.0, 1.0, 0.5, 0.0),
    ],
)
def test_redial_delays(attempt: int, least: float, most: float, chance: float, seconds: float) -> None:
    assert redial_delay(attempt, least, most, chance) == pytest.approx(seconds)


@given(st.integers(), st.floats(0.001, 10), st.floats(0.001, 100), st.floats(0, 1, exclude_max=True))
@example(2**63, 0.001, 100.0, 0.0)
def test_a_redial_is_never_later_than_the_most_and_loses_at_most_a_quarter(
    attempt: int, least: float, most: float, chance: float
) -> None:
    seconds = redial_delay(attempt, least, most, chance)
    assert min(least, most) * 0.75 <= seconds <= most
