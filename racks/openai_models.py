"""What a server says of its models, in the dialects of the servers that people run. Pure.

`GET /v1/models` names them everywhere. What one can do, and how long its context is, each server tells in
a place of its own: vLLM and llama.cpp in that very list, LM Studio in `/api/v0/models`, Ollama in
`/api/show`, llama.cpp in `/props`. Only the list has to be right; of all else, what is missing, or of another
form than expected, is left out without a word.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import msgspec

from wrk_base import contract

LONGEST_NAME = 256  # of contract.Name
MAX_CONTEXT = 2**31

Table = dict[str, tuple[str, ...]]

OLLAMA: Table = {
    "completion": ("chat", "completion"),
    "embedding": ("embeddings",),
    "tools": ("tools",),
    "vision": ("vision",),
    "thinking": ("thinking",),
}
LM_STUDIO_TYPES: Table = {
    "llm": ("chat", "completion"),
    "vlm": ("chat", "completion", "vision"),
    "embeddings": ("embeddings",),
}
LM_STUDIO: Table = {"tool_use": ("tools",)}
_list = msgspec.json.Decoder(Any)


class Offer(NamedTuple):
    """What one look at a server found. `slots`: requests that it runs at once, 0 where it does not say."""

    models: tuple[str, ...]
    facts: dict[str, contract.ModelFacts]
    slots: int = 0


def read_models(body: bytes, wanted: Iterable[str]) -> Offer:
    """From `/v1/models`, as far as `wanted` allows (names or patterns; none: all). Raises `ValueError`."""
    entries = _rows(_decoded(body), "data")
    if entries is None:
        raise ValueError("its list of models is none: there is no list in `data`")
    patterns = tuple(wanted)
    facts: dict[str, contract.ModelFacts] = {}
    for entry in entries:
        name = _name(entry.get("id"))
        if name and (not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)):
            facts.setdefault(name, _listed_facts(entry))
    models = tuple(facts)[: contract.MAX_MODELS]
    return Offer(models, {name: facts[name] for name in models})


def read_lm_studio(body: bytes) -> dict[str, contract.ModelFacts]:
    """From `/api/v0/models`."""
    found: dict[str, contract.ModelFacts] = {}
    for entry in _rows(_decoded(body), "data") or ():
        name = _name(entry.get("id"))
        if name:
            kind = LM_STUDIO_TYPES.get(_text(entry.get("type")), ())
            more = _mapped(entry.get("capabilities"), LM_STUDIO)
            length = _tokens(entry.get("loaded_context_length")) or _tokens(entry.get("max_context_length"))
            found[name] = contract.ModelFacts(list(dict.fromkeys((*kind, *more))), length)
    return found


def read_ollama(body: bytes) -> contract.ModelFacts:
    """From `/api/show` of one model."""
    said = _map(_decoded(body))
    about = _map(said.get("model_info"))
    length = _tokens(about.get(f"{_text(about.get('general.architecture'))}.context_length"))
    return contract.ModelFacts(_mapped(said.get("capabilities"), OLLAMA), length)


def read_llama_cpp(body: bytes) -> tuple[contract.ModelFacts, int]:
    """From `/props`: what its one model can do, and its slots."""
    said = _map(_decoded(body))
    senses = _map(said.get("modalities"))
    capabilities = [name for name in ("vision", "audio") if senses.get(name) is True]
    length = _tokens(_map(said.get("default_generation_settings")).get("n_ctx"))
    return contract.ModelFacts(capabilities, length), _slots(said.get("total_slots"))


def merged(told: contract.ModelFacts, more: contract.ModelFacts | None) -> contract.ModelFacts:
    """Both, where `more` knows it better."""
    if more is None:
        return told
    capabilities = list(dict.fromkeys((*told.capabilities, *more.capabilities)))
    return contract.ModelFacts(capabilities, more.context_length or told.context_length)


def _listed_facts(entry: dict[str, Any]) -> contract.ModelFacts:
    meta = _map(entry.get("meta"))
    length = _tokens(entry.get("max_model_len")) or _tokens(meta.get("n_ctx_train"))
    return contract.ModelFacts([], length)


def _decoded(body: bytes) -> Any:
    try:
        return _list.decode(body)
    except (ValueError, RecursionError):
        return None


def _rows(value: Any, field: str) -> list[dict[str, Any]] | None:
    rows = _map(value).get(field)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else None


def _map(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _name(value: Any) -> str:
    """Empty for what can be no model's name."""
    return value if isinstance(value, str) and len(value) <= LONGEST_NAME else ""


def _tokens(value: Any) -> int:
    return value if type(value) is int and 0 < value <= MAX_CONTEXT else 0


def _slots(value: Any) -> int:
    return value if type(value) is int and 0 < value <= contract.MAX_CONCURRENT else 0


def _mapped(names: Any, table: Table) -> list[str]:
    known = (table.get(_text(name), ()) for name in names) if isinstance(names, list) else ()
    return list(dict.fromkeys(name for group in known for name in group))
