"""Writes down what callers saw and what was done to the processes, as it happens.

Events go to a file through a buffer, since nobody kills this process on purpose; the monotonic clock that it
reads is the one by which racks date their journals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from wrk_base import clock

from .history import Event, StateChanged, line, read
from .orchestrator_log import states_of

HISTORY = "history.jsonl"
JOURNALS = "journal-*.jsonl"


class Recorder:
    """The history of one run, in a folder of its own. `now` is monotonic seconds."""

    def __init__(self, folder: Path, now: Callable[[], float] = clock.monotonic) -> None:
        self.folder, self.now = folder, now
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / HISTORY).open("wb", buffering=1 << 16)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def note(self, event: Event) -> None:
        self._file.write(line(event))

    def journal(self, rack: str) -> Path:
        """Where this rack writes down what it runs, over all its starts."""
        return self.folder / f"journal-{rack}.jsonl"

    def take_states(self, log: Path, orchestrator: str, sentence: float) -> None:
        """Enter what an orchestrator logged of its workers. Its log has wall-clock times."""
        offset = clock.wall() - self.now()
        for change in read_log(log, orchestrator, offset, sentence):
            self.note(change)


def read_log(log: Path, orchestrator: str, offset: float, sentence: float) -> Iterator[StateChanged]:
    """Also of the part that was put aside when the log grew long."""
    for path in (log.with_suffix(".log.1"), log):
        if path.exists():
            with path.open("rb") as lines:
                yield from states_of(lines, orchestrator, offset, sentence)


def events_of(folder: Path) -> list[Event]:
    """The whole history of a run, from all who wrote in its folder. Raises `BadHistory`."""
    events: list[Event] = []
    for path in [folder / HISTORY, *sorted(folder.glob(JOURNALS))]:
        with path.open("rb") as lines:
            events += read(lines, path.name)
    return events
