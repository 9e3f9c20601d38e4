"""Makes the API keys of this machine's file and those that orchestrators share the same.

`wrk key` writes the file, whether an orchestrator runs or not; a key that is new there is shared, one that
is gone is removed everywhere, and what others made or removed is written to the file. Only hashes are in
either. What is in the file is told from what was in it when both were last the same: so several
orchestrators may share one file, and none takes another's removal for its own key being new. A key that
was removed never comes back, and a file that is missing or damaged removes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

import msgspec
import structlog

from wrk_base import errors
from wrk_base.errors import StartError
from wrk_base.store import Store

from ..shared_kinds import API_KEY
from ..shared_records import SharedRecords
from .api_keys import MAX_KEYS, ApiKey
from .key_files import KeyFile

BASE = "api-key-file"  # kind of the local record of what the file held
LOG_EVERY_S = 60.0


class Verdict(NamedTuple):
    """What to share, what to remove for all, and what the file has to hold."""

    made: list[ApiKey]
    removed: list[str]
    file: list[ApiKey]


def judged(
    in_file: Mapping[str, ApiKey],
    base: Mapping[str, str],
    shared: Mapping[str, ApiKey],
    was_removed: Callable[[str], bool],
) -> Verdict:
    """Keys are by their hashes; `base` is what the file held when both were last the same, as prints.

    Changed in the file is what is neither what it was nor what is shared.
    """
    made = [
        key
        for digest, key in in_file.items()
        if key != shared.get(digest) and base.get(digest) != print_of(key) and not was_removed(digest)
    ]
    removed = [digest for digest in base if digest in shared and digest not in in_file]
    kept = {**shared, **{key.sha256: key for key in made}}
    for digest in removed:
        del kept[digest]
    ordered = sorted(kept.values(), key=lambda key: (key.created, key.sha256))
    return Verdict(made, removed, ordered[:MAX_KEYS])


def print_of(key: ApiKey) -> str:
    """What tells one entry of a key from another."""
    return blake2b(msgspec.json.encode(key), digest_size=8).hexdigest()


class KeyBridge:
    """Of one orchestrator; `now` tells monotonic seconds."""

    def __init__(
        self,
        file: KeyFile,
        records: SharedRecords,
        writer: str,
        now: Callable[[], float],
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._file, self._records, self._writer, self._now, self._log = file, records, writer, now, log
        self._store: Store | None = None
        self._base: dict[str, str] = {}
        self._seen: object = ()
        self._due = True
        self._log_again_at = float("-inf")
        records.follow(API_KEY, self._heard)

    def open(self, store: Store) -> None:
        """Begin; what could not be done is tried at the next look."""
        self._store = store
        kept = store.get(BASE, BASE)
        self._base = dict(kept.body) if kept is not None else {}
        self.look()

    def look(self) -> None:
        """Make both the same if either has changed: one look at the file's date, mostly."""
        if not self._due and self._file.version() == self._seen:
            return
        try:
            held = self._file.change(self._agree)
            if held is None:
                return  # somebody else is writing: the next look is soon
            self._remember(held)
            self._due, self._seen = False, self._file.version()
        except (StartError, errors.WrkError) as error:
            self._due = True
            if self._now() >= self._log_again_at:
                self._log_again_at = self._now() + LOG_EVERY_S
                self._log.error("http.keys_not_shared", problem=str(error))

    def _heard(self, digest: str, key: ApiKey | None) -> None:
        self._due = True

    def _agree(self, keys: tuple[ApiKey, ...] | None) -> list[ApiKey]:
        """What the file has to hold; None: there is no file."""
        in_file = {key.sha256: key for key in keys or ()}
        base = self._base if keys is not None else {}
        shared: dict[str, ApiKey] = self._records.all(API_KEY)
        verdict = judged(in_file, base, shared, lambda digest: self._records.was_deleted(API_KEY, digest))
        for key in verdict.made:
            self._records.put(API_KEY, key.sha256, key)
        for digest in verdict.removed:
            self._records.delete(API_KEY, digest)
        return verdict.file

    def _remember(self, keys: Sequence[ApiKey]) -> None:
        """The file holds these now."""
        base = {key.sha256: print_of(key) for key in keys}
        if base != self._base and self._store is not None:
            self._store.put(BASE, BASE, base, writer=self._writer)
        self._base = base
