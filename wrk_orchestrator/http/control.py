"""The REST handlers beside inference: each hands one question to the orchestrator and its answer back.

No rules live here. Bodies are judged by the orchestrator, whose refusals are the same over RPC, and every
error leaves as it was raised: `app.py` turns it into an answer. `opt` holds the shapes of
bodies and results, for the API's document (`docs.py`).
"""

from __future__ import annotations

from typing import Annotated, Any, NoReturn, TypeAlias

import msgspec
from litestar import Litestar, Request, delete, get, post
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency, Provide
from litestar.exceptions import HTTPException
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from litestar.params import FromPath, QueryParameter

from wrk_base import __version__, clock, contract, errors

from ..health_table import Observation
from ..orchestrator import OrchestratorWorker
from . import models
from .errors import MethodNotAllowed
from .exchange import Exchange, Scope, decode_json, number
from .inference import PATH, Routed, RouteInference
from .openai import STREAMED, TASKS, OpenAiRequest

Answer: TypeAlias = dict[str, Any]
Service: TypeAlias = NamedDependency[OrchestratorWorker]
_json = msgspec.json.Decoder(float_hook=number)


def admin_only(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Raises `Unauthenticated` unless the caller showed the admin key."""
    _exchange(connection).caller.check_admin()


@get("/health", sync_to_thread=False)
def health(service: Service) -> Answer:
    """Whether the process is alive

    200 as soon as it answers at all, also while it starts or drains.
    """
    return {
        "success": True,
        "status": "alive",
        "workerId": service.identity.worker_id,
        "timestamp": clock.wall_ms(),
    }


@get("/ready", sync_to_thread=False)
def ready(service: Service) -> Answer:
    """Whether traffic may come

    503 with the reason while it starts or drains. That no rack is there is no reason.
    """
    reason = service.not_ready()
    if reason:
        raise errors.Unavailable(f"not ready: {reason}")
    return {"success": True, "ready": True}


@get("/api/status", sync_to_thread=False)
def status(service: Service) -> Answer:
    """Registry, balancer, health and RPC clients in one answer"""
    return service.service_status()


@get("/api/load-balancer", sync_to_thread=False)
def load_balancer(service: Service) -> Answer:
    """The strategy, and figures per worker"""
    return service.load_balancing_stats()


@post(
    "/api/workers/register",
    status_code=200,
    guards=[admin_only],
    opt={
        "admin": True,
        "body": contract.Registration,
        "result": contract.Registered,
        "example": {
            "workerId": "gpu-box-1",
            "address": "tcp://192.168.1.20:8010",
            "capabilities": {"models": ["llama-3-8b"], "tags": ["gpu"], "capacity": {"maxConcurrent": 4}},
        },
    },
)
async def register(request: Request[Any, Any, Any], service: Service) -> Answer:
    """Enter a worker by hand

    It is dialled back before it gets any request, and kept over restarts of the orchestrator. A worker
    with the same id is replaced.
    """
    return service.register(await _body(request), source="http")


@post(
    "/api/workers/find",
    status_code=200,
    opt={
        "body": contract.FindWorker,
        "refusals": (404,),
        "example": {"modelId": "m1", "requirements": {"capabilities": ["gpu"]}},
    },
)
async def find(request: Request[Any, Any, Any], service: Service) -> Answer:
    """The worker that a request would get now

    For callers that then talk to it directly, by RPC. `modelId` says for which model, where it is not the
    one named.
    """
    body = await _body(request)
    named = body.get("modelId") if isinstance(body, dict) else None
    return service.find(body, _exchange(request).caller.models_for(named, service.names))


@get("/api/workers", sync_to_thread=False)
def workers(
    service: Service,
    model_id: Annotated[
        str | None, QueryParameter(name="modelId", description="Only those that serve it.")
    ] = None,
    in_state: Annotated[str | None, QueryParameter(name="state", description="Only those in it.")] = None,
) -> Answer:
    """All workers, or some"""
    return service.list_workers({"modelId": model_id, "state": in_state})


@get("/api/workers/{id:str}", opt={"refusals": (404,)}, sync_to_thread=False)
def worker(id: FromPath[str], service: Service) -> Answer:
    """One worker"""
    with service.grace.excused():
        return {"success": True, "worker": service.show(service.fleet.entry(id))}


@delete(
    "/api/workers/{id:str}",
    status_code=200,
    guards=[admin_only],
    opt={"admin": True, "refusals": (404,)},
    sync_to_thread=False,
)
def unregister(id: FromPath[str], service: Service) -> Answer:
    """Take a worker out

    A rack that is still running may register itself again.
    """
    with service.grace.excused():
        return service.unregister(id)


def _held(word: str, method: Observation, summary: str) -> HTTPRouteHandler:
    """`POST /api/workers/{id}/WORD`."""

    async def hold(id: FromPath[str], service: Service) -> Answer:
        return service.hold_worker(id, method)

    hold.__name__, hold.__doc__ = word, f"{summary}\n\nIt holds over restarts and at every orchestrator."
    opt = {"admin": True, "refusals": (404,)}
    return post(f"/api/workers/{{id:str}}/{word}", status_code=200, guards=[admin_only], opt=opt)(hold)


HOLDS = (
    _held("drain", Observation.OPERATOR_DRAIN, "Give a worker no new requests until it is released"),
    _held("quarantine", Observation.OPERATOR_QUARANTINE, "Take a worker out until it is released"),
    _held("release", Observation.OPERATOR_RELEASE, "Take a worker back"),
)


@post(
    PATH,
    status_code=200,
    opt={
        "body": RouteInference,
        "refusals": (404, 409, 422, 500, 504),
        "result": Routed,
        "example": {"modelId": "m1", "inputData": "hello", "options": {"timeoutMs": 30_000}},
    },
)
async def route() -> Answer:
    """Route one inference request to a worker that serves the model

    With `simulate` the answer is made up without any worker, and says so.
    """
    raise AssertionError("app.py serves this path; here it is for the document and for other methods")


OURS = {"x-wrk-version": __version__}  # an empty list is anybody's: who looks for model servers must know


@get("/v1/models", opt={"openai": True}, response_headers=OURS, sync_to_thread=False)
def list_models(request: Request[Any, Any, Any], service: Service) -> Answer:
    """What can be asked for

    An API key that is for some models sees these.
    """
    return models.listed(service.registry, service.names, _exchange(request).caller)


@get("/v1/models/{model:path}", opt={"openai": True, "refusals": (404,)}, sync_to_thread=False)
def model(model: FromPath[str], request: Request[Any, Any, Any], service: Service) -> Answer:
    """One model"""
    caller = _exchange(request).caller
    with service.grace.excused():
        return models.one(service.registry, service.names, caller, model.removeprefix("/"))


def _openai(path: str, name: str, summary: str, example: dict[str, Any]) -> HTTPRouteHandler:
    """An endpoint that app.py serves: here it is for the document and for other methods."""

    async def endpoint() -> Answer:
        raise AssertionError(f"app.py serves {path}")

    streams = TASKS[path] in STREAMED
    more = "; with `stream` the answer is server-sent events" if streams else ""
    endpoint.__name__ = name
    endpoint.__doc__ = f"{summary}\n\nAll fields pass through{more}."
    opt = {"openai": True, "streams": streams, "body": OpenAiRequest, "example": example}
    return post(path, status_code=200, opt={**opt, "refusals": (404, 409, 422, 500, 502, 504)})(endpoint)


_SAID = [{"role": "user", "content": "hello"}]

OPENAI = (
    list_models,
    model,
    _openai("/v1/chat/completions", "chat", "Chat", {"model": "m1", "messages": _SAID}),
    _openai("/v1/completions", "complete", "Complete a text", {"model": "m1", "prompt": "hello"}),
    _openai("/v1/embeddings", "embed", "Turn texts into vectors", {"model": "m1", "input": ["hello"]}),
    _openai(
        "/v1/rerank",
        "rerank",
        "Order documents by how well they fit a query",
        {"model": "m1", "query": "hello", "documents": ["good morning", "the sea"]},
    ),
    _openai(
        "/v1/responses", "respond", "Respond, where the rack offers it", {"model": "m1", "input": "hello"}
    ),
)

HANDLERS = (
    *(health, ready, status, workers, register, find, worker, unregister, route, load_balancer),
    *HOLDS,
    *OPENAI,
)


def control_app(service: OrchestratorWorker, more: tuple[Any, ...] = ()) -> Litestar:
    """The ASGI application of these handlers and `more`; it raises what they raise."""
    return Litestar(
        [*HANDLERS, *more],
        dependencies={"service": Provide(lambda: service, sync_to_thread=False)},
        exception_handlers={Exception: _pass_on},
        openapi_config=None,
        logging_config=None,
        request_max_body_size=None,  # app.py has read the body within the limit
    )


def translated(error: HTTPException, scope: Scope) -> errors.WrkError:
    """What Litestar refuses by itself, as an error of ours."""
    method, path = scope["method"], scope["path"][:200]
    if error.status_code == 404:
        return errors.NotFound(f"there is nothing at {path!r}; /docs lists what there is")
    if error.status_code == 405:
        allow = (error.headers or {}).get("allow", "")
        return MethodNotAllowed(f"{method} is not for {path!r}, which takes {allow}", data={"allow": allow})
    return errors.BadRequest(error.detail)


async def _body(request: Request[Any, Any, Any]) -> Any:
    _exchange(request).check_media_type()
    return decode_json(_json, await request.body())


def _exchange(connection: ASGIConnection[Any, Any, Any, Any]) -> Exchange:
    exchange: Exchange = connection.scope["state"]["exchange"]
    return exchange


def _pass_on(_: Request[Any, Any, Any], error: Exception) -> NoReturn:
    raise error
