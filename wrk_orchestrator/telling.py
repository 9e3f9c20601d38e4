"""What a route adds to an answer or an error: who gave it, when, at which attempt; and of several refusals
the one that says most. Looks at the wall clock; decides nothing about routing.
"""

from __future__ import annotations

from typing import Any

from wrk_base import clock, errors
from wrk_base.rpc import wire
from wrk_base.rpc.call import Reply

from .question import Question


def routed(worker_id: str, attempts: int) -> dict[str, Any]:
    return {"success": True, "workerId": worker_id, "routedAt": clock.wall_ms(), "attempts": attempts}


def facts_of(head: bytes | None) -> dict[str, Any]:
    """What the worker said at the end of its stream; what cannot be read is left out."""
    try:
        return wire.unpack_head(head)
    except ValueError:
        return {}


def simulated(question: Question, worker_id: str) -> Reply:
    """An answer without any rack, for trying a client out; it says what it is."""
    head = question.head
    result = {
        "simulated": True,
        "modelId": head.model_id,
        "task": head.options.task,
        "inputBytes": len(question.payload),
        "text": f"simulated answer of {head.model_id}",
    }
    facts = {"simulated": True, **routed(worker_id, 0)}
    return Reply(wire.pack_head(facts), wire.MSGPACK, wire.pack_body(result))


def load_told(error: errors.WrkError) -> tuple[int, int] | None:
    """What a worker had running, and how much it runs at once, that refused a request for being full."""
    if not (isinstance(error, errors.CapacityExceeded) and error.not_started and error.origin):
        return None
    running, most = error.data.get("inFlight"), error.data.get("maxConcurrent")
    return (running, most) if type(running) is int and type(most) is int and running >= most >= 1 else None


def not_loaded(error: errors.WrkError) -> bool:
    """Whether a worker said that it has put the model out: it did no work."""
    return error.not_started and isinstance(error, errors.ModelNotAvailable)


def most_telling(refusals: dict[str, errors.WrkError]) -> errors.WrkError:
    """Of why each model in turn could not answer the first, or the first of a model that was ever seen."""
    told = list(refusals.values())
    refusal = next((error for error in told if error.data.get("modelSeen") is not False), told[0])
    if len(told) > 1:
        reasons = {model: error.message for model, error in refusals.items()}
        refusal.data = {**refusal.data, "tried": reasons}
    return refusal
