"""How much of three unequal racks comes out together, when nobody has said how fast each is.

Each also serves a model of its own, so that what it does by itself is measured in the same mesh: the
yardstick is the sum of these. Callers ask again at once and are twice as many as the racks have slots.
"""

from __future__ import annotations

from benchmarks.gateway_side import answers, load
from benchmarks.gateway_side.figures import UnequalRacks
from benchmarks.gateway_side.gateway import await_answer
from benchmarks.gateway_side.ours import start_orchestrator
from benchmarks.mesh import mesh

LATENCIES_MS = {"slow": 40, "medium": 20, "fast": 10}
SLOTS = 4
SHARED = "shared"
CALLERS_PER_SLOT = 2


def measure(learn: int, seconds: int) -> UnequalRacks:
    """Measures `seconds` of each rack alone and of all, after `learn` seconds of all that are not counted."""
    with mesh() as made:
        port = start_orchestrator(made)
        for name, latency in LATENCIES_MS.items():
            offer = ("--models", f"{SHARED},{name}", "--latency", str(latency), "--capacity", str(SLOTS))
            made.start("wrk-rack-sim", name, *offer)
        for name in LATENCIES_MS:
            await_answer(port, made.alive, answers.request(model=name), answers.status_fault)
        alone = {name: _rate(port, name, 1, seconds) for name in LATENCIES_MS}
        _rate(port, SHARED, len(LATENCIES_MS), learn)
        return UnequalRacks(alone, _rate(port, SHARED, len(LATENCIES_MS), seconds))


def _rate(port: int, model: str, racks: int, seconds: int) -> float:
    told = load.wrk(port, racks * SLOTS * CALLERS_PER_SLOT, seconds, answers.request(model=model))
    return (told["requests"] - told["refused"]) / told["seconds"]
