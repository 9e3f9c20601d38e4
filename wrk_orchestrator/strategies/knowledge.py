"""What the pools of one model share: how their strategies are set, and what was learnt of its workers.

Kept per model, because a rack that serves an embedding model and a chat model is not slow for the
first because of the second; only the prefixes of all models share one table, so that it has one bound.
"""

from __future__ import annotations

from typing import NamedTuple

from .latency import Latencies
from .prefixes import Prefixes
from .probes import Probes


class Tuning(NamedTuple):
    """The settings of strategies: `balancing.*` with its defaults."""

    half_life_s: float = 10.0
    session_load_bound: float = 1.25
    prefix_load_gap: int = 2


DEFAULTS = Tuning()


class Knowledge(NamedTuple):
    """`prefixes` are those of all models, `model` tells them apart."""

    model: str
    tuning: Tuning
    latencies: Latencies
    prefixes: Prefixes
    probes: Probes
