"""The directory where a process keeps what must survive it: lock, identity, status, store.

One process per prefix (`<wtype>-<rack>`) and state directory: the lock is held by the kernel for as
long as the process lives, so a crash leaves nothing to clean up and a stale file never blocks a start.
The invariant: an identity's start counter is on the disk before its epoch is used, so epochs rise from
start to start whatever happens to the machine. Nothing here knows what the process does.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import msgspec
from msgspec import Meta

from .errors import StartError

if TYPE_CHECKING:
    from random import Random

RACK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}")  # and a suffix: a file name has 255 bytes
ID_NAME_LENGTH = 51  # + dash + 8 hex digits = 60: an mDNS label holds 63
EPOCH_SHIFT = 32  # start counter above, random bits below
LAST_START = 2**32 - 1


class Identity(msgspec.Struct, frozen=True):
    """`instance_id` is stable over restarts; `epoch` rises with every start."""

    instance_id: str
    epoch: int


class _Saved(msgspec.Struct, frozen=True, rename="camel"):
    instance_id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,59}$(?!\n)")]
    starts: Annotated[int, Meta(ge=0, lt=LAST_START)] = 0


class Lock:
    """Held until `release`, or until the process is gone. The file itself stays."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class StateDir:
    """`path`, made with mode 0700 if it is missing. Raises `StartError` if it cannot be written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _try_to_write(path)
        except OSError as error:
            raise StartError(
                f"state directory {path} cannot be written ({error.strerror}): "
                "make it writable for this user, or choose another one with --state-dir"
            ) from error

    def lock(self, prefix: str) -> Lock:
        """Become the only process of this prefix. Raises `StartError`."""
        path = self._file(prefix, ".lock")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            _unusable(path, error)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise StartError(
                f"a second process is already running as {prefix} (pid {holder}): "
                "stop it or choose another --rack name"
            ) from None
        except OSError as error:
            os.close(descriptor)
            _unusable(path, error)
        return Lock(descriptor)

    def identity(self, prefix: str, rack: str, rng: Random) -> Identity:
        """The stable id of this prefix, made at its first start, and an epoch above every earlier one.

        To be called by the holder of the lock. Raises `StartError`.
        """
        if not RACK_NAME.fullmatch(rack):
            raise StartError(f"{rack!r} cannot be a rack name: {_naming(63)}")
        path = self._file(prefix, ".id.json")
        saved = _read_saved(path) or _Saved(_new_id(rack, rng))
        saved = _Saved(saved.instance_id, saved.starts + 1)
        try:
            replace_file(path, msgspec.json.encode(saved) + b"\n")
        except OSError as error:
            _unusable(path, error)
        return Identity(saved.instance_id, saved.starts << EPOCH_SHIFT | rng.getrandbits(EPOCH_SHIFT))

    def _file(self, prefix: str, suffix: str) -> Path:
        if not PREFIX.fullmatch(prefix):
            raise StartError(f"{prefix!r} cannot name a process: {_naming(200)}")
        return self.path / (prefix + suffix)


def default_state_dir(environ: Mapping[str, str]) -> Path:
    """`$WRK_STATE_DIR`, else `$XDG_STATE_HOME/wrk`, else `~/.local/state/wrk`. Raises `StartError`."""
    if environ.get("WRK_STATE_DIR"):
        return Path(environ["WRK_STATE_DIR"])
    base = Path(environ.get("XDG_STATE_HOME", ""))
    if base.is_absolute():  # the XDG specification has relative ones ignored
        return base / "wrk"
    home = Path(environ.get("HOME", ""))
    if not home.is_absolute():
        raise StartError("there is no home directory to keep state in: choose one with --state-dir")
    return home / ".local" / "state" / "wrk"


def replace_file(path: Path, data: bytes) -> None:
    """Write a file of mode 0600 so that readers see the old or the new one, even after a power loss.

    Only one process may write `path` at a time. Raises `OSError`.
    """
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _try_to_write(path: Path) -> None:
    """Permission bits do not tell (read-only mounts, root): only writing does."""
    probe = path / f".write-test-{os.getpid()}"
    os.close(os.open(probe, os.O_WRONLY | os.O_CREAT, 0o600))
    probe.unlink()


def _read_saved(path: Path) -> _Saved | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Saved)
    except FileNotFoundError:
        return None
    except OSError as error:
        _unusable(path, error)
    except (ValueError, RecursionError) as error:
        raise StartError(
            f"{path} is damaged ({error}): restore it, or remove it to start under a new instance id"
        ) from error


def _new_id(rack: str, rng: Random) -> str:
    """Without dots, which separate labels in mDNS names."""
    name = re.sub(r"[^A-Za-z0-9_-]", "-", rack)[:ID_NAME_LENGTH]
    return f"{name}-{rng.getrandbits(32):08x}"


def _naming(length: int) -> str:
    return f"use up to {length} letters, digits, dots, underscores and dashes, a letter or digit first"


def _unusable(path: Path, error: OSError) -> NoReturn:
    raise StartError(
        f"{path} cannot be used ({error.strerror}): make it accessible for this user, "
        "or choose another directory with --state-dir"
    ) from error
