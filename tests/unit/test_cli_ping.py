"""`wrk ping` and `wrk call --stats`: figures by table, series of calls in virtual time, bytes at links."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.aio import run
from tests.fakes.rpc import House, ask, told
from wrk_base import errors
from wrk_base.rpc import wire
from wrk_base.rpc.link import Link, LinkEvents
from wrk_orchestrator.cli import render
from wrk_orchestrator.cli.latency import LEAST_MS, MOST_BINS, Bin, histogram, percentile, summary
from wrk_orchestrator.cli.main import main
from wrk_orchestrator.cli.measure import round_trips
from wrk_orchestrator.cli.traffic import MeteredEvents, MeteredLink, Traffic

# --- figures


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1.0), (0.01, 1.0), (0.5, 50.0), (0.9, 90.0), (0.99, 99.0), (1.0, 100.0)]
)
def test_a_percentile_is_a_sample_by_nearest_rank(share: float, expected: float) -> None:
    assert percentile([float(n) for n in range(1, 101)], share) == expected
    assert percentile([7.0], share) == 7.0


def test_a_summary_does_not_mind_the_order() -> None:
    assert summary([3.0, 1.0, 2.0]) == {"min": 1.0, "p50": 2.0, "p90": 3.0, "p99": 3.0, "max": 3.0}


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([1.0], [1]),
        ([1.0, 1.0, 1.0, 1.0], [4]),
        ([1.0, 1.001, 1.002, 1.0], [4]),
        ([1.0, 1.0, 1.0, 100.0], [3, 1]),
        ([1.0, 9.9, 10.1, 100.0], [2, 2]),
        ([0.0, 0.0], [2]),
        ([1.0] * 143 + [4096.0], [143, *[0] * 10, 1]),
    ],
)
def test_bins_grow_by_a_ratio_and_what_hardly_differs_shares_one(
    samples: list[float], expected: list[int]
) -> None:
    assert [one.samples for one in histogram(samples)] == expected


@given(st.lists(st.floats(0.0, 1e9), min_size=1, max_size=300))
def test_every_sample_is_in_one_bin_whatever_they_are(samples: list[float]) -> None:
    bins = histogram(samples)
    assert 1 <= len(bins) <= MOST_BINS
    assert sum(one.samples for one in bins) == len(samples)
    assert [one.high for one in bins[:-1]] == [one.low for one in bins[1:]]
    assert (bins[0].low, bins[-1].high) == (max(min(samples), LEAST_MS), max(max(samples), LEAST_MS))


# --- a series of calls


def now() -> float:
    return asyncio.get_running_loop().time()


def taking(*seconds: float | None) -> Callable[[int], Awaitable[None]]:
    """Calls that take so long; None: one that is lost after a second."""

    async def one(number: int) -> None:
        took = seconds[number]
        await asyncio.sleep(1.0 if took is None else took)
        if took is None:
            raise errors.DeadlineExceeded(f"no answer to {number}")

    return one


def test_round_trips_are_measured_one_after_the_other_with_a_pause_between() -> None:
    async def story() -> None:
        assert await round_trips(taking(0.25, 0.5, 1.0), 3, 0.125, now) == [250.0, 500.0, 1000.0]
        assert now() == 0.25 + 0.5 + 1.0 + 2 * 0.125

    run(story(), "virtual")


def test_what_is_lost_is_noted_and_the_series_goes_on() -> None:
    async def story() -> None:
        assert await round_trips(taking(0.25, None, 0.5), 3, 0.0, now) == [250.0, None, 500.0]

    run(story(), "virtual")


def test_when_none_comes_back_the_last_failure_is_the_outcome() -> None:
    async def story() -> None:
        with pytest.raises(errors.DeadlineExceeded, match="no answer to 2"):
            await round_trips(taking(None, None, None), 3, 0.0, now)

    run(story(), "virtual")


@pytest.mark.parametrize(("after", "told"), [(2.5, [1000.0, 1000.0]), (0.5, None)])
def test_an_interrupt_ends_the_series_and_what_was_measured_counts(after: float, told: Any) -> None:
    async def story() -> None:
        series = asyncio.ensure_future(round_trips(taking(1.0, 1.0, 1.0), 3, 0.0, now))
        await asyncio.sleep(after)
        series.cancel()
        if told is None:
            with pytest.raises(asyncio.CancelledError):
                await series
        else:
            assert await series == told

    run(story(), "virtual")


# --- bytes


def test_bytes_are_counted_both_ways_and_chunks_with_them() -> None:
    async def story(house: House) -> None:
        house.serve()
        traffic = Traffic()
        dial = house.fake.dial

        def metered(endpoint: str, events: LinkEvents, *, heartbeat: bool = True) -> Link:
            link = dial(endpoint, MeteredEvents(events, traffic), heartbeat=heartbeat)
            return MeteredLink(link, traffic)

        house.fake.dial = metered  # type: ignore[method-assign, assignment]
        peer = house.peer()
        await ask(peer)
        greeted = traffic.copy()
        assert greeted.out > 0
        assert greeted.into > 0
        await ask(peer, "echo", "x" * 1000)
        small = traffic.since(greeted)
        assert 1000 < small.out < 1100
        assert 1000 < small.into < 1100
        before = traffic.copy()
        large = 4 * wire.CHUNK_BYTES
        await ask(peer, "echo", b"x" * large)
        cost = traffic.since(before)
        assert large < cost.out < large + 2000
        assert large < cost.into < large + 2000
        peer.close()
        assert not MeteredLink(_deaf(), traffic).send(b"what is not sent is not counted")
        assert traffic.since(before).out < large + 2000

    told(story)


def _deaf() -> Any:
    class Deaf:
        def send(self, message: bytes, chunk: memoryview | None = None) -> bool:
            return False

    return Deaf()


# --- what is shown

PINGS = {
    "workerId": "r1-1",
    "role": "rack",
    "endpoint": "tcp://127.0.0.1:5001",
    "connectMs": 1.5,
    "sent": 11,
    "received": 10,
    "ms": {"min": 0.1, "p50": 0.2, "p90": 0.3, "p99": 12.34, "max": 12.34},
    "histogram": [
        {"fromMs": 0.1, "toMs": 1.0, "count": 9},
        {"fromMs": 1.0, "toMs": 5.0, "count": 0},
        {"fromMs": 5.0, "toMs": 12.34, "count": 1},
    ],
    "roundTripsMs": [],
}


def test_a_histogram_has_a_bar_a_bin_the_longest_as_long_as_may_be(
    capsys: pytest.CaptureFixture[str],
) -> None:
    render.show(*render.ping_parts(PINGS))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "r1-1 at tcp://127.0.0.1:5001, connected in 1.500 ms"
    rows = [line.split() for line in lines if "." in line][1:-1]
    assert rows == [
        ["0.100", "1.000", "9", "█" * render.BAR],
        ["1.000", "5.000", "0"],
        ["5.000", "12.3", "1", "█" * 5],
    ]
    assert lines[-1] == ("10 of 11 came back: min 0.100  p50 0.200  p90 0.300  p99 12.3  max 12.3 ms")


def test_what_a_call_cost_is_told_in_two_lines() -> None:
    figures = {"requests": 3, "errors": 0, "processingTime": 1.5, "averageProcessingTime": 0.5, "overruns": 2}
    cost = {"connectMs": 1.0, "roundTripMs": 20.04, "bytesOut": 5, "bytesIn": 6, "workerId": "r1"}
    first, second = render.cost_lines("echo", {**cost, "method": figures})
    assert first == "connect 1.000 ms, round trip 20.0 ms, 5 bytes out, 6 bytes in"
    assert second == "echo at r1: 3 requests, 0 errors, 0.5 ms on average, 2 overruns"
    _, failed = render.cost_lines("echo", {**cost, "method": {**figures, "lastError": "a\x1b[2Jb"}})
    assert failed.endswith("last error a\\x1b[2Jb")
    _, silent = render.cost_lines("echo", {**cost, "method": None})
    assert silent == "r1 tells no figures of echo"


def test_a_bin_is_a_bin() -> None:
    assert histogram([2.0]) == [Bin(2.0, 2.0, 1)]


@pytest.mark.parametrize(
    "words",
    [
        ("ping", "http://127.0.0.1:1"),
        ("ping", "tcp://127.0.0.1"),
        ("ping", "r1", "r2"),
        ("ping", "--count", "0"),
        ("ping", "--count", "many"),
        ("ping", "--interval", "-1"),
        ("ping", "--timeout", "0"),
        ("call", "--stats"),
        ("call", "ping", "{", "--stats"),
    ],
)
def test_wrong_usage_is_2_and_starts_nothing(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "Usage: wrk" in said.err
