"""What tests run in the processes of a pool. Those that take `fifo` say their pid there, and hold it open."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from threading import Event, Lock
from typing import Any

from wrk_base import errors


def pid() -> int:
    return os.getpid()


def give_back(value: Any) -> Any:
    return value


def length(data: bytes) -> int:
    return len(data)


def divide(a: float, b: float) -> float:
    return a / b


def refuse() -> None:
    raise errors.BadRequest("no such image", data={"field": "image"})


def leave() -> None:
    sys.exit(3)


class Odd(Exception):
    """Can be pickled, and not be read again."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


def raise_odd() -> None:
    raise Odd("fish", "bicycle")


def give_lock() -> object:
    return Lock()


class Poison:
    """Arguments and results that cannot be read on the other side."""

    def __reduce__(self) -> tuple[Any, ...]:
        return divide, (1, 0)


def give_poison() -> Poison:
    return Poison()


def end_with(status: int) -> None:
    os._exit(status)


def signal_self(number: int) -> None:
    os.kill(os.getpid(), number)
    Event().wait()


def touch(path: str) -> None:
    Path(path).touch()


def descriptors() -> list[tuple[int, int]]:
    """Device and inode of every open file but the standard ones."""
    found = []
    for name in os.listdir("/dev/fd"):
        try:
            status = os.fstat(int(name))
        except OSError:  # that of the listing itself
            continue
        if int(name) > 2:
            found.append((status.st_dev, status.st_ino))
    return found


@contextmanager
def _begun(fifo: str) -> Iterator[int]:
    with open(fifo, "wb", buffering=0) as pipe:
        pipe.write(str(os.getpid()).encode())
        yield pipe.fileno()


def hang(fifo: str) -> None:
    with _begun(fifo):
        Event().wait()


def wait_for_word(fifo: str, word: str) -> str:
    """Returns what is said on the pipe `word`."""
    with _begun(fifo), open(word) as words:
        return words.read()


def compute(fifo: str) -> None:
    """Python code that never ends."""
    with _begun(fifo):
        while True:
            pass


def compute_in_c(fifo: str) -> None:
    """Code that never lets go of the interpreter's lock."""
    with _begun(fifo):
        deque(repeat(0), maxlen=0)


def hang_with_program(fifo: str) -> None:
    """Runs a program that has the pipe too, and no end."""
    with _begun(fifo) as pipe:
        program = [sys.executable, "-c", "import threading; threading.Event().wait()"]
        subprocess.run(program, pass_fds=(pipe,), check=False)


def fork_and_end_with(fifo: str, status: int) -> None:
    """Ends, while its fork stays."""
    with _begun(fifo):
        if os.fork():
            os._exit(status)
        Event().wait()
