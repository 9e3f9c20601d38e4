"""A rack that was told of no server takes the only one that runs, and says what it found otherwise."""

from __future__ import annotations

import pytest

from racks.upstream_choice import choose
from wrk_base.errors import StartError
from wrk_base.model_servers.recognition import LM_STUDIO, OLLAMA, ModelServer, Nobody

OLLAMA_HERE = ModelServer("http://127.0.0.1:11434", OLLAMA, ("llama3.2",))
LM_STUDIO_HERE = ModelServer("http://127.0.0.1:1234", LM_STUDIO, ("qwen3",))
ABSENT = Nobody("http://127.0.0.1:8000", "nothing answers", stranger=False)
ABSENT_TOO = Nobody("http://127.0.0.1:8080", "nothing answers", stranger=False)
WEB_SITE = Nobody("http://127.0.0.1:8000", "answers with something else", stranger=True)


def refusal(*findings: ModelServer | Nobody) -> str:
    with pytest.raises(StartError) as caught:
        choose(findings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_only_one_is_taken() -> None:
    assert choose([ABSENT, OLLAMA_HERE]) == OLLAMA_HERE


def test_of_several_none_is_guessed() -> None:
    assert refusal(OLLAMA_HERE, LM_STUDIO_HERE, ABSENT) == (
        "several model servers run here: Ollama at http://127.0.0.1:11434, LM Studio at "
        "http://127.0.0.1:1234; choose one, as by --upstream http://127.0.0.1:11434, or let `wrk up` "
        "start a rack before each"
    )


def test_where_none_was_found_it_says_where_it_looked_and_what_to_do() -> None:
    assert refusal(ABSENT, ABSENT_TOO) == (
        "no model server was found (http://127.0.0.1:8000, http://127.0.0.1:8080: nothing answers); "
        "start one, or name one by --upstream URL, and the variable that holds its key by --api-key-env NAME"
    )
    assert "nothing answers; http://127.0.0.1:8000: answers with something else)" in refusal(
        ABSENT_TOO, WEB_SITE
    )


def test_where_none_may_be_looked_for_one_must_be_named() -> None:
    assert refusal().startswith(
        "no server is named and modelServers.addresses is empty; name one by --upstream"
    )
