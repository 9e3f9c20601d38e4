"""How one of several fitting workers is chosen: small classes, found by the name in the settings."""

from __future__ import annotations

from .base import Strategy
from .latency import Latencies
from .least_connections import LeastConnections
from .peak_ewma import PeakEwma
from .power_of_two import PowerOfTwo
from .random_choice import RandomChoice
from .round_robin import RoundRobin
from .weighted import Weighted

STRATEGIES: dict[str, type[Strategy]] = {
    "round-robin": RoundRobin,
    "least-connections": LeastConnections,
    "weighted": Weighted,
    "random": RandomChoice,
    "power-of-two": PowerOfTwo,
    "peak-ewma": PeakEwma,
}

__all__ = ["STRATEGIES", "Latencies", "Strategy"]
