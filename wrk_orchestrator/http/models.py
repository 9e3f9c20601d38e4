"""`GET /v1/models` and `GET /v1/models/{id}`: what can be asked for, as OpenAI lists it."""

from __future__ import annotations

from typing import Any

from wrk_base import errors

from ..service_registry import ServiceRegistry
from .gate import Caller

OWNER = "wrk"


def listed(registry: ServiceRegistry, caller: Caller) -> dict[str, Any]:
    """All models that this caller may use."""
    models = [_entry(registry, name) for name in sorted(registry.models()) if caller.may_use(name)]
    return {"object": "list", "data": models}


def one(registry: ServiceRegistry, caller: Caller, model: str) -> dict[str, Any]:
    """One model; raises `NoWorkersAvailable`, as asking for it would."""
    caller.check_model(model)
    if not registry.serves(model):
        raise errors.NoWorkersAvailable(
            f"model {model[:256]}: no worker serves it", data={"modelSeen": registry.seen(model)}
        )
    return _entry(registry, model)


def _entry(registry: ServiceRegistry, model: str) -> dict[str, Any]:
    workers = registry.workers_of(model)
    return {
        "id": model,
        "object": "model",
        "created": min((worker.registered_at for worker in workers), default=0) // 1000,
        "owned_by": OWNER,
    }
