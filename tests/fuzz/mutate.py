"""Changes that keep an input meaningful: to the list of steps, and to one field of one envelope.

A fuzzer of bytes alone breaks the lengths of msgpack in nearly every try and rarely gets past `decode`.
So most changes are made to what the bytes say; the rest is left to the fuzzer (`Bytes`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import msgpack

from tests.fuzz import steps as codec
from tests.fuzz.samples import EPOCH, SAMPLES
from tests.fuzz.steps import Step
from wrk_base.rpc import wire

ODD_VALUES: tuple[Any, ...] = (
    *(0, 1, 2, 7, -1, 2**31, 2**63, 2**64 - 1, -(2**63), 1.5, float("nan"), float("inf")),
    *(None, True, False, "", "a", "x" * 300, b"", b"\x80", b"\xc0", b"\xc1", "\0", "echo", "wait", "later"),
    *([], {}, {"size": 5}, {"": {}}, [[]], {b"b": 1}, {"modelId": "m"}, b"\x81\xa7modelId\xa1m"),
)
ENVELOPES = (
    *SAMPLES.values(),
    (wire.CREDIT, 0, 0, 100, 0),
    (wire.REJECT, 0, 0, "go away"),
    *(
        (wire.REQUEST, flags, 3, EPOCH, method, 60_000, None, wire.MSGPACK, b"\xc0", {"size": 3})
        for method in ("echo", "wait", "later", "count")
        for flags in range(8)
    ),
)

Bytes = Callable[[bytes, int], bytes]
"""The fuzzer's own change of bytes, to a result of at most so many."""


def mutated_steps(data: bytes, max_size: int, rng: Random, of_bytes: Bytes) -> bytes:
    """Another list of steps."""
    steps = codec.unpack(data)
    if not steps or rng.random() < 0.2:
        return of_bytes(data, max_size)
    at = rng.randrange(len(steps))
    if rng.random() < 0.5:
        step = steps[at]
        room = max(1, max_size - len(data) + len(step.message))
        steps[at] = replace(step, message=mutated_message(step.message, room, rng, of_bytes))
    else:
        steps[at : at + 1] = rng.choice(STEP_CHANGES)(steps[at], rng)
    packed = codec.pack(steps)
    return packed if len(packed) <= max_size else of_bytes(data, max_size)


STEP_CHANGES: tuple[Callable[[Step, Random], list[Step]], ...] = (
    lambda step, rng: [],
    lambda step, rng: [step, step],
    lambda step, rng: [Step(rng.randrange(8), bytes([rng.randrange(8)])), step],
    lambda step, rng: [step, Step(0, wire.encode([rng.choice(ENVELOPES)], 0))],
    lambda step, rng: [replace(step, held=not step.held)],
    lambda step, rng: [replace(step, deed=rng.randrange(8))],
    lambda step, rng: [replace(step, chunk=None if step.chunk else bytes(rng.randrange(12)))],
)
"""What becomes of one step."""


def mutated_message(data: bytes, max_size: int, rng: Random, of_bytes: Bytes) -> bytes:
    """Another message, or any other msgpack value."""
    if rng.random() < 0.3:
        return of_bytes(data, max_size)
    try:
        if rng.random() < 0.2:
            sent_ms, envelopes = wire.decode(data)
            at = rng.randrange(len(envelopes) + 1)
            changed = wire.encode([*envelopes[:at], rng.choice(ENVELOPES), *envelopes[at:]], sent_ms)
        else:
            changed = msgpack.packb(_changed(msgpack.unpackb(data, strict_map_key=False), rng))
    except Exception:  # it is no msgpack, or has become what msgpack cannot carry
        return of_bytes(data, max_size)
    return changed if len(changed) <= max_size else of_bytes(data, max_size)


def _changed(value: Any, rng: Random) -> Any:
    """`value` with one change somewhere inside."""
    if isinstance(value, list) and value and rng.random() < 0.9:
        return _changed_list(value, rng)
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        if rng.random() < 0.2:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: _changed(value[key], rng)}
    if isinstance(value, bytes) and value and rng.random() < 0.5:
        try:  # a head or a payload
            packed: bytes = msgpack.packb(_changed(msgpack.unpackb(value, strict_map_key=False), rng))
            return packed
        except Exception:
            return value[: rng.randrange(len(value))]
    if type(value) is int and rng.random() < 0.5:
        return value + rng.choice((-1, 1, 2))
    return rng.choice(ODD_VALUES)


def _changed_list(value: list[Any], rng: Random) -> list[Any]:
    at = rng.randrange(len(value))
    how = rng.random()
    if how < 0.75:
        return [*value[:at], _changed(value[at], rng), *value[at + 1 :]]
    if how < 0.85:
        return [*value[:at], value[at], *value[at:]]
    if how < 0.95:
        return value[:at] + value[at + 1 :]
    return rng.sample(value, len(value))
