"""Processes of this user on this machine, by the status files that they write.

They need no network to find one another: whatever interface each listens on, the machine itself reaches
it. A crash leaves a file behind, so these are hints like all others.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

from . import Found, OnFound
from .advert import Advert

LOOK_SECONDS = 1.0

Files = frozenset[tuple[str, int, int]]


class LocalDiscovery:
    """Looks into `<state_dir>/status` once a second; reports processes of `mesh` that come and go."""

    name = "local"

    def __init__(self, state_dir: Path, mesh: str) -> None:
        self._directory, self._mesh = state_dir / "status", mesh
        self._known: dict[str, Found] = {}
        self._files: Files = frozenset()
        self._timer: asyncio.TimerHandle | None = None
        self._own = ""

    async def start(self, advert: Advert | None, on_found: OnFound, on_gone: OnFound) -> None:
        self._own = "" if advert is None else advert.worker_id
        self._on_found, self._on_gone = on_found, on_gone
        self._files = frozenset()
        self._look()

    async def sweep(self) -> None:
        """Nothing: it looks by itself, and a look costs next to nothing."""

    async def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._known.clear()

    def known(self) -> list[Found]:
        return list(self._known.values())

    def counters(self) -> dict[str, int]:
        return {}

    def _look(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)
        try:
            files = _files_in(self._directory)
            if files == self._files:
                return
            now = {found.endpoint: found for found in read_status(self._directory, self._mesh)}
        except OSError:  # there is no descriptor to look with: what was known stays until there is one
            return
        self._files = files
        before, self._known = self._known, {end: f for end, f in now.items() if f.worker_id != self._own}
        for endpoint, found in before.items():
            if self._known.get(endpoint) != found:
                self._on_gone(found)
        for endpoint, found in self._known.items():
            if before.get(endpoint) != found:
                self._on_found(found)


def read_status(directory: Path, mesh: str) -> Iterator[Found]:
    """What the status files in `directory` say of processes of `mesh`. Raises `OSError` where none can be
    read."""
    for path in sorted(directory.glob("*.json")):
        try:
            status = json.loads(path.read_bytes())
            if status["mesh"] == mesh:
                facts = (status[name] for name in ("endpoint", "instanceId", "role"))
                endpoint, worker_id, role = map(str, facts)
                yield Found(endpoint, "local", worker_id, 0, role, str(status.get("publicKey", "")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                raise
            continue  # gone by now, or none of ours


def _files_in(directory: Path) -> Files:
    """What differs after any change: times alone go by ticks of some milliseconds, and inodes come back."""
    try:
        with os.scandir(directory) as entries:
            return frozenset(
                (entry.name, entry.inode(), entry.stat(follow_symlinks=False).st_mtime_ns)
                for entry in entries
            )
    except FileNotFoundError:
        return frozenset()
