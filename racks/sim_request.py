"""A request to a simulated model once it is understood, and an answer before it is given. Pure.

Each task has a reader (`sim_openai`, `sim_vectors`, and here the rack's own shape, task `raw`) that makes an
`Asked` of a decoded body, or raises `BadRequest` with the field. The rack stages the faults that the script
wants, and then lets `reply` make the answer of what is `Given`. A token is a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import msgspec

from .sim_script import Script, read_input, tokens


class Given(NamedTuple):
    """What an answer takes from its rack. `cached` counts characters of the prompt."""

    model: str
    worker: str
    created: int
    bits: int
    seed: int
    words: int
    dimensions: int
    cached: int


class Reply(NamedTuple):
    """The items of a stream, which pauses between `pieces`, and the `whole` for who does not stream. The
    items are read once, in this order; bytes among them are events that travel as they are."""

    opening: Iterable[Any]
    pieces: Iterable[Any]
    closing: Iterable[Any]
    whole: Any


class Asked(NamedTuple):
    """`prompt` is what a model would have to read before it says a word."""

    prompt: str
    sim: Script
    reply: Callable[[Given], Reply]


class Scripted(msgspec.Struct, frozen=True, kw_only=True):
    """A body of OpenAI's with the field `sim` beside its own."""

    sim: Script = Script()


def read_raw(input_data: Any) -> Asked:
    found = read_input(input_data)
    return Asked(found.prompt, found.sim, partial(_tell, found.prompt, found.sim))


def _tell(prompt: str, sim: Script, given: Given) -> Reply:
    said = list(tokens(prompt, given.seed, given.words, sim.index))
    whole = {
        "simulated": True,
        "model": given.model,
        "text": "".join(said),
        "index": sim.index,
        "worker": given.worker,
    }
    return Reply((), ({"index": at, "text": token} for at, token in enumerate(said, sim.index)), (), whole)
