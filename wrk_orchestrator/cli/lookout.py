"""When which address is asked for a model server, and what the racks before those found are called. Pure.

An address where a server was found is asked no more: its rack watches it from then on, also while it is
away. Where nothing listens, asking costs nobody anything; a stranger is asked ever more rarely, since
somebody may be reading its log. Names are those of the servers, and no name is given twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from wrk_base.model_servers.recognition import ModelServer, Nobody

LONGEST_PAUSE = 8  # rounds that a stranger is left alone: a server that takes its place is found even so


class Lookout:
    """A round is `due`, a search there, and `hear` with what was found."""

    def __init__(self, addresses: Iterable[str]) -> None:
        self._wait = dict.fromkeys(addresses, 0)  # rounds, for each address without a rack
        self._pause: dict[str, int] = {}
        self._names: Counter[str] = Counter()

    def due(self) -> list[str]:
        """The addresses to ask in this round."""
        asked = [url for url, rounds in self._wait.items() if not rounds]
        self._wait = {url: max(0, rounds - 1) for url, rounds in self._wait.items()}
        return asked

    def hear(self, findings: Iterable[ModelServer | Nobody]) -> list[tuple[str, ModelServer]]:
        """The servers that are new, each with the name of its rack."""
        new = []
        for found in findings:
            if isinstance(found, ModelServer):
                del self._wait[found.url]
                new.append((self._name(found), found))
            elif found.stranger:
                self._pause[found.url] = min(2 * self._pause.get(found.url, 1), LONGEST_PAUSE)
                self._wait[found.url] = self._pause[found.url] - 1
            else:
                self._pause.pop(found.url, None)
        return new

    def _name(self, server: ModelServer) -> str:
        name = server.kind.name
        self._names[name] += 1
        return name if self._names[name] == 1 else f"{name}-{self._names[name]}"
