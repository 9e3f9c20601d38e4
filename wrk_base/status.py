"""The status file: what a running process tells other programs of the same user.

`<state>/status/<prefix>.json` is there while the process serves. Readers see a whole file or none. It
must never hold a secret: it is the first thing that people paste into a bug report, so a field whose
name sounds like one is refused here rather than written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from .errors import StartError
from .state import replace_file

SECRET = re.compile("secret|private|password|token|credential", re.IGNORECASE)


class StatusFile:
    """Written by the one process that holds the lock of its prefix."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, facts: Mapping[str, Any]) -> None:
        """Replace the file. `ValueError` for a field that sounds like a secret, `StartError` for the disk."""
        _refuse_secrets(facts)
        data = msgspec.json.format(msgspec.json.encode(facts, order="sorted"), indent=2)
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(self.path, data + b"\n")
        except OSError as error:
            raise StartError(
                f"status file {self.path} cannot be written ({error.strerror}): "
                "make room or make it writable, or choose another directory with --state-dir"
            ) from error

    def remove(self) -> None:
        """Take the file away; it may be gone already, and a full or read-only disk does not matter here."""
        try:
            self.path.unlink()
        except OSError:
            pass


def _refuse_secrets(value: Any) -> None:
    if isinstance(value, Mapping):
        for name, item in value.items():
            if SECRET.search(str(name)):
                raise ValueError(f"{name} may be a secret and does not belong into a status file")
            _refuse_secrets(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_secrets(item)
