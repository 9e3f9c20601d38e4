"""Files of keys in the state directory: the admin key, and the API keys that `wrk key` writes.

Writers take turns by a lock on the directory, which the kernel gives back whatever becomes of them. A
running orchestrator looks at the file when a request comes, so a key that was removed opens nothing a
fifth of a second later. What cannot be read opens nothing either.
"""

from __future__ import annotations

import fcntl
import os
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import structlog

from wrk_base import errors
from wrk_base.errors import StartError
from wrk_base.security.private_file import damaged, read_private, unusable
from wrk_base.state import replace_file

from . import api_keys
from .api_keys import ApiKey

ADMIN = "admin.key"
API_KEYS = "api-keys.json"
ADMIN_BYTES = 32
LOOK_S = 0.2  # between two looks at the file

_ADMIN_KEY = re.compile(rb"[A-Za-z0-9_-]{43}")


@contextmanager
def locked(directory: Path, *, wait: bool = True) -> Iterator[None]:
    """Be the only writer of the keys in `directory`; waits for others, or raises `BlockingIOError`.

    Raises `StartError`.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise unusable(directory, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def admin_key(state_dir: Path) -> bytes:
    """The admin key of this machine, made at the first start. Raises `StartError`."""
    path = state_dir / ADMIN
    with locked(state_dir):
        found = read_private(path, "remove it: the next start makes a new one")
        if found is None:
            found = urlsafe_b64encode(os.urandom(ADMIN_BYTES)).rstrip(b"=") + b"\n"
            _write(path, found)
    key = found.strip()
    if not _ADMIN_KEY.fullmatch(key):
        raise damaged(path, "it holds no key", "remove it, and the next start makes a new one")
    return key


class Version(NamedTuple):
    """What tells two states of a file apart: it is always replaced as a whole."""

    inode: int
    changed_ns: int
    size: int
    mode: int


class KeyFile:
    """The API keys of one state directory."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / API_KEYS

    def read(self) -> tuple[ApiKey, ...]:
        """None of them if there is no file. Raises `StartError`."""
        return self._read() or ()

    def _read(self) -> tuple[ApiKey, ...] | None:
        data = read_private(self.path, "see that you know every key in it: `wrk key list`")
        try:
            return api_keys.parse(data) if data is not None else None
        except (ValueError, RecursionError) as error:
            remedy = "restore it, or remove it: an orchestrator writes the keys that it knows of"
            raise damaged(self.path, str(error), remedy) from None

    def add(self, key: ApiKey) -> None:
        """Raises `BadRequest` if the name is taken, `StartError` for the file."""
        with locked(self.path.parent):
            keys = self.read()
            if any(other.name == key.name for other in keys):
                advice = "remove it first, or choose another name"
                raise errors.BadRequest(
                    f"there is a key named {key.name!r}", data={"field": "name", "advice": advice}
                )
            if len(keys) >= api_keys.MAX_KEYS:
                raise errors.CapacityExceeded(f"there are {len(keys)} keys, and no more are kept")
            _write(self.path, api_keys.written([*keys, key]))

    def remove(self, name: str) -> None:
        """Raises `NotFound` if there is no such name, `StartError` for the file."""
        with locked(self.path.parent):
            keys = self.read()
            left = [key for key in keys if key.name != name]
            if len(left) == len(keys):
                raise errors.NotFound(f"there is no key named {name!r}", data={"field": "name"})
            _write(self.path, api_keys.written(left))

    def change(
        self, judge: Callable[[tuple[ApiKey, ...] | None], Sequence[ApiKey]]
    ) -> Sequence[ApiKey] | None:
        """Have it hold what `judge` makes of what it holds (None: there is no file), and return that.

        None: somebody else is writing, and nobody is waited for. Raises `StartError` and what `judge` does.
        """
        try:
            with locked(self.path.parent, wait=False):
                keys = self._read()
                wanted = judge(keys)
                if tuple(wanted) != (keys or ()):
                    _write(self.path, api_keys.written(wanted))
                return wanted
        except BlockingIOError:
            return None

    def version(self) -> Version | None:
        """Another one after each change; None: there is no file."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return Version(found.st_ino, found.st_ctime_ns, found.st_size, found.st_mode)


class LiveKeys:
    """The keys as they are in the file now, looked at when it is asked."""

    def __init__(self, file: KeyFile, log: structlog.typing.FilteringBoundLogger) -> None:
        self._file, self._log = file, log
        self._version = file.version()
        self._keys = file.read()
        self._next_look = 0.0

    def __call__(self, now: float) -> tuple[ApiKey, ...]:
        """The same object for as long as nothing has changed. `now` is monotonic, in seconds."""
        if now >= self._next_look:
            self._next_look = now + LOOK_S
            version = self._file.version()
            if version != self._version:
                self._version, self._keys = version, self._read_anew()
        return self._keys

    def _read_anew(self) -> tuple[ApiKey, ...]:
        try:
            keys = self._file.read()
        except StartError as error:
            self._log.error("http.keys_unreadable", problem=str(error), advice="every API key is refused")
            return ()
        self._log.info("http.keys_read", keys=len(keys))
        return keys


def _write(path: Path, data: bytes) -> None:
    try:
        replace_file(path, data)
    except OSError as error:
        raise unusable(path, error) from error
