"""What an orchestrator's log tells of the health of its workers, as events of a history. Pure.

The log is JSON lines (`--log.format json`) among which anything else may stand: `worker.state` is read, the
rest passed over. Its times are wall-clock; `offset` takes them to the clock of the history. Of a worker that
changes very often the log leaves changes out: from then on it counts as being in any state, `UNSAID`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

import msgspec

from .history import UNSAID, StateChanged

STATE = b'"worker.state"'
JUDGED = frozenset({"healthy", "suspect", "stalled", "probation"})  # from where a judgement puts one away


class _Line(msgspec.Struct):
    event: str
    worker: str
    old: str
    new: str
    timestamp: datetime
    cause: str | None = None
    unsaid: int = 0
    ago_ms: float = 0.0
    silent_ms: float = 0.0


_decode = msgspec.json.Decoder(_Line).decode


def states_of(
    lines: Iterable[bytes], orchestrator: str, offset: float, sentence: float
) -> Iterator[StateChanged]:
    """`sentence` is the shortest time that a quarantine by judgement lasts, in seconds."""
    since, silent = dict[str, float](), dict[str, float]()
    for text in lines:
        if STATE not in text:
            continue
        try:
            told = _decode(text)
        except msgspec.DecodeError:
            continue  # another event that quotes it, or a torn line
        cause, at = told.cause or "", told.timestamp.timestamp() - told.ago_ms / 1000 - offset
        before, since[told.worker] = since.get(told.worker, at), at
        silent.pop(told.worker, None)
        if told.silent_ms:
            silent[told.worker] = at
        if told.unsaid:
            yield _unsaid(orchestrator, told.worker, before)
        judged = told.new == "quarantined" and told.old in JUDGED and "operator" not in cause
        yield StateChanged(
            orchestrator=orchestrator,
            worker=told.worker,
            old=told.old,
            new=told.new,
            at=at,
            cause=cause,
            sentence=sentence if judged else 0.0,
        )
    for worker, at in silent.items():  # it may have ended before it could say more of them
        yield _unsaid(orchestrator, worker, at)


def _unsaid(orchestrator: str, worker: str, since: float) -> StateChanged:
    return StateChanged(orchestrator=orchestrator, worker=worker, old=UNSAID, new=UNSAID, at=since)
