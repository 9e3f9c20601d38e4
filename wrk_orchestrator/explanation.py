"""Why a worker would be picked for a request, and others not: for people, asked for on its own.

It says what the next pick would go by and changes nothing, so that asking does not alter the answer. A
worker that serves the model is named with a score, or with what keeps it from being picked.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from .affinity import Affinity
from .candidate import Candidate
from .records import Want
from .strategies import Rendezvous, Score, Strategy

MOST_NAMED = 100  # workers in one explanation, some 10 kB: it travels in the answer to a request
MOST_EXCLUDED = 50  # of them, while there are others

TRIED = "tried already"
UNMET = "does not meet the requirements"
OUT = "not routable"
FULL = "full"


def explanation(
    strategy: Strategy | Rendezvous,
    want: Want,
    everybody: list[Candidate],
    exclude: Collection[str],
    now: float,
    affinity: Affinity,
) -> list[dict[str, Any]]:
    """Of `everybody` who serves the model: `workerId`, `score`, `load`, `limit`, `excluded`.

    Those who may be picked come first, the likeliest before the others; `excluded` is None for them, and a
    reason for the rest, whose `score` is None.
    """
    open_ones: list[Candidate] = []
    excluded: list[dict[str, Any]] = []
    for candidate in everybody:
        reason = _reason(candidate, want, exclude)
        if reason is None:
            open_ones.append(candidate)
        else:
            excluded.append(_named(candidate, None, reason))
    ranked = strategy.explain(open_ones, now, affinity)
    named = [_named(candidate, score, None) for candidate, score in ranked]
    named = named[: MOST_NAMED - min(MOST_EXCLUDED, len(excluded))]
    return named + excluded[: MOST_NAMED - len(named)]


def _reason(candidate: Candidate, want: Want, exclude: Collection[str]) -> str | None:
    if candidate.worker_id in exclude:
        return TRIED
    if not want.met_by(candidate.record):
        return UNMET
    if not candidate.limit:
        return OUT
    return None if candidate.open else FULL


def _named(candidate: Candidate, score: Score | None, excluded: str | None) -> dict[str, Any]:
    return {
        "workerId": candidate.worker_id,
        "score": score,
        "load": candidate.load,
        "limit": candidate.limit,
        "excluded": excluded,
    }
