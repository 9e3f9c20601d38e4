"""What somebody asks of a rack that writes text: bodies of OpenAI's endpoints, read and checked.

`chat` and `completion` are OpenAI's request bodies, `raw` is a text or a map with a `prompt` and the same
fields beside it. Fields that nobody here knows are ignored; known ones that would change what the answer
is, and that this kind of rack does not serve, are refused by name. A null is as good as nothing, as with
OpenAI. Whatever is wrong is a `BadRequest` that names the field.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, get_args

import msgspec
from msgspec import Meta

from wrk_base import contract, errors

from .openai_texts import Positive, refusal

Task = Literal["chat", "completion", "raw"]
Message = dict[str, Any]

COMPLETION_TOKENS = 16  # of an answer to /v1/completions that names no other length, as OpenAI has it
MAX_STOPS = 16  # OpenAI takes 4; each is looked for in every piece of text, so a list without end costs time
MAX_STOP_LENGTH = 256  # characters; as many may have to be held back from a stream

UNSERVED: dict[str, tuple[tuple[Any, ...], str]] = {
    "n": ((1,), "a request gets one answer"),
    "best_of": ((1,), "a request gets one answer"),
    "logprobs": ((False,), "log probabilities are not told"),
    "top_logprobs": ((0,), "log probabilities are not told"),
    "logit_bias": (({},), "tokens cannot be weighted"),
    "echo": ((False,), "the prompt is not repeated"),
    "suffix": (("",), "text is continued, not inserted"),
    "tools": (([],), "tools are not called"),
    "functions": (([],), "tools are not called"),
    "response_format": (({"type": "text"},), "the form of an answer cannot be enforced"),
}
"""Field -> (values that ask for nothing unserved, why any other is refused)."""


class Sampling(NamedTuple):
    """How the next token is drawn. Temperature 0 takes the likeliest; `top_k` 0 leaves all in; without a
    seed no two answers need be alike."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class TextRequest:
    """One request, checked. Of `messages` and `prompt` (a text or token ids) one is there."""

    task: Task
    prompt: str | list[int]
    messages: list[Message]
    max_tokens: int
    sampling: Sampling
    stops: tuple[str, ...]
    include_usage: bool

    @property
    def field(self) -> str:
        """The field that carries what the answer follows."""
        return "messages" if self.task == "chat" else "prompt"


class Defaults(NamedTuple):
    """What a request gets that does not say: the rack's length, the model's own way of drawing."""

    max_tokens: int
    sampling: Sampling = Sampling()


Stop = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_LENGTH)]
Prompt = str | list[str | int | list[int]]


class _Streaming(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class _Part(msgspec.Struct, frozen=True):
    type: str
    text: str | None = None


class _Message(msgspec.Struct, frozen=True):
    role: Annotated[str, Meta(min_length=1, max_length=64)]
    content: str | list[_Part] | None = None


class _Body(msgspec.Struct, frozen=True):
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None  # 0 and -1: all, as other servers have it
    seed: int | None = None
    stop: Stop | Annotated[list[Stop], Meta(max_length=MAX_STOPS)] | None = None
    stream_options: _Streaming | None = None


class _ChatBody(_Body, frozen=True, kw_only=True):
    messages: Annotated[list[_Message], Meta(min_length=1)]


class _PromptBody(_Body, frozen=True, kw_only=True):
    prompt: Prompt


def read_request(task: str, input_data: Any, defaults: Defaults) -> TextRequest:
    """The request in `input_data`; raises `BadRequest`."""
    if task == "chat":
        chat = _parse(_ChatBody, input_data)
        length = chat.max_completion_tokens or chat.max_tokens or defaults.max_tokens
        return _request("chat", chat, "", _messages(chat.messages, input_data["messages"]), length, defaults)
    if task == "completion":
        return _read_prompt("completion", input_data, COMPLETION_TOKENS, defaults)
    if task == "raw":
        given = {"prompt": input_data} if isinstance(input_data, str) else input_data
        return _read_prompt("raw", given, defaults.max_tokens, defaults)
    known = ", ".join(get_args(Task))
    reason = f"options.task: {task} is not for this rack, which answers {known}"
    raise errors.BadRequest(reason, data={"field": "options.task"})


def _read_prompt(task: Task, given: Any, max_tokens: int, defaults: Defaults) -> TextRequest:
    body = _parse(_PromptBody, given)
    length = body.max_tokens or body.max_completion_tokens or max_tokens
    return _request(task, body, _single(body.prompt), [], length, defaults)


def _parse(kind: type[contract.T], given: Any) -> contract.T:
    body = contract.parse(kind, given, what="body")
    for field, (harmless, reason) in UNSERVED.items():
        value = given.get(field)
        if value is not None and not any(type(value) is type(known) and value == known for known in harmless):
            raise refusal(field, f"{reason} by this rack")
    return body


def _request(
    task: Task, body: _Body, prompt: str | list[int], messages: list[Message], length: int, defaults: Defaults
) -> TextRequest:
    usual = defaults.sampling
    sampling = Sampling(
        usual.temperature if body.temperature is None else body.temperature,
        usual.top_p if body.top_p is None else body.top_p,
        usual.top_k if body.top_k is None else max(0, body.top_k),
        body.seed,
    )
    stops = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    options = body.stream_options
    usage = options is not None and bool(options.include_usage)
    return TextRequest(task, prompt, messages, min(length, defaults.max_tokens), sampling, stops, usage)


def _single(prompt: Prompt) -> str | list[int]:
    """The one prompt of a request: a text, token ids, or a list with one of these."""
    if isinstance(prompt, str):
        return prompt
    tokens = [token for token in prompt if isinstance(token, int)]
    if len(tokens) == len(prompt):
        return tokens
    if len(prompt) > 1:
        raise refusal("prompt", f"it holds {len(prompt)} prompts; this rack answers one a request")
    (only,) = prompt
    assert not isinstance(only, int)
    return only


def _messages(checked: list[_Message], given: list[Message]) -> list[Message]:
    """The messages as chat templates want them: contents are texts, and what else was said stays."""
    return [
        {
            **original,
            # Templates know OpenAI's newer name for it seldom, and many refuse roles that they do not know.
            "role": "system" if message.role == "developer" else message.role,
            "content": _text_of(message.content, f"messages[{index}].content"),
        }
        for index, (message, original) in enumerate(zip(checked, given, strict=True))
    ]


def _text_of(content: str | list[_Part] | None, field: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    for index, part in enumerate(content):
        if part.type != "text" or part.text is None:
            raise refusal(f"{field}[{index}]", f"this model reads text only, no {part.type}")
    return "".join(part.text or "" for part in content)
