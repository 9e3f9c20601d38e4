"""Whose request it is, where results are kept by caller. Pure.

An orchestrator asks racks in the name of others. It writes down who asked as a digest, over whatever the
caller wrote there, and a rack reads that from nobody but orchestrators. Worker ids and API keys are proven,
by certificates and by secrets; a client is known by the machine that vouches for it. Digests of different
kinds never meet, and none tells an id or a key.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from .security.roles import CLIENT

if TYPE_CHECKING:
    from .rpc.identity import PeerInfo

DIGEST_BYTES = 16


def peer(info: PeerInfo) -> str:
    """A peer: a worker by its id, over all its starts.

    A client's id is another one each time, so that one with a name is known by that, and by its machine:
    who may use the machine's key is one and the same there.
    """
    if info.role == CLIENT and info.name and info.member is not None:
        return _digest("client", info.member.issuer_id.hex(), info.name)
    return _digest("worker", info.worker_id)


def api_key(sha256: str) -> str:
    """The holder of an API key."""
    return _digest("key", sha256)


def _digest(kind: str, *parts: str) -> str:
    said = "\0".join((kind, *parts))
    return blake2b(said.encode(), digest_size=DIGEST_BYTES).hexdigest()


ANYBODY = _digest("anybody")
"""Whoever asks where no key is asked for: all of them are one caller."""
