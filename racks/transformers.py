"""A rack that writes: chat and text completion with any causal model, through Hugging Face transformers.

Requests are bodies of OpenAI's endpoints, answers are OpenAI's objects, streamed or whole. What arrives
while others are answered joins them at the next token. Prompts are read in one thread and answers made in
another, so the event loop (beats, other requests) goes on meanwhile. The libraries are an extra and are
imported when the model is opened, never before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal

from wrk_base import clock, contract, errors
from wrk_base.config import Section, count, says
from wrk_base.rack import Rack
from wrk_base.rpc.request import Final
from wrk_base.worker import WorkerContext

from . import openai_replies
from .causal_model import CausalModel, Source, load
from .generator import Generator
from .loading import find_model, in_daemon_thread
from .openai_replies import ID_BITS, Finish, Map
from .resuming import Begun, begun_as, behind
from .scheduler import Answer, Scheduler
from .text_requests import Defaults, Task, TextRequest, read_request
from .token_text import TokenText

CACHED_TOKENS = (
    "Tokens of prompts and answers kept in memory, of all answers together; one alone may have as many, or "
    "what the model can. Fewer saves memory (10 to 500 kB each); more lets long ones run side by side."
)
DTYPE = (
    "Numbers of the model; auto: as in its files. 16 bits take half the memory; many processors are faster "
    "with 32."
)


class TransformersSettings(Section, frozen=True):
    """Section `transformers`: which model, and how much at once."""

    model: Annotated[str, says("Folder of the model, or its id on the hub.")] = ""
    name: Annotated[contract.Text, says("Model id that requests name; empty: the last part of `model`.")] = ""
    max_concurrent: Annotated[int, count(1, 1024, "Answers made together; more take more memory.")] = 8
    max_tokens: Annotated[int, count(1, 2**24, "Longest answer, and that of a chat that names none.")] = 1024
    cached_tokens: Annotated[int, count(64, 2**31, CACHED_TOKENS)] = 16_384
    device: Annotated[Literal["cpu", "auto"], says("auto: a GPU where there is one.")] = "cpu"
    dtype: Annotated[Literal["auto", "float32", "bfloat16", "float16"], says(DTYPE)] = "auto"
    threads: Annotated[int, count(0, 1024, "Threads of the model; 0: as many as there are cores.")] = 0


class TransformersRack(Rack):
    """Serves one causal language model."""

    section = "transformers"
    section_type = TransformersSettings
    options: TransformersSettings

    def __init__(self, context: WorkerContext) -> None:
        super().__init__(context)
        o = self.options
        if not o.model:
            raise errors.StartError("no model: name a folder or an id of the hub by --model")
        model, local = find_model(o.model, "transformers.model")
        self.source = Source(model, local, o.device, o.dtype, o.threads, o.cached_tokens)
        self.model_id = o.name or Path(model).name
        self._prompts = ThreadPoolExecutor(1, thread_name_prefix="prompts")
        self._model: CausalModel
        self._generator: Generator | None = None
        self._defaults = Defaults(o.max_tokens)

    def describe(self) -> contract.Description:
        tags = ["chat", "completion"] if self._model.chats else ["completion"]
        return contract.Description(
            models=[self.model_id],
            tags=tags,
            max_concurrent=self.options.max_concurrent,
            labels={"device": self._model.device},
            facts={self.model_id: contract.ModelFacts(tags, self._model.context)},
            resumable=True,
        )

    async def open(self) -> None:
        self.log.info("rack.model_loading", model=self.source.model)
        self._model = await in_daemon_thread(lambda: load(self.source))
        o, model = self.options, self._model
        self._defaults = Defaults(o.max_tokens, model.usual_sampling)
        scheduler = Scheduler(model, max_rows=o.max_concurrent, max_cached=o.cached_tokens)
        self._generator = Generator(scheduler, self.log)
        self.log.info(
            "rack.model_loaded",
            model=self.model_id,
            context=model.context,
            chats=model.chats,
            together=model.network.shares,
        )

    async def close(self) -> None:
        if self._generator is not None:
            await self._generator.close()
        self._prompts.shutdown(wait=False, cancel_futures=True)

    async def infer(
        self, model_id: str, input_data: Any, options: contract.RackOptions
    ) -> AsyncIterator[Map | Final]:
        """Streams the chunks of an answer; the final value is the whole of it.

        What another rack began is made again: the id of an answer is the seed of one that names none.
        """
        request = read_request(options.task, input_data, self._defaults)
        had = options.resume_from
        begun = begun_as(had) or Begun(clock.wall_ms() // 1000, self.context.rng.getrandbits(ID_BITS))
        async for item in behind(had, self._written(model_id, request, begun)):
            yield item

    async def _written(
        self, model_id: str, request: TextRequest, begun: Begun
    ) -> AsyncGenerator[Map | Final, None]:
        assert self._generator is not None
        answer = await self._begin(request, begun)
        reply = REPLIES[request.task](
            begun.bits, begun.created, model_id, include_usage=request.include_usage
        )
        opening, pieces, finish = reply.opening(), [], None
        async with aclosing(self._generator.updates(answer)) as updates:
            async for update in updates:
                for chunk in opening:
                    yield chunk
                opening, finish = [], update.finish
                if update.text:
                    pieces.append(update.text)
                    yield reply.piece(update.text)
        assert finish is not None
        usage = openai_replies.usage(len(answer.prompt), answer.made)
        yield reply.ending(finish)
        if request.include_usage:
            yield reply.closing(usage)
        yield Final(reply.whole("".join(pieces), finish, usage))

    async def _begin(self, request: TextRequest, begun: Begun) -> Answer:
        loop = asyncio.get_running_loop()
        prompt = await loop.run_in_executor(self._prompts, self._model.read, request)
        room = self._model.context - len(prompt)
        seed = request.sampling.seed
        chance = Random(begun.bits if seed is None else seed)
        text = TokenText(self._model.decode, prompt, request.stops)
        return Answer(prompt, min(request.max_tokens, room), request.sampling, chance, text)


class Raw:
    """The objects of an answer to the task `raw`, in the manner of the other racks: items with an index."""

    def __init__(self, bits: int, created: int, model: str, *, include_usage: bool = False) -> None:
        self._model = model
        self._index = 0

    def opening(self) -> list[Map]:
        return []

    def piece(self, text: str) -> Map:
        item = {"index": self._index, "text": text}
        self._index += 1
        return item

    def ending(self, finish: Finish) -> Map:
        return {**self.piece(""), "finishReason": finish}

    def closing(self, usage: Map) -> Map:
        return {**self.piece(""), "usage": usage}

    def whole(self, text: str, finish: Finish, usage: Map) -> Map:
        return {"model": self._model, "text": text, "finishReason": finish, "usage": usage}


Reply = openai_replies.Chat | openai_replies.Completion | Raw
REPLIES: dict[Task, type[Reply]] = {
    "chat": openai_replies.Chat,
    "completion": openai_replies.Completion,
    "raw": Raw,
}
