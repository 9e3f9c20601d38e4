"""The API's document (`GET /openapi.json`) and its page (`GET /docs`).

Paths and parameters come from the handlers, by Litestar; the shapes of bodies from the contract's own
types, by msgspec, which writes down every bound that is enforced. What a handler takes and gives stands
in its `opt`: `body` and `result` are types, `example` is a body. Made when it is first asked for.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from litestar import Litestar, MediaType, Response, get
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin

from wrk_base import __version__

from . import control
from .docs_page import page
from .errors import ErrorBody

REF = "#/components/schemas/{name}"
NOTHING_ELSE = "default-src 'none'; style-src 'unsafe-inline'"

Json = dict[str, Any]


@get("/openapi.json", sync_to_thread=False)
def openapi_json() -> Response[bytes]:
    return Response(msgspec.json.encode(document()), media_type=MediaType.JSON)


@get(["/docs", "/"], sync_to_thread=False)
def docs() -> Response[bytes]:
    headers = {"content-security-policy": NOTHING_ELSE}
    return Response(page(document()).encode(), media_type=MediaType.HTML, headers=headers)


HANDLERS = (openapi_json, docs)


@cache
def document() -> Json:
    """The OpenAPI document."""
    made = _from_handlers()
    options = {handler.fn.__name__: handler.opt for handler in control.HANDLERS}
    refs, made["components"]["schemas"] = _shapes(options)
    for path in made["paths"].values():
        for operation in path.values():
            _complete(operation, options[operation["operationId"]], refs)
    return made


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
    refs, components = msgspec.json.schema_components([*types, ErrorBody], ref_template=REF)
    return dict(zip([*types, ErrorBody], refs, strict=True)), components


def _complete(operation: Json, opt: Json, refs: dict[type, Json]) -> None:
    """Add what Litestar does not know: bodies, results, errors."""
    summary, _, rest = operation.pop("description").partition("\n")
    operation["summary"], operation["description"] = summary, " ".join(rest.split())
    if "body" in opt:
        content = {"schema": refs[opt["body"]], "example": opt["example"]}
        operation["requestBody"] = {"required": True, "content": {"application/json": content}}
    success = operation["responses"]["200"]
    success["description"] = "Done."
    if "result" in opt:
        success["content"]["application/json"]["schema"] = refs[opt["result"]]
    failure = {
        "description": "Refused or failed.",
        "content": {"application/json": {"schema": refs[ErrorBody]}},
    }
    operation["responses"] = {"200": success, "default": failure}
