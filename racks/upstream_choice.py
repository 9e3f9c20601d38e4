"""Which server a rack goes before that was told of none: the only one that runs, or a clear word.

A rack serves one server. Where several run, the first would be a guess that depends on what else runs
today, so nobody guesses: whoever starts the rack is told which there are.
"""

from __future__ import annotations

from collections.abc import Sequence

from wrk_base.errors import StartError
from wrk_base.model_servers.recognition import ModelServer, Nobody, missed

ADVICE = "name one by --upstream URL, and the variable that holds its key by --api-key-env NAME"


def choose(findings: Sequence[ModelServer | Nobody]) -> ModelServer:
    """The only server among what a search found. Raises `StartError`."""
    servers = [found for found in findings if isinstance(found, ModelServer)]
    if len(servers) == 1:
        return servers[0]
    if servers:
        where = ", ".join(server.where for server in servers)
        first = servers[0].url
        raise StartError(
            f"several model servers run here: {where}; choose one, as by --upstream {first}, or "
            "let `wrk up` start a rack before each"
        )
    if not findings:
        raise StartError(f"no server is named and modelServers.addresses is empty; {ADVICE}")
    nobodies = [found for found in findings if isinstance(found, Nobody)]
    raise StartError(f"no model server was found ({missed(nobodies)}); start one, or {ADVICE}")
