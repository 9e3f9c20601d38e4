"""The way in: a worker now, or a bounded wait for one, or a refusal.

`routing.queueLimit` 0 refuses at once. Otherwise requests that found everything full wait by model;
those that want the same are served in the order of their arrival, and none stands in the way of one
that wants something else. Whoever frees a slot says so by `wake`. Only a full mesh makes anybody wait:
that nobody serves a model is said at once.

Invariant: a waiter that is woken and cannot use the slot, or no longer wants it, wakes the next one that
might. So no slot stays free beside a waiter that could use it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from wrk_base import errors

T = TypeVar("T")


class Waiter:
    """A request in the queue: what it wants, and the future that says that it may look again."""

    __slots__ = ("turn", "want")

    def __init__(self, want: Any, turn: asyncio.Future[None]) -> None:
        self.want, self.turn = want, turn


class Admission:
    """`queue_limit` requests a model wait for at most `queue_timeout` seconds."""

    def __init__(self, queue_limit: int, queue_timeout: float) -> None:
        self._limit, self._timeout = queue_limit, queue_timeout
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, deque[Waiter]] = {}

    @property
    def waiting(self) -> int:
        return sum(len(queue) for queue in self._waiting.values())

    def admit(self, model_id: str, want: Any, pick: Callable[[], T]) -> T | None:
        """What `pick` returns, or None where the request has to `wait`. Raises what `pick` raises.

        Requests with equal `want` can be served by the same workers.
        """
        queue = self._waiting.get(model_id)
        if not queue or not any(waiter.want == want for waiter in queue):
            try:
                return pick()
            except errors.CapacityExceeded:
                if not self._limit:
                    raise
        return None

    def wake(self, models: Iterable[str]) -> None:
        """A slot came free that serves these models."""
        for model_id in models if self._waiting else ():
            _wake_first(self._waiting.get(model_id, ()))

    async def wait(self, model_id: str, want: Any, pick: Callable[[], T], deadline: float) -> T:
        """What `pick` returns as soon as it does not raise `CapacityExceeded`; every other error at once."""
        until = min(deadline, self._loop.time() + self._timeout)
        queue = self._waiting.setdefault(model_id, deque())
        if len(queue) >= self._limit:
            raise errors.CapacityExceeded(
                f"{len(queue)} requests for {model_id} wait already", retry_after_ms=int(self._timeout * 1000)
            )
        waiter = Waiter(want, self._loop.create_future())
        queue.append(waiter)
        try:
            async with asyncio.timeout_at(until):
                while True:
                    await waiter.turn
                    try:
                        return pick()
                    except errors.CapacityExceeded:
                        waiter.turn = self._loop.create_future()
                        _wake_first(_behind(waiter, queue))
        except TimeoutError:
            raise errors.CapacityExceeded(
                f"no worker for {model_id} came free in time", retry_after_ms=int(self._timeout * 1000)
            ) from None
        finally:
            self._leave(model_id, queue, waiter)

    def _leave(self, model_id: str, queue: deque[Waiter], waiter: Waiter) -> None:
        queue.remove(waiter)
        if not queue:
            self._waiting.pop(model_id, None)
        elif waiter.turn.done():  # woken and leaving without a worker, or served: the next may fit, too
            _wake_first(queue)


def _wake_first(queue: Iterable[Waiter]) -> None:
    for waiter in queue:
        if not waiter.turn.done():
            waiter.turn.set_result(None)
            break


def _behind(waiter: Waiter, queue: deque[Waiter]) -> Iterable[Waiter]:
    """Those behind it that want something else; who wants the same would fare the same."""
    place = queue.index(waiter)
    return (other for other in list(queue)[place + 1 :] if other.want != waiter.want)
