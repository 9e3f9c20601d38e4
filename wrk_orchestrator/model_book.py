"""What routing keeps of one model: how much may be sent again, and who waits for a first sign."""

from __future__ import annotations

from wrk_base.rpc import wire

from .hedges import Watch
from .retry_budget import RetryBudget


class ModelBook:
    """Whole answers and streams wait apart, since a first item comes much sooner than an answer."""

    __slots__ = ("_streams", "_whole", "budget")

    def __init__(self, budget: RetryBudget, hedge_share: float) -> None:
        self.budget = budget
        self._whole, self._streams = Watch(hedge_share), Watch(hedge_share)

    def watch(self, flags: int) -> Watch:
        """Where requests with these flags wait."""
        return self._streams if flags & wire.STREAM_WANTED else self._whole

    def close(self) -> None:
        self._whole.close()
        self._streams.close()
