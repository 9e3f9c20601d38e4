"""What is done to one end, as a list of steps that any bytes stand for.

A fuzzer changes bytes and a test writes steps; both mean the same here. On the bytes: a step is one
byte (its deed, whether it is held, whether it has a second frame) and its frames, each of them two
bytes of length and so much as is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from wrk_base.rpc import wire

MAX_STEPS = 48  # of one input: more of them find nothing that two inputs do not
MAX_FRAME = 0xFFFF
HELD = 0x80
WITH_CHUNK = 0x40
DEED = 0x3F


@dataclass(frozen=True, slots=True)
class Step:
    """`deed` is a number of the target's own; a `held` step arrives in one drain with the next one."""

    deed: int
    message: bytes = b""
    held: bool = False
    chunk: bytes | None = None


def pack(steps: Iterable[Step]) -> bytes:
    return b"".join(_packed(step) for step in steps)


def _packed(step: Step) -> bytes:
    first = step.deed | (HELD if step.held else 0) | (0 if step.chunk is None else WITH_CHUNK)
    frames = [step.message] if step.chunk is None else [step.message, step.chunk]
    return bytes([first]) + b"".join(len(frame).to_bytes(2, "big") + frame for frame in frames)


def unpack(data: bytes) -> list[Step]:
    """Total: every input is a list of steps."""
    steps: list[Step] = []
    while data and len(steps) < MAX_STEPS:
        first, chunk = data[0], None
        message, data = _frame(data[1:])
        if first & WITH_CHUNK:
            chunk, data = _frame(data)
        steps.append(Step(first & DEED, message, bool(first & HELD), chunk))
    return steps


def _frame(data: bytes) -> tuple[bytes, bytes]:
    end = 2 + int.from_bytes(data[:2], "big")
    return data[2:end], data[end:]


def shown(steps: Iterable[Step], names: tuple[str, ...]) -> str:
    """For people: one line a step, messages as envelopes where they are such."""
    return "\n".join(_line(step, names[step.deed % len(names)]) for step in steps)


def _line(step: Step, name: str) -> str:
    held = " (held)" if step.held else ""
    beside = "" if step.chunk is None else f" + {step.chunk!r}"
    return f"{name}{held} {_message(step.message)}{beside}"


def _message(message: bytes) -> str:
    try:
        sent_ms, envelopes = wire.decode(message)
    except Exception:  # it must be shown above all when it breaks the decoder
        return repr(message)
    return f"{sent_ms} {list(envelopes)}"
