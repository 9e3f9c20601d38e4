"""Faults of racks, links and of the orchestrator itself at full size: what routing sees, in seconds.

Run by `bin/test --long tests/long/test_health.py`; every test prints what it measured. The load is 200
requests a second, open loop, over four simulated racks of 20-80 ms with deadlines of 5 s. The links are those
of network namespaces joined by a switch (Linux, root), where a fault takes a rack of its own each time, so
that none is judged for how often it was cut. Others' 99th percentile is of requests that went nowhere else,
beside that of just before.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fakes.aio import run
from tests.fakes.health_walk import walk_all
from tests.fakes.health_witness import Witness
from tests.fakes.machine import Machine
from tests.fakes.mortal import Undertaker
from tests.fakes.processes import ProcessHandle, wait_until
from tests.integration.test_faults import caller_of, start_orchestrator, start_rack
from tests.lan.namespaces import Lan, why_not
from wrk_orchestrator.health_table import State

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="signals, cores and namespaces as Linux has them"),
]

PACE = 200  # requests a second
BEFORE = 10.0  # seconds of load before a fault, at least
AFTER = 6.0  # and after it
RACKS = ("r1", "r2", "r3", "r4")
TIMES = ("--latency", "20", "--jitter", "60", "--capacity", "100")
MAX_OUT = 4.0  # seconds until a silent rack is out of routing
MAX_BACK = 5.0  # and until one that is heard again is back
MAX_RECOVERY = 2.0  # of an orchestrator that stood still
MAX_FOUND = 10.0  # of a rack, once multicasts pass again
MAX_SLOWDOWN = 1.5
WALKS = 20_000


def show(*parts: str) -> None:
    print("\n ", " ".join(parts), flush=True)


def test_twenty_thousand_walks() -> None:
    visited, panics = walk_all(range(WALKS))
    show(f"{WALKS} walks of 200 steps, {panics} panics")
    assert visited == set(State)


# --- processes on loopback


class House:
    """An orchestrator, racks and a load, as processes of one machine."""

    def __init__(self, tmp_path: Path, stack: ExitStack, *racks: str, settings: tuple[str, ...] = ()) -> None:
        self.orchestrator = stack.enter_context(start_orchestrator(tmp_path, *settings))
        self.racks = {name: stack.enter_context(start_rack(tmp_path, name, *TIMES)) for name in racks}
        seen = Witness(self.orchestrator, tmp_path / "seen", per_second=PACE)
        self.seen = stack.enter_context(seen)
        for name in racks:
            self.seen.until_state(name, "healthy")
        self.seen.until_answered(round(PACE * BEFORE))


def stop_for(process: ProcessHandle, seconds: float) -> float:
    """SIGSTOP; the moment of SIGCONT."""
    process.signal(signal.SIGSTOP)
    time.sleep(seconds)
    process.signal(signal.SIGCONT)
    return time.monotonic()


def test_a_rack_stopped_for_eight_seconds_is_out_in_time_and_back_in_time(tmp_path: Path) -> None:
    with ExitStack() as stack:
        house = House(tmp_path, stack, *RACKS)
        seen, rack, began = house.seen, house.racks["r1"], time.monotonic()
        healed = stop_for(rack, 8.0)
        back = seen.until_state("r1", "healthy")
        time.sleep(AFTER)
        out = next(change for change in seen.turns("r1", began, healed) if not change["routable"])["at"]
        slower = seen.p99(RACKS[1:], began, healed) / seen.p99(RACKS[1:], began - BEFORE, began)
        outcomes = seen.outcomes(began - BEFORE)
        show(
            f"stopped rack: out after {out - began:.2f} s, back after {back - healed:.2f} s, others' p99 x",
            f"{slower:.2f}; {dict(outcomes)}",
        )
        assert out - began <= MAX_OUT
        assert back - healed <= MAX_BACK
        assert slower <= MAX_SLOWDOWN
        assert not seen.sentences()


@pytest.mark.parametrize("seconds", [1.0, 3.0, 10.0])
def test_an_orchestrator_that_stands_still_judges_nobody_and_is_soon_back(
    tmp_path: Path, seconds: float
) -> None:
    with ExitStack() as stack:
        house = House(tmp_path, stack, *RACKS)
        seen = house.seen
        healed = stop_for(house.orchestrator, seconds)
        seen.until_answered(PACE)
        time.sleep(AFTER)
        first = min(a["at"] for a in seen.answers if a["outcome"] == "ok" and a["at"] > healed)
        late = [change["at"] - healed for change in seen.changes if change["at"] > healed]
        show(
            f"orchestrator stopped for {seconds:g} s: first answer {first - healed:.3f} s after,",
            f"last change of a state {max(late, default=0.0):.2f} s after",
        )
        assert first - healed <= MAX_RECOVERY
        assert max(late, default=0.0) <= MAX_RECOVERY
        assert not seen.sentences()
        assert all(seen.state(name) == {**(seen.state(name) or {}), "routable": True} for name in RACKS)


def test_under_a_hog_on_its_core_the_orchestrator_judges_nobody(tmp_path: Path) -> None:
    with ExitStack() as stack:
        house = House(tmp_path, stack, *RACKS)
        seen, began = house.seen, time.monotonic()
        _pin(house.orchestrator.pid)
        hog = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            _pin(hog.pid)
            time.sleep(60.0)
        finally:
            hog.kill()
            hog.wait()
        time.sleep(AFTER)
        outcomes = seen.outcomes(began)
        changes = [change for change in seen.changes if change["at"] > began]
        slower = seen.p99(RACKS, began, began + 60) / seen.p99(RACKS, began - BEFORE, began)
        show(f"a hog for 60 s: {len(changes)} changes of states, p99 x {slower:.2f}, {dict(outcomes)}")
        assert not seen.sentences()
        assert set(outcomes) == {"ok"}


def _pin(pid: int) -> None:
    """All its threads to the first core that we may use."""
    core = min(os.sched_getaffinity(0))
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


def test_a_rack_that_dies_right_after_each_start_gets_next_to_nothing(tmp_path: Path) -> None:
    seconds, cap = 150.0, 20_000
    with ExitStack() as stack:
        house = House(
            tmp_path, stack, "r1", "r2", "r3", settings=("--health.quarantineMax", f"{cap}", "--env", "test")
        )
        seen, began = house.seen, time.monotonic()
        lines = len(house.orchestrator.events())
        longest = 0
        with Undertaker(tmp_path, "dies", alive=0.1) as dying:
            while time.monotonic() < began + seconds:
                stats = run(_about(house.orchestrator, "dies"))
                longest = max(longest, stats["quarantineLeftMs"] or 0)
                time.sleep(0.5)
        lines = len(house.orchestrator.events()) - lines
        served = [a for a in seen.answers if a["sent"] > began]
        share = stats["requests"] / max(1, len(served))
        outcomes = seen.outcomes(began)
        show(
            f"{dying.lives} lives of 0.1 s in {seconds:g} s: {100 * share:.2f} % of requests went there,",
            f"strikes {stats['strikes']}, longest quarantine {longest / 1000:.1f} s, {lines / seconds:.2f}",
            f"log lines a second; {dict(outcomes)}",
        )
        assert share < 0.01
        assert longest > 0.9 * cap
        assert lines <= seconds
        assert set(outcomes) == {"ok"}


async def _about(orchestrator: ProcessHandle, name: str) -> dict[str, int]:
    async with caller_of(orchestrator) as caller:
        listed = (await caller.ask("listWorkers", {}))["workers"]
        worker = next((worker for worker in listed if worker["name"] == name), None)
        if worker is None:
            return {"strikes": 0, "quarantineLeftMs": 0, "requests": 0}
        stats = (await caller.ask("getLoadBalancingStats", {}))["workers"][worker["workerId"]]
        facts = {key: worker[key] for key in ("strikes", "quarantineLeftMs")}
        return {**facts, "requests": stats["requestCount"]}


# --- links


class Street:
    """An orchestrator and a load on the desk, racks on machines of their own, on one LAN."""

    def __init__(self, lan: Lan, tmp_path: Path, stack: ExitStack) -> None:
        self.lan = lan
        self.machines = {
            host: Machine(tmp_path, host, interface="", prefix=lan.run_in(host)) for host in ("desk", *RACKS)
        }
        desk = self.machines["desk"]
        self.orchestrator = stack.enter_context(desk.orchestrator())
        for host in RACKS:
            self.machines[host].joins(desk)
            stack.enter_context(self.machines[host].rack(host, *TIMES))
        seen = Witness(self.orchestrator, tmp_path / "seen", per_second=PACE, prefix=lan.run_in("desk"))
        self.seen = stack.enter_context(seen)
        for host in RACKS:
            self.seen.until_state(host, "healthy")
        self.seen.until_answered(round(PACE * BEFORE))

    def cut(self, fault: str, host: str) -> None:
        match fault:
            case "cable":
                self.lan.unplug(host)
            case "to":
                self.lan.lose("desk", host)
            case "from":
                self.lan.lose(host, "desk")

    def heal(self, fault: str, host: str) -> float:
        match fault:
            case "cable":
                self.lan.plug(host)
            case "to":
                self.lan.lose_no_more("desk", host)
            case "from":
                self.lan.lose_no_more(host, "desk")
        return time.monotonic()

    def slowdown(self, host: str, began: float, until: float) -> float:
        others = [name for name in RACKS if name != host]
        return self.seen.p99(others, began, until) / self.seen.p99(others, began - BEFORE, began)


@pytest.fixture
def street(tmp_path: Path) -> Iterator[Street]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with ExitStack() as stack:
        yield Street(stack.enter_context(Lan("desk", *RACKS)), tmp_path, stack)


@pytest.mark.parametrize("fault", ["cable", "to", "from"])
def test_a_cut_link_is_out_in_time_and_back_in_time(street: Street, fault: str) -> None:
    seen = street.seen
    for host, seconds in zip(RACKS, (1.0, 5.0, 30.0), strict=False):
        time.sleep(BEFORE)
        began = time.monotonic()
        street.cut(fault, host)
        time.sleep(seconds)
        healed = street.heal(fault, host)
        time.sleep(AFTER)
        turns = seen.turns(host, began, healed + AFTER)
        out = next((turn["at"] - began for turn in turns if not turn["routable"]), None)
        back = max((turn["at"] - healed for turn in turns if turn["routable"]), default=0.0)
        slower = street.slowdown(host, began, healed + AFTER)
        said = "stayed" if out is None else f"out after {out:.2f} s"
        show(
            f"{fault} cut for {seconds:g} s: {said}, back {back:.2f} s after, others' p99 x {slower:.2f},",
            f"felt by {seen.felt(began, healed)}, {dict(seen.outcomes(began))}",
        )
        now = seen.state(host)
        assert seen.felt(began, healed) > 0
        assert out is None or out <= MAX_OUT
        assert seconds < MAX_OUT or out is not None
        assert now is not None
        assert now["routable"]
        assert back <= MAX_BACK
        assert slower <= MAX_SLOWDOWN
    assert not seen.sentences()


def test_a_flapping_link_changes_routing_rarely_and_troubles_nobody_else(street: Street) -> None:
    seen, minutes = street.seen, 2
    began = time.monotonic()
    for _ in range(30 * minutes):
        street.cut("cable", "r1")
        time.sleep(1.0)
        healed = street.heal("cable", "r1")
        time.sleep(1.0)
    turns = seen.turns("r1", began, healed)
    slower = street.slowdown("r1", began, healed)
    show(
        f"a link 1 s up, 1 s down for {minutes} min: {len(turns)} turns of routing,",
        f"felt by {seen.felt(began, healed)}, others' p99 x {slower:.2f}; {dict(seen.outcomes(began))}",
    )
    assert seen.felt(began, healed) >= 30 * minutes
    assert len(turns) <= 60 * minutes / 5
    assert slower <= MAX_SLOWDOWN
    wait_until(lambda: (seen.state("r1") or {}).get("routable"), 60.0, "it is routable again")


def test_without_multicasts_nobody_is_removed_and_with_them_a_new_rack_is_soon_found(street: Street) -> None:
    seen, seconds = street.seen, 600.0
    began = time.monotonic()
    street.lan.multicast(passes=False)
    with street.machines["r4"].rack("late", *TIMES):
        time.sleep(seconds)
        changes = [change for change in seen.changes if change["at"] > began]
        street.lan.multicast(passes=True)
        healed = time.monotonic()
        found = seen.until_state("late", "healthy") - healed
    show(
        f"without multicasts for {seconds / 60:g} min: {len(changes)} changes of states,",
        f"a new rack found {found:.1f} s after; {dict(seen.outcomes(began))}",
    )
    assert changes == []
    assert found <= MAX_FOUND
