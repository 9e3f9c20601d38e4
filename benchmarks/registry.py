"""What choosing a worker costs, among 10 and among 10,000: `bin/bench registry`.

Every strategy picks with as many calls in flight as there are workers, so that loads differ and
workers are met in no order that a cache would like. The limit is 3 x a plain pick among 10, and 10 us.
"filter" asks for a tag, a label, a capacity, a capability of the model and a context that all have, "new
filter" for what no request has asked for before. Strategies that look at more are measured with it too: a
session or a prompt of 4 kB that is hashed anew for each pick, or the report of its load that each worker's
answer brings. A figure is CPU time, the median of rounds in which all cells take turns: what else the
machine does meets all of them alike.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import combinations, count, cycle
from pathlib import Path
from random import Random
from statistics import median
from time import thread_time

if __name__ == "__main__":  # started as a file, Python looks for modules in this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import beats, joining
from benchmarks.report import Row, missed, show
from wrk_base.contract import ModelFacts, Requirements
from wrk_orchestrator.affinity import Affinity
from wrk_orchestrator.load_balancer import Lease, LoadBalancer
from wrk_orchestrator.records import WorkerRecord
from wrk_orchestrator.service_registry import ServiceRegistry
from wrk_orchestrator.strategies import STRATEGIES

FEW, MANY = 10, 10_000
ROUNDS, PICKS, NEW_FILTERS = 15, 1_000, 15
MOST_TIMES, MOST_US, MOST_NEW_MS, MOST_REGISTER_S = 3.0, 10.0, 5.0, 2.0
MOST_GUIDED_US = 20.0  # with the hash or the report, which others do without
MOST_PROMPT_US = 40.0  # about what the whole of a request costs an orchestrator otherwise
SESSIONS, PROMPTS, PROMPT_BYTES = 20_000, 64, 4096

FEATURES = [f"feature{number}" for number in range(8)]
CONTEXTS = [8192 * times for times in range(1, 21)]
FILTER = Requirements(capabilities=["gpu", "vision"], labels={"site": "a"}, min_capacity=4, min_context=8192)
TRIED = ("w0", "w1", "w2")
CASES: dict[str, tuple[Requirements | None, tuple[str, ...]]] = {
    "": (None, ()),
    ", 3 excluded": (None, TRIED),
    ", filter": (FILTER, ()),
    ", filter, 3 excluded": (FILTER, TRIED),
}


class Mesh:
    """Workers that all fit FILTER, and one stranger, so that no index holds everybody."""

    def __init__(self, strategy: str, workers: int) -> None:
        self.registry = ServiceRegistry(lease_s=30)
        self.balancer = LoadBalancer(self.registry, strategy, Random(1))
        self.now = 0.0
        self.rng = Random(2)
        self._features = features()
        kind = STRATEGIES[strategy]
        self.hears, self.by_session, self.by_prompt = kind.hears, kind.by_session, kind.by_prompt
        self.join(WorkerRecord(worker_id="stranger", address="tcp://127.0.0.1:1", models=("other",)))
        for number in range(workers):
            self.join(worker(number))

    def join(self, record: WorkerRecord) -> None:
        self.balancer.apply(self.registry.register(record, self.now))
        self.balancer.set_limit(record.worker_id, record.max_concurrent)

    def pick_us(self, busy: deque[Lease], need: Requirements | None, exclude: tuple[str, ...]) -> float:
        """One pick and the end of an earlier call, on average."""
        pick, now = self.balancer.pick, self.now
        started = thread_time()
        for _ in range(PICKS):
            now += 1e-4
            busy.append(pick("m", need, exclude, now))
            busy.popleft().done(True, now, 0.1)
        self.now = now
        return (thread_time() - started) / PICKS * 1e6

    def guided_us(self, busy: deque[Lease], sessions: Iterator[str], prompts: Iterator[bytes]) -> float:
        """The same with what the strategy looks at."""
        balancer, now = self.balancer, self.now
        started = thread_time()
        for _ in range(PICKS):
            now += 1e-4
            affinity = Affinity(next(sessions), next(prompts))
            busy.append(balancer.pick("m", None, (), now, affinity))
            done = busy.popleft()
            done.done(True, now, 0.1)
            if self.hears:
                balancer.report_load(done.worker.worker_id, 1, 8, now)
        self.now = now
        return (thread_time() - started) / PICKS * 1e6

    def new_filter_ms(self) -> float:
        more = [*FILTER.capabilities, *next(self._features)]
        need = Requirements(more, FILTER.min_capacity, FILTER.labels, FILTER.min_context)
        started = thread_time()
        self.balancer.pick("m", need, (), self.now).release()
        return (thread_time() - started) * 1e3


def features() -> Iterator[tuple[str, ...]]:
    """Combinations that every worker has and no request has asked for."""
    for size in count(1):
        yield from combinations(FEATURES, size)


def worker(number: int) -> WorkerRecord:
    return WorkerRecord(
        worker_id=f"w{number}",
        address=f"tcp://10.0.0.1:{number}",
        models=("m", f"m{number % 100}"),
        tags=frozenset(("gpu", *FEATURES)),
        labels={"site": "a", "row": str(number % 50)},
        max_concurrent=8,
        facts={"m": ModelFacts(["vision", "tools"], CONTEXTS[number % len(CONTEXTS)])},
    )


@dataclass
class Cell:
    """One mesh, with calls in flight, and one kind of request."""

    mesh: Mesh
    need: Requirements | None
    exclude: tuple[str, ...]
    rounds: list[float]

    def play(self) -> None:
        size = len(self.mesh.registry) - 1
        busy: deque[Lease] = deque()
        for _ in range(size):
            busy.append(self.mesh.balancer.pick("m", self.need, self.exclude, self.mesh.now))
        self.mesh.pick_us(busy, self.need, self.exclude)  # warms what this case uses
        self.rounds.append(self.mesh.pick_us(busy, self.need, self.exclude))
        for lease in busy:
            lease.release()


def run() -> list[Row]:
    rows = [_registering()]
    for strategy in STRATEGIES:
        rows += _picking(strategy)
    return [*rows, joining.measure(), beats.measure()]


def _picking(strategy: str) -> list[Row]:
    few, many = Mesh(strategy, FEW), Mesh(strategy, MANY)
    base = Cell(few, None, (), [])
    cells = {case: Cell(many, need, exclude, []) for case, (need, exclude) in CASES.items()}
    for _ in range(ROUNDS):
        for cell in (base, *cells.values()):
            cell.play()
    least = median(base.rounds)
    most = min(MOST_TIMES * least, MOST_US)
    limit = f"<= {most:.3g} us"
    rows = [Row(f"{strategy}, {FEW} workers", least, "us")]
    for case, cell in cells.items():
        value = median(cell.rounds)
        rows.append(Row(f"{strategy}, {MANY:,}{case}", value, "us", limit, value <= most))
    if few.hears or few.by_session or few.by_prompt:
        rows.append(_guided(strategy, many))
    fresh = median(many.new_filter_ms() for _ in range(NEW_FILTERS))
    return [
        *rows,
        Row(f"{strategy}, {MANY:,}, new filter", fresh, "ms", f"<= {MOST_NEW_MS:g} ms", fresh <= MOST_NEW_MS),
    ]


def _guided(strategy: str, mesh: Mesh) -> Row:
    sessions = cycle([f"session-{number}" for number in range(SESSIONS)])
    prompts = cycle([mesh.rng.randbytes(PROMPT_BYTES) for _ in range(PROMPTS)])
    busy: deque[Lease] = deque(
        mesh.balancer.pick("m", None, (), mesh.now) for _ in range(len(mesh.registry) - 1)
    )
    value = median(mesh.guided_us(busy, sessions, prompts) for _ in range(ROUNDS))
    for lease in busy:
        lease.release()
    what = "a session" if mesh.by_session else "a prompt" if mesh.by_prompt else "reports"
    most = MOST_PROMPT_US if mesh.by_prompt else MOST_GUIDED_US
    return Row(f"{strategy}, {MANY:,}, {what}", value, "us", f"<= {most:g} us", value <= most)


def _registering() -> Row:
    """Into a mesh whose pools are in use, so that each worker is entered into them, too."""
    mesh = Mesh("round-robin", 1)
    for need, _ in CASES.values():
        mesh.balancer.pick("m", need, (), mesh.now).release()
    records = [worker(number) for number in range(1, MANY + 1)]
    started = thread_time()
    for record in records:
        mesh.join(record)
    value = thread_time() - started
    limit = f"<= {MOST_REGISTER_S:g} s"
    return Row(f"registering {MANY:,} workers", value, "s", limit, value <= MOST_REGISTER_S)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there as well")
    arguments = parser.parse_args()
    rows = run()
    show("registry", rows)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return 1 if missed(rows) else 0


if __name__ == "__main__":
    sys.exit(main())
