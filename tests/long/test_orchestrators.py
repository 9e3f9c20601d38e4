"""One of two orchestrators is killed, fifty times, at 200 requests a second: no error, racks are back.

Run by `bin/test --long`; prints what it measured.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.aio import run
from tests.fakes.orchestrator_kills import kills

pytestmark = pytest.mark.long

KILLS, RATE, RACKS = 50, 200.0, 8
WITHIN = 1_200.0  # seconds until it counts as hanging
MAX_BACK = 3.0  # seconds from when it answers calls until all racks are routable
MAX_ANSWER = 1.0  # seconds; a call whose orchestrator dies is answered by the other one


def test_fifty_deaths_under_load_are_no_error_and_racks_are_back_within_three_seconds(tmp_path: Path) -> None:
    measured = run(kills(tmp_path, count=KILLS, rate=RATE, racks=RACKS), "uvloop", within=WITHIN)
    print(f"\n{measured}")
    assert measured.kills == KILLS
    assert not measured.failed
    assert max(measured.racks_back) <= MAX_BACK
    assert measured.slowest <= MAX_ANSWER
