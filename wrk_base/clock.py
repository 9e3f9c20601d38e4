"""The only place that reads the machine's clocks.

Durations, deadlines and ages use `monotonic`; only what a person reads uses `wall_ms`, and only
what other machines date, as certificates do, uses `wall`. Code that
runs inside an event loop uses `loop.time()` instead, so that a virtual-time loop can run it.
"""

import time


def monotonic() -> float:
    """Seconds since an arbitrary start; never goes back."""
    return time.monotonic()


def wall_ms() -> int:
    """Milliseconds since the Unix epoch, for timestamps that people and other programs read."""
    return time.time_ns() // 1_000_000


def wall() -> float:
    """Seconds since the Unix epoch."""
    return time.time()
