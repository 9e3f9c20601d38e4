"""A hundred meshes of sixty seconds each in virtual time, with faults drawn from their seeds.

A failing seed is played again, with its log, by `python -m tests.sim SEED`; once mended it goes into `KEPT`
and stays. `tests/long/test_simulation.py` plays thousands.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest

from tests.fakes.processes import ROOT
from tests.sim.simulation import WALL, simulate

SEEDS = 100
KEPT = {
    539: "one late call condemned a rack that had only flapped",
    1335: "a rack's new process that nobody had heard of was expected to be known by its former entry",
    2752: "requests that hang held most slots, and refusals were blamed on that calm",
    2834: "panic let in a rack whose limit did not change thereby, and it was not written down",
    2985: "requests that hang held most slots of three racks",
    3092: "a cancel reached its rack when TCP tried again, some time after the network was whole",
    3217: "the larger of two racks served a sentence, and refusals were blamed on that calm",
    4049: "the same at one of three orchestrators",
}
"""Seeds that once failed, and why."""

STORY_OF = (
    "import sys; from tests.sim.simulation import simulate; sys.stdout.buffer.write(simulate({}).story)"
)


@pytest.mark.parametrize("seed", [*range(SEEDS), *KEPT])
def test_no_promise_is_broken(seed: int) -> None:
    assert simulate(seed).violations == []


def test_the_same_seed_is_the_same_story_to_the_last_byte() -> None:
    """On another day, in another process, with other hashes."""
    here = simulate(3, wall=lambda now: WALL / 2 - 7 * now).story
    environ = os.environ | {"PYTHONHASHSEED": "17"}
    there = subprocess.run(
        [sys.executable, "-c", STORY_OF.format(3)], cwd=ROOT, env=environ, stdout=subprocess.PIPE, check=True
    ).stdout
    assert len(here) > 100_000
    assert hashlib.sha256(here).digest() == hashlib.sha256(there).digest()
    assert here != simulate(4).story
