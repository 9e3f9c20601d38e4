"""Which answers are generated together, step by step.

A step reads a piece of the prompts that came last and takes every answer that is under way one token
further, so what arrives joins at once and a long prompt delays the others by no more than a piece. The
model is somebody else's: it keeps what it has read of each answer, and chooses tokens. The invariant:
every answer that was added is told an end, a finish or an error, exactly once, unless it was cancelled;
and no more than `max_rows` answers and `max_cached` tokens are in the model at any time. Not thread-safe,
but for `cancelled`, which anybody may set at any time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from wrk_base import errors

from .openai_replies import Finish
from .text_requests import Sampling
from .token_text import TokenText

if TYPE_CHECKING:
    from random import Random

FEED_TOKENS = 512  # of prompts, read in one step: more serves long prompts faster, and makes the others wait


class Answer:
    """One answer in the making. The token that ends it is not counted."""

    __slots__ = ("cancelled", "chance", "fed", "made", "max_tokens", "prompt", "sampling", "text")

    def __init__(
        self, prompt: list[int], max_tokens: int, sampling: Sampling, chance: Random, text: TokenText
    ) -> None:
        self.prompt, self.max_tokens = prompt, max_tokens
        self.sampling, self.chance, self.text = sampling, chance, text
        self.fed = self.made = 0  # tokens of the prompt, and of the answer
        self.cancelled = False

    @property
    def most_cached(self) -> int:
        return len(self.prompt) + self.max_tokens


class Update(NamedTuple):
    """What became of an answer in one step."""

    answer: Answer
    text: str = ""
    finish: Finish | None = None
    error: Exception | None = None

    @property
    def ended(self) -> bool:
        return self.finish is not None or self.error is not None


class Model(Protocol):
    """What the scheduler needs of a model. A token is None where the model's numbers are none."""

    ends: Collection[int]
    """The tokens that end an answer."""
    feeds_whole: bool
    """Whether it reads a prompt in one piece only."""

    def feed(self, answer: Answer, tokens: Sequence[int], *, last: bool) -> int | None:
        """Read tokens of a prompt. After the last ones the answer takes part in every `step`, and this is
        its first token."""

    def step(self) -> list[tuple[Answer, int | None]]:
        """One more token for each answer that takes part."""

    def forget(self, answers: Collection[Answer]) -> None:
        """Give back what it keeps of these; it need not know them."""


class Scheduler:
    """Decides what the model does next."""

    def __init__(self, model: Model, *, max_rows: int, max_cached: int) -> None:
        self._model, self._max_rows, self._max_cached = model, max_rows, max_cached
        self._waiting: deque[Answer] = deque()
        self._feeding: deque[Answer] = deque()
        self._running: set[Answer] = set()

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._feeding or self._running)

    def add(self, answer: Answer) -> None:
        self._waiting.append(answer)

    def step(self) -> list[Update]:
        """Do the next piece of work; what it brought."""
        self._drop_cancelled()
        self._admit()
        return self._feed() + self._advance()

    def abandon(self, error: Exception) -> list[Update]:
        """End everything with this error."""
        answers = [*self._running, *self._feeding, *self._waiting]
        self._drop(answers)
        return [Update(answer, error=error) for answer in answers]

    def _drop_cancelled(self) -> None:
        self._drop([a for a in (*self._running, *self._feeding, *self._waiting) if a.cancelled])

    def _drop(self, answers: Collection[Answer]) -> None:
        if answers:
            self._running.difference_update(answers)
            self._feeding = deque(a for a in self._feeding if a not in answers)
            self._waiting = deque(a for a in self._waiting if a not in answers)
            self._model.forget(answers)

    def _admit(self) -> None:
        """In the order of arrival. Rows are as long as the longest of them, so that is what is counted."""
        inside = [*self._running, *self._feeding]
        longest = max((answer.most_cached for answer in inside), default=0)
        while self._waiting and len(inside) < self._max_rows:
            longest = max(longest, self._waiting[0].most_cached)
            if inside and longest * (len(inside) + 1) > self._max_cached:
                return
            answer = self._waiting.popleft()
            inside.append(answer)
            self._feeding.append(answer)

    def _feed(self) -> list[Update]:
        updates: list[Update] = []
        room = FEED_TOKENS
        while self._feeding and room > 0:
            answer = self._feeding[0]
            end = len(answer.prompt) if self._model.feeds_whole else answer.fed + room
            tokens = answer.prompt[answer.fed : end]
            room -= len(tokens)
            answer.fed += len(tokens)
            last = answer.fed == len(answer.prompt)
            try:
                token = self._model.feed(answer, tokens, last=last)
            except Exception as error:  # of this one prompt; the others know nothing of it
                updates.append(Update(answer, error=error))
                self._drop([answer])
                continue
            if last:
                self._feeding.popleft()
                self._running.add(answer)
                updates.append(self._take(answer, token))
                if updates[-1].ended:
                    self._drop([answer])
        return updates

    def _advance(self) -> list[Update]:
        try:
            stepped = self._model.step() if self._running else []
        except Exception as error:  # of the rows together: nobody knows whose it is
            updates = [Update(answer, error=error) for answer in self._running]
        else:
            updates = [self._take(answer, token) for answer, token in stepped]
        self._drop([update.answer for update in updates if update.ended])
        return updates

    def _take(self, answer: Answer, token: int | None) -> Update:
        """The next token of an answer, as what is to be told of it."""
        if token is None:
            return Update(answer, error=errors.Internal("the model's numbers for the next token are none"))
        if token in self._model.ends:
            return Update(answer, answer.text.flush(), "stop")
        answer.made += 1
        text = answer.text.push(token)
        if answer.text.stopped:
            return Update(answer, text, "stop")
        if answer.made < answer.max_tokens:
            return Update(answer, text)
        text += answer.text.flush()
        return Update(answer, text, "stop" if answer.text.stopped else "length")
