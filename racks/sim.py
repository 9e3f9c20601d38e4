"""A rack without a model: it answers at once, late, wrongly, never, or dies, as it is told.

For trying things out and for staging faults in tests; and the example to start a rack of your own
from: a settings section, `describe`, `infer`. Faults are set for the whole rack by flags
(`--latency 200 --failureRate 0.1`) and for one request by its input:

    {"prompt": "hello", "sim": {"latency": 500, "fail": "out of memory"}}

Bodies of OpenAI's clients may carry the same field `sim`, and are answered in OpenAI's shapes. Every raw
answer says that it is simulated. Which requests fail or hang follows from the seed and the rack's name, so
a run can be repeated.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from random import Random
from typing import Annotated, Any, Literal

from msgspec import field

from wrk_base import clock, contract, errors
from wrk_base.config import Section, count, ms, says, share
from wrk_base.rack import Rack
from wrk_base.rpc import wire
from wrk_base.rpc.request import Final, Packed
from wrk_base.worker import WorkerContext

from . import sim_openai, sim_vectors
from .openai_replies import ID_BITS
from .prefix_cache import PrefixCache
from .resuming import Begun, begun_as, behind
from .sim_journal import OK, Journal
from .sim_request import Asked, Given, Reply, read_raw
from .sim_script import HOUR, MAX_WORDS, Script, Seed
from .sim_shelf import Shelf

CRASH_STATUS = 70  # os.EX_SOFTWARE, which not every system has
MAX_DIMENSIONS = 65_536  # beyond any model's

READERS: dict[str, Callable[[Any], Asked]] = {
    "raw": read_raw,
    "chat": sim_openai.read_chat,
    "completion": sim_openai.read_completion,
    "response": sim_openai.read_response,
    "embedding": sim_vectors.read_vectors,
    "rerank": sim_vectors.read_ranking,
}
"""Task -> what reads its requests."""

FACTS = contract.ModelFacts(capabilities=["chat", "completion", "responses", "embeddings", "rerank"])


class SimSettings(Section, frozen=True):
    """Section `sim`: what this rack pretends to be. Each field is a flag, `--failureRate 0.1`."""

    models: Annotated[contract.Models, says("Its models.")] = field(default_factory=lambda: ["sim-model"])
    tags: Annotated[contract.Tags, says("Tags it carries.")] = field(default_factory=list)
    labels: Annotated[contract.Labels, says("Labels it carries.")] = field(default_factory=dict)
    capacity: Annotated[int, count(1, contract.MAX_CONCURRENT, "Requests it runs at once.")] = 8
    weight: Annotated[contract.Weight | None, says("Its share under `weighted`; null: learnt.")] = None
    latency: Annotated[float, ms(0, HOUR, "How long each answer takes.")] = 20
    jitter: Annotated[float, ms(0, HOUR, "Up to this much is added to the latency, by chance.")] = 0
    failure_rate: Annotated[float, share("Share of requests that fail.")] = 0
    hang_rate: Annotated[float, share("Share of requests that are never answered.")] = 0
    crash_after: Annotated[int, count(0, 2**53, "Dies while it runs its n-th request; 0: never.")] = 0
    seed: Annotated[Seed, says("Seeds the words of the answers, and the chances.")] = 0
    words: Annotated[int, count(0, MAX_WORDS, "Words in an answer.")] = 8
    interval: Annotated[float, ms(0, HOUR, "Pause between the words of a stream.")] = 0
    dimensions: Annotated[int, count(1, MAX_DIMENSIONS, "Numbers in a vector.")] = 64
    prefill_time: Annotated[float, ms(0, HOUR, "Added to the latency for 1,000 characters of a prompt.")] = 0
    prefix_cache: Annotated[
        int, count(0, 1_000_000, "Blocks of 64 characters of prompts that it remembers; 0: none.")
    ] = 0
    load_time: Annotated[float, ms(0, HOUR, "How long it pretends to load its models.")] = 0
    cold: Annotated[contract.Models, says("Models that it loads when told to.")] = field(default_factory=list)
    model_load_time: Annotated[float, ms(0, HOUR, "How long it pretends to load one of these.")] = 0
    resumable: Annotated[bool, says("Whether it goes on with streams that another one began.")] = True
    max_loaded: Annotated[int, count(0, contract.MAX_MODELS, "Models it keeps loaded; 0: all.")] = 0
    journal: Annotated[str, says("File to which it appends what it runs, for `wrk chaos`; empty: none.")] = ""


class SimRack(Rack):
    """Simulates the models that its settings name."""

    section = "sim"
    section_type = SimSettings
    options: SimSettings

    def __init__(self, context: WorkerContext) -> None:
        super().__init__(context)
        self.chance = Random(f"{self.options.seed} {context.rack}")
        self.requests = 0
        self.prefixes = PrefixCache(self.options.prefix_cache)
        self.shelf = Shelf(self.options.models, self.options.cold, self.options.max_loaded)
        o = self.options
        self.journal = Journal(o.journal, self.identity.worker_id, self.identity.epoch, clock.monotonic)
        self._facts = dict.fromkeys((*self.options.models, *self.options.cold), FACTS)

    def describe(self) -> contract.Description:
        o = self.options
        return contract.Description(
            models=list(self.shelf.loaded),
            tags=o.tags,
            max_concurrent=o.capacity,
            labels=o.labels,
            weight=o.weight,
            cold=list(self.shelf.cold),
            facts=self._facts,
            resumable=o.resumable,
        )

    async def open(self) -> None:
        await asyncio.sleep(self.options.load_time / 1000)

    async def close(self) -> None:
        self.journal.close()

    async def load_model(self, model_id: str) -> None:
        if model_id in self.shelf.cold:
            await asyncio.sleep(self.options.model_load_time / 1000)
            self.shelf.load(model_id)
            self.offer_changed()

    async def unload_model(self, model_id: str) -> None:
        if model_id in self.shelf.loaded:
            self.shelf.unload(model_id)
            self.offer_changed()

    async def infer(
        self, model_id: str, input_data: Any, options: contract.RackOptions
    ) -> AsyncIterator[dict[str, Any] | Packed | Final]:
        """Streams word by word, raw as `{index, text}`; the final value is the whole answer.

        What another one began it goes on with under the same id, without pauses for what was said.
        """
        with self.journal.execution(input_data) as execution:
            async with aclosing(self._run(model_id, input_data, options)) as items:
                async for item in items:
                    if isinstance(item, Final):
                        execution.ended(OK)
                    yield item

    async def _run(
        self, model_id: str, input_data: Any, options: contract.RackOptions
    ) -> AsyncGenerator[dict[str, Any] | Packed | Final, None]:
        asked = read(options.task, input_data)
        self.shelf.use(model_id)
        self.requests += 1
        cached = self.prefixes.take(asked.prompt)
        fate = cast_lots(asked.sim, self.options, self.requests, self.chance)
        await asyncio.sleep(fate.delay + prefill_seconds(len(asked.prompt) - cached, self.options))
        if fate.outcome == "crash":
            self.crash()
        if fate.outcome == "hang":
            await asyncio.Event().wait()  # until the deadline, or the caller, ends it
        if fate.outcome == "failure":
            raise errors.Internal(f"simulated failure: {fate.reason}")
        had = options.resume_from
        reply = asked.reply(self._given(model_id, asked.sim, cached, begun_as(had)))
        interval = self.options.interval if asked.sim.interval is None else asked.sim.interval
        async for item in behind(had, said(reply, interval / 1000, len(had))):
            yield item

    def _given(self, model_id: str, script: Script, cached: int, begun: Begun | None) -> Given:
        o = self.options
        created, bits = begun or (clock.wall_ms() // 1000, self.context.rng.getrandbits(ID_BITS))
        return Given(
            model=model_id,
            worker=self.identity.worker_id,
            created=created,
            bits=bits,
            seed=o.seed if script.seed is None else script.seed,
            words=o.words if script.words is None else script.words,
            dimensions=o.dimensions,
            cached=cached,
        )

    def stats(self) -> dict[str, Any]:
        """With blocks of prompts: how many came, and how many of them were remembered."""
        return {
            **super().stats(),
            "prefixCache": {"hits": self.prefixes.hits, "asked": self.prefixes.asked},
        }

    def crash(self) -> None:
        """Die as a process does that ran out of memory: no goodbye, nothing closed."""
        os._exit(CRASH_STATUS)


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of one request; `delay` in seconds comes first, whatever follows."""

    outcome: Literal["answer", "failure", "hang", "crash"]
    delay: float
    reason: str = ""


