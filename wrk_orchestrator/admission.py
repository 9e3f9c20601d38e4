"""The way in: a worker now, or a bounded wait for one, or a refusal.

`routing.queueLimit` 0 refuses at once. Otherwise requests that found everything full wait by model in
the order of their arrival; each slot that comes free wakes the first one that it could serve. Only a
full mesh makes anybody wait: that nobody serves a model is said at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

from wrk_base import errors

T = TypeVar("T")


class Admission:
    """`queue_limit` requests a model wait for at most `queue_timeout` seconds."""

    def __init__(self, queue_limit: int, queue_timeout: float) -> None:
        self._limit, self._timeout = queue_limit, queue_timeout
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @property
    def waiting(self) -> int:
        return sum(len(queue) for queue in self._waiting.values())

    async def admit(self, model_id: str, pick: Callable[[], T], deadline: float) -> T:
        """What `pick` returns, as soon as it does not raise `CapacityExceeded`; every other error at once."""
        queue = self._waiting.get(model_id)
        if not queue:  # who comes while others wait goes behind them
            try:
                return pick()
            except errors.CapacityExceeded:
                if not self._limit:
                    raise
        return await self._wait(model_id, pick, min(deadline, self._loop.time() + self._timeout))

    def wake(self, models: Iterable[str]) -> None:
        """A slot came free that serves these models."""
        for model_id in models if self._waiting else ():
            for waiter in self._waiting.get(model_id, ()):
                if not waiter.done():
                    waiter.set_result(None)
                    break

    async def _wait(self, model_id: str, pick: Callable[[], T], until: float) -> T:
        queue = self._waiting.setdefault(model_id, deque())
        if len(queue) >= self._limit:
            raise errors.CapacityExceeded(
                f"{len(queue)} requests for {model_id} wait already", retry_after_ms=int(self._timeout * 1000)
            )
        turn: asyncio.Future[None] = self._loop.create_future()
        queue.append(turn)
        try:
            while True:
                await asyncio.wait_for(asyncio.shield(turn), until - self._loop.time())
                try:
                    return pick()
                except errors.CapacityExceeded:
                    place = queue.index(turn)
                    turn = queue[place] = self._loop.create_future()
        except TimeoutError:
            raise errors.CapacityExceeded(
                f"no worker for {model_id} came free in time", retry_after_ms=int(self._timeout * 1000)
            ) from None
        finally:
            self._leave(model_id, queue, turn)

    def _leave(self, model_id: str, queue: deque[asyncio.Future[None]], turn: asyncio.Future[None]) -> None:
        queue.remove(turn)
        if not queue:
            self._waiting.pop(model_id, None)
        elif turn.done():  # woken and leaving without a worker, or served: the next may fit, too
            self.wake((model_id,))
