"""How long a queue takes, from how fast it has moved. Pure.

The mean gap between two requests that got a worker, over the last thirty or so: service times and the number
of workers are in it, without anybody having to know either. A gap that is still open counts as far as it
makes the mean longer, so that a queue which stands still does not go on promising.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

PACES_KEPT = 1024  # beyond it the one that was measured first is measured anew
KEPT = 1 - 1 / 32  # of the weight of what was seen, at each new gap
MEASURED = 3.5  # of that weight, which is four gaps: with less a pace is a guess
LEAST_S, MOST_S = 0.05, 3600.0  # sooner nobody gets back anyway; nobody plans beyond an hour


class Pace:
    """Of those who wait for one thing. `guess`: seconds for each that waits, until something was measured."""

    __slots__ = ("_gaps", "_seconds", "_since", "guess")

    def __init__(self, guess: float) -> None:
        self.guess = guess
        self._gaps = self._seconds = 0.0
        self._since: float | None = None

    def begin(self, now: float) -> None:
        """Somebody waits again."""
        self._since = now

    def pause(self) -> None:
        """What is waited for is no free worker; the next gap begins when that has come."""
        self._since = None

    def moved(self, now: float) -> None:
        """Somebody who waited got a worker."""
        if self._since is not None:
            self._seconds = self._seconds * KEPT + now - self._since
            self._gaps = self._gaps * KEPT + 1
        self._since = now

    def seconds(self, places: int, now: float) -> float:
        """How long so many places take, from now on, while somebody waits."""
        return min(MOST_S, max(LEAST_S, self._each(now) * places))

    def measured(self, places: int, now: float) -> float:
        """The same where it is known and no worker is missing; else 0."""
        return self._each(now) * places if self._since is not None and self._gaps >= MEASURED else 0.0

    def _each(self, now: float) -> float:
        still = now - self._since if self._since is not None else 0.0
        if self._gaps:
            return max(self._seconds / self._gaps, (self._seconds + still) / (self._gaps + 1))
        return max(self.guess, still)


class Paces(Generic[K]):
    """By what is waited for."""

    def __init__(self) -> None:
        self._paces: dict[K, Pace] = {}

    def __len__(self) -> int:
        return len(self._paces)

    def of(self, key: K, guess: float) -> Pace:
        pace = self._paces.get(key)
        if pace is None:
            if len(self._paces) >= PACES_KEPT:
                del self._paces[next(iter(self._paces))]
            pace = self._paces[key] = Pace(guess)
        return pace
