"""When a process that died is started again."""

from __future__ import annotations

import pytest

from wrk_orchestrator.cli.supervisor import restart_pause


@pytest.mark.parametrize(
    ("attempt", "seconds"), [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 30), (7, 30), (1_000_000, 30)]
)
def test_restarts_come_after_a_second_then_ever_later_up_to_half_a_minute(
    attempt: int, seconds: float
) -> None:
    assert restart_pause(attempt) == seconds
