"""Which workers have lately read which beginnings of prompts.

A worker that was sent a prompt is taken to keep it in its cache until others push it out here: what
really lies in a model server's cache nobody tells. The table holds the beginnings used last; of one
prompt, the shorter ones outlive the longer ones, which are worth nothing without them.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeAlias

from ..affinity import Beginning

MOST_BEGINNINGS = 65_536  # of all models: some 20 MB, 3,000 prompts of 8 kB; model servers keep some dozens
MOST_HOLDERS = 16  # of one beginning: the racks of a LAN; among more, those used last have it most likely

Life: TypeAlias = tuple[str, int]
"""Worker id and epoch: a process that was started anew has an empty cache."""


class Prefixes:
    """Hash of a beginning -> those who read it, last one last. `salt` keeps models apart."""

    __slots__ = ("_holders",)

    def __init__(self) -> None:
        self._holders: OrderedDict[int, tuple[Life, ...]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._holders)

    def holders(self, beginning: int, salt: int) -> tuple[Life, ...]:
        return self._holders.get(beginning ^ salt, ())

    def note(self, beginnings: tuple[Beginning, ...], salt: int, life: Life) -> None:
        """`life` is sent a prompt with these beginnings."""
        holders = self._holders
        for _, beginning in reversed(beginnings):  # the shortest at last: it is forgotten last
            key = beginning ^ salt
            known = holders.get(key, ())
            if not known:
                holders[key] = (life,)
                continue
            if known[-1] != life:
                others = [other for other in known if other != life]
                holders[key] = (*others[1 - MOST_HOLDERS :], life)
            holders.move_to_end(key)
        while len(holders) > MOST_BEGINNINGS:
            holders.popitem(last=False)
