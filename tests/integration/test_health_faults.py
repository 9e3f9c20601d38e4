"""A rack that hangs, and an orchestrator that stands still: who is judged, and how.

Real processes on loopback. Outcomes and order are asserted with generous waits; the seconds are for
tests/long/test_health.py.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

from tests.fakes.aio import run
from tests.integration.test_faults import Caller, caller_of, start_orchestrator, start_rack
from wrk_base import errors


async def shown(caller: Caller, name: str) -> dict[str, Any]:
    listed = (await caller.ask("listWorkers", {}))["workers"]
    return next((worker for worker in listed if worker["name"] == name), {})


def test_a_rack_that_accepts_and_never_answers_is_out_after_five_deadlines(tmp_path: Path) -> None:
    async def story() -> None:
        with (
            start_orchestrator(tmp_path) as orchestrator,
            start_rack(tmp_path, "hangs", "--hangRate", "1"),
            start_rack(tmp_path, "works") as works,
        ):
            async with caller_of(orchestrator) as caller:
                await caller.see(hangs="healthy", works="healthy")
                missed = 0
                while (await caller.states())["hangs"] == "healthy":
                    try:
                        await caller.infer(timeoutMs=300)
                    except errors.DeadlineExceeded:
                        missed += 1
                assert missed == 5
                worker = await shown(caller, "hangs")
                assert (worker["state"], worker["cause"]) == ("quarantined", "5 deadlines missed in a row")
                answers = [await caller.infer(timeoutMs=5000) for _ in range(20)]
                assert {answer["workerId"] for answer in answers} == {works.worker_id}

    run(story())


def test_an_orchestrator_that_stood_still_judges_nobody(tmp_path: Path) -> None:
    async def story() -> None:
        with (
            start_orchestrator(tmp_path) as orchestrator,
            start_rack(tmp_path, "r1"),
            start_rack(tmp_path, "r2"),
        ):
            async with caller_of(orchestrator) as caller:
                await caller.see(r1="healthy", r2="healthy")
                orchestrator.signal(signal.SIGSTOP)
                await asyncio.sleep(4.0)  # longer than any silence that is forgiven to a rack
                orchestrator.signal(signal.SIGCONT)
                await caller.see(r1="healthy", r2="healthy")
                health = (await caller.ask("getServiceStatus"))["health"]
                assert health["ownPauses"] >= 1
                for name in ("r1", "r2"):
                    worker = await shown(caller, name)
                    assert (worker["strikes"], worker["flapPercentage"]) == (0, 0.0)
            said = [event for event in orchestrator.events() if event["event"] == "worker.state"]
            assert {event["new"] for event in said} <= {"healthy", "joining"}

    run(story())
