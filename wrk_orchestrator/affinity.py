"""What ties a request to a worker: its idempotency key, its session, the beginning of its prompt.

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

MOST_BYTES = 262_144  # of a prompt that are hashed: 50 us; more would hold up everybody else
_STEP = 128  # bytes: about two blocks of a model server's cache
_EVEN = 1024  # up to here lengths grow by steps, beyond by eighths

Mark: TypeAlias = tuple[float, float]
"""Of a session: a place on a circle of length 1, and a large number to draw lots with."""

Prompt: TypeAlias = bytes | bytearray
Beginning: TypeAlias = tuple[int, int]
"""Length in bytes, and a hash that differs wherever the bytes do, for as long as this process lives."""

_LARGE = 2**20  # times what differs between two workers, it is many rounds of the circle
_two = Struct("<QI").unpack


class Affinity:
    """`session` and `key` are "" and `prompt` empty where the request has none."""

    __slots__ = ("_beginnings", "_mark", "key", "prompt", "session")

    def __init__(self, session: str = "", prompt: Prompt = b"", key: str = "") -> None:
        self.session, self.prompt, self.key = session, prompt, key
        self._beginnings: tuple[Beginning, ...] | None = None
        self._mark: Mark | None = None

    @property
    def mark(self) -> Mark:
        """Equal for equal sessions, in every process."""
        if self._mark is None:
            self._mark = mark_of(self.session)
        return self._mark

    @property
    def beginnings(self) -> tuple[Beginning, ...]:
        """The beginnings of the prompt, shortest first; none of a prompt below the first length."""
        if self._beginnings is None:
            self._beginnings = tuple(_beginnings(self.prompt))
        return self._beginnings


NO_AFFINITY = Affinity()


def mark_of(text: str) -> Mark:
    """Where a text stands, and how it draws its lots; in every process the same."""
    place, number = _hash(text)
    return place, _LARGE + number


def place(worker_id: str) -> float:
    """A worker's place on the same circle; in every process the same, so that orchestrators agree."""
    return _hash(worker_id)[0]


def _hash(text: str) -> tuple[float, float]:
    """A number from 0 to below 1, and one below 2**32."""
    one, other = _two(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest())
    return (one >> 11) / 2**53, float(other)


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
