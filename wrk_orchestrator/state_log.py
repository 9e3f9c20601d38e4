"""Changes of workers' states for the log, few enough to be read.

A worker that comes and goes every second must not fill the log: each may say a few changes at once and
then one every few seconds. What came meanwhile is counted, and the newest is said as soon as it may be, so
that the last line about a worker is always true. It knows no log and no clock.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from .health_changes import Transition

BURST = 5
SECONDS_EACH = 5.0
MOST_VOICES = 16_384  # beyond it who was silent longest may say a burst again; some 200 bytes each


@dataclass(slots=True)
class _Voice:
    left: float = BURST
    counted_at: float = -inf
    unsaid: int = 0
    waiting: Transition | None = None
    waits_since: float = 0.0


class Line(NamedTuple):
    """What is to be said now: a change, how many before it were not said, how many seconds ago it was, and
    for how many seconds from now on what follows will not be said."""

    change: Transition
    unsaid: int = 0
    ago: float = 0.0
    silent: float = 0.0


class StateLog:
    """`note` and `due` return what is to be said now."""

    def __init__(self) -> None:
        self._voices: OrderedDict[str, _Voice] = OrderedDict()  # the longest silent first
        self._waiting: dict[str, None] = {}

    def note(self, change: Transition, now: float) -> Line | None:
        voice = self._voices.setdefault(change.worker_id, _Voice())
        self._voices.move_to_end(change.worker_id)
        if len(self._voices) > MOST_VOICES:
            self._waiting.pop(self._voices.popitem(last=False)[0], None)
        voice.unsaid += voice.waiting is not None
        voice.waiting, voice.waits_since = change, now
        self._waiting[change.worker_id] = None
        return self._say(change.worker_id, now)

    def due(self, now: float) -> list[Line]:
        """To be asked now and then."""
        said = (self._say(worker_id, now) for worker_id in tuple(self._waiting))
        return [line for line in said if line is not None]

    def _say(self, worker_id: str, now: float) -> Line | None:
        voice = self._voices[worker_id]
        voice.left, voice.counted_at = self._left(voice, now), now
        if voice.left < 1 or voice.waiting is None:
            return None
        change, unsaid, ago = voice.waiting, voice.unsaid, now - voice.waits_since
        voice.left, voice.unsaid, voice.waiting = voice.left - 1, 0, None
        del self._waiting[worker_id]
        return Line(change, unsaid, ago, max(0.0, 1 - voice.left) * SECONDS_EACH)

    def _left(self, voice: _Voice, now: float) -> float:
        return min(BURST, voice.left + max(0.0, now - voice.counted_at) / SECONDS_EACH)
