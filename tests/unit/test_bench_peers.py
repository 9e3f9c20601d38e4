"""The comparison's arithmetic and pages: medians, verdicts, tables, bars. No sockets, no environment."""

from __future__ import annotations

import argparse
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from benchmarks import peers
from benchmarks.report import missed
from benchmarks.side_by_side import cell as measured
from benchmarks.side_by_side import environment, plot, table
from benchmarks.side_by_side.figures import MIB, Cell, Figures, Outcome, Results, medians, size
from benchmarks.side_by_side.processes import reason

ROOT = Path(__file__).resolve().parent.parent.parent
BOTH = ("ours", "ours, open links")


def figures(rate: float, p50: float = 100.0, server_cpu: float | None = 5.0) -> Figures:
    return Figures(rate, p50, 2 * p50, 10.0, server_cpu)


def everybody(rates: dict[str, float]) -> Results:
    """All cells of all peers: a rate by name, in every cell the same; 1 where none is given."""
    return {
        (name, cell): Outcome([figures(rates.get(name, 1.0))])
        for cell in peers.CELLS
        for name in peers.PEERS.values()
    }


# --- medians


def test_each_figure_is_the_median_of_its_own_rounds() -> None:
    rounds = [Figures(10, 3, 30, 1, 7), Figures(20, 1, 10, 2, 9), Figures(90, 2, 20, 3, 8)]
    assert medians(rounds) == Figures(20, 2, 20, 2, 8)
    assert medians(rounds).cpu_us == 10


def test_the_cpu_time_of_both_sides_is_unknown_when_one_side_is() -> None:
    assert medians([figures(1), figures(1, server_cpu=None)]).cpu_us is None


def test_a_drivers_line_is_read_and_what_is_not_a_figure_left_aside() -> None:
    told = {"requests": 7.0, "requests_per_s": 5.0, "p50_us": 1.0, "p99_us": 2.0, "client_cpu_us": 3.0}
    assert Figures.read(told) == Figures(5.0, 1.0, 2.0, 3.0)


@pytest.mark.parametrize(("bytes_", "text"), [(100, "100 B"), (10_000, "10 kB"), (MIB, "1 MiB"), (1, "1 B")])
def test_sizes_are_written_as_people_say_them(bytes_: int, text: str) -> None:
    assert size(bytes_) == text


def test_a_cell_says_what_it_is_and_how_it_is_driven() -> None:
    assert Cell(64, body=100).title == "64 in flight, 100 B"
    assert Cell(64, body=100).arguments == ["--window", "64", "--body", "100"]
    assert Cell(1, stream=1_000).title == "streams of 1,000 small items, 1 at a time"
    assert Cell(1, stream=1_000).arguments == ["--window", "1", "--stream", "1000"]


# --- one cell


@pytest.mark.parametrize(("stream", "done"), [(0, 5), (100, 500)])
def test_the_requests_of_a_cell_are_counted_and_timed(stream: int, done: int) -> None:
    arguments = argparse.Namespace(window=1, requests=5, seconds=0.0, server=None, stream=stream)
    told = measured.measure(lambda requests: [0.001 * (1 + number) for number in range(requests)], arguments)
    assert told["requests"] == done
    assert told["p50_us"] == pytest.approx(3_000)
    assert 4_900 < told["p99_us"] <= 5_000
    assert "server_cpu_us" not in told


def test_a_warm_up_goes_on_until_a_rate_can_be_told() -> None:
    asked: list[int] = []

    def lap(requests: int) -> list[float]:
        asked.append(requests)
        return [0.0] * requests

    arguments = argparse.Namespace(window=64, requests=0, seconds=0.001, server=None, stream=0)
    measured.measure(lap, arguments)
    *warm_up, counted = asked
    assert warm_up == [64 * 2**number for number in range(len(warm_up))]
    assert counted >= 64


def test_bodies_are_of_the_size_and_the_same_in_every_process() -> None:
    assert len(measured.body(MIB)["data"]) == MIB
    assert measured.body(100) == measured.body(100)


def test_an_answer_that_is_not_the_body_is_refused() -> None:
    measured.check({"a": 1}, {"a": 1})
    with pytest.raises(ValueError):
        measured.check({"a": 2}, {"a": 1})


def test_the_reason_of_a_failed_process_is_its_last_line() -> None:
    assert reason("Traceback\n  ...\nModuleNotFoundError: No module named 'x'\n\n") == (
        "ModuleNotFoundError: No module named 'x'"
    )
    assert len(reason("x" * 1_000)) == 120
    assert reason("") == ""


# --- verdicts


def test_every_limit_of_the_plan_is_judged_and_held_by_rates_high_enough() -> None:
    rows = peers.judge(everybody(dict.fromkeys(BOTH, 300_000.0)))
    assert len(rows) == 15
    assert all(row.ok for row in rows)


def test_a_rate_that_is_too_low_misses_every_limit_but_the_round_trips() -> None:
    rows = peers.judge(everybody(dict.fromkeys(BOTH, 0.5)))
    assert [row.name for row in rows if row.ok] == [
        "ours / raw pyzmq p50, 1 in flight, 100 B",
        "ours, open links / raw pyzmq p50, 1 in flight, 100 B",
    ]


