"""A mesh in which no model is ever cold: what admission asks of a loader there, and hears."""

from __future__ import annotations

from wrk_base import errors
from wrk_orchestrator.fair_queue import Wish


class NoLoads:
    """Nobody loads anything."""

    def begin(self, wish: Wish, refusal: errors.WrkError) -> errors.WrkError | None:
        return refusal

    def spread(self, wish: Wish, wait: float) -> None: ...

    def seconds_left(self, model: str) -> float:
        return 0.0

    def patience(self, model: str) -> float:
        return 0.0
