"""Everyone else beside ours: the same bodies, the same machine, one run: `bin/bench peers`.

Every peer runs in two processes of its own, configured as its documentation recommends for speed; what
was chosen stands in its module below benchmarks/side_by_side and in the page. Rounds are outermost and
peers take turns inside, so that a drift of the machine meets all alike. Takes about ten minutes and, for
512 bodies of 1 MiB in flight, 3 GB of memory. Beside the judged figures (peers.md, peers.json) it writes
every cell: peers_table.md, peers_table.json, peers.svg.
"""

from __future__ import annotations

import argparse
import ast
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # started as a file, Python looks for modules in this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.report import RESULTS, Row, machine, show
from benchmarks.side_by_side import environment, plot, processes, table
from benchmarks.side_by_side.figures import MIB, Cell, Figures, Outcome, Results

ROUNDS = 3
SECONDS = 1.1  # of a cell in a round
# Module of benchmarks/side_by_side: the peer's name. Both of ours run in the project's environment. What
# the product does is "ours", with encryption and certificates, which no other peer here has.
PEERS = {
    "raw_pyzmq": "raw pyzmq",
    "raw_curve": "raw pyzmq, CURVE",
    "zmq_asyncio": "zmq.asyncio",
    "aiozmq": "aiozmq",
    "callosum": "callosum",
    "zerorpc": "zerorpc",
    "pyro5": "Pyro5",
    "rpyc": "RPyC",
    "nats": "nats-py",
    "grpc": "grpc.aio",
    "ours": "ours",
    "ours_open": "ours, open links",
}
OURS, OPEN = PEERS["ours"], PEERS["ours_open"]
RAW, RAW_CURVE = PEERS["raw_pyzmq"], PEERS["raw_curve"]

BODIES, WINDOWS = (100, 10_000, MIB), (1, 64, 512)
STREAM = Cell(1, stream=1_000)
CELLS = [*(Cell(window, body=body) for body in BODIES for window in WINDOWS), STREAM]
ONE, SMALL, MANY, LARGE = Cell(1, body=100), Cell(64, body=100), Cell(512, body=100), Cell(64, body=MIB)
PLOTTED = (ONE, SMALL, MANY, Cell(64, body=10_000), LARGE, STREAM)


@dataclass(frozen=True, slots=True)
class Limit:
    """The rate of `ours` in a cell is at least `least` times the peer's."""

    ours: str
    peer: str
    cell: Cell
    least: float


LIMITS = (
    *(Limit(ours, RAW, SMALL, 1.5) for ours in (OURS, OPEN)),
    Limit(OPEN, "nats-py", SMALL, 3.0),
    Limit(OPEN, "RPyC", SMALL, 3.0),
    Limit(OPEN, "aiozmq", SMALL, 6.0),
    Limit(OPEN, "zerorpc", SMALL, 20.0),
    Limit(OPEN, "grpc.aio", SMALL, 20.0),
    *(Limit(ours, RAW, MANY, 2.0) for ours in (OURS, OPEN)),
    Limit(OURS, RAW_CURVE, LARGE, 0.6),
    Limit(OPEN, RAW, LARGE, 0.6),
)
MOST_P50 = {OURS: 1.8, OPEN: 1.6}  # times raw's, with one request in flight
_OURS = ("ours", "ours_open")
LEAST_ITEMS = 300_000  # small items of streams a second


def run() -> list[Row]:
    return compare(ROUNDS, SECONDS, list(PEERS), RESULTS)


def compare(rounds: int, seconds: float, modules: list[str], folder: Path) -> list[Row]:
    """Measures, writes the whole comparison into `folder`, and gives the judged figures."""
    results = measure(rounds, seconds, modules)
    facts = {**machine(), "peers": ", ".join(_versions())}
    notes = {PEERS[module]: _note(module) for module in modules}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("peers_table.md", table.page(facts, notes, CELLS, results, rounds)),
        ("peers_table.json", table.document(facts, results)),
        ("peers.svg", plot.svg([_panel(cell, results) for cell in PLOTTED], OURS)),
    ):
        (folder / name).write_text(text)
        environment.say(f"written: {folder / name}")
    return [*_rates(results), *judge(results)]


def measure(rounds: int, seconds: float, modules: list[str]) -> Results:
    """A cell that failed is not tried again: it would take the time of all the others."""
    results: Results = {(PEERS[module], cell): Outcome() for cell in CELLS for module in modules}
    with _peers(modules) as peers:
        for number in range(rounds):
            environment.say(f"round {number + 1} of {rounds}")
            for (name, cell), outcome in results.items():
                if not outcome.problem:
                    _add_round(peers[name], cell, seconds, outcome, name)
    return results


