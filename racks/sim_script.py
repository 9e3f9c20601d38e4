"""What one simulated request asks for, and the words that answer it. Pure.

The text of an answer is a function of (prompt, seed, index) and of nothing else: word `index` is the
same on every rack, in every process and in every release, so that tests may compare answers and a
reader that lost its rack at word 17 can go on at word 17 elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from wrk_base import contract

MAX_WORDS = 10_000  # made in one go: some 10 ms in which the rack says nothing else
HOUR = 3_600_000

Wait = Annotated[float, Meta(ge=0, le=HOUR)]
Words = Annotated[int, Meta(ge=0, le=MAX_WORDS)]
Index = Annotated[int, Meta(ge=0, le=2**53)]
Seed = Annotated[int, Meta(ge=-(2**53), le=2**53)]

_VOCABULARY = (
    "above after again almost along amber anchor answer apple arrow autumn basil beacon below birch bread "
    "bridge bright candle canyon cedar circle clear cloud copper coral corner cotton crane current "
    "daylight distant early earth ember evening falcon feather field forest garden gentle glass golden "
    "granite gravel harbor harvest hazel hidden hollow island ivory juniper kettle ladder lantern maple "
    "marble meadow mirror morning mountain narrow"
)
WORDS = tuple(_VOCABULARY.split())
"""Sixty-four of them. Any change here changes every simulated text."""


class Script(msgspec.Struct, rename="camel", frozen=True, forbid_unknown_fields=True):
    """The field `sim` of a request. What is not named here comes from the rack's settings.

    Unknown keys are refused: a misspelt fault that is never staged makes a test worthless.
    """

    latency: Wait | None = None
    jitter: Wait | None = None
    fail: bool | str = False
    hang: bool = False
    crash: bool = False
    seed: Seed | None = None
    words: Words | None = None
    interval: Wait | None = None
    index: Index = 0


class SimInput(contract.Shape, frozen=True):
    """A request's input, whatever form it came in."""

    prompt: str = ""
    sim: Script = Script()


def read_input(input_data: Any) -> SimInput:
    """A map may hold `prompt` and `sim`; anything else is the prompt. Raises `BadRequest` with the field."""
    if isinstance(input_data, str):
        return SimInput(input_data)
    if not isinstance(input_data, dict):
        return SimInput(_as_text(input_data))
    found = contract.parse(SimInput, input_data, what="inputData")
    if "prompt" in input_data:
        return found
    return SimInput(_as_text({key: value for key, value in input_data.items() if key != "sim"}), found.sim)


def word(prompt: str, seed: int, index: int) -> str:
    """Word `index` of the answer to `prompt`."""
    return _pick(_key(prompt, seed), index)


def text(prompt: str, seed: int, words: int, index: int = 0) -> str:
    """`words` words of the answer, from word `index` on."""
    key = _key(prompt, seed)
    return " ".join(_pick(key, i) for i in range(index, index + words))


def tokens(prompt: str, seed: int, words: int, index: int = 0) -> Iterator[str]:
    """The same words one by one, as a model's tokens: joined, they are `text`."""
    key = _key(prompt, seed)
    for i in range(index, index + words):
        yield _pick(key, i) if i == index else f" {_pick(key, i)}"


def _key(prompt: str, seed: int) -> bytes:
    return blake2b(f"{seed} {prompt}".encode(errors="surrogatepass")).digest()


def _pick(key: bytes, index: int) -> str:
    return WORDS[blake2b(index.to_bytes(8), key=key, digest_size=1).digest()[0] % len(WORDS)]


def _as_text(value: Any) -> str:
    return msgspec.json.encode(value, order="deterministic").decode()
