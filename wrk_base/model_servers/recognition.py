"""Whether it is a model server that answered, and which: judged by its answers alone.

Pure. A model server is whoever answers `GET /v1/models` with OpenAI's list of models, since its port says
nothing (half the world develops on 8000 and 8080). The HTTP face of an orchestrator answers like that,
too, and is never one: a rack before its own orchestrator would be a loop. A server's kind is only a name
to show; whatever is not known by name is served all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgspec

OK = 200
WANTS_KEY = (401, 403)
LOADING = 503  # what llama.cpp answers until its model is in memory
MODELS_PATH = "/v1/models"
OWN_HEADER = "x-wrk-"  # how all headers begin that an orchestrator adds
OWN_OWNER = "wrk"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kind:
    """`name` is for rack names, `title` for people."""

    name: str
    title: str


OLLAMA = Kind("ollama", "Ollama")
LM_STUDIO = Kind("lm-studio", "LM Studio")
VLLM = Kind("vllm", "vLLM")
LLAMA_CPP = Kind("llama-cpp", "llama.cpp")
OTHER = Kind("openai", "an OpenAI-compatible server")

OWNERS = {"library": OLLAMA, "organization_owner": LM_STUDIO, "vllm": VLLM, "llamacpp": LLAMA_CPP}
"""What only this kind says in `owned_by` of a model."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer; names of headers in lower case."""

    status: int
    headers: Collection[str]
    body: bytes


@dataclass(frozen=True, slots=True)
class ModelServer:
    """`url` is its root, without `/v1`."""

    url: str
    kind: Kind
    models: tuple[str, ...]

    @property
    def where(self) -> str:
        return f"{self.kind.title} at {self.url}"


@dataclass(frozen=True, slots=True)
class Nobody:
    """No model server answers at `url`. `stranger`: something else does, which had better be left alone."""

    url: str
    reason: str
    stranger: bool


class _Model(msgspec.Struct):
    id: str
    owned_by: Any = None

    @property
    def owner(self) -> str:
        return self.owned_by if isinstance(self.owned_by, str) else ""


class _Models(msgspec.Struct):
    object: Literal["list"]
    data: list[_Model] | None  # null: an Ollama without a model


def judge(url: str, answer: Answer) -> ModelServer | Nobody:
    """Who gave this answer to `GET /v1/models`; the kind is the one that its models tell, or `OTHER`."""
    listed = _read(answer.body, _Models) if answer.status == OK else None
    models = listed.data or [] if listed is not None else []
    if _is_ours(answer, models):
        return Nobody(url, "an orchestrator answers", stranger=True)
    if listed is None or not all(model.id for model in models):
        return Nobody(url, _what_else(answer), stranger=answer.status != LOADING)
    kinds = {OWNERS[model.owner] for model in models if model.owner in OWNERS}
    kind = kinds.pop() if len(kinds) == 1 else OTHER
    return ModelServer(url, kind, tuple(dict.fromkeys(model.id for model in models)))


def missed(nobodies: Iterable[Nobody]) -> str:
    """In one line: where was looked in vain, and what was there instead."""
    reasons: dict[str, list[str]] = {}
    for nobody in nobodies:
        reasons.setdefault(nobody.reason, []).append(nobody.url)
    return "; ".join(f"{', '.join(urls)}: {reason}" for reason, urls in reasons.items())


def _is_ours(answer: Answer, models: Collection[_Model]) -> bool:
    return any(name.startswith(OWN_HEADER) for name in answer.headers) or any(
        model.owner == OWN_OWNER for model in models
    )


def _what_else(answer: Answer) -> str:
    if answer.status in WANTS_KEY:
        return f"answers with status {answer.status}: it may want a key"
    if answer.status == LOADING:
        return "answers with status 503: it may be loading"
    return "answers with something else" if answer.status == OK else f"answers with status {answer.status}"


# --- a second look, where the models do not tell


def _tells_version(told: Mapping[str, Any]) -> bool:
    return isinstance(told.get("version"), str)


def _tells_states(told: Mapping[str, Any]) -> bool:
    data = told.get("data")
    return (
        told.get("object") == "list"
        and isinstance(data, list)
        and all(isinstance(item, dict) and "state" in item for item in data)
    )


def _tells_generation(told: Mapping[str, Any]) -> bool:
    return isinstance(told.get("default_generation_settings"), dict)


QUESTIONS: Mapping[str, tuple[Callable[[Mapping[str, Any]], bool], Kind]] = {
    "/api/version": (_tells_version, OLLAMA),
    "/api/v0/models": (_tells_states, LM_STUDIO),
    "/props": (_tells_generation, LLAMA_CPP),
}
"""What only this kind answers so; asked one after the other."""


def confirms(path: str, answer: Answer) -> Kind | None:
    """The kind that the answer to the question `path` gives away."""
    tells, kind = QUESTIONS[path]
    told = _read(answer.body, dict[str, Any]) if answer.status == OK else None
    return kind if told is not None and tells(told) else None


def _read(body: bytes, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(body, type=kind)
    except (ValueError, RecursionError):
        return None
