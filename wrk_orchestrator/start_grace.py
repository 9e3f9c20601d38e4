"""The first moments of an orchestrator, in which it does not know its racks yet.

A model that nobody serves may be one whose racks have not been heard again: who asks for it waits in its
queue, like behind a load, until the racks that were known before are back, or the grace is over. Then
everything that waits is looked at once more. Without it a restart would answer 404 for a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from wrk_base import errors

from .admission import Loads
from .fair_queue import Wish


class StartGrace:
    """Stands between admission and `loads`; `queues` is whether anybody may wait at all, `on_end` is told
    when nobody has to any more."""

    def __init__(self, loads: Loads, seconds: float, *, queues: bool, on_end: Callable[[], None]) -> None:
        self._loads, self._seconds, self._queues, self._on_end = loads, seconds, queues, on_end
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + seconds
        self._awaited: set[str] = set()
        self.active = seconds > 0

    def begin_now(self, awaited: Collection[str]) -> None:
        """The start goes on from here: these racks are known and not back yet."""
        self._until = self._loop.time() + self._seconds
        self._awaited = set(awaited)

    def look(self, is_back: Callable[[str], bool]) -> None:
        """End it when its time is over, or all that were known are back; who never knew any waits for all
        that may come."""
        if not self.active:
            return
        there = {rack for rack in self._awaited if is_back(rack)}
        if self._loop.time() >= self._until or (self._awaited and there == self._awaited):
            self.active = False
            self._on_end()

    def left(self) -> float:
        """Seconds, at most."""
        return max(0.0, self._until - self._loop.time()) if self.active else 0.0

    def still_looking(self) -> errors.Unavailable:
        """The answer to who cannot wait."""
        return errors.Unavailable(
            "this orchestrator has just started and still looks for its racks",
            not_started=True,
            retry_after_ms=round(self.left() * 1000) + 1,
        )

    @contextmanager
    def excused(self) -> Iterator[None]:
        """Around what may say that something is not there: during the grace, nobody knows."""
        try:
            yield
        except (errors.NoWorkersAvailable, errors.NoWorkersMatch, errors.NotFound, errors.WorkerNotFound):
            if self.active:
                raise self.still_looking() from None
            raise

    # --- what admission asks

    def begin(self, wish: Wish, refusal: errors.WrkError) -> errors.WrkError | None:
        verdict = self._loads.begin(wish, refusal)
        if verdict is None or not self.active:
            return verdict
        return None if self._queues else self.still_looking()

    def spread(self, wish: Wish, wait: float) -> None:
        self._loads.spread(wish, wait)

    def seconds_left(self, model: str) -> float:
        return max(self._loads.seconds_left(model), self.left())

    def patience(self, model: str) -> float:
        return self._loads.patience(model)
