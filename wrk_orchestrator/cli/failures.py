"""What is said when a command was refused or failed: code, message, what to do. Always one line."""

from __future__ import annotations

from wrk_base import errors

from .plain import json_line, printable

MODELS_NAMED = 5
_ADVICE = {
    errors.NoWorkersAvailable.name: "`wrk workers` lists what is there, `wrk rack KIND` starts more",
    errors.NoWorkersMatch.name: "ask for less, or start a rack that meets the requirements",
    errors.CapacityExceeded.name: "try again in a moment, or start another rack",
    errors.QueueTimeout.name: "try again in a moment, start another rack, or raise routing.queueTimeout",
    errors.ModelNotAvailable.name: "`wrk workers` lists the models of every rack",
    errors.MethodNotFound.name: "choose one of these, or another --peer",
    errors.WorkerNotFound.name: "`wrk workers` lists the ids",
    errors.DeadlineExceeded.name: "give it longer with --timeout SECONDS",
    errors.BadRequest.name: "correct the request",
    errors.Unavailable.name: "check that it runs; `wrk up` starts a mesh here",
}


def advice(error: errors.WrkError) -> str:
    """What to do about it; empty when there is nothing to say. An error may bring its own."""
    own, models = error.data.get("advice"), error.data.get("models")
    if isinstance(own, str):
        return own
    if isinstance(models, list | tuple) and models:
        names = ", ".join(str(model) for model in models[:MODELS_NAMED])
        return f"there are {names}{', ...' if len(models) > MODELS_NAMED else ''}"
    return _ADVICE.get(error.name, "")


def as_line(error: errors.WrkError | errors.StartError) -> str:
    """For people: `ERR_NAME: message; advice`. Why a process does not start says it all itself."""
    if isinstance(error, errors.StartError):
        return printable(str(error))
    origin = f" (says {error.origin})" if error.origin else ""
    todo = advice(error)
    return printable(f"{error.name}: {error.message}{origin}{'; ' + todo if todo else ''}")


def as_facts(error: errors.WrkError | errors.StartError) -> str:
    """For programs: the same as JSON, in the shape that HTTP has."""
    if isinstance(error, errors.StartError):
        return json_line({"error": {"code": "", "message": str(error)}})
    facts = {"code": error.name, "message": error.message, "advice": advice(error), "origin": error.origin}
    field = {"field": error.data["field"]} if "field" in error.data else {}
    return json_line({"error": {**facts, "retryable": error.retryable, **field}})