def cast_lots(script: Script, settings: SimSettings, number: int, chance: Random) -> Fate:
    """The fate of request `number` (from 1). Three draws each, so that one fate never shifts the next."""
    jitter, hang, failure = chance.random(), chance.random(), chance.random()
    latency = settings.latency if script.latency is None else script.latency
    spread = settings.jitter if script.jitter is None else script.jitter
    delay = (latency + spread * jitter) / 1000
    if script.crash or number == settings.crash_after:
        return Fate("crash", delay)
    if script.hang or hang < settings.hang_rate:
        return Fate("hang", delay)
    if script.fail or failure < settings.failure_rate:
        return Fate("failure", delay, script.fail if isinstance(script.fail, str) else "as told")
    return Fate("answer", delay)


def read(task: str, input_data: Any) -> Asked:
    """Raises `BadRequest` with the field."""
    reader = READERS.get(task)
    if reader is None:
        text = f"options.task: {task!r} is not served here; {', '.join(READERS)} are"
        raise errors.BadRequest(text, data={"field": "options.task"})
    return reader(input_data)


def prefill_seconds(characters: int, settings: SimSettings) -> float:
    """How long it takes to read so much of a prompt."""
    return characters / 1000 * settings.prefill_time / 1000


async def said(reply: Reply, pause: float, had: int) -> AsyncGenerator[Any]:
    """All of an answer, with a pause of so many seconds before each piece that its caller has not got."""
    number = 0
    for items, pauses in ((reply.opening, 0.0), (reply.pieces, pause), (reply.closing, 0.0)):
        for place, item in enumerate(items):
            if pauses and place and number >= had:
                await asyncio.sleep(pauses)
            yield packed(item)
            number += 1
    yield Final(reply.whole)


def packed(item: Any) -> Any:
    """Bytes are events, which travel as they are."""
    return Packed(wire.OCTETS, item) if type(item) is bytes else item
