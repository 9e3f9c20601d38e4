"""A model without weights for the scheduler: it says each prompt once more, backwards, byte by byte.

What it is asked is written down, and what it holds can be looked at. Token 0 ends an answer. A prompt with
`POISON` in it cannot be read; `breaks` makes the next step fail.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from random import Random

from racks.scheduler import Answer
from racks.text_requests import Sampling
from racks.token_text import TokenText

END = 0
NOTHING = 1  # where it comes up, there is no token to choose
POISON = 255


class Parrot:
    """What the scheduler calls `Model`."""

    def __init__(self, *, feeds_whole: bool = False, before_step: Callable[[], None] = lambda: None) -> None:
        self.ends: Collection[int] = {END}
        self.feeds_whole = feeds_whole
        self.breaks: Exception | None = None
        self.reads: list[int] = []
        self.rows: list[int] = []
        self.held: set[Answer] = set()
        self._said: dict[Answer, list[int]] = {}
        self._before_step = before_step

    def feed(self, answer: Answer, tokens: Sequence[int], *, last: bool) -> int | None:
        self.held.add(answer)
        self.reads.append(len(tokens))
        if POISON in tokens:
            raise ValueError("poison")
        if not last:
            return None
        self._said[answer] = [*answer.prompt, END]
        return self._next(answer)

    def step(self) -> list[tuple[Answer, int | None]]:
        self._before_step()
        self.rows.append(len(self._said))
        if self.breaks is not None:
            error, self.breaks = self.breaks, None
            raise error
        return [(answer, self._next(answer)) for answer in self._said]

    def forget(self, answers: Collection[Answer]) -> None:
        self.held.difference_update(answers)
        for answer in answers:
            self._said.pop(answer, None)

    def _next(self, answer: Answer) -> int | None:
        says = self._said[answer]
        token = says.pop(-2) if len(says) > 1 else says[0]
        return None if token == NOTHING else token


def decode(tokens: list[int]) -> str:
    return bytes(tokens).decode(errors="replace")


def question(text: str | bytes, max_tokens: int = 100, stops: Sequence[str] = ()) -> Answer:
    """An answer to be made: `text` backwards."""
    prompt = list(text.encode() if isinstance(text, str) else text)
    return Answer(prompt, max_tokens, Sampling(), Random(0), TokenText(decode, [], stops))
