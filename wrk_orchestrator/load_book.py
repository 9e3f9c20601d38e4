"""What is known of loading models: who loads what, how long that takes, who failed lately. Pure.

One load a model and one a worker at a time: two would put each other's model out again. What is forgotten
here (times of models that nobody has asked for lately) costs an estimate, never a request.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

FIRST_GUESS_S = 20.0  # a model of some gigabytes from an SSD, until one was measured
REST_S = 30.0  # a worker that could not load a model is not asked for it again that long
MODELS_KEPT = 1024


class Load(NamedTuple):
    """Under way at this worker since then."""

    worker_id: str
    since: float


class Failure(NamedTuple):
    reason: str
    until: float


class LoadBook:
    """All loads of one orchestrator."""

    def __init__(self) -> None:
        self.under_way: dict[str, Load] = {}
        self._took: dict[str, float] = {}
        self._failures: dict[str, dict[str, Failure]] = {}

    def begin(self, model: str, worker_id: str, now: float) -> None:
        self.under_way[model] = Load(worker_id, now)

    def end(self, model: str, reason: str, now: float) -> float:
        """It is loaded, or could not be for a `reason`; the seconds that this took."""
        load = self.under_way.pop(model)
        took = now - load.since
        if reason:
            self._failures[model] = {
                **self.failures(model, now),  # those of long ago are forgotten: workers come and go
                load.worker_id: Failure(reason, now + REST_S),
            }
        else:
            before = self._took.get(model, took)
            self._took[model] = (before + took) / 2
            self._failures.get(model, {}).pop(load.worker_id, None)
        for table in (self._took, self._failures):
            if len(table) > MODELS_KEPT:
                del table[next(iter(table))]
        return took

    def busy(self) -> Collection[str]:
        """The workers that load something."""
        return {load.worker_id for load in self.under_way.values()}

    def failures(self, model: str, now: float) -> dict[str, Failure]:
        """Who could not load it lately."""
        noted = self._failures.get(model, {})
        lately = {worker: failure for worker, failure in noted.items() if failure.until > now}
        if not lately:
            self._failures.pop(model, None)
        return lately

    def seconds(self, model: str) -> float:
        """What loading it takes, as far as anybody knows."""
        return self._took.get(model, FIRST_GUESS_S)

    def seconds_left(self, model: str, now: float) -> float:
        """Until it is loaded; 0 where it is not under way. What is late already is expected to be later."""
        load = self.under_way.get(model)
        if load is None:
            return 0.0
        passed = now - load.since
        return max(self.seconds(model) - passed, passed / 4)
