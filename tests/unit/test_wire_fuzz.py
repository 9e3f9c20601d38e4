"""Whatever bytes arrive: documented errors, ends that live on, and nothing kept of it.

The same targets that `bin/test --fuzz` runs under a coverage-guided fuzzer, here with the same examples in
every run. What that fuzzer found and what was mended since stands below by name.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.rpc import CLIENT, EPOCH, Happenings, House, Impostor, request
from tests.fuzz import findings, peer_target, server_target, steps, wire_target
from tests.fuzz.envelopes import BY_KIND, ENVELOPES, HEADS, I64, MAPS, MAYBE_MAPS, PLAIN, TYPES
from tests.fuzz.mutate import mutated_message
from tests.fuzz.samples import RACK, SAMPLES
from tests.fuzz.seeds import message
from tests.fuzz.steps import Step
from tests.fuzz.story import settled, tell
from tests.fuzz.targets import TARGETS
from wrk_base import errors
from wrk_base.rpc import wire
from wrk_base.rpc.client import Peer
from wrk_base.rpc.identity import Identity
from wrk_base.rpc.streams import Stream, Terms, open_stream

same_each_time = settings(derandomize=True, max_examples=150)

# --- messages that get past the first checks of the ends in tests/fuzz

SMALL = st.integers(0, 6)
FLAGS = st.sampled_from([0, 0, 0, 0, *range(1, 9), -1, 2**63])
FACTS = st.fixed_dictionaries(
    {},
    optional={
        "versions": st.just([1, 1]) | st.lists(I64, max_size=3),
        "limits": st.dictionaries(st.sampled_from(["maxMessage", "maxInFlight", "window"]), PLAIN),
        "id": st.text(max_size=3),
        "epoch": st.sampled_from([EPOCH, EPOCH + 1, -1, 2**64 - 1]),
        "role": st.sampled_from(["client", "orchestrator", "", 5]),
        "name": PLAIN,
    },
)
INFERENCE = st.fixed_dictionaries({"modelId": st.just("m")}, optional={"options": MAPS, "simulate": PLAIN})


def greetings(kind: int, identity: Identity) -> st.SearchStrategy[wire.Envelope]:
    return st.tuples(
        st.just(kind), st.just(0), st.just(0), FACTS.map(lambda facts: {**identity.greeting({}), **facts})
    )


REQUESTS = st.tuples(
    st.just(wire.REQUEST),
    FLAGS,
    SMALL,
    st.sampled_from([EPOCH, EPOCH, EPOCH, EPOCH + 1]),
    st.sampled_from([*server_target.METHODS, "nothing"]),
    st.sampled_from([1, 1000, 60_000, 0, -1, 2**64 - 1]),
    st.none() | INFERENCE.map(wire.pack_head) | HEADS,
    st.sampled_from([0, 0, 0, 1, 2, 9]),
    PLAIN.map(wire.pack_body) | st.binary(),
    st.just({"size": 5}) | MAYBE_MAPS,
)
REPLIES = st.tuples(st.just(wire.REPLY), FLAGS, SMALL, HEADS, TYPES, st.binary(), MAYBE_MAPS)
NUMBERED = st.builds(
    lambda envelope, number: (*envelope[:2], number, *envelope[3:]),
    st.one_of(*(BY_KIND[kind] for kind in BY_KIND if kind not in (wire.HELLO, wire.HELLO_OK))),
    SMALL,
)
FITTING = st.one_of(
    greetings(wire.HELLO, CLIENT), greetings(wire.HELLO_OK, RACK), REQUESTS, REQUESTS, REPLIES, NUMBERED
)
ILL_FORMED = PLAIN | ENVELOPES.map(lambda envelope: envelope[:-1])
MESSAGES = st.builds(
    lambda envelopes, sent_ms: wire.encode(envelopes, sent_ms),
    st.lists(FITTING | FITTING | ENVELOPES | ILL_FORMED, max_size=4),
    st.sampled_from([1_000_000, 1_000_000, 0, 2**64 - 1]),
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A valid message after a bad way."""
    data = bytearray(draw(MESSAGES))
    for _ in range(draw(st.integers(0, 3))):
        data[draw(st.integers(0, len(data) - 1))] ^= draw(st.integers(1, 255))
    return bytes(data[: draw(st.integers(1, len(data)))])


ANYTHING = MESSAGES | MESSAGES | damaged() | st.binary(max_size=64)


def stories(deeds: type[server_target.Deed | peer_target.Deed]) -> st.SearchStrategy[list[Step]]:
    """Half of the steps bring a message; the others do something else."""
    first = st.just(0)
    a_step = st.builds(
        Step,
        first | st.sampled_from([int(deed) for deed in deeds]),
        ANYTHING,
        st.booleans(),
        st.none() | st.none() | st.binary(max_size=8),
    )
    return st.lists(a_step, max_size=8)


