"""What waits for one peer: it leaves whole and in order, and nothing that cannot travel holds up the rest."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrk_base.rpc import wire
from wrk_base.rpc.flow import Flow
from wrk_base.rpc.outbox import COALESCE_BYTES, COALESCE_COUNT, Message, Outbox

LIMIT = 2000
WINDOW = 100 * COALESCE_BYTES  # nothing of this waits for its reader


class Odd:
    """Something that no codec knows."""


def reply(number: int, size: int) -> wire.Envelope:
    return (wire.REPLY, 0, number, None, wire.OCTETS, b"x" * size, None)


def sealed(envelopes: list[wire.Envelope], limit: int = LIMIT) -> tuple[list[bytes], list[tuple[int, str]]]:
    """(messages, (id, problem) of what could not travel)."""
    left_behind: list[tuple[int, str]] = []
    outbox = Outbox(limit, lambda envelope, problem: left_behind.append((envelope[2], problem)), Flow(WINDOW))
    for envelope in envelopes:
        outbox.add(envelope, len(envelope[5]))
    assert bool(outbox) == bool(envelopes)
    messages = outbox.take(7)
    assert not outbox
    assert outbox.take(7) == []
    return firsts(messages), left_behind


def firsts(messages: list[Message]) -> list[bytes]:
    """Messages of one frame each."""
    assert [chunk for _, chunk in messages] == [None] * len(messages)
    return [message for message, _ in messages]


def empty() -> Outbox:
    """One whose envelopes all travel."""
    return Outbox(10 * COALESCE_BYTES, lambda envelope, problem: pytest.fail(problem), Flow(WINDOW))


def ids(messages: list[bytes]) -> list[int]:
    return [envelope[2] for message in messages for envelope in wire.decode(message)[1]]


def test_what_fits_leaves_as_one_message() -> None:
    messages, left_behind = sealed([reply(number, 10) for number in range(20)])
    assert len(messages) == 1
    assert ids(messages) == list(range(20))
    assert left_behind == []


def test_nothing_waiting_is_no_message() -> None:
    assert sealed([]) == ([], [])


def test_every_message_says_when_it_left() -> None:
    messages, _ = sealed([reply(number, 900) for number in range(5)])
    assert len(messages) > 1
    assert [wire.decode(message)[0] for message in messages] == [7] * len(messages)


@given(st.lists(st.integers(0, LIMIT + 200), max_size=30))
def test_all_that_can_travel_does_so_in_order_and_within_the_limit(sizes: list[int]) -> None:
    envelopes = [reply(number, size) for number, size in enumerate(sizes)]
    fits = [len(wire.encode([envelope], 7)) <= LIMIT for envelope in envelopes]
    messages, left_behind = sealed(envelopes)
    assert all(len(message) <= LIMIT for message in messages)
    assert ids(messages) == [number for number, fit in enumerate(fits) if fit]
    assert [number for number, _ in left_behind] == [number for number, fit in enumerate(fits) if not fit]


def test_a_message_of_exactly_the_limit_travels_and_one_byte_more_does_not() -> None:
    frame = len(wire.encode([reply(1, 1000)], 7)) - 1000
    assert sealed([reply(1, LIMIT - frame)])[1] == []
    messages, left_behind = sealed([reply(1, LIMIT - frame + 1)])
    assert messages == []
    assert f"{LIMIT + 1} bytes" in left_behind[0][1]
    assert f"limit of {LIMIT}" in left_behind[0][1]


@pytest.mark.parametrize("odd", [Odd(), {1, 2}, 2**64, "\ud800"])
@pytest.mark.parametrize("position", [0, 3, 9])
def test_an_envelope_that_cannot_be_encoded_stays_behind_alone(odd: Any, position: int) -> None:
    envelopes = [reply(number, 10) for number in range(10)]
    envelopes[position] = (wire.REPLY, 0, position, {"odd": odd}, wire.OCTETS, b"", None)
    messages, left_behind = sealed(envelopes)
    assert ids(messages) == [number for number in range(10) if number != position]
    assert [number for number, _ in left_behind] == [position]


def test_a_value_that_breaks_its_encoder_in_a_way_of_its_own_stays_behind_alone() -> None:
    class Grumpy(dict[str, Any]):
        def items(self) -> Any:
            raise ZeroDivisionError

    grumpy = (wire.REPLY, 0, 5, {"head": Grumpy(a=1)}, wire.OCTETS, b"", None)
    messages, left_behind = sealed([reply(4, 1), grumpy, reply(6, 1)])
    assert ids(messages) == [4, 6]
    assert [number for number, _ in left_behind] == [5]


def test_much_that_waits_asks_to_leave_at_once() -> None:
    outbox = empty()
    assert outbox.add(reply(1, 100), 100) is False
    assert outbox.add(reply(2, COALESCE_BYTES), COALESCE_BYTES) is True
    outbox.take(0)
    assert outbox.add(reply(3, 100), 100) is False, "what left no longer counts"


def test_many_that_wait_ask_to_leave_at_once() -> None:
    outbox = empty()
    asked = [outbox.add((wire.CANCEL, 0, number)) for number in range(COALESCE_COUNT)]
    assert asked == [False] * (COALESCE_COUNT - 1) + [True]
    outbox.take(0)
    assert outbox.add((wire.CANCEL, 0, 99)) is False, "what left no longer counts"


def test_clear_forgets_what_waits() -> None:
    outbox = empty()
    outbox.add(reply(1, COALESCE_BYTES), COALESCE_BYTES)
    outbox.add_body(1, b"x" * 10)
    outbox.clear()
    assert (outbox.take(0), outbox.size, bool(outbox)) == ([], 0, False)
    assert outbox.add(reply(2, 1), 1) is False
