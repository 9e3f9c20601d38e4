"""Reading files that hold secrets: what somebody else could read or has written is not believed.

Writing them is `state.replace_file`, which makes them with mode 0600.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from ..errors import StartError

FOR_OTHERS: Final = 0o077
MAX_BYTES: Final = 16 * 1024 * 1024  # the longest, a first machine's ledger, has 4 MB if all is full


def read_private(path: Path, if_seen: str) -> bytes | None:
    """What is in it; None if there is no such file.

    Raises `StartError` for people; `if_seen` tells them what to do if others may have read the file.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            check_private(path, os.fstat(file.fileno()), if_seen)
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unusable(path, error) from error
    if len(data) > MAX_BYTES:
        raise damaged(path, f"it is longer than {MAX_BYTES} bytes", "restore it from a copy")
    return data


def check_private(path: Path, status: os.stat_result, if_seen: str) -> None:
    """Raises `StartError` if the file or directory is open to others than this user."""
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise StartError(f"{path} is no file: remove it")
    if status.st_uid != os.geteuid():
        raise StartError(
            f"{path} belongs to user {status.st_uid}, and this is user {os.geteuid()}: run as its owner, "
            "or choose another directory with --state-dir"
        )
    if status.st_mode & FOR_OTHERS:
        mode = 0o700 if stat.S_ISDIR(status.st_mode) else 0o600
        raise StartError(
            f"{path} is open to other users (mode {stat.S_IMODE(status.st_mode):o}): chmod {mode:o} {path}; "
            f"if one of them may have read it, {if_seen}"
        )


def damaged(path: Path, problem: str, remedy: str) -> StartError:
    return StartError(f"{path} is damaged ({problem}): {remedy}")


def unusable(path: Path, error: OSError) -> StartError:
    return StartError(
        f"{path} cannot be used ({error.strerror}): make it accessible for this user, "
        "or choose another directory with --state-dir"
    )


def _without_waiting(path: str, flags: int) -> int:
    """Should somebody have put a pipe there, which nobody writes."""
    return os.open(path, flags | os.O_NONBLOCK)