# --- the promises


@same_each_time
@given(ANYTHING | HEADS.map(lambda head: head or b"") | INFERENCE.map(wire.pack_head))
def test_any_bytes_are_read_or_refused_as_documented(data: bytes) -> None:
    wire_target.run(data)


@same_each_time
@given(stories(server_target.Deed))
def test_a_server_lives_through_anything_and_good_callers_notice_nothing(story: list[Step]) -> None:
    server_target.run_steps(story)


@same_each_time
@given(stories(peer_target.Deed))
def test_a_peer_lives_through_anything_and_is_of_use_again_afterwards(story: list[Step]) -> None:
    peer_target.run_steps(story)


@pytest.mark.parametrize("target", TARGETS)
def test_what_the_fuzzer_starts_from_is_no_finding(target: str) -> None:
    for seed in TARGETS[target].seeds():
        TARGETS[target].run(seed)


# --- what the fuzzer found


GUEST, LEAVE = server_target.Deed.GUEST, server_target.Deed.LEAVE
SAY, GREET, CALL, STREAM = (
    peer_target.Deed.SAY,
    peer_target.Deed.GREET,
    peer_target.Deed.CALL,
    peer_target.Deed.STREAM,
)


def test_a_goaway_behind_a_refusal_is_not_said_of_the_next_process() -> None:
    peer_target.run_steps(
        [Step(GREET), Step(SAY, message((wire.REJECT, 0, 0, "no"), (wire.GOAWAY, 0, 0, "it drains")))]
    )


@pytest.mark.parametrize("kind", [wire.REPLY, wire.ERROR, wire.REJECT])
def test_a_call_that_is_answered_before_it_was_sent_is_never_sent(kind: int) -> None:
    peer_target.run_steps([Step(CALL), Step(SAY, message(SAMPLES[kind])), Step(GREET)])


def test_a_call_that_goaway_ends_before_it_was_sent_is_never_sent() -> None:
    """Its caller was told that it never started, and may have sent it elsewhere by now."""
    peer_target.run_steps([Step(CALL), Step(SAY, message((wire.GOAWAY, 0, 0, "it drains"))), Step(GREET)])


def test_items_before_the_greeting_leave_a_stream_that_can_be_sent() -> None:
    empty = message((wire.ITEM, 0, 1, 0, wire.MSGPACK, ()))
    peer_target.run_steps([Step(STREAM), Step(SAY, empty), Step(GREET)])


def test_a_request_behind_a_goodbye_does_not_run() -> None:
    server_target.run_steps([Step(GUEST, message((wire.BYE, 0, 0), request(1, "wait")))])


def test_a_body_that_is_announced_behind_a_goodbye_is_not_held() -> None:
    """Nobody is left whose end would give it back: eight such messages would take the whole budget."""
    large = request(1, "echo", flags=wire.MORE_CHUNKS, extras={"size": 9_000})
    server_target.run_steps([Step(GUEST, message((wire.BYE, 0, 0), large)), Step(LEAVE)])


# --- what grows: a guest who costs more than it sends


def test_requests_that_wait_for_their_bodies_are_bounded_in_number() -> None:
    async def story(house: House) -> None:
        server = house.serve(max_waiting=10)
        guest = await house.guest()
        sized: dict[str, Any] = {
            "flags": wire.MORE_CHUNKS,
            "remaining": wire.MAX_REMAINING_MS,
            "extras": {"size": 1},
        }
        for begin in range(1, 20_000, 1000):
            await guest.say(
                *(request(number, "echo", None, **sized) for number in range(begin, begin + 1000))
            )
            await settled()
        ((_, caller),) = server.callers.items()
        assert len(caller.open) < 20_000

    tell(story)


def test_large_answers_to_a_caller_who_reads_nothing_are_bounded() -> None:
    async def story(house: House) -> None:
        server = house.serve(peer_bytes=4_000_000)
        server.respond("large", lambda _: b"x" * 900_000)
        guest = await house.guest()
        for number in range(1, 30):
            guest.link.send(message(request(number, "large")))
            await settled()
        (caller,) = server.callers.values()
        assert caller.outbox.size + caller.outbox.body_bytes <= 4_000_000
        assert len(guest.answers(29)) == 1, "who finds no room is told"

    tell(story)


def test_a_window_is_no_larger_than_ours_whatever_a_caller_says() -> None:
    async def story(house: House) -> None:
        server = house.serve()
        guest = house.stranger()
        await guest.greet(limits={"window": 2**62})
        await guest.hears(wire.HELLO_OK)
        (caller,) = server.callers.values()
        assert caller.outbox.flow.window <= 2**30

    tell(story)


async def asked(house: House, **limits: Any) -> tuple[Impostor, Peer]:
    """A peer on its way up: the process behind it has heard its greeting."""
    impostor = house.impostor()
    peer = house.peer(keep=True, events=Happenings(), **limits)
    peer.dial()
    await impostor.until(lambda: impostor.heard)
    await settled()
    return impostor, peer


