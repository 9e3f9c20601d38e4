"""What ties a request to a worker: its session, and the beginning of its prompt.

A router makes one `Affinity` a request; strategies that look at it ask for its hashes, which are worked
out at the first question and kept, so that a request that is tried again is hashed once. The prompt is
the bytes that the model reads, as they came: nothing here decodes them.

A prompt is compared by the hashes of its beginnings. They end at fixed lengths, each but the first few an
eighth longer than the one before, so that 256 KiB need 60 of them. Each hash covers all blocks before it.
"""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct
from typing import TypeAlias

PROBES = 16  # points of the circle a session is sought from; 16 keep shares of sessions within a tenth
CIRCLE = 2**32  # points on the circle of `strategies/consistent_hash.py`
MOST_BYTES = 262_144  # of a prompt that are hashed: 50 us; more would hold up everybody else
_STEP = 128  # bytes: about two blocks of a model server's cache
_EVEN = 1024  # up to here lengths grow by steps, beyond by eighths

Prompt: TypeAlias = bytes | bytearray
Beginning: TypeAlias = tuple[int, int]
"""Length in bytes, and a hash that differs wherever the bytes do, for as long as this process lives."""

_sixteen = Struct(f"<{PROBES}I").unpack
_one = Struct("<I").unpack


class Affinity:
    """`session` is "" and `prompt` empty where the request has none."""

    __slots__ = ("_beginnings", "_probes", "prompt", "session")

    def __init__(self, session: str = "", prompt: Prompt = b"") -> None:
        self.session, self.prompt = session, prompt
        self._beginnings: tuple[Beginning, ...] | None = None
        self._probes: tuple[int, ...] | None = None

    @property
    def probes(self) -> tuple[int, ...]:
        """Where on the circle the session is; equal for equal sessions in every process."""
        if self._probes is None:
            self._probes = _sixteen(_digest(self.session, 4 * PROBES))
        return self._probes

    @property
    def beginnings(self) -> tuple[Beginning, ...]:
        """The beginnings of the prompt, shortest first; none of a prompt below the first length."""
        if self._beginnings is None:
            self._beginnings = tuple(_beginnings(self.prompt))
        return self._beginnings


NO_AFFINITY = Affinity()


def point(worker_id: str) -> int:
    """Where on the circle a worker is: the same in every process, so that orchestrators agree."""
    place: int = _one(_digest(worker_id, 4))[0]
    return place


def _digest(text: str, size: int) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).digest()


def _lengths() -> tuple[int, ...]:
    lengths = list(range(_STEP, _EVEN + 1, _STEP))
    while (longer := lengths[-1] + lengths[-1] // 8) <= MOST_BYTES:
        lengths.append(longer)
    return tuple(lengths)


LENGTHS = _lengths()


def _beginnings(prompt: Prompt) -> list[Beginning]:
    found: list[Beginning] = []
    view = memoryview(prompt)  # of a body that was read by msgspec it is a part, which cannot be sliced
    start = chain = 0
    for end in LENGTHS:
        if end > len(view):
            break
        chain = hash((chain, bytes(view[start:end])))
        found.append((end, chain))
        start = end
    return found
