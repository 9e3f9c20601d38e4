"""How one of several fitting workers is chosen: small classes, found by the name in the settings."""

from __future__ import annotations

from .base import Score, Strategy
from .consistent_hash import ConsistentHash
from .knowledge import DEFAULTS, Knowledge, Tuning
from .latency import Latencies
from .least_connections import LeastConnections
from .peak_ewma import PeakEwma
from .power_of_two import PowerOfTwo
from .prefix_aware import PrefixAware
from .prefixes import Prefixes
from .prequal import Prequal
from .probes import Probes
from .random_choice import RandomChoice
from .rendezvous import Rendezvous
from .round_robin import RoundRobin
from .weighted import Weighted

STRATEGIES: dict[str, type[Strategy]] = {
    "round-robin": RoundRobin,
    "least-connections": LeastConnections,
    "weighted": Weighted,
    "random": RandomChoice,
    "power-of-two": PowerOfTwo,
    "peak-ewma": PeakEwma,
    "prequal": Prequal,
    "consistent-hash": ConsistentHash,
    "prefix-aware": PrefixAware,
}

__all__ = [
    "DEFAULTS",
    "STRATEGIES",
    "Knowledge",
    "Latencies",
    "Prefixes",
    "Probes",
    "Rendezvous",
    "Score",
    "Strategy",
    "Tuning",
]
