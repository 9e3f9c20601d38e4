"""The CURVE key pair of one process: what its links prove, and what its certificate is for.

Kept in the state directory, as an identity that changed with every start would need a new certificate
and would look like an impostor to peers that remember. To be called by the holder of the process' lock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import zmq

from ..state import replace_file
from . import z85
from .private_file import damaged, read_private, unusable


@dataclass(frozen=True, slots=True)
class CurveKeys:
    """32 bytes each. The secret half is in no text made of this."""

    public: bytes
    secret: bytes = field(repr=False)

    @property
    def public_z85(self) -> bytes:
        """40 characters, as ZeroMQ takes keys."""
        return z85.encode(self.public).encode()

    @property
    def secret_z85(self) -> bytes:
        return z85.encode(self.secret).encode()


def ephemeral() -> CurveKeys:
    """A new pair, for a process that keeps nothing."""
    public, secret = zmq.curve_keypair()
    return _keys(public, secret)


def load_or_make(path: Path) -> CurveKeys:
    """The pair in this file, made at the first start. Raises `StartError`."""
    data = read_private(path, "remove it: a new key is made")
    if data is not None:
        return _parse(path, data)
    keys = ephemeral()
    try:
        replace_file(path, keys.public_z85 + b" " + keys.secret_z85 + b"\n")
    except OSError as error:
        raise unusable(path, error) from error
    return keys


def _parse(path: Path, data: bytes) -> CurveKeys:
    """Both halves are kept, so that a damaged file is told from another key."""
    try:
        public, secret = data.split()
        sound = zmq.curve_public(secret) == public
    except (ValueError, zmq.ZMQError):
        sound = False
    if not sound:
        raise damaged(path, "it holds no CURVE key pair", "restore it, or remove it: a new key is made")
    return _keys(public, secret)


def _keys(public: bytes, secret: bytes) -> CurveKeys:
    """Of what ZeroMQ made, and so of sound Z85."""
    return CurveKeys(z85.decode(public.decode()), z85.decode(secret.decode()))
