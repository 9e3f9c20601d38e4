"""An OpenAPI document as one plain page of HTML.

It loads nothing and runs nothing: the usual pages fetch megabytes of script from the internet, which a
LAN may not have and a control face should not trust. Pure; whatever the document says is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

import msgspec

Json = dict[str, Any]

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
body { color: #222 }
h2 { margin-top: 2.5rem; border-top: 1px solid #ddd; padding-top: 1rem; font-size: 1.1rem }
code, pre { font-family: ui-monospace, monospace; font-size: .9em }
pre { background: #f4f4f4; padding: .7rem; overflow-x: auto }
table { border-collapse: collapse; margin: .5rem 0 }
td { border-bottom: 1px solid #eee; padding: .2rem 1.2rem .2rem 0; vertical-align: top }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd } pre { background: #262626 } }
"""


def page(document: Json) -> str:
    """The whole page."""
    info = document["info"]
    title = escape(f"{info['title']} {info['version']}")
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>',
        f"<h1>{title}</h1><p>{escape(info['description'])} ",
        'For programs: <a href="/openapi.json">openapi.json</a>.</p>',
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts += _operation(method.upper(), path, operation)
    parts += _shapes(document["components"]["schemas"])
    return "\n".join(parts)


def _operation(method: str, path: str, operation: Json) -> Iterator[str]:
    yield f"<h2><code>{method} {escape(path)}</code></h2>"
    yield f"<p><b>{escape(operation['summary'])}.</b> {escape(operation['description'])}</p>"
    if operation["security"] and {} not in operation["security"]:
        yield "<p>Takes the admin key.</p>"
    rows = [(p["name"], p["in"], p.get("description", "")) for p in operation.get("parameters", ())]
    yield from _table(rows)
    if "requestBody" in operation:
        content = operation["requestBody"]["content"]["application/json"]
        yield f"<p>Takes {_type(content['schema'])}:</p>"
        yield f"<pre>{escape(_curl(path, content['example'], operation['security']))}</pre>"
    result = operation["responses"]["200"]["content"]["application/json"]["schema"]
    if "$ref" in result:
        yield f"<p>Gives {_type(result)}.</p>"


def _curl(path: str, example: Any, security: list[Json]) -> str:
    key = ' -H "authorization: Bearer $(cat STATE_DIR/admin.key)"' if {"adminBearer": []} in security else ""
    body = msgspec.json.format(msgspec.json.encode(example), indent=2).decode().replace("'", r"'\''")
    return f"curl localhost:8003{path}{key} -H 'content-type: application/json' -d '{body}'"


def _shapes(schemas: Json) -> Iterator[str]:
    for name, schema in schemas.items():
        yield f'<h2 id="{escape(name)}">{escape(name)}</h2>'
        yield f"<p>{escape(schema.get('description', ''))}</p>"
        needed = schema.get("required", ())
        yield from _table(
            [
                (field, _type(facts), "required" if field in needed else _default(facts))
                for field, facts in schema.get("properties", {}).items()
            ],
            marked_up=True,
        )


def _table(rows: list[tuple[str, str, str]], *, marked_up: bool = False) -> Iterator[str]:
    if rows:
        yield "<table>"
        for name, kind, rest in rows:
            shown = kind if marked_up else escape(kind)
            yield f"<tr><td><code>{escape(name)}</code><td>{shown}<td>{escape(rest)}"
        yield "</table>"


def _type(schema: Json) -> str:
    """What a value may be, in a few words, as HTML."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_type(option) for option in schema["anyOf"])
    kind = escape(str(schema.get("type", "any JSON")))
    if "items" in schema:
        kind = f"{kind} of {_type(schema['items'])}"
    bounds = [f"{word} {schema[key]}" for key, word in BOUNDS.items() if key in schema]
    return f"{kind} ({escape(', '.join(bounds))})" if bounds else kind


BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "minLength": "from length",
    "maxLength": "to length",
    "maxItems": "at most",
    "maxProperties": "at most",
    "pattern": "like",
}


def _default(schema: Json) -> str:
    return f"default {msgspec.json.encode(schema['default']).decode()}" if "default" in schema else ""
