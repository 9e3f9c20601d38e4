"""API keys: what is kept of them, whom a presented one belongs to, how often it may ask. Pure.

Kept is the SHA-256 of a key, never the key. Slow hashes are for passwords, of which there are few enough
to be tried; a key has 256 random bits, which nobody tries, and is checked with every request.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Annotated

import msgspec
from msgspec import Meta

from wrk_base import contract, errors

from ..model_names import ModelNames

PREFIX = "sk-wrk-"
SECRET_BYTES = 32
MAX_KEYS = 1000  # each is compared with every presented key: 0.2 ms at most
MINUTE = 60.0

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$(?!\n)")]
Rate = Annotated[int, Meta(ge=1, le=1_000_000)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept of a key. `created` is Unix milliseconds; no `models`: all; no `rate`: any.

    `rate` is in requests a minute. The hash is no secret, but it is shown to nobody.
    """

    name: Name
    sha256: Sha256
    created: Annotated[int, Meta(ge=0)]
    models: contract.Models | None = None
    rate: Rate | None = None

    def facts(self) -> dict[str, object]:
        """What may be told of it."""
        return {"name": self.name, "created": self.created, "models": self.models, "rate": self.rate}


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file of all keys."""

    keys: Annotated[list[ApiKey], Meta(max_length=MAX_KEYS)] = []


def parse(data: bytes) -> tuple[ApiKey, ...]:
    """The keys of a file; raises ValueError in words."""
    keys = tuple(msgspec.json.decode(data, type=Kept).keys)
    if len({key.sha256 for key in keys}) < len(keys):  # a name may: two machines can give it at once
        raise ValueError("a key is there twice")
    return keys


def written(keys: Iterable[ApiKey]) -> bytes:
    """The file of these keys."""
    return msgspec.json.format(msgspec.json.encode(Kept(list(keys)))) + b"\n"


def made_of(secret: bytes) -> str:
    """The key that its holder sends, of 32 random bytes."""
    assert len(secret) == SECRET_BYTES
    return PREFIX + urlsafe_b64encode(secret).rstrip(b"=").decode()


def entry(key: str, name: str, created: int, models: Sequence[str] = (), rate: int | None = None) -> ApiKey:
    """What is kept of `key`; raises ValueError in words."""
    facts = {"name": name, "sha256": _digest(key.encode()), "created": created, "rate": rate}
    return msgspec.convert({**facts, "models": list(models) or None}, ApiKey)


def holder(keys: Iterable[ApiKey], presented: bytes) -> ApiKey | None:
    """Whose key this is. The time it takes tells only how many keys there are."""
    digest, found = _digest(presented), None
    for key in keys:
        if hmac.compare_digest(key.sha256, digest):
            found = key
    return found


def models_for(key: ApiKey | None, model_id: object, names: ModelNames) -> tuple[str, ...] | None:
    """Which models may answer a request that names `model_id`; None: all that `names` says.

    Raises `PermissionDenied` if the key is not for the one asked for. It is for a model if it lists any name
    of it; fallbacks that it is not for are left out.
    """
    if key is None or key.models is None or not isinstance(model_id, str):  # what is no name, others refuse
        return None
    models = names.chain_within(model_id, key.models)
    if models:
        return models
    raise errors.PermissionDenied(
        f"this API key is not for the model {model_id[:256]!r}", data={"field": "modelId"}, not_started=True
    )


class Bucket:
    """So many requests a minute: all of them at once, and then as they grow back."""

    __slots__ = ("_at", "_left")

    def __init__(self, rate: int, now: float) -> None:
        self._left, self._at = float(rate), now

    def take(self, rate: int, now: float) -> float:
        """0 if there was one left, else the seconds until there will be."""
        self._left = min(float(rate), self._left + max(0.0, now - self._at) * rate / MINUTE)
        self._at = now
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) * MINUTE / rate


def _digest(key: bytes) -> str:
    return sha256(key).hexdigest()
