"""How racks with a real model find its files and read them: shared by all that load one.

A folder is read from this disk alone; only an id of the Hugging Face hub may cause a download. Knows
nothing of the libraries that read models.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from wrk_base import errors

T = TypeVar("T")


def find_model(model: str, setting: str) -> tuple[str, bool]:
    """(what to load, whether it is on this disk) for the value of `setting`; raises `StartError`."""
    path = Path(model).expanduser()
    if path.is_dir():
        return str(path.resolve()), True
    if model.startswith((".", "/", "~")):
        raise errors.StartError(f"{setting}: there is no folder {model}")
    return model, False


async def in_daemon_thread(work: Callable[[], T]) -> T:
    """What `work()` returns or raises. Unlike an executor's, this thread never holds up the process's end:
    a download or a load that takes minutes can be given up at once."""
    done: Future[Any] = Future()

    def run() -> None:
        done.set_running_or_notify_cancel()  # from here on, whoever gave up waiting is no error
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    Thread(target=run, name="load", daemon=True).start()
    result: T = await asyncio.wrap_future(done)
    return result