def test_pongs_for_a_process_that_reads_nothing_are_bounded() -> None:
    async def story(house: House) -> None:
        impostor, peer = await asked(house, peer_bytes=1_000_000, link_window=1_048_576)
        for _ in range(30):
            impostor.say(*[(wire.PING, 0, 2**60, None)] * 10_000)
            await settled()
        assert peer._outbox.size < 4_000_000 or not peer.ready

    tell(story)


def test_a_ping_behind_a_refusal_is_not_answered_to_the_next_process() -> None:
    async def story(house: House) -> None:
        impostor, peer = await asked(house)
        impostor.say((wire.REJECT, 0, 0, "no"), (wire.PING, 0, 77, None))
        await asyncio.sleep(5.0)
        assert peer.ready
        calling = peer.call("echo", b"\xc0", deadline=asyncio.get_running_loop().time() + 1.0)
        await settled()
        calling.cancel()
        assert impostor.of(wire.PONG) == []

    tell(story)


async def read_on(peer: Peer, seconds: float) -> None:
    """Read a stream to its end; `seconds` are for the first item and between two."""
    parts = ("count", 0, None, wire.MSGPACK, b"\xc0")
    terms = Terms(seconds, seconds, None)
    async for _ in Stream(lambda: open_stream(peer, peer_target.LIMITS, parts, terms), None):
        pass


def test_who_cancels_a_reader_and_keeps_its_task_has_left_the_stream() -> None:
    async def story(house: House) -> None:
        impostor, peer = await asked(house)
        reading = asyncio.create_task(read_on(peer, 100.0))
        await settled()
        reading.cancel()
        await settled()
        assert reading.cancelled()
        assert impostor.of(wire.CANCEL) == [(wire.CANCEL, 0, 1)]

    tell(story)


def test_an_empty_batch_of_items_takes_no_deadline_away() -> None:
    async def story(house: House) -> None:
        impostor, peer = await asked(house)
        reading = asyncio.create_task(read_on(peer, 1.0))
        await settled()
        impostor.say((wire.ITEM, 0, 1, 0, wire.MSGPACK, ()))
        with pytest.raises(errors.DeadlineExceeded):
            async with asyncio.timeout(1000.0):
                await reading

    tell(story)


# --- the harness itself


@same_each_time
@given(stories(server_target.Deed))
def test_steps_come_back_from_their_bytes_as_they_were(story: list[Step]) -> None:
    assert steps.unpack(steps.pack(story)) == story


@same_each_time
@given(st.binary())
def test_any_bytes_are_steps(data: bytes) -> None:
    story = steps.unpack(data)
    assert steps.unpack(steps.pack(story)) == story
    assert steps.shown(story, TARGETS["peer"].deeds).count("\n") == max(0, len(story) - 1)


@pytest.mark.parametrize("target", TARGETS)
def test_changes_lead_to_inputs_of_the_size_that_is_wanted(target: str) -> None:
    rng = Random(1)
    data = b""
    for _ in range(3000):
        data = TARGETS[target].mutated(data or rng.choice(TARGETS[target].seeds()), 500, rng, cut_or_grown)
        assert len(data) <= 500
        steps.unpack(data)


def cut_or_grown(data: bytes, max_size: int) -> bytes:
    """What a fuzzer does to bytes, in small."""
    return (data[1:] + data[:3])[:max_size]


def test_most_changes_to_a_message_leave_a_message() -> None:
    rng = Random(2)
    changed = [mutated_message(message(*SAMPLES.values()), 8192, rng, cut_or_grown) for _ in range(300)]
    assert sum(len(data) > 2 and data[0] == 0x93 for data in changed) > 150
    assert len(set(changed)) > 100


def test_what_goes_wrong_beside_a_story_comes_out_of_it() -> None:
    async def fails(_: House) -> None:
        asyncio.get_running_loop().call_soon(lambda: [][0])
        await settled()

    async def leaves(_: House) -> None:
        leaves.task = asyncio.create_task(asyncio.sleep(5.0))  # type: ignore[attr-defined]

    with pytest.raises(IndexError):
        tell(fails)
    with pytest.raises(AssertionError, match="left over"):
        tell(leaves)


def test_the_shortest_input_of_each_kind_of_finding_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "FINDINGS", tmp_path)
    book = findings.Book("peer", repr)
    for data in (b"long enough", b"short", b"longer than that"):
        for error in (IndexError(), KeyError()):
            book.note(data, error)
    inputs = sorted(tmp_path.glob("peer-*.bin"))
    assert [path.read_bytes() for path in inputs] == [b"short", b"short"]
    words = "".join(path.with_suffix(".txt").read_text() for path in inputs)
    assert "IndexError" in words
    assert "KeyError" in words
