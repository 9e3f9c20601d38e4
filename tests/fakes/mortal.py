"""A rack that dies soon after each of its starts, and is started again and again by a thread.

    with Undertaker(tmp_path, "dies", alive=0.1) as dying:
        ...
    dying.lives

It is killed, without a goodbye, `alive` seconds after it was ready, under the same name and so with the
same worker id every time.
"""

from __future__ import annotations

import time
from pathlib import Path
from threading import Event, Thread
from types import TracebackType

from tests.fakes.processes import start_worker


class Undertaker:
    def __init__(self, tmp_path: Path, name: str, *, alive: float) -> None:
        self._tmp_path, self._name, self._alive = tmp_path, name, alive
        self._over = Event()
        self._thread = Thread(target=self._run)
        self.lives = 0

    def _run(self) -> None:
        rack = ["--wtype", "racks.sim:SimRack", "--rack", self._name, "--models", "m1", "--capacity", "100"]
        while not self._over.is_set():
            worker = start_worker(rack, self._tmp_path)
            time.sleep(self._alive)
            worker.kill()
            self.lives += 1

    def __enter__(self) -> Undertaker:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
