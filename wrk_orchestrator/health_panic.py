"""Which models are in panic: judgement has left them too few workers, and lets those that it shut out in.

Many wrong verdicts at once (an impatient caller, a bad minute of the network) must not refuse what could
be served. So when fewer than a share of a model's workers are routable because of judgement, all those in
quarantine by judgement that are linked and beat get work, with a slow start. Who is held by an operator,
silent, stalled, unhealthy by its own word, draining or gone stands outside this, and is never let in. It
knows models and who stands where, no limits and no clocks.

Invariant: after `review` a model is in panic exactly if `in_panic` says so of its crowd.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

from .health_arithmetic import in_panic
from .health_changes import PanicBegan, PanicEnded


class Part(Enum):
    """What a worker is to panic."""

    NONE = auto()
    ROUTABLE = auto()
    SHUT_OUT = auto()  # in quarantine by judgement, linked and beating


@dataclass(slots=True)
class _Crowd:
    routable: int = 0
    shut_out: dict[str, None] = field(default_factory=dict)


class Panic:
    """`share` of a model's workers, 0..1; 0: never."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._crowds: dict[str, _Crowd] = {}
        self._touched: dict[str, None] = {}
        self._panicking: dict[str, None] = {}
        self.begun = 0

    def enter(self, worker_id: str, models: Iterable[str], part: Part) -> None:
        if part is Part.NONE:
            return
        for model in models:
            crowd = self._crowds.setdefault(model, _Crowd())
            self._touched[model] = None
            if part is Part.SHUT_OUT:
                crowd.shut_out[worker_id] = None
            else:
                crowd.routable += 1

    def leave(self, worker_id: str, models: Iterable[str], part: Part) -> None:
        if part is Part.NONE:
            return
        for model in models:
            crowd = self._crowds[model]
            self._touched[model] = None
            if part is Part.SHUT_OUT:
                del crowd.shut_out[worker_id]
            else:
                crowd.routable -= 1

    def review(self) -> list[PanicBegan | PanicEnded]:
        """What has begun or ended by what was entered and left since the last time."""
        turned: list[PanicBegan | PanicEnded] = []
        for model in self._touched:
            crowd = self._crowds[model]
            panics = in_panic(crowd.routable, len(crowd.shut_out), self._share)
            if panics and model not in self._panicking:
                self._panicking[model] = None
                self.begun += 1
                turned.append(PanicBegan(model, tuple(crowd.shut_out)))
            elif not panics and model in self._panicking:
                del self._panicking[model]
                turned.append(PanicEnded(model))
            if not (crowd.routable or crowd.shut_out):
                del self._crowds[model]
        self._touched.clear()
        return turned

    def lets_in(self, models: Iterable[str]) -> bool:
        """Whether a worker of these models that is shut out gets work: as a whole, for all that it serves."""
        return any(model in self._panicking for model in models)

    def shut_out(self, model: str) -> tuple[str, ...]:
        crowd = self._crowds.get(model)
        return tuple(crowd.shut_out) if crowd is not None else ()

    def models(self) -> list[str]:
        """Those in panic, the longest first."""
        return list(self._panicking)
