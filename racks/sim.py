"""A rack without a model: it answers at once, late, wrongly, never, or dies, as it is told.

For trying things out and for staging faults in tests; and the example to start a rack of your own
from: a settings section, `describe`, `infer`. Faults are set for the whole rack by flags
(`--latency 200 --failureRate 0.1`) and for one request by its input:

    {"prompt": "hello", "sim": {"latency": 500, "fail": "out of memory"}}

Every answer says that it is simulated. Which requests fail or hang follows from the seed and the
rack's name, so a run can be repeated.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from random import Random
from typing import Annotated, Any, Literal

from msgspec import field

from wrk_base import contract, errors
from wrk_base.config import Section, count, ms, says, share
from wrk_base.rack import Rack
from wrk_base.rpc.request import Final
from wrk_base.worker import WorkerContext

from .sim_script import HOUR, MAX_WORDS, Script, Seed, read_input, text, tokens

CRASH_STATUS = 70  # os.EX_SOFTWARE, which not every system has


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
    load_time: Annotated[float, ms(0, HOUR, "How long it pretends to load its models.")] = 0


class SimRack(Rack):
    """Simulates the models that its settings name."""

    section = "sim"
    section_type = SimSettings
    options: SimSettings

    def __init__(self, context: WorkerContext) -> None:
        super().__init__(context)
        self.chance = Random(f"{self.options.seed} {context.rack}")
        self.requests = 0

    def describe(self) -> contract.Description:
        o = self.options
        return contract.Description(
            models=o.models, tags=o.tags, max_concurrent=o.capacity, labels=o.labels, weight=o.weight
        )

    async def open(self) -> None:
        await asyncio.sleep(self.options.load_time / 1000)

    async def infer(
        self, model_id: str, input_data: Any, options: contract.Options
    ) -> AsyncIterator[dict[str, Any] | Final]:
        """Streams `{index, text}` word by word; the final value is the whole answer."""
        request = read_input(input_data)
        script = request.sim
        self.requests += 1
        fate = cast_lots(script, self.options, self.requests, self.chance)
        await asyncio.sleep(fate.delay)
        if fate.outcome == "crash":
            self.crash()
        if fate.outcome == "hang":
            await asyncio.Event().wait()  # until the deadline, or the caller, ends it
        if fate.outcome == "failure":
            raise errors.Internal(f"simulated failure: {fate.reason}")
        words = self.options.words if script.words is None else script.words
        seed = self.options.seed if script.seed is None else script.seed
        interval = self.options.interval if script.interval is None else script.interval
        for index, token in enumerate(tokens(request.prompt, seed, words, script.index), script.index):
            if interval and index > script.index:
                await asyncio.sleep(interval / 1000)
            yield {"index": index, "text": token}
        yield Final(
            {
                "simulated": True,
                "model": model_id,
                "text": text(request.prompt, seed, words, script.index),
                "index": script.index,
                "worker": self.identity.worker_id,
            }
        )

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
