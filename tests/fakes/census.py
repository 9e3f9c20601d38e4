"""How much a process keeps: the lengths of all containers that are reached from an object of ours.

    before = census(orchestrator)
    ...
    assert grown(before, census(orchestrator)) == {}

A container is known by the class and the attribute that hold it, so that a thousand racks with a table each
are one entry, and a table that nobody thought of is found as well as one that is on a list.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from typing import Any

OURS = ("wrk_base", "wrk_orchestrator", "racks")
PLAIN = (str, bytes, bytearray, memoryview, int, float, bool, type(None), type)


def census(*roots: Any) -> Counter[str]:
    """Entries by "Class.attribute"; instances by "Class"."""
    told: Counter[str] = Counter()
    seen: dict[int, Any] = {}
    left: list[tuple[str, Any]] = [("", root) for root in roots]
    while left:
        name, thing = left.pop()
        if isinstance(thing, PLAIN) or id(thing) in seen:
            continue
        seen[id(thing)] = thing
        if isinstance(thing, Mapping):
            told[name] += len(thing)
            left += [(name, part) for pair in thing.items() for part in pair]
        elif isinstance(thing, (list, tuple, set, frozenset, deque)):
            told[name] += len(thing) * (not isinstance(thing, tuple))
            left += [(name, part) for part in thing]
        elif type(thing).__module__.startswith(OURS) or isinstance(thing, Mapping):
            told[type(thing).__name__] += 1
            left += [(f"{type(thing).__name__}.{key}", value) for key, value in _attributes(thing)]
    return told


def grown(before: Counter[str], after: Counter[str]) -> dict[str, tuple[int, int]]:
    """What there is more of, as (before, after)."""
    return {name: (before[name], count) for name, count in after.items() if count > before[name]}


def _attributes(thing: Any) -> Iterator[tuple[str, Any]]:
    yield from getattr(thing, "__dict__", {}).items()
    for kind in type(thing).__mro__:
        for name in getattr(kind, "__slots__", ()):
            if hasattr(thing, name):
                yield name, getattr(thing, name)
