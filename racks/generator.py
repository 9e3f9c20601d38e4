"""The thread that a model works in, and how its answers come out of it into the event loop.

Nobody but this thread touches the scheduler and the model, so neither needs a lock; the loop hands answers
in and takes updates out, once a step. Whoever stops reading an answer cancels it: the thread sees that
before its next step. Holds no policy.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import Future
from threading import Condition, Thread

import structlog

from wrk_base import errors

from .scheduler import Answer, Scheduler, Update


class Generator:
    """Runs a scheduler. Made, used and closed in one event loop."""

    def __init__(self, scheduler: Scheduler, log: structlog.typing.FilteringBoundLogger) -> None:
        self._scheduler, self._log = scheduler, log
        self._loop = asyncio.get_running_loop()
        self._readers: dict[Answer, asyncio.Queue[Update]] = {}
        self._arrived: list[Answer] = []
        self._bell = Condition()  # guards `_arrived` and `_closing`
        self._closing = False
        self._ended: Future[None] = Future()
        Thread(target=self._run, name="generator", daemon=True).start()

    async def updates(self, answer: Answer) -> AsyncGenerator[Update, None]:
        """What becomes of the answer, its end last; raises the error that it ends with."""
        queue: asyncio.Queue[Update] = asyncio.Queue()
        self._readers[answer] = queue
        try:
            self._hand_in(answer)
            while True:
                update = await queue.get()
                if update.error is not None:
                    raise update.error
                yield update
                if update.ended:
                    return
        finally:
            answer.cancelled = True
            del self._readers[answer]

    async def close(self) -> None:
        """Refuse what waits, end what runs, and return when the thread has ended: after its step, if any."""
        with self._bell:
            self._closing = True
            self._bell.notify()
        await asyncio.shield(asyncio.wrap_future(self._ended))

    def _hand_in(self, answer: Answer) -> None:
        with self._bell:
            if self._closing:
                raise _closed()
            self._arrived.append(answer)
            self._bell.notify()

    def _deliver(self, updates: list[Update]) -> None:
        for update in updates:
            reader = self._readers.get(update.answer)
            if reader is not None:
                reader.put_nowait(update)

    # --- in the thread

    def _run(self) -> None:
        while self._wait_for_work():
            self._tell(self._step())
        self._tell(self._scheduler.abandon(_closed()))
        self._ended.set_result(None)

    def _wait_for_work(self) -> bool:
        """True when there is something to do, False when it is over."""
        with self._bell:
            while not (self._closing or self._arrived or self._scheduler.busy):
                self._bell.wait()
            arrived, self._arrived = self._arrived, []
            closing = self._closing
        for answer in arrived:
            self._scheduler.add(answer)
        return not closing

    def _step(self) -> list[Update]:
        try:
            return self._scheduler.step()
        except Exception as error:
            self._log.exception("rack.generation_failed")
            return self._scheduler.abandon(error)

    def _tell(self, updates: list[Update]) -> None:
        if updates:
            self._loop.call_soon_threadsafe(self._deliver, updates)


def _closed() -> errors.WrkError:
    return errors.Unavailable("the model is being closed")
