"""What became of one request and why, for whoever asked to be told (`options.explain`). Pure.

Each look at the workers is kept as it was when the choice was made, before the choice changed it. A request
has a handful of looks and hops, so nothing here needs a bound of its own; who is named in a look is bounded
by explanation.py.
"""

from __future__ import annotations

from typing import Any


class Account:
    """Grows with its request; `told` may be asked at any time. Times are seconds, told in milliseconds."""

    def __init__(self, strategy: str, now: float) -> None:
        self._strategy, self._since = strategy, now
        self._looks: list[dict[str, Any]] = []
        self._hops: list[dict[str, Any]] = []

    def looked(self, model: str, candidates: list[dict[str, Any]], now: float) -> None:
        """Among whom a worker is to be picked, or waited for."""
        self._looks.append({"model": model, "atMs": self._ms(now), "candidates": candidates})

    def sent(self, worker_id: str, model: str, now: float) -> None:
        hop = {
            "workerId": worker_id,
            "model": model,
            "atMs": self._ms(now),
            "tookMs": None,
            "outcome": "open",
        }
        self._hops.append(hop)

    def ended(self, worker_id: str, outcome: str, now: float) -> None:
        """Of the last hop there: "ok", the name of an error, or "left" where the route went on without it."""
        hop = next(hop for hop in reversed(self._hops) if hop["workerId"] == worker_id)
        hop["tookMs"], hop["outcome"] = round(self._ms(now) - hop["atMs"], 3), outcome

    def told(self, waited: float) -> dict[str, Any]:
        """`strategy`, `queuedMs`, `looks` (each with its candidates) and `hops`, in the order of time."""
        return {
            "strategy": self._strategy,
            "queuedMs": round(waited * 1000, 3),
            "looks": self._looks,
            "hops": self._hops,
        }

    def _ms(self, now: float) -> float:
        return round((now - self._since) * 1000, 3)
