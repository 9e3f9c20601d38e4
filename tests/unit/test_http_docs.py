"""The API's document and its page: complete, true, and of use on a machine without internet."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest

from wrk_base import contract
from wrk_orchestrator.http.docs import document
from wrk_orchestrator.http.docs_page import page
from wrk_orchestrator.http.openai import OpenAiRequest

ENDPOINTS = {
    "GET /health",
    "GET /ready",
    "GET /api/status",
    "POST /api/workers/register",
    "POST /api/workers/find",
    "GET /api/workers",
    "GET /api/workers/{id}",
    "DELETE /api/workers/{id}",
    "POST /api/workers/{id}/drain",
    "POST /api/workers/{id}/quarantine",
    "POST /api/workers/{id}/release",
    "POST /api/inference/route",
    "GET /api/load-balancer",
    "GET /v1/models",
    "GET /v1/models/{model}",
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "POST /v1/embeddings",
    "POST /v1/rerank",
    "POST /v1/responses",
}
BODIES: dict[str, type] = {
    "/v1/chat/completions": OpenAiRequest,
    "/v1/completions": OpenAiRequest,
    "/v1/embeddings": OpenAiRequest,
    "/v1/rerank": OpenAiRequest,
    "/v1/responses": OpenAiRequest,
    "/api/workers/register": contract.Registration,
    "/api/workers/find": contract.FindWorker,
    "/api/inference/route": contract.InferenceHead,
}


def operations() -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document()["paths"].items()
        for method, operation in methods.items()
    }


def test_every_endpoint_is_documented_and_none_that_is_not_there() -> None:
    assert set(operations()) == ENDPOINTS


def test_every_operation_says_what_it_is_for_and_how_it_fails() -> None:
    for name, operation in operations().items():
        shape = "OpenAiErrorBody" if " /v1/" in name else "ErrorBody"
        assert operation["summary"]
        assert {"200", "400", "403", "413", "421", "431", "503"} <= set(operation["responses"])
        for status, answer in operation["responses"].items():
            if status != "200":
                assert answer["description"]
                schema = answer["content"]["application/json"]["schema"]
                assert schema == {"$ref": f"#/components/schemas/{shape}"}


def test_it_is_told_which_key_opens_what() -> None:
    opened_by = {name: operation["security"] for name, operation in operations().items()}
    admin = [{"adminKey": []}, {"adminBearer": []}]
    assert opened_by.pop("POST /api/workers/register") == admin
    assert opened_by.pop("DELETE /api/workers/{id}") == admin
    for word in ("drain", "quarantine", "release"):
        assert opened_by.pop(f"POST /api/workers/{{id}}/{word}") == admin
    assert (opened_by.pop("GET /health"), opened_by.pop("GET /ready")) == ([], [])
    assert all(keys == [{}, {"apiKey": []}] for keys in opened_by.values())
    schemes = document()["components"]["securitySchemes"]
    assert {name for keys in (*admin, {"apiKey": []}) for name in keys} == set(schemes)
    assert "admin.key" in schemes["adminKey"]["description"]
    html = page(document())
    assert html.count("Takes the admin key") == 5
    assert "authorization: Bearer $(cat STATE_DIR/admin.key)" in html


@pytest.mark.parametrize("path", BODIES)
def test_the_example_of_a_body_is_one_that_is_accepted(path: str) -> None:
    content = document()["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    contract.parse(BODIES[path], content["example"])


def test_the_bounds_that_are_enforced_are_told() -> None:
    schemas = document()["components"]["schemas"]
    assert schemas["Capabilities"]["properties"]["models"]["maxItems"] == contract.MAX_MODELS
    assert schemas["Registration"]["required"] == ["workerId", "address"]
    assert schemas["RouteInference"]["required"] == ["modelId", "inputData"]


def test_every_reference_leads_somewhere() -> None:
    text = json.dumps(document())
    names = set(re.findall(r"#/components/schemas/(\w+)", text))
    assert names
    assert names <= set(document()["components"]["schemas"])


def test_the_page_loads_nothing_and_runs_nothing() -> None:
    html = page(document())
    assert not re.findall(r"<script|<link|<img|\ssrc=|@import|url\(", html)
    assert set(re.findall(r'href="([^"#]+)', html)) == {"/openapi.json"}


def test_the_page_shows_every_endpoint_and_leads_to_every_shape() -> None:
    html = page(document())
    assert set(re.findall(r"<h2><code>(.*?)</code>", html)) == ENDPOINTS
    anchors = set(re.findall(r'id="(\w+)"', html))
    assert anchors == set(document()["components"]["schemas"])
    assert set(re.findall(r'href="#(\w+)"', html)) <= anchors


def test_the_page_escapes_what_the_document_says() -> None:
    evil: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(document()))
    evil["info"]["description"] = evil["paths"]["/health"]["get"]["summary"] = "<script>alert(1)</script>"
    evil["components"]["schemas"]["Options"]["description"] = "<script>"
    assert "<script" not in page(evil)
