"""Async tests without a plugin: run a coroutine to its end and let nothing be left behind or go unseen.

`run` fails a test for what it would otherwise hide: an exception inside a callback, a task that nobody
ended, and a hang. `Watch` is how a test waits for an event instead of for time. `closed` ends a network
in a way that shows a context that never ends as a failure, and `open_files` counts what is left of it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from functools import cache
from threading import Thread
from typing import Any, Literal, TypeVar

import uvloop
import zmq

from tests.fakes.virtual_time import VirtualLoop
from tests.sim.loop import SimLoop
from wrk_base.rpc.link import Network

T = TypeVar("T")
LoopName = Literal["asyncio", "uvloop", "virtual", "simulated"]

PATIENCE = 30.0  # seconds until a wait counts as a hang; no test takes nearly as long

_LOOPS: dict[LoopName, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
    "virtual": VirtualLoop,
    "simulated": SimLoop,
}


def run(coroutine: Coroutine[Any, Any, T], loop: LoopName = "asyncio", within: float = PATIENCE) -> T:
    """The coroutine's result. Raises for a hang, a task left over or an exception in a callback."""
    with asyncio.Runner(loop_factory=_LOOPS[loop]) as runner:
        return runner.run(_watched(coroutine, within))


async def _watched(coroutine: Coroutine[Any, Any, T], within: float) -> T:
    loop = asyncio.get_running_loop()
    unseen: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: unseen.append(context))
    async with asyncio.timeout(within):
        result = await coroutine
    await asyncio.sleep(0)  # what was cancelled last gets its turn to end
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not left, f"tasks left over: {left}"
    assert not unseen, f"exceptions in callbacks: {unseen}"
    return result


async def eventually(holds: Callable[[], object], within: float = PATIENCE) -> None:
    """Returns once `holds()` is true; for what gives no event of its own."""
    async with asyncio.timeout(within):
        while not holds():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.001)


async def closed(network: Network) -> None:
    """Close a network off the loop: ZeroMQ waits there for sockets that somebody forgot to close."""
    ending = Thread(target=network.close, daemon=True)
    ending.start()
    await eventually(lambda: not ending.is_alive())


def open_files() -> int:
    """How many file descriptors this process has, those left out that it opens once and keeps.

    uvloop keeps /dev/null open from some moment on, pyzmq a thread with sockets from the first message on
    that it sends without a copy.
    """
    _send_without_a_copy()
    return sum(_counts(int(name)) for name in os.listdir("/dev/fd"))


@cache
def _send_without_a_copy() -> None:
    zmq.Frame(bytes(zmq.COPY_THRESHOLD), copy=False)


def _counts(descriptor: int) -> bool:
    try:
        return not os.path.samestat(os.fstat(descriptor), os.stat(os.devnull))
    except OSError:  # the one that the listing itself used
        return False


class Watch:
    """Base of recorders: their callbacks say `noted`, a test waits `until` what it expects is there."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def noted(self) -> None:
        self._changed.set()

    async def until(self, holds: Callable[[], object], within: float = PATIENCE) -> None:
        async with asyncio.timeout(within):
            while not holds():
                self._changed.clear()
                await self._changed.wait()
