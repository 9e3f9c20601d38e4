"""Which addresses `wrk up` asks for a model server in which round, and what it calls their racks."""

from __future__ import annotations

from wrk_base.model_servers.recognition import OLLAMA, OTHER, VLLM, Kind, ModelServer, Nobody
from wrk_orchestrator.cli.lookout import LONGEST_PAUSE, Lookout
from wrk_orchestrator.cli.servers import told

A, B, C = "http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3"


def server(url: str, kind: Kind, *models: str) -> ModelServer:
    return ModelServer(url, kind, models or ("m",))


def absent(url: str) -> Nobody:
    return Nobody(url, "nothing answers", stranger=False)


def stranger(url: str) -> Nobody:
    return Nobody(url, "answers with something else", stranger=True)


def rounds_asked(lookout: Lookout, url: str, finding: Nobody, rounds: int) -> list[int]:
    """In which of so many rounds `url` is asked, if it is always `finding` that comes of it."""
    asked = []
    for number in range(rounds):
        if url in lookout.due():
            asked.append(number)
            lookout.hear([finding])
    return asked


def test_a_server_that_was_found_is_asked_no_more() -> None:
    lookout = Lookout((A, B))
    assert lookout.due() == [A, B]
    assert lookout.hear([server(A, OLLAMA), absent(B)]) == [("ollama", server(A, OLLAMA))]
    assert lookout.due() == [B]


def test_where_nothing_listens_is_asked_every_time() -> None:
    assert rounds_asked(Lookout([A]), A, absent(A), 5) == [0, 1, 2, 3, 4]


def test_a_stranger_is_asked_ever_more_rarely() -> None:
    asked = rounds_asked(Lookout([A]), A, stranger(A), 40)
    assert asked == [0, 2, 6, 14, 22, 30, 38]
    assert asked[-1] - asked[-2] == LONGEST_PAUSE


def test_a_stranger_that_has_gone_is_forgotten() -> None:
    lookout = Lookout([A])
    rounds_asked(lookout, A, stranger(A), 15)
    for _ in range(LONGEST_PAUSE - 1):
        assert lookout.due() == []
    assert rounds_asked(lookout, A, absent(A), 3) == [0, 1, 2]
    assert rounds_asked(lookout, A, stranger(A), 3) == [0, 2]


def test_racks_are_called_after_their_servers_and_no_two_alike() -> None:
    lookout = Lookout((A, B, C))
    lookout.due()
    assert [name for name, _ in lookout.hear([server(A, VLLM), server(B, OTHER)])] == ["vllm", "openai"]
    assert [name for name, _ in lookout.hear([server(C, VLLM)])] == ["vllm-2"]


def test_a_server_is_told_in_one_line_with_its_first_models() -> None:
    assert told("ollama", server(A, OLLAMA, "a", "b", "c", "d")) == (
        "found Ollama at http://127.0.0.1:1, 4 models (a, b, c, ...): rack ollama"
    )
    assert told("vllm", server(A, VLLM, "a")) == "found vLLM at http://127.0.0.1:1, 1 model (a): rack vllm"
    assert told("openai", ModelServer(A, OTHER, ())) == (
        "found an OpenAI-compatible server at http://127.0.0.1:1, no model yet: rack openai"
    )
