"""Who takes part in a simulation: racks and callers that write down what they do and hear.

The racks are real ones with a model that sleeps; the callers are real clients. What a request is to be
answered follows from its id, so that an answer that belongs to another shows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from wrk_base import Client, contract, errors
from wrk_base.rack import Rack
from wrk_base.rpc.request import Final
from wrk_base.worker import WorkerContext
from wrk_orchestrator.chaos.history import OK, Answered, Began, Ended, Event, Left, Sent

MODEL = "m"
ROUTE = "routeInferenceRequest"
FAILS = "it was told to fail"

Note = Callable[[Event], None]
Now = Callable[[], float]


@dataclass(frozen=True)
class Ask:
    """One request, as it was planned. Seconds and bytes; `items` 0: it is answered whole.

    `pad` bytes travel both ways, and its caller leaves after `leaves`, unless that is 0.
    """

    id: str
    takes: float
    items: int
    pause: float
    fails: bool
    hangs: bool
    repeatable: bool
    timeout: float
    session: str
    pad: int = 0
    leaves: float = 0.0

    @property
    def expects(self) -> str:
        """The digest of its one right answer."""
        return f"{self.id}/{self.items}/{self.pad}"

    def body(self) -> dict[str, Any]:
        options: dict[str, Any] = {"repeatable": self.repeatable}
        if self.session:
            options["sessionId"] = self.session
        work = {"takes": self.takes, "items": self.items, "pause": self.pause}
        work |= {"fails": self.fails, "hangs": self.hangs, "pad": bytes(self.pad)}
        return {"modelId": MODEL, "inputData": {"metadata": {"id": self.id}, **work}, "options": options}


def draw(dice: Random, number: int) -> Ask:
    """Mostly what a mesh does all day; some of it fails, hangs, is large, or has no time."""
    chance, streamed, long = dice.random(), dice.random() < 0.3, dice.random() < 0.02
    return Ask(
        id=f"q{number}",
        takes=dice.uniform(0.02, 0.08),
        items=(dice.randint(2, 6) if not long else dice.randint(50, 200)) if streamed else 0,
        pause=0.0 if long else dice.uniform(0.0, 0.03),
        fails=chance < 0.01,
        hangs=0.01 <= chance < 0.014,
        repeatable=dice.random() < 0.7,
        timeout=dice.uniform(0.02, 0.2) if dice.random() < 0.05 else dice.choice((1.0, 3.0, 5.0, 5.0)),
        session=f"s{dice.randint(1, 20)}" if dice.random() < 0.3 else "",
        pad=dice.randint(200_000, 1_500_000) if chance > 0.997 else 0,
        leaves=dice.uniform(0.0, 0.15) if 0.96 < chance < 0.98 else 0.0,
    )


class SimulatedRack(Rack):
    """Sleeps as long as it is asked to, and writes down when it began and how it ended."""

    def __init__(
        self, context: WorkerContext, note: Note, now: Now, capacity: int, pace: float, resumable: bool
    ) -> None:
        super().__init__(context)
        self.hangs = False
        self._note, self._now, self._pace = note, now, pace
        self._offer = contract.Description(models=[MODEL], max_concurrent=capacity, resumable=resumable)
        self._runs = 0

    def describe(self) -> contract.Description:
        return self._offer

    def infer(
        self, model_id: str, input_data: Any, options: contract.RackOptions
    ) -> Awaitable[Any] | AsyncIterator[Any]:
        if not input_data["items"]:
            return self._whole(input_data)
        return self._stream(input_data, len(options.resume_from))

    async def _whole(self, work: dict[str, Any]) -> dict[str, Any]:
        with self._written_down(work) as run:
            await self._work(work)
            return run.well(_answer(work))

    async def _stream(self, work: dict[str, Any], said: int) -> AsyncIterator[Any]:
        """What was `said` by another rack is not said again."""
        with self._written_down(work) as run:
            await self._work(work)
            for number in range(said, work["items"]):
                if number > said:
                    await asyncio.sleep(work["pause"] * self._pace)
                yield {"number": number}
            yield Final(run.well(_answer(work)))

    async def _work(self, work: dict[str, Any]) -> None:
        await asyncio.sleep(work["takes"] * self._pace)
        if self.hangs or work["hangs"]:
            await asyncio.Event().wait()
        if work["fails"]:
            raise errors.Internal(FAILS)

    def _written_down(self, work: dict[str, Any]) -> _Run:
        self._runs += 1
        who = self.identity.worker_id
        return _Run(str(work["metadata"]["id"]), who, f"{who}.{self.identity.epoch}.{self._runs}", self)

    def note_began(self, run: _Run) -> None:
        self._note(Began(id=run.id, worker=run.worker, execution=run.execution, at=self._now()))

    def note_ended(self, run: _Run) -> None:
        self._note(
            Ended(id=run.id, worker=run.worker, execution=run.execution, at=self._now(), outcome=run.outcome)
        )


def _answer(work: dict[str, Any]) -> dict[str, Any]:
    digest = f"{work['metadata']['id']}/{work['items']}/{len(work['pad'])}"
    return {"digest": digest, "pad": work["pad"]}


class _Run:
    """One execution, from its beginning to its end."""

    def __init__(self, id: str, worker: str, execution: str, rack: SimulatedRack) -> None:
        self.id, self.worker, self.execution, self._rack = id, worker, execution, rack
        self.outcome = "failed"
        self._told = False

    def __enter__(self) -> _Run:
        self._rack.note_began(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self._told:
            self.outcome = "cancelled" if kind in (asyncio.CancelledError, GeneratorExit) else self.outcome
            self._rack.note_ended(self)

    def well(self, answer: dict[str, Any]) -> dict[str, Any]:
        """It is done; written down before the answer leaves."""
        self.outcome, self._told = OK, True
        self._rack.note_ended(self)
        return answer


class Caller:
    """A client that asks, and writes down what it is told."""

    def __init__(self, name: str, client: Client, note: Note, now: Now) -> None:
        self.name, self.client, self._note, self._now = name, client, note, now
        self.waiting = 0

    def ask(self, ask: Ask) -> None:
        self.waiting += 1
        now = self._now()
        self._note(
            Sent(
                id=ask.id,
                at=now,
                deadline=now + ask.timeout,
                repeatable=ask.repeatable,
                streamed=bool(ask.items),
                expects=ask.expects,
            )
        )
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._hear(ask))
        task.add_done_callback(self._heard)
        if ask.leaves:
            loop.call_later(ask.leaves, self._leave, ask, task)

    def _leave(self, ask: Ask, task: asyncio.Task[None]) -> None:
        if not task.done():
            self._note(Left(id=ask.id, at=self._now()))
            task.cancel()

    def _heard(self, task: asyncio.Task[None]) -> None:
        self.waiting -= 1
        if not task.cancelled():
            task.result()  # what is no error of ours is a defect, and is seen by the loop

    async def _hear(self, ask: Ask) -> None:
        numbers: list[int] = []
        facts: dict[str, Any] = {}
        try:
            value = await (self._read(ask, numbers, facts) if ask.items else self._whole(ask, facts))
        except errors.WrkError as error:
            items = error.data.get("items") if ask.items else None
            told = numbers if ask.items else None
            attempts = error.data.get("attempts", 0)
            self._answered(ask, error.name, attempts=attempts, items=items, numbers=told)
        else:
            self._answered(
                ask,
                OK,
                worker=facts["workerId"],
                attempts=facts["attempts"],
                numbers=numbers if ask.items else None,
                digest=value["digest"],
            )

    async def _whole(self, ask: Ask, facts: dict[str, Any]) -> Any:
        answer = await self.client.request(ROUTE, ask.body(), timeout=ask.timeout, repeatable=ask.repeatable)
        facts.update(answer)
        return answer["result"]

    async def _read(self, ask: Ask, numbers: list[int], facts: dict[str, Any]) -> Any:
        body = ask.body()
        options = {"repeatable": ask.repeatable, "session_id": ask.session or None}
        stream = self.client.stream(
            MODEL,
            body["inputData"],
            timeout=ask.timeout,
            total=ask.timeout,
            **{name: value for name, value in options.items() if value is not None},  # type: ignore[typeddict-item]
        )
        async with stream:
            async for item in stream:
                numbers.append(item["number"])
        facts.update(stream.facts)
        return stream.value

    def _answered(self, ask: Ask, outcome: str, **more: Any) -> None:
        self._note(Answered(id=ask.id, at=self._now(), outcome=outcome, **more))
