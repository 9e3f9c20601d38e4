"""Whether we ourselves were away, so that nobody may be judged by what we did not hear.

A stopped or starved process sees every worker silent, every deadline missed and links lost, all by
its own fault. The lag of the loop and lateness of our own tick show it; the effects of a pause go on
arriving for a little while after it. Knows no workers. Seconds, monotonic.
"""

from __future__ import annotations

from math import inf

from .health_arithmetic import own_pause
from .health_policy import HealthPolicy


class SelfDoubt:
    """`pauses` counts the pauses noticed; one that spans many ticks is one."""

    def __init__(self, policy: HealthPolicy) -> None:
        self._policy = policy
        self._last_tick: float | None = None
        self._paused = False
        self._doubt_until = -inf
        self.pauses = 0

    def tick(self, now: float, loop_lag: float) -> float | None:
        """Seconds by which the clocks of silence must stand still, or None when we may judge."""
        gap = self._gap(now)
        self._last_tick = now
        paused = self._is_pause(gap, loop_lag)
        self.pauses += paused and not self._paused
        self._paused = paused
        if not paused:
            return None
        self._doubt_until = now + self._policy.doubt_after_pause
        return gap

    def doubts(self, now: float) -> bool:
        """Whether what is seen now may be our own fault: in a pause not yet ticked, or just after one."""
        return now < self._doubt_until or self._is_pause(self._gap(now), 0.0)

    def _gap(self, now: float) -> float:
        return 0.0 if self._last_tick is None else now - self._last_tick

    def _is_pause(self, gap: float, loop_lag: float) -> bool:
        policy = self._policy
        return own_pause(gap, policy.tick_interval, loop_lag, policy.heartbeat_interval)
