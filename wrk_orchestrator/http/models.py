"""`GET /v1/models` and `GET /v1/models/{id}`: what can be asked for, as OpenAI lists it."""

from __future__ import annotations

from typing import Any

from wrk_base import errors

from ..model_names import ModelNames
from ..service_registry import ServiceRegistry
from .gate import Caller

OWNER = "wrk"


def listed(registry: ServiceRegistry, names: ModelNames, caller: Caller) -> dict[str, Any]:
    """All models that this caller may use, by every name under which somebody answers, or will."""
    known = sorted({*registry.models(), *names.known()})
    entries = (_entry(registry, name, caller.chain(name, names)) for name in known)
    return {"object": "list", "data": [entry for entry in entries if entry is not None]}


def one(registry: ServiceRegistry, names: ModelNames, caller: Caller, model: str) -> dict[str, Any]:
    """One model; raises `NoWorkersAvailable`, as asking for it would."""
    models = caller.models_for(model, names) or names.chain(model)
    entry = _entry(registry, model, models)
    if entry is None:
        seen = any(map(registry.seen, models))
        raise errors.NoWorkersAvailable(f"model {model[:256]}: no worker serves it", data={"modelSeen": seen})
    return entry


def _entry(registry: ServiceRegistry, name: str, models: tuple[str, ...]) -> dict[str, Any] | None:
    """What is told of a name; None if nobody serves or could load any of the models that may answer."""
    known = next(filter(registry.known, models), None)
    if known is None:
        return None
    workers = registry.workers_of(known) or registry.could_load(known)
    return {
        "id": name,
        "object": "model",
        "created": min(worker.registered_at for worker in workers) // 1000,
        "owned_by": OWNER,
    }
