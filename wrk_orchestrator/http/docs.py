"""The API's document (`GET /openapi.json`) and its page (`GET /docs`).

Paths and parameters come from the handlers, by Litestar; the shapes of bodies from the contract's own
types, by msgspec, which writes down every bound that is enforced. What a handler takes and gives stands
in its `opt`: `body` and `result` are types, `example` is a body, `admin` is whether it takes the admin
key, `refusals` are the statuses of its own, `openai` is whether its errors have OpenAI's shape, `streams`
whether its answer may be server-sent events. Made when it is first asked for.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from litestar import Litestar, MediaType, Response, get
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin

from wrk_base import __version__, contract

from . import control
from .docs_page import page
from .errors import ErrorBody
from .gate import OPEN_PATHS
from .openai_errors import OpenAiErrorBody

REF = "#/components/schemas/{name}"
NOTHING_ELSE = "default-src 'none'; style-src 'unsafe-inline'"

Json = dict[str, Any]

REFUSALS = {
    400: "Not well-formed; the field at fault is named.",
    401: "No key that opens this was shown.",
    403: "The key is not for this, or a web page of another server asks.",
    404: "There is no such thing, or no such model was ever seen.",
    405: "Not for this method; `allow` lists those that it is for.",
    408: "The body came too slowly.",
    409: "It ran before and must not run twice, and what came of it is not kept.",
    413: "The body is longer than what is accepted.",
    415: "The body is not JSON.",
    421: "The server is not called by this name.",
    422: "The same idempotency key came with another request before.",
    429: "Too much for now: workers at capacity, or a key asked too often. See `retry-after`.",
    431: "The request line and headers are too long or too many.",
    500: "Something failed; the log says what.",
    502: "The server behind the worker failed; what it said is passed on, with the status that it gave.",
    503: "Not now: it starts, stops, has too many callers, or nothing can answer. See `retry-after`.",
    504: "The deadline passed before the answer came.",
}
EVENT: Json = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
ANYWHERE = (400, 403, 408, 413, 421, 431, 503)
WITH_KEYS = (401, 429)  # and by whom the server asks for keys
WITH_BODY = (415,)
SECURITY: Json = {
    "apiKey": {
        "type": "http",
        "scheme": "bearer",
        "description": "A key from `wrk key add NAME`. Asked for where other machines reach the server.",
    },
    "adminKey": {
        "type": "apiKey",
        "in": "header",
        "name": "x-wrk-admin-key",
        "description": "The key in admin.key of the orchestrator's state directory.",
    },
    "adminBearer": {"type": "http", "scheme": "bearer", "description": "The same key, in the usual header."},
}


@get("/openapi.json", sync_to_thread=False)
def openapi_json() -> Response[bytes]:
    return Response(_encoded(), media_type=MediaType.JSON)


@get(["/docs", "/"], sync_to_thread=False)
def docs() -> Response[bytes]:
    headers = {"content-security-policy": NOTHING_ELSE}
    return Response(_page(), media_type=MediaType.HTML, headers=headers)


HANDLERS = (openapi_json, docs)


@cache
def document() -> Json:
    """The OpenAPI document."""
    made = _from_handlers()
    options = {handler.fn.__name__: handler.opt for handler in control.HANDLERS}
    refs, made["components"]["schemas"] = _shapes(options)
    made["components"]["securitySchemes"] = SECURITY
    for path, operations in made["paths"].items():
        for operation in operations.values():
            _complete(path, operation, options[operation["operationId"]], refs)
    return made


@cache
def _encoded() -> bytes:
    return msgspec.json.encode(document())


@cache
def _page() -> bytes:
    return page(document()).encode()


def _from_handlers() -> Json:
    config = OpenAPIConfig(
        title="wrk-orchestrator",
        version=__version__,
        description="One address for every AI model on a LAN: the HTTP face of an orchestrator.",
        use_handler_docstrings=True,
        operation_id_creator=lambda handler, _method, _path: handler.fn.__name__,
        render_plugins=[JsonRenderPlugin()],
    )
    nobody = Provide(lambda: None, sync_to_thread=False)
    app = Litestar(
        control.HANDLERS, openapi_config=config, logging_config=None, dependencies={"service": nobody}
    )
    schema: Json = app.openapi_schema.to_schema()
    return schema


def _shapes(options: dict[str, Json]) -> tuple[dict[type, Json], Json]:
    """(type -> reference to it, the components that are referred to)"""
    types = {opt[key]: None for opt in options.values() for key in ("body", "result") if key in opt}
    shapes = [*types, ErrorBody, OpenAiErrorBody]
    refs, components = msgspec.json.schema_components(shapes, ref_template=REF)
    return dict(zip(shapes, refs, strict=True)), components


def _complete(path: str, operation: Json, opt: Json, refs: dict[type, Json]) -> None:
    """Add what Litestar does not know: bodies, results, keys, errors."""
    summary, _, rest = operation.pop("description").partition("\n")
    operation["summary"], operation["description"] = summary, " ".join(rest.split())
    if "body" in opt:
        content = {"schema": refs[opt["body"]], "example": opt["example"]}
        operation["requestBody"] = {"required": True, "content": {"application/json": content}}
    success = operation["responses"]["200"]
    success["description"] = "Done."
    if "result" in opt:
        success["content"]["application/json"]["schema"] = refs[opt["result"]]
    if opt.get("streams"):
        success["content"]["text/event-stream"] = {"schema": EVENT}
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "query":  # all are fields of this one; null cannot be said in a query
            parameter["schema"] = _text_of(contract.WorkerFilter, parameter["name"])
    operation["security"] = _security(path, opt)
    operation["responses"] = {"200": success} | {
        str(status): {
            "description": REFUSALS[status],
            "content": {"application/json": {"schema": refs[_error_of(opt)]}},
        }
        for status in _refusals(path, opt)
    }


def _text_of(shape: type, name: str) -> Json:
    """The schema of an optional text, without null."""
    schema: Json = msgspec.json.schema(shape)["$defs"][shape.__name__]["properties"][name]
    return next(option for option in schema["anyOf"] if option["type"] == "string")


def _security(path: str, opt: Json) -> list[Json]:
    """Any one of these opens it; the empty one is nothing at all."""
    if opt.get("admin"):
        return [{"adminKey": []}, {"adminBearer": []}]
    return [] if path in OPEN_PATHS else [{}, {"apiKey": []}]


def _error_of(opt: Json) -> type:
    return OpenAiErrorBody if opt.get("openai") else ErrorBody


def _refusals(path: str, opt: Json) -> list[int]:
    with_keys = () if path in OPEN_PATHS else WITH_KEYS
    with_body = WITH_BODY if "body" in opt else ()
    return sorted({*ANYWHERE, *with_keys, *with_body, *opt.get("refusals", ())})
