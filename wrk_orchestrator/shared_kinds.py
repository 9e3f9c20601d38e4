"""The kinds of records that orchestrators share, and what a body of each must be. Pure.

Bodies come from files of earlier versions and from other orchestrators: nothing of one is used before it
was read here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from wrk_base import contract
from wrk_base.discovery.advert import parse_peer

from .http.api_keys import ApiKey

REGISTRATION, HOLD, API_KEY = "registration", "hold", "api-key"

T = TypeVar("T")


class KeptRegistration(msgspec.Struct, frozen=True):
    """A worker that an operator entered; the id is the worker's. `at` is when, in Unix milliseconds: of two
    entries for one rack the later one wins, at every orchestrator."""

    offer: contract.Registration
    source: Annotated[str, Meta(max_length=32)]
    at: Annotated[int, Meta(ge=0)] = 0


class Hold(msgspec.Struct, frozen=True):
    """An operator's word about a worker, in force until it is taken back; the id is the worker's."""

    word: Literal["drain", "quarantine"]


def read_registration(id: str, body: Any) -> KeptRegistration:
    """Raises ValueError."""
    kept = msgspec.convert(body, KeptRegistration)
    parse_peer(kept.offer.address)
    if kept.offer.worker_id != id:
        raise ValueError(f"it registers {kept.offer.worker_id}")
    return kept


def read_hold(id: str, body: Any) -> Hold:
    """Raises ValueError."""
    msgspec.convert(id, contract.Id)
    return msgspec.convert(body, Hold)


def read_api_key(id: str, body: Any) -> ApiKey:
    """The id is the key's hash: a key that was removed never comes back, and one name may be given on two
    machines at once. Raises ValueError."""
    key = msgspec.convert(body, ApiKey)
    if key.sha256 != id:
        raise ValueError("it is the hash of another key")
    return key


READERS: dict[str, Callable[[str, Any], Any]] = {
    REGISTRATION: read_registration,
    HOLD: read_hold,
    API_KEY: read_api_key,
}