def _add_round(peer: processes.Peer, cell: Cell, seconds: float, outcome: Outcome, name: str) -> None:
    try:
        told = peer.drive([*cell.arguments, "--seconds", str(seconds)])
    except processes.CellError as error:
        outcome.problem = str(error)
        environment.say(f"LEFT OUT: {name}, {cell.title}: {error}")
    else:
        outcome.rounds.append(Figures.read(told))


@contextmanager
def _peers(modules: Iterable[str]) -> Iterator[dict[str, processes.Peer]]:
    theirs = environment.ready()
    peers = {
        PEERS[module]: processes.Peer(module, processes.ours() if module in _OURS else theirs)
        for module in modules
    }
    try:
        yield peers
    finally:
        for peer in peers.values():
            peer.stop()


# --- what the run is judged by


def judge(results: Results) -> list[Row]:
    """A peer that was left out judges nobody; ours left out is a miss."""
    return [
        *(_ratio(results, limit) for limit in LIMITS),
        *(_p50(results, ours) for ours in MOST_P50),
        *(_items(results, ours) for ours in MOST_P50),
    ]


def _ratio(results: Results, limit: Limit) -> Row:
    name = f"{limit.ours} / {limit.peer}, {limit.cell.title}"
    wanted = f">= {limit.least:g} x {limit.peer}"
    ours, theirs = (_figures(results, peer, limit.cell) for peer in (limit.ours, limit.peer))
    if ours is None or theirs is None:
        return _unknown(results, name, "x", wanted, (limit.ours, limit.peer), limit.cell)
    ratio = ours.requests_per_s / theirs.requests_per_s
    return Row(name, ratio, "x", wanted, ratio >= limit.least)


def _p50(results: Results, whose: str) -> Row:
    most = MOST_P50[whose]
    name, wanted = f"{whose} / {RAW} p50, {ONE.title}", f"<= {most:g} x {RAW}"
    ours, raw = (_figures(results, peer, ONE) for peer in (whose, RAW))
    if ours is None or raw is None:
        return _unknown(results, name, "x", wanted, (whose, RAW), ONE)
    ratio = ours.p50_us / raw.p50_us
    return Row(name, ratio, "x", wanted, ratio <= most)


def _items(results: Results, whose: str) -> Row:
    name, wanted = f"{whose}, {STREAM.title}", f">= {LEAST_ITEMS:,} items/s"
    ours = _figures(results, whose, STREAM)
    if ours is None:
        return _unknown(results, name, "items/s", wanted, (whose,), STREAM)
    return Row(name, ours.requests_per_s, "items/s", wanted, ours.requests_per_s >= LEAST_ITEMS)


def _unknown(results: Results, name: str, unit: str, wanted: str, peers: Iterable[str], cell: Cell) -> Row:
    """The first of `peers` that has no figures says why; only ours is missed by having none."""
    missing = next(peer for peer in peers if _figures(results, peer, cell) is None)
    outcome = results.get((missing, cell))
    why = outcome.problem if outcome else "not asked for"
    return Row(
        name, 0.0, unit, f"{wanted}; {missing} LEFT OUT: {why}", False if missing in MOST_P50 else None
    )


def _figures(results: Results, peer: str, cell: Cell) -> Figures | None:
    outcome = results.get((peer, cell))
    return outcome.figures if outcome else None


def _rates(results: Results) -> list[Row]:
    """What everyone reaches where most is judged."""
    return [
        Row(
            f"{peer}, {cell.title}",
            outcome.figures.requests_per_s if outcome.figures else 0.0,
            "req/s",
            "" if outcome.figures else f"LEFT OUT: {outcome.problem}",
        )
        for (peer, cell), outcome in results.items()
        if cell == SMALL
    ]


# --- what stands around the figures


def _panel(cell: Cell, results: Results) -> plot.Panel:
    unit = "items/s" if cell.stream else "requests/s"
    bars = {
        peer: outcome.figures.requests_per_s if outcome.figures else None
        for (peer, where), outcome in results.items()
        if where == cell
    }
    return plot.Panel(f"{cell.title}: {unit}", bars)


def _note(module: str) -> str:
    """What the module says of itself, in one line."""
    source = (environment.HERE / f"{module}.py").read_text()
    return " ".join((ast.get_docstring(ast.parse(source)) or "").split())


def _versions() -> Iterator[str]:
    yield from (pin.replace("==", " ") for pin in environment.pins())
    broker = shutil.which("nats-server")
    if broker:
        yield subprocess.run([broker, "-v"], capture_output=True, text=True, check=False).stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(
        description="A short run for trying out; bin/bench peers is the real one."
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.3, help="of a cell in a round")
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS), metavar="MODULE")
    parser.add_argument("--folder", type=Path, required=True, help="where the whole comparison goes")
    arguments = parser.parse_args()
    show("peers", compare(arguments.rounds, arguments.seconds, arguments.peers, arguments.folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
