"""An open loop of requests: one every so often whatever became of those before, and each end written down.

A closed loop would ask less of a mesh that is in trouble, and so hide it. A request of which nothing is heard
until well after its deadline is left without an answer in the history, which is what lost means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from random import Random

from wrk_base.errors import StartError

from .callers import Caller, Question, Told
from .history import OK, Answered, Sent
from .recorder import Recorder

PROMPTS = 64
GIVEN_UP_SECONDS = 3.0  # behind its deadline


@dataclass(frozen=True, slots=True)
class Shape:
    """What is asked for: `rate` a second, each answer within `deadline` seconds.

    A share of `careful` requests says that they may not run twice.
    """

    rate: float = 200.0
    deadline: float = 5.0
    careful: float = 0.0
    words: int = 8
    interval: float = 0.0


@dataclass
class Load:
    """`callers` take turns."""

    shape: Shape
    callers: Sequence[Caller]
    recorder: Recorder
    rng: Random
    expected: dict[str, str] = field(default_factory=dict)
    _running: set[asyncio.Task[None]] = field(default_factory=set)
    _stopped: bool = False

    async def learn(self) -> None:
        """What the mesh answers to each prompt while nothing disturbs it. Raises `StartError`."""
        for number in range(PROMPTS):
            told = await self.callers[0].ask(self._question("", number))
            if told.outcome != OK:
                raise StartError(f"the mesh answers {told.outcome} before anything was done to it")
            self.expected[_prompt(number)] = told.digest

    async def run(self) -> None:
        """Until it was told to `stop` and every request has an end."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number in count():
            await asyncio.sleep(began + number / self.shape.rate - loop.time())
            if self._stopped:
                break
            task = loop.create_task(self._ask(number))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        while self._running:
            await asyncio.wait(self._running)

    def stop(self) -> None:
        self._stopped = True

    async def _ask(self, number: int) -> None:
        caller = self.callers[number % len(self.callers)]
        question = self._question(f"q{number}", self.rng.randrange(PROMPTS))
        now = self.recorder.now()
        self.recorder.note(
            Sent(
                id=question.id,
                at=now,
                deadline=now + question.seconds,
                repeatable=question.repeatable,
                streamed=caller.streams,
                expects=self.expected.get(question.prompt, ""),
            )
        )
        try:
            async with asyncio.timeout(question.seconds + GIVEN_UP_SECONDS):
                told = await caller.ask(question)
        except TimeoutError:
            return  # lost
        except Exception as error:
            told = Told(outcome=type(error).__name__)  # what no caller should ever see
        self._answered(question, told)

    def _answered(self, question: Question, told: Told) -> None:
        self.recorder.note(
            Answered(
                id=question.id,
                at=self.recorder.now(),
                outcome=told.outcome,
                worker=told.worker,
                attempts=told.attempts,
                items=told.items,
                numbers=told.numbers,
                digest=told.digest,
            )
        )

    def _question(self, name: str, prompt: int) -> Question:
        shape = self.shape
        repeatable = not shape.careful or self.rng.random() >= shape.careful
        return Question(name, _prompt(prompt), shape.deadline, repeatable, shape.words, shape.interval)


def _prompt(number: int) -> str:
    return f"question {number}"
