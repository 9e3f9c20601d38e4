"""The gateway comparison without gateways: what is read, counted and judged, and the pages. No sockets."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest

from benchmarks import bench, gateway
from benchmarks.gateway_side import answers, mock, peers, raw_http, shared_prefixes, table, verdicts
from benchmarks.gateway_side.figures import (
    DIRECT,
    NATIVE,
    OPENAI,
    Figures,
    ManyRacks,
    Outcome,
    Results,
    SharedPrefixes,
    Streams,
    Unary,
    UnequalRacks,
    medians,
    percentile,
)
from benchmarks.gateway_side.load import read_wrk
from benchmarks.gateway_side.mocks import Mocks
from benchmarks.gateway_side.stream_load import Caller
from benchmarks.report import Row, missed
from benchmarks.side_by_side import environment
from benchmarks.side_by_side.processes import CellError
from tests.fakes.virtual_time import run_virtual

PLAN = gateway.WHOLE
PEERS = ("vllm-router", "smg", "sglang-router", "haproxy", "litellm")


class Wire:
    """What was written to it, and when."""

    def __init__(self) -> None:
        self.written: list[tuple[float, bytes]] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written.append((asyncio.get_running_loop().time(), data))

    def close(self) -> None:
        self.closed = True

    abort = close

    @property
    def bytes(self) -> bytes:
        return b"".join(data for _, data in self.written)


# --- requests and responses as bytes


def test_a_response_is_whole_when_its_last_byte_is_there() -> None:
    raw = b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\nX-Who: me \r\n\r\nabc"
    assert all(raw_http.read(raw[:size]) is None for size in range(len(raw)))
    response = raw_http.read(raw)
    assert response is not None
    assert (response.status, response.body, response.fields["x-who"]) == (404, b"abc", "me")


def test_a_chunked_response_is_freed_of_its_framing_wherever_that_stands() -> None:
    raw = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4;x=y\r\nda\r\n\r\n2\r\nta\r\n0\r\n\r\n"
    assert all(raw_http.read(raw[:size]) is None for size in range(len(raw)))
    response = raw_http.read(raw)
    assert response is not None
    assert response.body == b"da\r\nta"


def test_a_response_without_a_length_is_not_waited_for() -> None:
    with pytest.raises(ValueError, match="no length"):
        raw_http.read(b"HTTP/1.1 200 OK\r\n\r\nabc")


# --- the mock


def spoken(*pieces: bytes) -> Wire:
    """All that one connection of the mock says to these pieces, until nothing is left to say."""

    async def speak() -> Wire:
        wire = Wire()
        connection = mock.Connection(asyncio.get_running_loop())
        connection.connection_made(cast(Any, wire))
        for piece in pieces:
            connection.data_received(piece)
        await asyncio.sleep(10)
        return wire

    return run_virtual(speak())


def test_a_request_is_answered_once_in_whatever_pieces_it_comes() -> None:
    request = raw_http.request(answers.request())
    for cut in range(1, len(request)):
        response = raw_http.read(spoken(request[:cut], request[cut:]).bytes)
        assert response is not None
        assert not answers.fault(response.status, response.body)


def test_two_requests_in_one_piece_get_two_answers() -> None:
    wire = spoken(raw_http.request(answers.request()) * 2)
    assert wire.bytes == mock.COMPLETION * 2


def test_a_stream_has_its_tokens_at_their_pace_and_then_the_next_request_is_answered() -> None:
    asked = raw_http.request(answers.request(stream=True, tokens=5))
    wire = spoken(asked + raw_http.request(answers.request()))
    assert wire.bytes.endswith(mock.COMPLETION)
    response = raw_http.read(wire.bytes)
    assert response is not None
    assert not answers.stream_fault(response.status, response.body, 5)
    assert [round(at, 3) for at, _ in wire.written] == [0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.1]


def test_a_caller_who_leaves_gets_no_further_token() -> None:
    async def leave() -> Wire:
        wire = Wire()
        connection = mock.Connection(asyncio.get_running_loop())
        connection.connection_made(cast(Any, wire))
        connection.data_received(raw_http.request(answers.request(stream=True, tokens=100)))
        await asyncio.sleep(0.03)
        connection.connection_lost(None)
        await asyncio.sleep(10)
        return wire

    assert len(run_virtual(leave()).written) == 2


def test_routers_learn_the_models_and_that_the_mock_is_alive() -> None:
    response = raw_http.read(spoken(b"GET /v1/models HTTP/1.1\r\n\r\n").bytes)
    assert response is not None
    assert json.loads(response.body)["data"][0]["id"] == answers.MODEL
    assert spoken(b"GET /health HTTP/1.1\r\n\r\n").bytes == mock.ALIVE


def test_a_body_in_chunks_is_refused_by_name() -> None:
    wire = spoken(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert (wire.bytes, wire.closed) == (mock.NO_LENGTH, True)


def test_an_answer_that_is_not_the_mocks_is_a_fault() -> None:
    assert answers.fault(200, b"{}") == "not the mock's answer: {}"
    assert answers.fault(503, b"busy") == "status 503: busy"
    assert answers.stream_fault(200, b"", 3) == "0 tokens of 3"
    assert answers.stream_fault(200, answers.encoded(answers.token()), 1) == "no [DONE]"


# --- the load of streams


def heard(*pieces: bytes, tokens: int) -> tuple[str, int]:
    """(what is wrong, tokens seen) after a stream arrived in these pieces."""

    async def listen() -> tuple[str, int]:
        caller = Caller()
        caller.connection_made(cast(Any, Wire()))
        ended = caller.ask(b"", tokens)
        for piece in pieces:
            caller.data_received(piece)
        return (ended.result() if ended.done() else "it goes on"), len(caller.times)

    return run_virtual(listen())


STREAM = mock.BEGIN + mock.TOKEN * 2 + mock.END


def test_tokens_are_seen_across_the_borders_of_what_is_read() -> None:
    for cut in range(1, len(STREAM)):
        assert heard(STREAM[:cut], STREAM[cut:], tokens=3) == ("", 3)


def test_a_stream_goes_on_until_its_last_chunk() -> None:
    assert heard(STREAM[:-1], tokens=3) == ("it goes on", 3)


def test_a_stream_with_too_few_tokens_is_not_complete() -> None:
    assert heard(STREAM, tokens=4) == ("3 tokens of 4", 3)


def test_a_refusal_ends_a_stream_at_once() -> None:
    refusal = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nfull"
    assert heard(refusal, tokens=4) == ("status 503: full", 0)


# --- wrk


def test_the_figures_of_wrk_stand_in_its_last_line_of_json() -> None:
    line = '{"requests": 6, "seconds": 2.0, "p50_us": 10.0, "p99_us": 20.0, "failed": 0, "refused": 1}'
    output = f"Running 2s test\n  Latency 1us\n{line}\n"
    assert read_wrk(output) == json.loads(line)


@pytest.mark.parametrize(
    ("output", "why"), [("", "wrk said nothing"), ("a\nunable to connect\n", "unable to")]
)
def test_wrk_without_figures_says_why(output: str, why: str) -> None:
    with pytest.raises(CellError, match=why):
        read_wrk(output)


# --- figures


def figures(rate: float, **others: float) -> Figures:
    given = {"p50": 100.0, "p99": 200.0, "cpu": 20.0, "mock_cpu": 5.0, "gap_p50": 20e3, "gap_p99": 21e3}
    return Figures(rate=rate, **{**given, **others})


def test_each_figure_is_the_median_of_its_own_rounds() -> None:
    rounds = [figures(10, cpu=3), figures(30, cpu=1), figures(20, cpu=2)]
    assert medians(rounds) == figures(20, cpu=2)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 50, 0), ([7], 99, 7), ([3, 1, 2], 50, 2), (list(range(1, 101)), 99, 99), ([1, 2], 0, 1)],
)
def test_a_percentile_is_the_nearest_rank(values: list[float], share: int, expected: float) -> None:
    assert percentile(values, share) == expected


# --- verdicts


def everybody(rates: dict[str, float], **others: float) -> Results:
    """All cells of all gateways; the rate by name, 1 where none is given."""
    names = (DIRECT, NATIVE, OPENAI, *PEERS)
    return {
        (name, cell): Outcome([figures(rates.get(name, 1.0), **others)])
        for cell in PLAN.cells
        for name in names
    }


GOOD = {NATIVE: 200.0, OPENAI: 60.0, "vllm-router": 100.0, "smg": 90.0, "litellm": 2.0}


def judged(results: Results) -> list[Row]:
    return list(verdicts.judge(results, gateway.ONE, gateway.BUSY, PLAN.streams, gateway.BURST))


def failed(results: Results) -> list[str]:
    return [row.name for row in judged(results) if row.ok is False]


def test_every_limit_of_the_plan_is_judged_and_held_by_figures_good_enough() -> None:
    rows = judged(everybody(GOOD))
    assert len(rows) == 2 * 5 + 5
    assert all(row.ok for row in rows)


@pytest.mark.parametrize(
    ("rates", "limits"),
    [
        ({NATIVE: 109}, ["vllm-router", "smg", "litellm"]),
        ({NATIVE: 179}, ["smg", "litellm"]),
        ({NATIVE: 199}, ["litellm"]),
        ({OPENAI: 29}, ["vllm-router", "litellm"]),
        ({OPENAI: 59}, ["litellm"]),
    ],
)
def test_a_rate_that_is_too_low_misses_its_limits_with_32_and_with_128(
    rates: dict[str, float], limits: list[str]
) -> None:
    (who,) = rates
    assert failed(everybody({**GOOD, **rates})) == [
        f"{who} / {peer}, requests/s, {cell.title}" for cell in gateway.BUSY for peer in limits
    ]


@pytest.mark.parametrize(
    ("cell", "held", "broken"),
    [
        (gateway.ONE, {"p50": 250.0}, {"p50": 251.0}),
        (PLAN.streams, {"cpu": 30.0}, {"cpu": 31.0}),
        (PLAN.streams, {"gap_p99": 26e3}, {"gap_p99": 26.1e3}),
        (gateway.BURST, {"p50": 100.0}, {"p50": 101.0}),
    ],
)
def test_times_and_costs_have_a_most(
    cell: Unary | Streams, held: dict[str, float], broken: dict[str, float]
) -> None:
    results = everybody(GOOD)
    results[NATIVE, cell].rounds = [figures(200, **held)]
    assert not failed(results)
    results[NATIVE, cell].rounds = [figures(200, **broken)]
    assert len(failed(results)) == 1


def test_streams_that_break_once_are_not_all_complete() -> None:
    results = everybody(GOOD)
    results[NATIVE, PLAN.streams].problem = "399 of 400 streams complete: 3 tokens of 200"
    (row,) = [row for row in judged(results) if row.ok is False]
    assert row.limit == f"all complete; {NATIVE} LEFT OUT: 399 of 400 streams complete: 3 tokens of 200"


def test_a_peer_that_was_left_out_is_named_with_its_reason_and_misses_nothing() -> None:
    results = everybody(GOOD)
    for cell in PLAN.cells:
        results["smg", cell] = Outcome(problem="smg is not installed")
    rows = judged(results)
    assert not missed(rows)
    assert {row.limit for row in rows if row.ok is None} == {">= 2 x smg; smg LEFT OUT: smg is not installed"}


def test_ours_left_out_misses_all_that_it_is_judged_by() -> None:
    results = everybody(GOOD)
    for cell in PLAN.cells:
        results[NATIVE, cell] = results[OPENAI, cell] = Outcome(problem="it ended before it was ready")
    assert all(row.ok is False for row in judged(results))


def verdict_of(rows: list[Row]) -> list[bool | None]:
    return [row.ok for row in rows if row.limit]


def test_a_hundred_racks_are_judged_by_memory_and_cpu() -> None:
    held = list(verdicts.judge_many(ManyRacks(100_000_000, 120_000_000, 0.03), 100))
    assert verdict_of(held) == [True, True, True]
    broken = list(verdicts.judge_many(ManyRacks(121_000_000, 130_000_000, 0.031), 100))
    assert verdict_of(broken) == [False, False, False]


def test_unequal_racks_are_judged_by_the_sum_of_what_each_does() -> None:
    alone = {"slow": 100.0, "medium": 200.0, "fast": 400.0}
    assert verdict_of(list(verdicts.judge_unequal(UnequalRacks(alone, 630.0)))) == [True]
    assert verdict_of(list(verdicts.judge_unequal(UnequalRacks(alone, 629.0)))) == [False]


def test_shared_prefixes_are_judged_by_hits_and_by_the_busiest_rack() -> None:
    assert verdict_of(list(verdicts.judge_prefixes(SharedPrefixes(0.25, 0.45, 1.5)))) == [True, True]
    assert verdict_of(list(verdicts.judge_prefixes(SharedPrefixes(0.25, 0.44, 1.6)))) == [False, False]


def test_what_could_not_be_measured_is_a_miss_with_its_reason() -> None:
    rows = [
        *verdicts.judge_many("no reason", 100),
        *verdicts.judge_unequal("no reason"),
        *verdicts.judge_prefixes("no reason"),
    ]
    assert [row.ok for row in rows] == [False] * 6
    assert all(row.limit.endswith("; NOT MEASURED: no reason") for row in rows)


# --- shared prefixes


def test_seven_of_ten_questions_begin_like_another() -> None:
    asked = [json.loads(body)["messages"] for body in shared_prefixes.questions(2000, Random(1))]
    beginnings = [system["content"] for system, _ in asked]
    shared = {text for text in beginnings if beginnings.count(text) > 1}
    assert len(shared) == shared_prefixes.BEGINNINGS
    assert sum(text in shared for text in beginnings) / 2000 == pytest.approx(0.7, abs=0.03)
    assert len({user["content"] for _, user in asked}) == 2000


def test_a_beginning_fills_whole_blocks_with_the_line_end_behind_it() -> None:
    system, _ = json.loads(next(shared_prefixes.questions(1, Random(1))))["messages"]
    assert len(system["content"] + "\n") % shared_prefixes.BLOCK == 0


def answered(worker: str, usage: dict[str, Any], status: int = 200) -> raw_http.Response:
    return raw_http.Response(status, {"x-wrk-worker": worker}, json.dumps({"usage": usage}).encode())


def test_known_tokens_are_counted_over_all_prompts() -> None:
    told = [
        answered("a", {"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": 90}}),
        answered("b", {"prompt_tokens": 300, "prompt_tokens_details": {"cached_tokens": 10}}),
    ]
    assert shared_prefixes.known_share(told) == 0.25


def test_answers_that_do_not_tell_what_was_known_are_no_figure() -> None:
    with pytest.raises(CellError, match="do not tell"):
        shared_prefixes.known_share([answered("a", {"prompt_tokens": 100})])
    with pytest.raises(CellError, match="status 429"):
        shared_prefixes.known_share([raw_http.Response(429, {}, b"full")])


def test_a_rack_that_got_nothing_counts_in_the_mean() -> None:
    told = [answered(worker, {}) for worker in "aaab"]
    assert shared_prefixes.busiest(told) == 3 / 4 * shared_prefixes.RACKS


# --- pages


def some_results() -> tuple[list[Unary | Streams], Results]:
    unary, streams = Unary(1), PLAN.streams
    return [unary, streams], {
        (NATIVE, unary): Outcome([figures(50_000), figures(70_000), figures(60_000)]),
        ("smg", unary): Outcome([figures(1_000)], problem="gone | away"),
        (NATIVE, streams): Outcome([figures(20_000)]),
        ("litellm", streams): Outcome(problem="0 of 400 streams complete"),
    }


def test_the_page_has_every_cell_and_the_reasons() -> None:
    cells, results = some_results()
    page = table.page({"cores": "2"}, {"smg": "As it comes."}, cells, results, rounds=3)
    assert "- cores: 2\n" in page
    assert "## Unary chat, 1 connection\n" in page
    assert f"| {NATIVE} | 60,000 | 100 | 200 | 20.0 | 5.0 |" in page
    assert "| smg (1 of 3 rounds: gone \\| away) | 1,000 | 100 | 200 | 20.0 | 5.0 |" in page
    assert f"| {NATIVE} | 20,000 | 100 | 200 | 20.0 | 21.0 | 20.0 | 5.0 |" in page
    assert "| litellm | left out: 0 of 400 streams complete |  |  |  |  |  |  |" in page
    assert "- **smg**: As it comes." in page


def test_the_document_keeps_every_round() -> None:
    _, results = some_results()
    ours, *_, left_out = json.loads(table.document({"cores": "2"}, results))["cells"]
    assert [entry["rate"] for entry in ours["rounds"]] == [50_000, 70_000, 60_000]
    assert ours["medians"]["rate"] == 60_000
    assert (left_out["medians"], left_out["left_out"]) == (None, "0 of 400 streams complete")


# --- the peers and the command


def test_the_peers_are_those_that_the_limits_name() -> None:
    assert {peer.name for peer in peers.PEERS} == set(PEERS)
    assert {limit.peer for limit in verdicts.BUSY} <= set(PEERS)


def test_every_peer_from_the_registry_is_pinned_and_none_is_a_withdrawn_release() -> None:
    for peer in peers.PEERS:
        if peer.installed:
            pins = environment.pins(peer.requirements)
            assert all("==" in pin for pin in pins)
            assert [pin for pin in pins if pin.startswith(f"{peer.name}==")]
            assert not {"litellm==1.82.7", "litellm==1.82.8"} & set(pins)


@pytest.mark.parametrize("peer", peers.PEERS, ids=lambda peer: peer.name)
def test_a_peer_listens_on_loopback_and_knows_all_mocks(peer: peers.Peer, tmp_path: Path) -> None:
    site = peers.Site(tmp_path, tmp_path, 4711, Mocks((5001, 5002), (1, 2)))
    command = " ".join(peer.command(site))
    command += "".join(path.read_text() for path in tmp_path.iterdir())
    assert "127.0.0.1:5001" in command
    assert "127.0.0.1:5002" in command
    assert "4711" in command
    assert "0.0.0.0" not in command


def test_only_what_can_be_had_short_takes_quick(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.quick() == ["gateway"]
    with pytest.raises(SystemExit) as ended:
        bench.main(["registry", "--quick"])
    assert ended.value.code == 2
    assert "no short look at registry" in capsys.readouterr().err


def test_an_unknown_benchmark_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.main(["nothing"])
    assert ended.value.code == 2
    assert "gateway" in capsys.readouterr().err
