"""What OpenAI's clients ask a simulated model to say, and what it says. Pure.

Words, seed and index are those of `sim_script`: one user message `hello` is answered as the raw prompt
`hello` is, and a conversation as the texts of all its messages, a line each. What a simulation cannot heed
(tools, images, temperature) is not looked at; what would change the shape of the answer (several choices,
several prompts) is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from wrk_base import contract

from . import openai_replies as replies
from . import openai_response
from .openai_texts import Positive, refusal
from .sim_request import Asked, Given, Reply, Scripted
from .sim_script import tokens

MAX_STOPS = 64  # each is searched for in up to 10,000 words: together about a millisecond

Kind = type[replies.Chat | replies.Completion]


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class Part(msgspec.Struct, frozen=True):
    """Of a message's content; an image or a sound has no text."""

    text: str | None = None


Content = str | list[Part] | None


class Message(msgspec.Struct, frozen=True):
    role: str
    content: Content = None


class Item(msgspec.Struct, frozen=True):
    """Of a response's input: a message, or something that has no content."""

    content: Content = None


class Generation(Scripted, frozen=True, kw_only=True):
    n: int | None = None
    stop: str | Annotated[list[str], Meta(max_length=MAX_STOPS)] | None = None
    max_tokens: Positive | None = None
    stream_options: StreamOptions | None = None


class ChatBody(Generation, frozen=True, kw_only=True):
    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Positive | None = None


class CompletionBody(Generation, frozen=True, kw_only=True):
    prompt: str | Annotated[list[str | int | list[int]], Meta(min_length=1)]


class ResponseBody(Scripted, frozen=True, kw_only=True):
    input: str | Annotated[list[Item], Meta(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Positive | None = None
    previous_response_id: str | None = None
    background: bool | None = None


# --- chat and completion


def read_chat(body: Any) -> Asked:
    """Task `chat`."""
    found = contract.parse(ChatBody, body, what="body")
    prompt = "\n".join(_text(message.content) for message in found.messages)
    limit = found.max_tokens if found.max_completion_tokens is None else found.max_completion_tokens
    return _generation(replies.Chat, prompt, found, limit)


def read_completion(body: Any) -> Asked:
    """Task `completion`."""
    found = contract.parse(CompletionBody, body, what="body")
    prompts = [found.prompt] if isinstance(found.prompt, str) else found.prompt
    if len(prompts) > 1 or not isinstance(prompts[0], str):
        raise refusal("prompt", "one text a request, and no numbers of tokens")
    return _generation(replies.Completion, prompts[0], found, found.max_tokens)


def _generation(kind: Kind, prompt: str, found: Generation, limit: int | None) -> Asked:
    if found.n not in (None, 1):
        raise refusal("n", "one choice a request: ask again for another")
    return Asked(prompt, found.sim, partial(_tell, kind, prompt, found, limit))


def _tell(kind: Kind, prompt: str, found: Generation, limit: int | None, given: Given) -> Reply:
    stops = [found.stop] if isinstance(found.stop, str) else found.stop or []
    said = say(prompt, given, found.sim.index, limit, stops)
    usage = {
        **replies.usage(len(prompt.split()), len(said.tokens)),
        "prompt_tokens_details": {"cached_tokens": _cached(prompt, given)},
    }
    wants_usage = bool(found.stream_options and found.stream_options.include_usage)
    made = kind(given.bits, given.created, given.model, include_usage=wants_usage)
    closing = [made.ending(said.finish), *([made.closing(usage)] if wants_usage else [])]
    whole = made.whole(said.text, said.finish, usage)
    return Reply(made.opening(), map(made.piece, said.tokens), closing, whole)


# --- response


def read_response(body: Any) -> Asked:
    """Task `response`."""
    found = contract.parse(ResponseBody, body, what="body")
    if found.previous_response_id is not None:
        raise refusal("previous_response_id", "nothing is kept: send the whole conversation as `input`")
    if found.background:
        raise refusal("background", "nothing is kept: wait for the answer, or stream it")
    texts = [found.input] if isinstance(found.input, str) else [_text(item.content) for item in found.input]
    prompt = "\n".join([found.instructions, *texts] if found.instructions else texts)
    return Asked(prompt, found.sim, partial(_tell_response, prompt, found))


def _tell_response(prompt: str, found: ResponseBody, given: Given) -> Reply:
    said = say(prompt, given, found.sim.index, found.max_output_tokens, [])
    usage = openai_response.usage(len(prompt.split()), len(said.tokens), _cached(prompt, given))
    repeated = {"instructions": found.instructions, "max_output_tokens": found.max_output_tokens}
    made = openai_response.Response(given.bits, given.created, given.model, **repeated)

    def closing() -> Iterator[bytes]:  # not before the pieces: events are numbered as they are made
        yield from map(openai_response.event, made.ending(said.text, said.finish, usage))

    return Reply(
        opening=map(openai_response.event, made.opening()),
        pieces=(openai_response.event(made.piece(token)) for token in said.tokens),
        closing=closing(),
        whole=made.whole(said.text, said.finish, usage),
    )


# --- words


class Said(NamedTuple):
    """The words of an answer: joined, `tokens` are `text`."""

    tokens: list[str]
    text: str
    finish: replies.Finish


def say(prompt: str, given: Given, index: int, limit: int | None, stops: list[str]) -> Said:
    """The answer to `prompt` from word `index` on; it ends before the first of `stops` that it comes to."""
    words = given.words if limit is None else min(given.words, limit)
    made = list(tokens(prompt, given.seed, words, index))
    text = "".join(made)
    ends = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
    if not ends:
        return Said(made, text, "length" if words < given.words else "stop")
    end = min(ends)
    return Said(_up_to(end, made), text[:end], "stop")


def _up_to(end: int, made: list[str]) -> list[str]:
    """The first `end` characters, in as many tokens as they take."""
    kept: list[str] = []
    for token in made:
        if end <= 0:
            break
        kept.append(token[:end])
        end -= len(token)
    return kept


def _text(content: Content) -> str:
    if isinstance(content, list):
        return "\n".join(part.text for part in content if part.text)
    return content or ""


def _cached(prompt: str, given: Given) -> int:
    return len(prompt[: given.cached].split())
