"""How many of each model's workers are in quarantine by judgement, and whether one more may be.

One shared cause (a bad network, an impatient caller) must not take a whole model away: judgement
keeps at most a share of a model's workers out. Lost, stalled and draining workers and those that an
operator holds stand outside the count. It knows models and counts, no workers and no reasons.

Invariant: the counts are the sums over the standings that are counted in and not out again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from .health_arithmetic import quarantine_allowance


class Standing(NamedTuple):
    """One worker's part in its models' counts. `condemned` implies `present`."""

    present: bool
    condemned: bool


OUTSIDE = Standing(False, False)


@dataclass(slots=True)
class _Crowd:
    known: int = 0
    present: int = 0
    condemned: int = 0


class QuarantineShare:
    """`limit` is the largest share of a model's present workers, 0..1."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._models: dict[str, _Crowd] = {}

    def enter(self, models: Iterable[str], standing: Standing) -> None:
        for model in models:
            crowd = self._models.setdefault(model, _Crowd())
            crowd.known += 1
            crowd.present += standing.present
            crowd.condemned += standing.condemned

    def leave(self, models: Iterable[str], standing: Standing) -> None:
        for model in models:
            crowd = self._models[model]
            crowd.known -= 1
            crowd.present -= standing.present
            crowd.condemned -= standing.condemned
            if crowd.known == 0:
                del self._models[model]

    def allows(self, models: Iterable[str], standing: Standing) -> bool:
        """Whether a worker that is counted with this standing may be put (or kept) in quarantine."""
        return all(self._allows(self._models[model], standing) for model in models)

    def _allows(self, crowd: _Crowd, standing: Standing) -> bool:
        present = crowd.present + (not standing.present)
        condemned = crowd.condemned + (not standing.condemned)
        return condemned <= quarantine_allowance(crowd.known, present, self._limit)

    def counts(self) -> dict[str, tuple[int, int, int]]:
        """Model -> (known, present, condemned)."""
        return {model: (c.known, c.present, c.condemned) for model, c in self._models.items()}
