"""How many events of one kind are logged in a while; the rest are counted, and told later. Pure.

Whoever can bring an event about, by a connection, a request or a crash, could fill the disk with it, and
hide what matters among a thousand lines of the same. The first of each while pass: they say what happened.

Invariant: each event that did not pass is told once, in the `suppressed` of a later one or by `due`.
"""

from __future__ import annotations

MOST_KINDS = 1024  # names come from code, but libraries bring theirs; beyond it the oldest is forgotten


class _While:
    __slots__ = ("began", "passed", "suppressed")

    def __init__(self, now: float) -> None:
        self.began, self.passed, self.suppressed = now, 0, 0


class Throttle:
    """`most` events of a kind pass in `seconds`."""

    def __init__(self, most: int, seconds: float) -> None:
        self._most, self._seconds = most, seconds
        self._whiles: dict[str, _While] = {}
        self._held: set[str] = set()  # kinds of which some did not pass and were not told yet

    def __len__(self) -> int:
        return len(self._whiles)

    def facts(self, kind: str, now: float) -> dict[str, int] | None:
        """What an event that passes should tell besides: nothing, or how many before it did not pass. None:
        it does not pass."""
        one = self._whiles.get(kind)
        if one is None:
            one = self._begin(kind, now)
        elif not 0 <= now - one.began < self._seconds:  # a wall clock may be put back
            one.began, one.passed = now, 0
        if one.passed >= self._most:
            one.suppressed += 1
            self._held.add(kind)
            return None
        one.passed += 1
        suppressed, one.suppressed = one.suppressed, 0
        if not suppressed:
            return {}
        self._held.discard(kind)
        return {"suppressed": suppressed}

    def due(self, now: float) -> list[tuple[str, int]]:
        """Kinds whose while is over, and how many did not pass; each number is told here once."""
        over = [kind for kind in self._held if now - self._whiles[kind].began >= self._seconds]
        told = []
        for kind in sorted(over):
            one = self._whiles[kind]
            told.append((kind, one.suppressed))
            one.suppressed = 0
            self._held.discard(kind)
        return told

    def _begin(self, kind: str, now: float) -> _While:
        if len(self._whiles) >= MOST_KINDS:
            oldest = next(iter(self._whiles))
            del self._whiles[oldest]
            self._held.discard(oldest)
        one = self._whiles[kind] = _While(now)
        return one
