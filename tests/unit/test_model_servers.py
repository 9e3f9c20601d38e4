"""Which model server answers, and where one may be: both decided from texts and answers alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fakes import model_server as shapes
from wrk_base.model_servers.addresses import candidates, ollama_address
from wrk_base.model_servers.recognition import (
    LLAMA_CPP,
    LM_STUDIO,
    OLLAMA,
    OTHER,
    QUESTIONS,
    VLLM,
    Answer,
    Kind,
    ModelServer,
    Nobody,
    confirms,
    judge,
)

URL = "http://127.0.0.1:8000"


def answer(shape: shapes.Shape, path: str = "/v1/models") -> Answer:
    status, body = (shape.status, shape.answers[path]) if path in shape.answers else shape.other
    return Answer(status, shape.headers.keys(), json.dumps(body).encode())


def models_answer(body: Any, status: int = 200, **headers: str) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, headers.keys(), raw)


# --- judging


@pytest.mark.parametrize(
    ("shape", "kind", "models"),
    [
        (shapes.OLLAMA, OLLAMA, ("llama3.2:latest", "nomic-embed-text:latest", "qwen3:8b")),
        (shapes.LM_STUDIO, LM_STUDIO, ("qwen/qwen3-4b-2507", "text-embedding-nomic-embed-text-v1.5")),
        (shapes.VLLM, VLLM, ("Qwen/Qwen2.5-1.5B-Instruct",)),
        (shapes.LLAMA_CPP, LLAMA_CPP, ("ggml-org/gemma-3-4b-it-GGUF",)),
        (shapes.OTHER, OTHER, ("whatever",)),
        (shapes.OLLAMA_WITHOUT_MODELS, OTHER, ()),
    ],
)
def test_a_list_of_models_makes_a_model_server(
    shape: shapes.Shape, kind: Kind, models: tuple[str, ...]
) -> None:
    assert judge(URL, answer(shape)) == ModelServer(URL, kind, models)


@pytest.mark.parametrize("shape", [shapes.ORCHESTRATOR, shapes.EMPTY_ORCHESTRATOR])
def test_an_orchestrator_is_never_one_or_requests_would_go_round_in_a_loop(shape: shapes.Shape) -> None:
    assert judge(URL, answer(shape)) == Nobody(URL, "an orchestrator answers", stranger=True)


@pytest.mark.parametrize(
    "body",
    [
        b"<!doctype html>",
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        [],
        {},
        {"data": [{"id": "m"}]},
        {"object": "list"},
        {"object": "list", "data": {"m": 1}},
        {"object": "list", "data": ["m"]},
        {"object": "list", "data": [{"name": "m"}]},
        {"object": "list", "data": [{"id": ""}]},
        {"object": "list", "data": [{"id": 5}]},
        {"object": "error", "data": []},
        {"error": "Unexpected endpoint or method. (GET /v1/models)"},
    ],
)
def test_whatever_else_answers_on_a_popular_port_is_left_alone(body: Any) -> None:
    assert judge(URL, models_answer(body)) == Nobody(URL, "answers with something else", stranger=True)


@pytest.mark.parametrize("owner", [None, 5, ["vllm"], {"a": 1}, "nobody known"])
def test_an_owner_of_any_kind_is_no_obstacle(owner: Any) -> None:
    listed = {"object": "list", "data": [{"id": "m", "owned_by": owner}]}
    assert judge(URL, models_answer(listed)) == ModelServer(URL, OTHER, ("m",))


def test_a_status_says_more_than_a_body() -> None:
    listed = shapes.models("m", owner="vllm")
    assert judge(URL, models_answer(listed, 404)) == Nobody(URL, "answers with status 404", stranger=True)
    assert judge(URL, models_answer(listed, 307)) == Nobody(URL, "answers with status 307", stranger=True)
    loading = models_answer({"error": {"message": "Loading model", "type": "unavailable_error"}}, 503)
    assert judge(URL, loading) == Nobody(URL, "answers with status 503: it may be loading", stranger=False)
    key = Nobody(URL, "answers with status 401: it may want a key", stranger=True)
    assert judge(URL, answer(shapes.WANTS_KEY)) == key


def test_a_proxy_before_several_kinds_is_none_of_them() -> None:
    both = [*shapes.models("a", owner="vllm")["data"], *shapes.models("b", owner="library")["data"]]
    assert judge(URL, models_answer({"object": "list", "data": both})) == ModelServer(URL, OTHER, ("a", "b"))


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        (shapes.OLLAMA_WITHOUT_MODELS, OLLAMA),
        (shapes.LM_STUDIO, LM_STUDIO),
        (shapes.LLAMA_CPP_ROUTER, LLAMA_CPP),
        (shapes.OTHER, None),
    ],
)
def test_a_second_look_tells_kinds_apart_whose_models_do_not(shape: shapes.Shape, kind: Kind | None) -> None:
    told = {confirms(path, answer(shape, path)) for path in QUESTIONS} - {None}
    assert told == ({kind} if kind else set())


def test_a_second_look_survives_any_answer() -> None:
    for path in QUESTIONS:
        for body in (b"", b"[]", b"5", b'{"data": 5, "object": "list"}', b'{"data": [5], "object": "list"}'):
            assert confirms(path, models_answer(body)) is None


# --- where to ask


def test_ports_are_those_of_this_machine_and_a_server_named_twice_is_asked_once() -> None:
    assert candidates(
        [8000, "http://localhost:8000/v1", "http://127.0.0.1:8000/", "https://gpu.lan/llm/v1/"]
    ) == (
        "http://127.0.0.1:8000",
        "https://gpu.lan/llm",
    )


def test_ollama_is_also_looked_for_where_its_own_variable_says() -> None:
    assert candidates([11434], "0.0.0.0") == ("http://127.0.0.1:11434",)
    assert candidates([11434], "gpu.lan") == ("http://127.0.0.1:11434", "http://gpu.lan:11434")
    assert candidates([11434], " ") == ("http://127.0.0.1:11434",)


def test_an_empty_list_switches_the_search_off_whatever_the_environment_says() -> None:
    assert candidates([], "127.0.0.1:11434") == ()


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:11434"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
        (":5000", "http://127.0.0.1:5000"),
        ("0.0.0.0:5000", "http://127.0.0.1:5000"),
        ("localhost", "http://127.0.0.1:11434"),
        ("gpu.lan", "http://gpu.lan:11434"),
        ("http://gpu.lan", "http://gpu.lan:80"),
        ("https://gpu.lan", "https://gpu.lan:443"),
        ("https://gpu.lan:8443/x", "https://gpu.lan:8443"),
        ("gpu.lan:nonsense", "http://gpu.lan:11434"),
        ("gpu.lan:0", "http://gpu.lan:11434"),
        ("gpu.lan:70000", "http://gpu.lan:11434"),
        ("::", "http://127.0.0.1:11434"),
        ("::1", "http://[::1]:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("[::1]:5000", "http://[::1]:5000"),
        (" 127.0.0.1 ", "http://127.0.0.1:11434"),
        ("ftp://gpu.lan", "http://gpu.lan:11434"),
        ("", ""),
        ("no host", ""),
        ("me@gpu.lan", ""),
        ("[::zz]", ""),
    ],
)
def test_ollama_host_is_read_as_ollama_reads_it(host: str, url: str) -> None:
    assert ollama_address(host) == url
