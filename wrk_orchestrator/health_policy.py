"""When a worker is doubted, left out and taken back: the settings of worker health, in seconds.

The shell fills it from the `health` section and `healthCheckInterval`, where the trade-offs of each
key are written down. It must not know where a value came from. Invariant: a policy that exists is
one under which a steady worker stays healthy.
"""

from __future__ import annotations

import msgspec

from .health_arithmetic import suspect_after


class HealthPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Durations are seconds, shares 0..1. Raises `ValueError` where two values contradict."""

    heartbeat_interval: float = 1.0
    silence_timeout: float = 3.5
    probe_interval: float = 5.0
    probe_interval_in_doubt: float = 1.0
    probe_timeout: float = 2.0
    probe_failures: int = 3  # in a row
    call_failures: int = 5  # in a row, transport or not the handler's own error
    deadline_misses: int = 5  # in a row
    quarantine_min: float = 5.0
    quarantine_max: float = 300.0
    probation_successes: int = 5
    flap_high: float = 0.30
    flap_low: float = 0.20
    max_quarantined_share: float = 0.5
    panic_share: float = 0.25  # 0: never
    max_probe_rate: float = 100.0  # a second, over all workers
    tick_interval: float = 0.25  # how often the shell promises to call `tick`

    def __post_init__(self) -> None:
        if self.silence_timeout <= 2 * self.heartbeat_interval:
            raise ValueError("silence_timeout must be more than two heartbeat_interval")
        if self.quarantine_max < self.quarantine_min:
            raise ValueError("quarantine_max must not be below quarantine_min")
        if self.flap_high < self.flap_low:
            raise ValueError("flap_high must not be below flap_low")

    @property
    def suspect_after(self) -> float:
        return suspect_after(self.heartbeat_interval, self.silence_timeout)

    @property
    def doubt_after_pause(self) -> float:
        """How long after a pause of our own its late effects (lost links, missed deadlines) arrive."""
        return 2 * self.heartbeat_interval

    @property
    def strike_forgiven_after(self) -> float:
        """Calm that takes one strike away: 10 minutes at the default cap."""
        return 2 * self.quarantine_max
