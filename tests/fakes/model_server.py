"""A model server as a search meets it: what Ollama, LM Studio, vLLM and llama.cpp answer to a GET.

    with model_server(OLLAMA) as url: ...

The answers are those of the servers' own documentation and sources, shortened. What a shape does not hold
is answered as that server answers it, and `asked` keeps every path. It runs in threads of its own, so
tests without an event loop can use it as well.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Shape:
    """Answers by path; anything else gets `other`. `headers` go with each."""

    answers: Mapping[str, Any]
    other: tuple[int, Any] = (404, {"detail": "Not Found"})
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200


def models(*ids: str, owner: str, **more: Any) -> dict[str, Any]:
    listed = [
        {"id": name, "object": "model", "created": 1763900000, "owned_by": owner, **more} for name in ids
    ]
    return {"object": "list", "data": listed}


OLLAMA = Shape(
    {
        "/v1/models": models("llama3.2:latest", "nomic-embed-text:latest", "qwen3:8b", owner="library"),
        "/api/version": {"version": "0.12.6"},
        "/": "Ollama is running",
    },
    other=(404, "404 page not found"),
)
OLLAMA_WITHOUT_MODELS = Shape(
    {"/v1/models": {"object": "list", "data": None}, "/api/version": {"version": "0.12.6"}},
    other=(404, "404 page not found"),
)
LM_STUDIO = Shape(
    {
        "/v1/models": {
            "data": [
                {"id": "qwen/qwen3-4b-2507", "object": "model", "owned_by": "organization_owner"},
                {
                    "id": "text-embedding-nomic-embed-text-v1.5",
                    "object": "model",
                    "owned_by": "organization_owner",
                },
            ],
            "object": "list",
        },
        "/api/v0/models": {
            "object": "list",
            "data": [
                {
                    "id": "qwen/qwen3-4b-2507",
                    "object": "model",
                    "type": "llm",
                    "publisher": "qwen",
                    "arch": "qwen3",
                    "compatibility_type": "gguf",
                    "quantization": "Q4_K_M",
                    "state": "not-loaded",
                    "max_context_length": 262144,
                }
            ],
        },
    },
    other=(200, {"error": "Unexpected endpoint or method. (GET /x)"}),
)
VLLM = Shape(
    {
        "/v1/models": models(
            "Qwen/Qwen2.5-1.5B-Instruct",
            owner="vllm",
            root="Qwen/Qwen2.5-1.5B-Instruct",
            parent=None,
            max_model_len=32768,
            permission=[{"id": "modelperm-1", "object": "model_permission", "allow_sampling": True}],
        ),
        "/version": {"version": "0.11.0"},
    }
)
LLAMA_CPP = Shape(
    {
        "/v1/models": {
            "models": [
                {"name": "ggml-org/gemma-3-4b-it-GGUF", "type": "model", "capabilities": ["completion"]}
            ],
            **models(
                "ggml-org/gemma-3-4b-it-GGUF",
                owner="llamacpp",
                meta={"vocab_type": 2, "n_vocab": 262144, "n_ctx_train": 131072, "n_params": 3880099328},
            ),
        },
        "/props": {"default_generation_settings": {"n_ctx": 4096}, "total_slots": 4, "model_path": "x.gguf"},
    },
    other=(404, {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}}),
)
LLAMA_CPP_ROUTER = Shape(
    {"/v1/models": {"object": "list", "data": []}, "/props": LLAMA_CPP.answers["/props"]}
)
OTHER = Shape({"/v1/models": models("whatever", owner="somebody")})
ORCHESTRATOR = Shape({"/v1/models": models("llama3.2", owner="wrk")})
EMPTY_ORCHESTRATOR = Shape({"/v1/models": {"object": "list", "data": []}}, headers={"x-wrk-version": "0.1"})
WANTS_KEY = Shape({"/v1/models": {"error": "Unauthorized"}}, status=401)
WEB_SITE = Shape({"/v1/models": "<!doctype html><title>My project</title>"})


@dataclass
class Running:
    url: str
    port: int
    asked: list[str] = field(default_factory=list)


@contextmanager
def model_server(shape: Shape, port: int = 0) -> Iterator[Running]:
    """Serves `shape` on a port of 127.0.0.1, by default one that the kernel chooses."""
    server = ThreadingHTTPServer(("127.0.0.1", port), _handler(shape))
    running = Running(f"http://127.0.0.1:{server.server_port}", server.server_port)
    server.running = running  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def unused_port() -> Iterator[int]:
    """A port of 127.0.0.1 where nobody listens, held so that nobody else takes it."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def _handler(shape: Shape) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.server.running.asked.append(self.path)  # type: ignore[attr-defined]
            status, value = (
                (shape.status, shape.answers[self.path]) if self.path in shape.answers else shape.other
            )
            body = value.encode() if isinstance(value, str) else json.dumps(value).encode()
            self.send_response(status)
            for name, text in {"Content-Length": str(len(body)), **shape.headers}.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Not on the terminal."""

    return Handler
