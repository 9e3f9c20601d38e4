"""What a simulated rack ran, in lines of JSON: for whoever has to prove afterwards what happened.

Two lines an execution of a request that names itself (`metadata: {"id": ...}` in its input): `Began` and
`Ended`, as `wrk chaos` reads them. Each is one write to the file before anything else happens, so that a rack
that is killed has said what it did; `Ended` with `ok` stands there before the answer leaves.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from wrk_base.errors import StartError

OK, CANCELLED, FAILED = "ok", "cancelled", "failed"


class Entry:
    """One execution under way."""

    __slots__ = ("_end",)

    def __init__(self, end: Callable[[str], None] | None = None) -> None:
        self._end = end

    def ended(self, outcome: str) -> None:
        """The first word counts."""
        end, self._end = self._end, None
        if end is not None:
            end(outcome)


class Journal:
    """Of one process; without a `path` it writes nothing. `now` is monotonic seconds."""

    def __init__(self, path: str, worker: str, epoch: int, now: Callable[[], float]) -> None:
        self._worker, self._epoch, self._now = worker, epoch, now
        self._count = 0
        self._file = -1
        if path:
            try:
                self._file = os.open(Path(path), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            except OSError as error:
                raise StartError(f"sim.journal: cannot write {path}: {error.strerror}") from error

    @contextmanager
    def execution(self, input_data: Any) -> Iterator[Entry]:
        name = name_of(input_data) if self._file >= 0 else ""
        if not name:
            yield Entry()
            return
        self._count += 1
        facts = {
            "id": name,
            "worker": self._worker,
            "execution": f"{self._worker}.{self._epoch}.{self._count}",
        }
        self._write({"event": "Began", **facts})
        entry = Entry(lambda outcome: self._write({"event": "Ended", **facts, "outcome": outcome}))
        try:
            yield entry
        except Exception:
            entry.ended(FAILED)
            raise
        finally:
            entry.ended(CANCELLED)  # it has told of any other end

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _write(self, facts: dict[str, Any]) -> None:
        if self._file >= 0:
            os.write(self._file, msgspec.json.encode({**facts, "at": self._now()}) + b"\n")


def name_of(input_data: Any) -> str:
    """The id by which a request's caller knows it; empty if it has none."""
    metadata = input_data.get("metadata") if isinstance(input_data, dict) else None
    name = metadata.get("id") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else ""
