"""What servers say of their models, in their dialects; and what is not said as expected is left out."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from racks.openai_models import merged, read_llama_cpp, read_lm_studio, read_models, read_ollama
from wrk_base.contract import MAX_MODELS, Description, ModelFacts

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["data", "id", "meta", "capabilities", "model_info", "type", "modalities", "n_ctx"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def encoded(value: Any) -> bytes:
    return msgspec.json.encode(value)


def test_the_list_of_an_openai_server() -> None:
    body = encoded(
        {
            "object": "list",
            "data": [
                {"id": "qwen3:8b", "object": "model", "owned_by": "library"},
                {"id": "vllm", "max_model_len": 32_768},
                {"id": "gguf", "meta": {"n_ctx_train": 4096}},
            ],
        }
    )
    offer = read_models(body, [])
    assert offer.models == ("qwen3:8b", "vllm", "gguf")
    assert [offer.facts[name].context_length for name in offer.models] == [0, 32_768, 4096]


def test_only_those_that_are_wanted() -> None:
    body = encoded({"data": [{"id": name} for name in ("llama3:8b", "llama3:70b", "qwen", "Llama")]})
    assert read_models(body, ["llama3*"]).models == ("llama3:8b", "llama3:70b")
    assert read_models(body, ["qwen", "Llama"]).models == ("qwen", "Llama")
    assert read_models(body, ["none"]).models == ()


def test_names_that_no_registry_takes_are_left_out() -> None:
    names: list[Any] = ["", "x" * 257, 7, None, "a", "a", *(f"m{n}" for n in range(2 * MAX_MODELS))]
    offer = read_models(encoded({"data": [*({"id": name} for name in names), "junk", None]}), [])
    assert offer.models[:2] == ("a", "m0")
    assert len(offer.models) == len(offer.facts) == MAX_MODELS
    msgspec.convert(
        msgspec.to_builtins(Description(models=list(offer.models), facts=offer.facts)), Description
    )


@pytest.mark.parametrize(
    "body", [b"", b"nonsense", b"[]", b"{}", b'{"data":{}}', b'{"data":null}', b"[" * 9999]
)
def test_what_is_no_list_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="list of models"):
        read_models(body, [])


def test_lm_studio_tells_types_tools_and_lengths() -> None:
    body = encoded(
        {
            "data": [
                {"id": "a", "type": "vlm", "capabilities": ["tool_use"], "max_context_length": 131_072},
                {"id": "b", "type": "embeddings", "max_context_length": 2048},
                {"id": "c", "type": "llm", "max_context_length": 9000, "loaded_context_length": 4096},
            ]
        }
    )
    assert read_lm_studio(body) == {
        "a": ModelFacts(["chat", "completion", "vision", "tools"], 131_072),
        "b": ModelFacts(["embeddings"], 2048),
        "c": ModelFacts(["chat", "completion"], 4096),
    }


def test_ollama_tells_capabilities_and_the_length_of_its_architecture() -> None:
    body = encoded(
        {
            "capabilities": ["completion", "vision", "tools", "thinking", "something new"],
            "model_info": {"general.architecture": "gemma3", "gemma3.context_length": 131_072},
        }
    )
    assert read_ollama(body) == ModelFacts(["chat", "completion", "vision", "tools", "thinking"], 131_072)


def test_llama_cpp_tells_senses_slots_and_the_length_that_it_was_started_with() -> None:
    body = encoded(
        {
            "default_generation_settings": {"n_ctx": 8192},
            "total_slots": 4,
            "modalities": {"vision": True, "audio": False},
        }
    )
    assert read_llama_cpp(body) == (ModelFacts(["vision"], 8192), 4)


@given(JUNK)
def test_anything_else_is_no_news(value: Any) -> None:
    body = encoded(value)
    read_lm_studio(body)
    facts, slots = read_llama_cpp(body)
    for found in (read_ollama(body), facts):
        msgspec.convert(msgspec.to_builtins(found), ModelFacts)
    assert slots >= 0
    try:
        read_models(body, [])
    except ValueError:
        pass


def test_two_sources_add_up() -> None:
    told = ModelFacts(["chat"], 4096)
    assert merged(told, None) is told
    assert merged(told, ModelFacts(["chat", "tools"], 0)) == ModelFacts(["chat", "tools"], 4096)
    assert merged(told, ModelFacts([], 8192)) == ModelFacts(["chat"], 8192)
