"""A named pipe by which a function in another process says that it runs, and by its end that it is gone."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import TracebackType


class Fifo:
    """`with Fifo(tmp_path / "name") as fifo:` is the reading end; whoever gets `path` writes."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        os.mkfifo(path)

    def __enter__(self) -> Fifo:
        self._fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    async def heard(self) -> str:
        """What was said, once it is; "" when all who had it open for writing are gone."""
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._fd, readable.set)
        try:
            await readable.wait()
            return os.read(self._fd, 1024).decode()
        finally:
            loop.remove_reader(self._fd)
