"""A caller who asks so often a second, come what may, and notes how long each answer took.

The next request is due whether or not the last was answered (an open loop), and its time counts from
when it was due: a server that stalls cannot hide it by keeping the caller waiting.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from tests.fakes.http_house import SIMULATE, Raw
from wrk_base import clock

PATIENCE_S = 5.0
KEPT_S = 30.0  # a connection that rests longer is closed here, before the server does it under a request


@dataclass(slots=True)
class Answers:
    """Seconds of those that came, and what became of the others."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def share(self) -> float:
        return len(self.seconds) / max(1, len(self.seconds) + len(self.failures))

    def ms(self, share: float) -> float:
        """A percentile, in milliseconds."""
        ordered = sorted(self.seconds) or [float("inf")]
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000


class GoodCaller:
    """Keeps connections and makes new ones when none is free, as clients do."""

    def __init__(self, endpoint: str, body: bytes = SIMULATE) -> None:
        self._endpoint, self._body = endpoint, body
        self._free: list[tuple[Raw, float]] = []  # and since when; the one used last comes last

    async def ask(self, seconds: float, a_second: float = 100.0) -> Answers:
        answers = Answers()
        began, asked = clock.monotonic(), []  # uvloop's own time has whole milliseconds
        for number in range(int(seconds * a_second)):
            due = began + number / a_second
            await asyncio.sleep(max(0.0, due - clock.monotonic()))
            asked.append(asyncio.create_task(self._one(due, answers)))
        await asyncio.gather(*asked)
        return answers

    async def close(self) -> None:
        for connection, _ in self._free:
            await connection.close()
        self._free.clear()

    async def _connection(self) -> Raw:
        before = clock.monotonic() - KEPT_S
        while self._free and self._free[0][1] < before:
            await self._free.pop(0)[0].close()
        return self._free.pop()[0] if self._free else await Raw.connect(self._endpoint)

    async def _one(self, due: float, answers: Answers) -> None:
        connection = None
        try:
            async with asyncio.timeout(PATIENCE_S):
                connection = await self._connection()
                connection.post(self._body)
                status, _, _ = await connection.answer()
            if status == 200:
                answers.seconds.append(clock.monotonic() - due)
                self._free.append((connection, clock.monotonic()))
                return
            answers.failures.append(str(status))
        except (OSError, EOFError, TimeoutError) as error:
            answers.failures.append(repr(error))
        if connection is not None:
            await connection.close()
