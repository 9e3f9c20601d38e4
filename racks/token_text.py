"""From the tokens of an answer to text that may be shown: whole characters, and nothing of a stop string.

A token may hold a part of a character, and what a tokenizer makes of a token depends on those before it
(a leading space, mostly). So each new token is decoded behind a few earlier ones, and text that ends in
the middle of a character waits for the next token. A stop string may begin in one token and end in
another: text that could still become one waits, too. The invariant: all text released, put together, is
what the tokenizer makes of all tokens, up to where the first stop string begins; where the tokens end
amid a character, that one is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[list[int]], str]

BROKEN = "\N{REPLACEMENT CHARACTER}"
CONTEXT = 6  # tokens of the prompt that the first tokens are decoded behind
CHARACTER = 4  # tokens that one character may take: a byte each
MOST_HELD = 16  # tokens that may wait for a character to end; more are no text, and are shown as they are


class Detokenizer:
    """Turns tokens into text, one at a time."""

    def __init__(self, decode: Decode, prompt: Sequence[int]) -> None:
        self._decode = decode
        self._tokens = _context(decode, prompt)
        self._shown = len(self._tokens)  # of these tokens
        self._before = decode(self._tokens)

    def push(self, token: int) -> str:
        """The text that this token completes; empty while a character is unfinished."""
        self._tokens.append(token)
        text = self._decode(self._tokens)
        waits = len(text) <= len(self._before) or text.endswith(BROKEN)
        if waits and len(self._tokens) - self._shown < MOST_HELD:
            return ""
        piece = text[len(self._before) :]
        del self._tokens[: self._shown]
        self._shown = len(self._tokens)
        self._before = self._decode(self._tokens)
        return piece

    def flush(self) -> str:
        """What still waits, without a character that was never finished."""
        return self._decode(self._tokens)[len(self._before) :].rstrip(BROKEN)


def _context(decode: Decode, prompt: Sequence[int]) -> list[int]:
    """The last few tokens of the prompt, or some more, so that they begin with a whole character."""
    for count in range(CONTEXT, CONTEXT + CHARACTER):
        tokens = list(prompt[-count:])
        if not decode(tokens).startswith(BROKEN):
            break
    return tokens


class StopStrings:
    """Lets text through up to the first stop string; of several, the one that ends first."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """The text that is surely no part of a stop string; sets `stopped` where one is complete."""
        text = self._held + piece
        found = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)[1]]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """The text that waited, when no more comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


class TokenText:
    """Both of them, one behind the other."""

    def __init__(self, decode: Decode, prompt: Sequence[int], stops: Sequence[str]) -> None:
        self._detokenizer = Detokenizer(decode, prompt)
        self._stops = StopStrings(stops)

    @property
    def stopped(self) -> bool:
        return self._stops.stopped

    def push(self, token: int) -> str:
        return self._stops.push(self._detokenizer.push(token))

    def flush(self) -> str:
        """The rest, when no more tokens come; empty once a stop string was met."""
        if self.stopped:
            return ""
        text = self._stops.push(self._detokenizer.flush())
        return text if self.stopped else text + self._stops.flush()
