"""A simulated rack as a process of its own: the faults that only a process can have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from racks.sim import CRASH_STATUS
from tests.fakes.aio import run
from tests.fakes.processes import ProcessHandle, client, start_worker
from wrk_base import errors

SIM = ("--wtype", "racks.sim:SimRack", "--rack", "r1")


def infer(rack: ProcessHandle, input_data: Any) -> Any:
    async def call() -> Any:
        async with client(rack) as mesh:
            body = {"modelId": "sim-model", "inputData": input_data}
            return await mesh.request(rack.endpoint, "runInference", body, timeout=30.0)

    return run(call())


def test_a_crash_takes_the_process_and_its_caller_hears_of_it(tmp_path: Path) -> None:
    rack = start_worker([*SIM, "--crashAfter", "2"], tmp_path)
    with rack:
        assert infer(rack, "hello")["result"]["worker"] == rack.worker_id
        with pytest.raises(errors.Unavailable, match="lost") as lost:
            infer(rack, "hello")
        assert not lost.value.not_started
        assert rack.wait() == CRASH_STATUS
        assert rack.status_file.exists()  # nothing was tidied up
    with start_worker(SIM, tmp_path) as again:
        assert again.worker_id == rack.worker_id
        assert infer(again, "hello")["result"]["simulated"]


def test_a_rack_that_hangs_ends_when_told(tmp_path: Path) -> None:
    """The caller that still waits is told so, when the drain is over."""

    async def story(rack: ProcessHandle) -> None:
        async with client(rack) as mesh:
            body = {"modelId": "sim-model", "inputData": {"sim": {"hang": True}}}
            waiting = mesh.request(rack.endpoint, "runInference", body, timeout=3600.0)
            await mesh.request(rack.endpoint, "ping", timeout=30.0)
            rack.signal(15)
            with pytest.raises(errors.Unavailable):
                await waiting
            assert await rack.ended() == 0

    with start_worker([*SIM, "--stop.drainTimeout", "50"], tmp_path) as rack:
        run(story(rack))
