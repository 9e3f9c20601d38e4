"""A small shell around the health monitor, for stories about racks.

It ticks four times a second, lets racks beat once a second and answer probes, and keeps the limits
that the monitor sets, which is all that routing ever sees. Time passes only by `advance`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from wrk_orchestrator.health_changes import Change, ProbeNow, SetLimit, Transition
from wrk_orchestrator.health_monitor import HealthMonitor
from wrk_orchestrator.health_policy import HealthPolicy
from wrk_orchestrator.health_table import Observation

TICK = 0.25
FULL = 8


class HealthMesh:
    def __init__(self, **policy: Any) -> None:
        self.monitor = HealthMonitor(HealthPolicy(**policy), random.Random(7))
        self.now = 1000.0
        self.started = self.now
        self.limits: dict[str, int] = {}
        self.beating: set[str] = set()
        self.answering: set[str] = set()
        self.log: list[Change] = []
        self.probed: list[tuple[float, str]] = []
        self.advance(TICK)

    def rack(self, name: str, models: tuple[str, ...] = ("m",), limit: int = FULL) -> str:
        """A healthy rack that beats and answers probes."""
        self._carry_out(self.monitor.add(name, models, limit, self.now))
        self.resume(name)
        self.see(name, Observation.LINK_UP)
        return name

    def racks(self, *names: str) -> tuple[str, ...]:
        return tuple(self.rack(name) for name in names)

    def see(self, name: str, *seen: Observation, **more: Any) -> tuple[Change, ...]:
        changes: tuple[Change, ...] = ()
        for observation in seen:
            changes += self._carry_out(self.monitor.observe(name, observation, self.now, **more))
        return changes

    def stop(self, *names: str) -> None:
        """SIGSTOP: neither beats nor answers, its link stays."""
        self.beating -= set(names)
        self.answering -= set(names)

    def resume(self, *names: str) -> None:
        self.beating |= set(names)
        self.answering |= set(names)

    def advance(self, seconds: float, lag: float = 0.0) -> tuple[Change, ...]:
        """Lets time pass in ticks."""
        changes: tuple[Change, ...] = ()
        for _ in range(round(seconds / TICK)):
            self.now += TICK
            if (self.now - self.started) % 1.0 == 0:
                changes += self.everyone_beats()
            changes += self._carry_out(self.monitor.tick(self.now, lag))
        return changes

    def everyone_beats(self) -> tuple[Change, ...]:
        return sum((self._carry_out(self.monitor.beat(name, self.now)) for name in sorted(self.beating)), ())

    def until(self, reached: Callable[[], bool], within: float) -> float:
        """Advances until it holds; the seconds that took."""
        began = self.now
        while not reached():
            assert self.now - began < within, f"not within {within} s"
            self.advance(TICK)
        return self.now - began

    def pause_ourselves(self, seconds: float) -> None:
        """SIGSTOP of the orchestrator: time passes and nobody ticks."""
        self.now += seconds

    def state(self, name: str) -> str:
        return self.monitor.state(name)

    def fact(self, name: str, key: str) -> Any:
        return self.monitor.describe(name, self.now)[key]

    def _carry_out(self, changes: tuple[Change, ...]) -> tuple[Change, ...]:
        self.log += changes
        for change in changes:
            if isinstance(change, SetLimit):
                self.limits[change.worker_id] = change.limit
            if isinstance(change, ProbeNow):
                self.probed.append((self.now, change.worker_id))
                if change.worker_id in self.answering:
                    self.see(change.worker_id, Observation.PROBE_OK)
        return changes

    def moves(self, name: str) -> list[str]:
        return [c.new.value for c in self.log if isinstance(c, Transition) and c.worker_id == name]


def quarantined(**policy: Any) -> tuple[HealthMesh, str]:
    """A mesh with two racks, one just condemned for five missed deadlines."""
    mesh = HealthMesh(**policy)
    rack, _ = mesh.racks("r1", "well")
    mesh.see(rack, *[Observation.CALL_TIMED_OUT] * 5)
    assert mesh.state(rack) == "quarantined"
    return mesh, rack
