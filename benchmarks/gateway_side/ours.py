"""Ours, twice: before native mock racks, and before racks that stand in front of the HTTP mocks.

Both are the product as it runs: an orchestrator with its HTTP face, racks in processes of their own,
encrypted links between certified members. Only the capacity of the racks is raised to what is asked of them.
"""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.gateway_side.figures import NATIVE, OPENAI
from benchmarks.gateway_side.gateway import Gateway, Running, await_answer
from benchmarks.gateway_side.mocks import COUNT, Mocks
from benchmarks.mesh import Mesh, mesh

NOTES = {
    NATIVE: "The mocks are racks. CPU time is the orchestrator's.",
    OPENAI: "An openai rack before each HTTP mock. CPU time is the orchestrator's and the racks'.",
}
RACK = "benchmarks.gateway_side.mock_rack:MockRack"
CAPACITY = 1024


def native() -> Gateway:
    return Gateway(NATIVE, _native)


def openai(mocks: Mocks) -> Gateway:
    return Gateway(OPENAI, lambda stack: _openai(stack, mocks))


def _native(stack: ExitStack) -> Running:
    made = stack.enter_context(mesh())
    orchestrator = start_orchestrator(made)
    racks = [f"r{number}" for number in range(COUNT)]
    for rack in racks:
        made.start(RACK, rack)
    return _answering(made, orchestrator, (), tuple(made.processes[rack].pid for rack in racks))


def _openai(stack: ExitStack, mocks: Mocks) -> Running:
    made = stack.enter_context(mesh())
    orchestrator = start_orchestrator(made)
    for number, url in enumerate(mocks.urls):
        made.start("wrk-rack-openai", f"r{number}", "--upstream", url, "--maxConcurrent", str(CAPACITY))
    racks = tuple(made.processes[f"r{number}"].pid for number in range(len(mocks.urls)))
    return _answering(made, orchestrator, racks, mocks.pids)


def start_orchestrator(made: Mesh, *flags: str) -> int:
    """One with an HTTP face, named "o"; its HTTP port."""
    made.start("wrk-orchestrator-http", "o", "--rpc.port", "0", "--port", "0", *flags)
    return int(made.status["o"]["http"].rpartition(":")[2])


def _answering(made: Mesh, port: int, racks: tuple[int, ...], mocks: tuple[int, ...]) -> Running:
    await_answer(port, made.alive)
    return Running(port, (made.processes["o"].pid, *racks), mocks)
