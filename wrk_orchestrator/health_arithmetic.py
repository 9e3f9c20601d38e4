"""The numbers behind worker health: free functions, no state, no clock, no chance.

Durations are seconds, shares lie in 0..1. Every function is total: it has an answer for zero, for
equality, for values far out of range and for times that run backwards.

Flap damping is Nagios' (Nagios Core manual, "Detection and Handling of State Flapping"): of the last
21 results the 20 possible changes are counted, weighted 0.75 (oldest) to 1.25 (newest).
"""

from __future__ import annotations

FLAP_RESULTS = 21
STEADY_HISTORY = (1 << FLAP_RESULTS) - 1
"""A history of good results alone: what a worker starts with."""

_CHANGES = FLAP_RESULTS - 1
_CHANGE_MASK = (1 << _CHANGES) - 1
_WEIGHTS = tuple(1.25 - 0.5 * age / (_CHANGES - 1) for age in range(_CHANGES))

BEATS_TO_SUSPECT = 2
BEAT_SLACK = 0.25
"""Of an interval: what a beat may be late by, for scheduling and the network."""

JITTER = 0.2
STEADY_AFTER = 600.0  # seconds without anything amiss: what has been well that long is asked half as often
STEADY_FACTOR = 2
MAX_DOUBLINGS = 64  # beyond any cap; keeps 2**n an ordinary number


def suspect_after(heartbeat_interval: float, silence_timeout: float) -> float:
    """Silence after which beats count as missed; never later than the silence that ends the link."""
    return min((BEATS_TO_SUSPECT + BEAT_SLACK) * heartbeat_interval, silence_timeout)


def beat_overdue(quiet: float, heartbeat_interval: float) -> bool:
    """Whether a beat should have come by now, so that failures may just be its silence."""
    return quiet > (1 + BEAT_SLACK) * heartbeat_interval


def own_pause(gap: float, tick_interval: float, loop_lag: float, heartbeat_interval: float) -> bool:
    """Whether we ourselves were away: `gap` seconds since the last tick, `loop_lag` as measured."""
    return max(gap - tick_interval, loop_lag) > heartbeat_interval / 2


def remember(history: int, good: bool) -> int:
    """The history with one more result, newest in the lowest bit; the oldest falls out."""
    return (history << 1 | good) & STEADY_HISTORY


def flap_share(history: int) -> float:
    """Weighted share of changes among the last 21 results: 0.0 steady, 1.0 changes every time."""
    changes = (history ^ history >> 1) & _CHANGE_MASK
    return sum(weight for age, weight in enumerate(_WEIGHTS) if changes >> age & 1) / _CHANGES


def still_flapping(flapping: bool, share: float, low: float, high: float) -> bool:
    """Hysteresis: in at `high` or above, out at `low` or below, unchanged between them."""
    return share >= high or (flapping and share > low)


def quarantine_length(strikes: int, shortest: float, longest: float) -> float:
    """Seconds of the `strikes`-th quarantine in a row: doubling from `shortest` up to `longest`."""
    doublings = min(max(strikes - 1, 0), MAX_DOUBLINGS)
    return min(shortest * 2.0**doublings, longest)


def strikes_left(strikes: int, calm: float, forgiven_after: float) -> int:
    """Strikes that remain after `calm` seconds without a sentence: one less per `forgiven_after`."""
    if calm <= 0 or forgiven_after <= 0:
        return strikes
    if calm >= strikes * forgiven_after:
        return 0
    return strikes - int(calm // forgiven_after)


def slow_start_limit(successes: int, full: int) -> int:
    """Calls at once for a worker on probation: 1, doubled by each success, at most `full`."""
    return min(1 << min(max(successes, 0), MAX_DOUBLINGS), full)


def quarantine_allowance(known: int, present: int, share: float) -> int:
    """How many of a model's workers judgement may keep in quarantine.

    `known` counts all of them, `present` those that are neither lost nor stalled nor draining. A
    model's only worker may be quarantined: panic lets it have a call at a time.
    """
    if share <= 0 or present <= 0:
        return 0
    if known == 1:
        return 1
    return int(share * present + 1e-9)  # 0.29 * 100 is 28.999... and means 29


def in_panic(routable: int, shut_out: int, share: float) -> bool:
    """Whether judgement leaves a model too few: fewer than `share` of those that could serve it."""
    return shut_out > 0 and routable + 1e-9 < share * (routable + shut_out)


def probe_period(interval: float, calm: float, fleet: int, most_per_second: float) -> float:
    """Seconds between probes of a worker that is not in doubt, well for `calm` seconds, one of `fleet`."""
    factor = STEADY_FACTOR if calm >= STEADY_AFTER else 1
    return max(interval * factor, fleet / most_per_second)


def jittered(interval: float, chance: float) -> float:
    """The interval moved by up to 20 % either way; `chance` is uniform in 0..1."""
    return interval * (1 + JITTER * (2 * chance - 1))
