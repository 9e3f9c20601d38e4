"""Which packets are read at all: those that one of ours may have sent, at a rate that is bounded for each
source and for all together."""

from __future__ import annotations

import random
import struct

import pytest

from tests.fakes.forger import announcement, many_records, pointer, question, response
from wrk_base.discovery.advert import Advert
from wrk_base.discovery.gate import (
    MAX_PACKET,
    MAX_QUESTIONS,
    MAX_RECORDS,
    MAX_SOURCES,
    SOURCE_BURST,
    SOURCE_RATE,
    TOTAL_BURST,
    TOTAL_RATE,
    Gate,
    TokenBucket,
    is_plausible,
    is_question,
)

MARK = b"\x04_wrk\x04_tcp"
LONGEST = Advert("w" * 128, 2**64 - 1, "orchestrator", "m" * 63, "192.168.100.100", 65535, 65535, "k" * 128)
HONEST = response(*announcement(LONGEST))


def admitted(gate: Gate, packets: int, now: float, source: str = "192.168.1.7") -> int:
    return sum(gate.admits(HONEST, source, now) for _ in range(packets))


def test_the_longest_advert_there_is_fits() -> None:
    assert len(HONEST) < 1000
    assert Gate((MARK,)).admits(HONEST, "192.168.1.7", 0.0)
    assert is_plausible(question(25, random.Random(1)))


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        HONEST[:11],
        HONEST.ljust(MAX_PACKET + 1, b"\0"),
        response(*[pointer(b"x")] * (MAX_RECORDS + 1)),
        many_records(250, random.Random(1)),
        struct.pack("!6H", 0, 0, MAX_QUESTIONS + 1, 0, 0, 0) + MARK,
        struct.pack("!6H", 0, 0x8400, 1, 1, 0, 0) + MARK,
        struct.pack("!6H", 0, 0x8400, 0, 12, 12, 12) + MARK,
    ],
    ids=["empty", "cut", "long", "records", "a flood", "questions", "a question in a response", "sections"],
)
def test_what_none_of_ours_sends_is_not_read(packet: bytes) -> None:
    assert not is_plausible(packet)


def test_packets_at_the_limits_are_read() -> None:
    assert is_plausible(HONEST.ljust(MAX_PACKET, b"\0"))
    assert is_plausible(struct.pack("!6H", 0, 0x8400, 0, MAX_RECORDS, 0, 0))
    assert is_plausible(struct.pack("!6H", 0, 0, MAX_QUESTIONS, 65535, 0, 0))


def test_a_question_is_told_from_a_response() -> None:
    assert is_question(question(0, random.Random(1)))
    assert not is_question(HONEST)


def test_what_is_about_others_is_neither_read_nor_counted() -> None:
    gate = Gate((MARK,))

    assert not gate.admits(response(b"\x05_http\x04_tcp" * 3), "192.168.1.7", 0.0)
    assert gate.dropped == 0
    assert not gate.admits(many_records(250, random.Random(1)), "192.168.1.7", 0.0)
    assert gate.dropped == 1


def test_one_source_has_its_burst_and_its_rate() -> None:
    gate = Gate((MARK,))

    assert admitted(gate, 5000, now=0.0) == SOURCE_BURST
    assert admitted(gate, 5000, now=1.0) == SOURCE_RATE
    assert admitted(gate, 5, now=1.0, source="192.168.1.8") == 5
    assert gate.dropped == 10_000 - SOURCE_BURST - SOURCE_RATE


def test_all_sources_together_have_theirs() -> None:
    gate = Gate((MARK,))

    def crowd(now: float) -> int:
        return sum(admitted(gate, 100, now, source=f"10.0.0.{number}") for number in range(200))

    assert crowd(0.0) == TOTAL_BURST
    assert crowd(1.0) == TOTAL_RATE


def test_made_up_sources_take_a_bounded_room() -> None:
    gate = Gate((MARK,))

    for number in range(3 * MAX_SOURCES):
        gate.admits(HONEST, f"source {number}", float(number))

    assert len(gate._sources) == MAX_SOURCES


@pytest.mark.parametrize(
    ("takes", "granted"),
    [
        ([0.0] * 5, [True, True, True, False, False]),
        ([0.0, 0.0, 0.0, 0.5, 0.5], [True, True, True, True, False]),
        ([0.0, 0.0, 0.0, 0.4, 0.5], [True, True, True, False, True]),
        ([0.0, 0.0, 0.0, -9.0, 0.0], [True, True, True, False, False]),
        ([0.0, 1e9, 1e9, 1e9, 1e9], [True, True, True, True, False]),
    ],
    ids=["at once", "refilled", "in parts", "time went back", "never above the burst"],
)
def test_a_bucket(takes: list[float], granted: list[bool]) -> None:
    bucket = TokenBucket(rate=2.0, burst=3.0)

    assert [bucket.take(now) for now in takes] == granted