@pytest.mark.parametrize(("ours", "most"), [("ours", 180.0), ("ours, open links", 160.0)])
def test_a_round_trip_may_take_so_many_times_raws(ours: str, most: float) -> None:
    results = everybody(dict.fromkeys(BOTH, 300_000.0))
    results[ours, peers.ONE].rounds = [figures(1.0, p50=most)]
    assert all(row.ok for row in peers.judge(results))
    results[ours, peers.ONE].rounds = [figures(1.0, p50=most + 1)]
    assert [row.name for row in peers.judge(results) if row.ok is False] == [
        f"{ours} / raw pyzmq p50, 1 in flight, 100 B"
    ]


def test_a_peer_that_was_left_out_is_named_with_its_reason_and_misses_nothing() -> None:
    results = everybody(dict.fromkeys(BOTH, 300_000.0))
    results["nats-py", peers.SMALL] = Outcome(problem="nats-server is not on PATH")
    rows = peers.judge(results)
    assert not missed(rows)
    (row,) = [row for row in rows if row.ok is None]
    assert row.limit == ">= 3 x nats-py; nats-py LEFT OUT: nats-server is not on PATH"


def test_ours_left_out_misses_all_that_it_is_judged_by() -> None:
    results = everybody({})
    for cell in peers.CELLS:
        for name in BOTH:
            results[name, cell] = Outcome(problem="no stream")
    assert all(row.ok is False for row in peers.judge(results))


# --- pages


def some_results() -> tuple[list[Cell], Results]:
    small, stream = Cell(64, body=100), Cell(1, stream=1_000)
    return [small, stream], {
        ("raw pyzmq", small): Outcome([figures(50_000)]),
        ("ours", small): Outcome([figures(100_000), figures(80_000), figures(90_000)]),
        ("flaky", small): Outcome([figures(10_000)], problem="gone | away"),
        ("raw pyzmq", stream): Outcome([figures(100_000)]),
        ("aiozmq", stream): Outcome(problem="no streams"),
    }


def test_the_page_has_every_cell_the_ratio_to_the_yardstick_and_the_reasons() -> None:
    cells, results = some_results()
    page = table.page({"cores": "2"}, {"ours": "Defaults."}, cells, results, rounds=3)
    assert "- cores: 2\n" in page
    assert "## 64 in flight, 100 B" in page
    assert "| ours | 90,000 | 1.80 | 100 | 200 | 15.0 |" in page
    assert "| flaky (1 of 3 rounds: gone \\| away) | 10,000 | 0.20 | 100 | 200 | 15.0 |" in page
    assert "| aiozmq | left out: no streams |  |  |  |  |" in page
    assert "- **ours**: Defaults." in page


def test_large_bodies_are_quoted_in_megabytes_as_well() -> None:
    large = Cell(64, body=MIB)
    page = table.page({}, {}, [large], {("raw pyzmq", large): Outcome([figures(1_000)])}, rounds=1)
    assert "| raw pyzmq | 1,000 | 1,049 | 1.00 |" in page


def test_every_row_of_a_table_is_as_wide_as_its_head() -> None:
    cells, results = some_results()
    page = table.page({}, {}, cells, results, rounds=1)
    for section in page.split("## ")[1:]:
        widths = {line.replace("\\|", "").count("|") for line in section.splitlines() if line.startswith("|")}
        assert len(widths) <= 1


def test_the_document_keeps_every_round() -> None:
    _, results = some_results()
    content = json.loads(table.document({"cores": "2"}, results))
    ours = next(entry for entry in content["cells"] if entry["peer"] == "ours")
    assert (ours["window"], ours["body"], ours["stream"]) == (64, 100, 0)
    assert [entry["requests_per_s"] for entry in ours["rounds"]] == [100_000, 80_000, 90_000]
    assert ours["medians"]["requests_per_s"] == 90_000
    left_out = next(entry for entry in content["cells"] if entry["peer"] == "aiozmq")
    assert (left_out["medians"], left_out["left_out"]) == (None, "no streams")


def test_the_plot_has_a_bar_as_long_as_its_share_and_says_what_was_left_out() -> None:
    drawn = plot.svg([plot.Panel("64 in flight & more", {"a": 50.0, "ours": 100.0, "none": None})], "ours")
    root = ElementTree.fromstring(drawn)
    bars = [node for node in root.iter() if node.tag.endswith("rect")]
    assert float(bars[0].attrib["width"]) == pytest.approx(float(bars[1].attrib["width"]) / 2, abs=0.1)
    assert [bar.attrib["class"] for bar in bars] == ["bar", "bar ours"]
    texts = [node.text for node in root.iter() if node.tag.endswith("text")]
    assert texts == ["64 in flight & more", "a", "50", "ours", "100", "none", "left out"]
    assert "prefers-color-scheme: dark" in drawn


# --- the environment


def test_the_peers_stand_on_the_versions_that_ours_stands_on() -> None:
    constraints = set(environment.pins(ROOT / "constraints.txt"))
    shared = {pin for pin in environment.pins() if pin.partition("==")[0] in ("msgpack", "pyzmq", "uvloop")}
    assert len(shared) == 3
    assert shared <= constraints


def test_every_peer_has_a_module_that_says_what_was_chosen() -> None:
    for module in peers.PEERS:
        source = (environment.HERE / f"{module}.py").read_text()
        assert source.startswith('"""')


def test_the_environment_is_made_anew_when_its_packages_change(tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("a==1  # why\n\n# nothing\n")
    before = environment.fingerprint(requirements)
    assert environment.pins(requirements) == ["a==1"]
    requirements.write_text("a==2\n")
    assert environment.fingerprint(requirements) != before
