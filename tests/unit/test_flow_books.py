"""What is under way on a link, and large bodies in chunks: who goes first, what is held back, and that all of
it arrives whole, in whatever steps the peer says that it has read."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrk_base import errors
from wrk_base.rpc import wire
from wrk_base.rpc.body import Assembly, Budget, give_back, reserve
from wrk_base.rpc.flow import ACK_BYTES, BULK_WINDOW, Flow
from wrk_base.rpc.outbox import COALESCE_BYTES, Message, Outbox

LIMIT = 1024 * 1024
WINDOW = 2 * 1024 * 1024
CHUNK = wire.CHUNK_BYTES


def outbox(window: int = WINDOW) -> Outbox:
    def refuse(envelope: wire.Envelope, problem: str) -> None:
        raise AssertionError(f"it can travel: {problem}")

    return Outbox(LIMIT, refuse, Flow(window))


def item(number: int, size: int) -> wire.Envelope:
    return (wire.ITEM, 0, 1, number, wire.OCTETS, (b"x" * size,))


def kinds(messages: list[Message]) -> list[int]:
    return [envelope[0] for message, _ in messages for envelope in wire.decode(message)[1]]


def size_of(messages: list[Message]) -> int:
    return sum(len(message) + len(chunk or b"") for message, chunk in messages)


def body(number: int, size: int) -> bytes:
    return bytes([number]) * size


class Listener:
    """The other side of an outbox: puts bodies together, and says how much it has read."""

    def __init__(self, box: Outbox) -> None:
        self.box, self.flow, self.read = box, Flow(WINDOW), 0
        self.bodies: dict[int, bytearray] = {}
        self.turns: list[int] = []
        self.ended: list[int] = []

    def hear(self, messages: list[Message]) -> None:
        self.read += size_of(messages)
        for message, chunk in messages:
            for kind, flags, number, *_ in wire.decode(message)[1]:
                if kind == wire.CHUNK:
                    assert chunk is not None
                    self.bodies.setdefault(number, bytearray()).extend(chunk)
                    self.turns.append(number)
                    if not flags & wire.MORE_CHUNKS:
                        self.ended.append(number)

    def acknowledge(self) -> None:
        assert self.box.flow.acked(self.read)


# --- how much is under way


@given(st.lists(st.tuples(st.integers(0, 3 * ACK_BYTES), st.booleans()), max_size=50))
def test_a_reader_says_how_far_it_is_each_time_it_has_read_enough(steps: list[tuple[int, bool]]) -> None:
    flow, read, told = Flow(WINDOW), 0, 0
    for size, speaks in steps:
        read += size
        assert flow.read(size) is (read - told >= ACK_BYTES)
        if speaks:
            due = read - told >= ACK_BYTES
            assert flow.tell() == (read if due else None)
            told = read if due else told
            assert flow.tell() is None, "once"


@given(st.lists(st.tuples(st.integers(0, WINDOW), st.floats(0, 1)), max_size=50))
def test_what_was_said_to_be_read_is_no_longer_under_way(steps: list[tuple[int, float]]) -> None:
    flow, sent, acked = Flow(WINDOW), 0, 0
    for size, share in steps:
        flow.sent(size)
        sent += size
        acked += int((sent - acked) * share)
        assert flow.acked(acked)
        assert flow.unread == sent - acked
        assert flow.open is (sent - acked < WINDOW)
        assert flow.open_for_bulk is (sent - acked < BULK_WINDOW)


@given(st.integers(0, WINDOW), st.integers(0, WINDOW), st.integers(-(2**64), 2**64))
def test_nobody_has_read_more_than_was_sent_or_less_than_it_said(sent: int, first: int, then: int) -> None:
    flow = Flow(WINDOW)
    flow.sent(sent)
    assert flow.acked(first) is (first <= sent)
    first = first if first <= sent else 0
    assert flow.acked(then) is (first <= then <= sent)
    assert flow.unread == sent - (then if first <= then <= sent else first), "a lie changes nothing"


# --- what leaves, and in which order


@given(
    st.lists(st.integers(1, 5 * CHUNK), min_size=1, max_size=5),
    st.lists(st.booleans(), min_size=1, max_size=20),
)
def test_bodies_arrive_whole_and_take_turns(sizes: list[int], acknowledges: list[bool]) -> None:
    box = outbox()
    there = Listener(box)
    for number, size in enumerate(sizes):
        box.add_body(number, body(number, size))
    for says in [*acknowledges, *[True] * 100]:
        there.hear(box.take(0))
        assert box.flow.unread < BULK_WINDOW + CHUNK + wire.ENVELOPE_BYTES
        if says:
            there.acknowledge()
    assert not box
    assert there.bodies == {number: body(number, size) for number, size in enumerate(sizes)}
    assert sorted(there.ended) == list(range(len(sizes)))
    _assert_fair(there.turns, sizes)


def _assert_fair(turns: list[int], sizes: list[int]) -> None:
    """Nobody gets a second chunk while another that is not whole had none since."""
    left = Counter({number: -(-size // CHUNK) for number, size in enumerate(sizes)})
    for one, other in pairwise(turns):
        left[one] -= 1
        assert one != other or sum(left.values()) == left[other], turns


def test_envelopes_leave_before_chunks_that_were_there_first() -> None:
    box = outbox()
    box.add_body(1, body(1, 3 * CHUNK))
    box.add((wire.CANCEL, 0, 5))
    assert kinds(box.take(0)) == [wire.CANCEL, *[wire.CHUNK] * 3]


def test_a_small_call_waits_behind_no_more_than_the_bulk_window() -> None:
    box = outbox()
    box.add_body(1, body(1, 100 * CHUNK))
    before = size_of(box.take(0))
    assert BULK_WINDOW <= before < BULK_WINDOW + CHUNK + wire.ENVELOPE_BYTES
    box.add(item(0, 10), 10)
    assert kinds(box.take(0)) == [wire.ITEM], "the body waits for its reader, the small call does not"


def test_all_is_held_back_while_the_window_is_used_up_but_for_what_was_read() -> None:
    box = outbox()
    box.flow.sent(WINDOW)
    box.add(item(0, 10), 10)
    box.add_body(1, body(1, CHUNK))
    assert box.take(0) == []
    assert box
    box.flow.read(ACK_BYTES)
    (credit,) = box.take(0)
    assert wire.decode(credit[0])[1] == ((wire.CREDIT, 0, 0, ACK_BYTES, 0),), "or two could wait for ever"
    assert box.flow.acked(WINDOW - BULK_WINDOW), "of the rest the reader says nothing yet"
    assert kinds(box.take(0)) == [wire.ITEM], "and it is still too much for a body"
    assert box.flow.acked(WINDOW)
    assert kinds(box.take(0)) == [wire.CHUNK]
    assert not box


def test_what_was_held_back_leaves_no_faster_than_the_window_allows() -> None:
    box = outbox()
    box.flow.sent(WINDOW)
    for number in range(200):
        box.add(item(number, CHUNK), CHUNK)
    assert box.take(0) == []
    assert box.flow.acked(ACK_BYTES)
    box.take(0)
    assert box.flow.unread <= WINDOW + COALESCE_BYTES + LIMIT


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(0, 4 * CHUNK)),
            st.tuples(st.just("body"), st.integers(1, 4 * CHUNK)),
            st.tuples(st.just("drop"), st.integers(0, 20)),
            st.tuples(st.just("take"), st.just(0)),
            st.tuples(st.just("hear"), st.just(0)),
        ),
        max_size=60,
    )
)
def test_items_keep_their_order_and_dropped_bodies_end(steps: list[tuple[str, int]]) -> None:
    box = outbox()
    there = Listener(box)
    added, sizes, dropped = 0, list[int](), set[int]()
    heard: list[int] = []
    for action, number in steps:
        if action == "add":
            box.add(item(added, number % LIMIT // 2), number)
            added += 1
        elif action == "body":
            box.add_body(len(sizes), body(len(sizes), number))
            sizes.append(number)
        elif action == "drop":
            box.drop_body(number)
            dropped.add(number)
        elif action == "hear":
            there.acknowledge()
        else:
            messages = box.take(0)
            there.hear(messages)
            heard += [e[3] for m, _ in messages for e in wire.decode(m)[1] if e[0] == wire.ITEM]
    assert heard == list(range(len(heard)))
    for number in there.ended:
        assert there.bodies[number] == body(number, sizes[number])
    waiting = {number for number, _ in box._bodies}
    assert waiting.isdisjoint(there.ended)
    assert waiting | set(there.ended) | dropped >= set(range(len(sizes))), "whole, waiting or unwanted"


# --- bodies as they arrive


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_a_body_is_whole_with_its_last_chunk(sizes: list[int]) -> None:
    chunks = [body(number, size) for number, size in enumerate(sizes)]
    assembly = Assembly(sum(sizes))
    whole = [assembly.add(chunk, last=number == len(chunks) - 1) for number, chunk in enumerate(chunks)]
    assert whole == [False] * (len(chunks) - 1) + [True]
    assert assembly.buffer == b"".join(chunks)


@pytest.mark.parametrize(
    ("chunks", "why"),
    [
        ([(11, True)], "too long"),
        ([(11, False)], "too long, and it says that there is more"),
        ([(9, True)], "too short"),
        ([(10, False)], "whole, and it says that there is more"),
        ([(6, False), (5, True)], "too long in the end"),
        ([(0, True)], "nothing"),
    ],
)
def test_chunks_that_do_not_add_up_are_refused(chunks: list[tuple[int, bool]], why: str) -> None:
    assembly = Assembly(10)
    for size, last in chunks[:-1]:
        assembly.add(bytes(size), last)
    size, last = chunks[-1]
    with pytest.raises(ValueError, match="10 bytes"):
        assembly.add(bytes(size), last)
    assert len(assembly.buffer) <= 10, why


@given(st.lists(st.integers(0, 100)), st.integers(1, 200), st.integers(1, 200))
def test_bytes_are_taken_of_both_budgets_or_of_none(sizes: list[int], own: int, all_of_it: int) -> None:
    peer, process = Budget(own, "rpc.peerBytes"), Budget(all_of_it, "rpc.processBytes")
    taken: list[int] = []
    for size in sizes:
        fits = sum(taken) + size <= min(own, all_of_it)
        if fits:
            reserve(size, peer, process)
            taken.append(size)
        else:
            full = "rpc.peerBytes" if sum(taken) + size > own else "rpc.processBytes"
            with pytest.raises(errors.CapacityExceeded, match=full) as refusal:
                reserve(size, peer, process)
            assert refusal.value.not_started
        assert peer.used == process.used == sum(taken)
    for size in taken:
        give_back(size, peer, process)
    assert (peer.used, process.used) == (0, 0)
