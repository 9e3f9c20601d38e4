"""What a request of OpenAI's API needs of a worker: what its body hints at, what its caller requires. Pure.

A hint is a guess, and binds only where workers tell what they can do (`LoadBalancer.narrowed`). It must
cost an ordinary text next to nothing, so images are looked for in the bytes: within a text JSON escapes
quotation marks, so that one about "image_url" is not taken for an image. What a caller requires binds
everywhere, and what cannot be understood of it is refused.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from wrk_base import contract, errors

REQUIRES = b"x-wrk-requires"
ALLOWED = "allowed, with commas between, are a capability, context=TOKENS, capacity=N and label:NAME=VALUE"
NUMBERS = {"context": "minContext", "capacity": "minCapacity"}
LABEL = "label:"

VISION, TOOLS, EMBEDDINGS = "vision", "tools", "embeddings"

_IMAGE = re.compile(rb'"(?:image_url|input_image)"')  # of chat, of responses
_SOMETHING = re.compile(rb"\[\s*[^\s\]]")
_NUMBER = re.compile(r"[0-9]{1,10}")  # no bound has more digits


def hints(task: str, said: msgspec.Raw, tools: msgspec.Raw) -> tuple[str, ...]:
    """Capabilities that a body hints at, the one that matters most first.

    `said` is what the model reads (`messages`, `input`, ...), `tools` the field of that name, as they came.
    """
    if task == "embedding":
        return (EMBEDDINGS,)
    sees = _IMAGE.search(memoryview(said)) is not None
    uses = _SOMETHING.match(memoryview(tools)) is not None
    return ((VISION, TOOLS) if uses else (VISION,)) if sees else (TOOLS,) if uses else ()


def required(header: bytes) -> contract.Requirements:
    """What the header asks for: `vision, tools, context=32768, label:gpu=a100`; raises `BadRequest`."""
    found: dict[str, Any] = {"capabilities": [], "labels": {}}
    for part in _text(header).split(","):
        _add(part.strip(), found)
    try:
        return msgspec.convert(found, contract.Requirements)
    except msgspec.ValidationError as error:
        raise _refusal(str(error)) from None


def _add(part: str, found: dict[str, Any]) -> None:
    name, equals, value = (word.strip() for word in part.partition("="))
    labelled, numbered = name.startswith(LABEL), name in NUMBERS
    if name and not (equals or labelled or numbered):
        found["capabilities"].append(name)
        return
    if not equals or not (labelled or (numbered and _NUMBER.fullmatch(value))):
        raise _refusal(f"{part[:100]!r} is not understood")
    where: dict[str, Any] = found["labels"] if labelled else found
    key = name.removeprefix(LABEL) if labelled else NUMBERS[name]
    if key in where:
        raise _refusal(f"{name[:100]} is there twice")
    where[key] = value if labelled else int(value)


def _text(header: bytes) -> str:
    try:
        return header.decode()
    except UnicodeDecodeError:
        raise _refusal("it is not UTF-8") from None


def _refusal(reason: str) -> errors.BadRequest:
    field = REQUIRES.decode()
    return errors.BadRequest(f"{field}: {reason}; {ALLOWED}", data={"field": field})
