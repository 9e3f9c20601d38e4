"""Which of several orchestrators a call goes to, and when it may go on to another one. Pure.

A client stays with one orchestrator while that works: links stay warm, and only one of them has to know
its load. Whoever failed is set aside, longer each time, and comes back by itself; nobody who is set aside
is refused where there is no other. Again is only sent what never ran, or what was lost on the way and
may be repeated. What an orchestrator answers after it has tried racks is the answer: asking the next one
would multiply its retries.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import errors
from .rpc.calls import redial_delay

if TYPE_CHECKING:
    from random import Random

FIRST_ASIDE = 0.25  # seconds
LONGEST_ASIDE = 5.0
ATTEMPTS = "attempts"  # an orchestrator's word in an error's data: it has tried racks

Process = tuple[str, int]
"""Worker id and epoch: a restart is somebody else, and may be tried again."""


def never_ran(error: errors.WrkError) -> bool:
    """Whether no handler has begun on it. Who says that there is no worker has started none."""
    return error.not_started or isinstance(error, errors.NoWorkersAvailable | errors.NoWorkersMatch)


def may_move(error: errors.WrkError, *, repeatable: bool) -> bool:
    """Whether the call may be sent to another orchestrator. For streams: before the first item."""
    if isinstance(error, errors.BadRequest | errors.DeadlineExceeded):
        return False
    return never_ran(error) or (repeatable and _went_away(error))


def at_fault(error: errors.WrkError) -> bool:
    """Whether it speaks against the orchestrator itself: it left, or said nothing at all in time."""
    return _went_away(error) or (isinstance(error, errors.DeadlineExceeded) and not error.origin)


def _went_away(error: errors.WrkError) -> bool:
    return isinstance(error, errors.Unavailable) and ATTEMPTS not in error.data


def aside_seconds(failures: int, chance: float) -> float:
    """How long one is set aside after so many failures in a row; `chance` in [0, 1) takes up to a quarter
    off, so that many clients do not come back in step."""
    return redial_delay(failures, FIRST_ASIDE, LONGEST_ASIDE, chance)


@dataclass(slots=True)
class _Standing:
    rank: float
    failures: int = 0
    aside_until: float = 0.0


class Preference:
    """The order in which endpoints are asked. Addresses that were given keep their order; what was heard
    is ranked by chance, so that many clients spread."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._standings: dict[str, _Standing] = {}
        self._current: str | None = None

    def __contains__(self, endpoint: str) -> bool:
        return endpoint in self._standings

    def add(self, endpoint: str, rank: float | None = None) -> None:
        """`rank`: the lowest goes first; None: by chance. Nothing happens to one that is known."""
        if endpoint not in self._standings:
            self._standings[endpoint] = _Standing(self._rng.random() if rank is None else rank)

    def drop(self, endpoint: str) -> None:
        self._standings.pop(endpoint, None)
        self.left(endpoint)

    def left(self, endpoint: str) -> None:
        """Its link is down: calls settle elsewhere."""
        if endpoint == self._current:
            self._current = None

    def worked(self, endpoint: str) -> None:
        """It answered; whatever the answer was."""
        standing = self._standings.get(endpoint)
        if standing is not None:
            standing.failures, standing.aside_until = 0, 0.0

    def failed(self, endpoint: str, now: float) -> None:
        """It failed. A hundred calls that one loss ended are one failure."""
        self.left(endpoint)
        standing = self._standings.get(endpoint)
        if standing is not None and now >= standing.aside_until:
            standing.failures += 1
            standing.aside_until = now + aside_seconds(standing.failures, self._rng.random())

    def pick(self, usable: Collection[str], now: float) -> str | None:
        """Whom to ask among known endpoints; None if there is nobody."""
        if self._current in usable:
            return self._current
        best = min(usable, key=lambda endpoint: self._order(endpoint, now), default=None)
        if self._current is None:
            self._current = best
        return best

    def _order(self, endpoint: str, now: float) -> tuple[float, float]:
        standing = self._standings[endpoint]
        return max(0.0, standing.aside_until - now), standing.rank


class Attempts:
    """What became of one call so far: who was tried, and the error that will be told."""

    def __init__(self, *, repeatable: bool) -> None:
        self._repeatable = repeatable
        self.tried: list[Process] = []
        self.error: errors.WrkError | None = None

    @property
    def may_wait(self) -> bool:
        """Whether to wait for an orchestrator that is not there yet: for an answer that one has already
        given, nobody is waited for."""
        return self.error is None or _went_away(self.error)

    def failed(self, process: Process, error: errors.WrkError) -> bool:
        """Note a failure; whether the call may go on."""
        on = may_move(error, repeatable=self._repeatable)
        self.tried.append(process)
        self.error = self._more_telling(error)
        return on

    def _more_telling(self, error: errors.WrkError) -> errors.WrkError:
        """A refusal with a reason says more than that somebody else was away; the flag is of all of them."""
        last = self.error
        told = last if last is not None and _went_away(error) and not _went_away(last) else error
        told.not_started = never_ran(error) and (last is None or last.not_started)
        if len(self.tried) > 1:
            told.data = {**told.data, "orchestrators": [worker_id for worker_id, _ in self.tried]}
        return told
