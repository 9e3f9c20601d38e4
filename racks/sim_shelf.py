"""The models of a simulated rack: which are loaded, and which makes room for another one. Pure.

What is told of them keeps its order, whatever is used: another order would be another offer.
"""

from __future__ import annotations

from collections.abc import Iterable


class Shelf:
    """At most `room` models are loaded, 0: all; the one that was used longest ago goes first."""

    def __init__(self, loaded: Iterable[str], cold: Iterable[str], room: int) -> None:
        self.loaded: dict[str, None] = dict.fromkeys(loaded)
        self.cold: dict[str, None] = {name: None for name in cold if name not in self.loaded}
        self._by_use = dict(self.loaded)
        self._room = room

    def use(self, model: str) -> None:
        """A request that runs on while its model is put out does not bring it back."""
        if model in self._by_use:
            del self._by_use[model]
            self._by_use[model] = None

    def load(self, model: str) -> None:
        self.cold.pop(model, None)
        self.loaded[model] = self._by_use[model] = None
        while self._room and len(self.loaded) > self._room:
            self.unload(next(iter(self._by_use)))

    def unload(self, model: str) -> None:
        del self.loaded[model], self._by_use[model]
        self.cold[model] = None
