"""Large bodies: how they arrive in chunks, and the bytes that all of them may hold. Pure."""

from __future__ import annotations

from .. import errors


class Budget:
    """Bytes that a peer, or a process, may keep here at one time. `name` is the setting that says so."""

    __slots__ = ("limit", "name", "used")

    def __init__(self, limit: int, name: str) -> None:
        self.limit, self.name, self.used = limit, name, 0


def reserve(size: int, peer: Budget, process: Budget) -> None:
    """Take `size` bytes of both budgets, or of none and raise `CapacityExceeded`."""
    if peer.used + size <= peer.limit and process.used + size <= process.limit:
        peer.used += size
        process.used += size
        return
    full = peer if peer.used + size > peer.limit else process
    raise errors.CapacityExceeded(
        f"{size} bytes beside the {full.used} that are held exceed {full.name} = {full.limit}",
        not_started=True,
        retry_after_ms=1000,
    )


def give_back(size: int, peer: Budget, process: Budget) -> None:
    """What `reserve` took."""
    peer.used -= size
    process.used -= size


class Assembly:
    """A body of `size` bytes of which chunks are still to come.

    It grows with its chunks: to make it whole at once would touch all its memory in one go, and hold up
    everybody for as long as that takes.
    """

    __slots__ = ("buffer", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.buffer = bytearray()

    def add(self, chunk: memoryview | bytes, last: bool) -> bool:
        """Whether it is complete now; raises ValueError for chunks that do not add up to its size."""
        length = len(self.buffer) + len(chunk)
        if length > self.size or last != (length == self.size):
            raise ValueError(f"chunks do not add up to the {self.size} bytes that were announced")
        self.buffer += chunk
        return last
