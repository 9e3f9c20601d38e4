"""A small mesh in virtual time of which everything is written down: an orchestrator, three racks, callers.

`told()` plays the same day every time: a steady load, one rack held in quarantine by its operator and
another one judged, errors of models, callers who leave, and a burst that no queue holds. What it returns is
the history, for the checker. Callers sit on the router itself: nothing of theirs hides what it forgets.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.fakes.aio import eventually, run
from tests.fakes.context import FakeRack, Offer, Site
from wrk_base import contract, errors
from wrk_base.rpc import wire
from wrk_orchestrator.chaos.checker import Rules
from wrk_orchestrator.chaos.history import (
    Answered,
    Began,
    Census,
    Ended,
    Event,
    Fault,
    Left,
    Run,
    Sent,
    StateChanged,
)
from wrk_orchestrator.health_table import Observation
from wrk_orchestrator.orchestrator import OrchestratorWorker
from wrk_orchestrator.routing import Question

RATE = 20.0
SECONDS = 30.0
DEADLINE = 2.0
QUEUE = 8
SENTENCE = 5.0
HUNG = (14.0, 17.0)
HELD = (4.0, 9.0)
BURST_AT = 24.0
BURST = 60

RULES = Rules(
    allowed=frozenset(
        kind.name
        for kind in (errors.Internal, errors.CapacityExceeded, errors.QueueTimeout, errors.DeadlineExceeded)
    ),
    queue=QUEUE,
    cancel_slack=0.5,  # in virtual time nothing takes longer than it has to
)


class DiaryRack(FakeRack):
    """Writes down what it runs; what it does follows from the request and, for a while, from `hangs`."""

    day: Day
    hangs = False
    runs = 0

    async def infer(self, model_id: str, input_data: Any, options: contract.Options) -> Any:
        self.runs += 1
        name, worker = input_data["metadata"]["id"], self.identity.worker_id
        facts = {"id": name, "worker": worker, "execution": f"{worker}.{self.runs}"}
        self.day.note(Began(**facts, at=self.day.now))
        try:
            result = await self._work(input_data)
        except asyncio.CancelledError:
            self.day.note(Ended(**facts, at=self.day.now, outcome="cancelled"))
            raise
        except errors.WrkError:
            self.day.note(Ended(**facts, at=self.day.now, outcome="failed"))
            raise
        self.day.note(Ended(**facts, at=self.day.now))
        return result

    async def _work(self, input_data: Any) -> dict[str, Any]:
        if self.hangs:
            await asyncio.Event().wait()
        await asyncio.sleep(input_data["seconds"])
        if input_data["fails"]:
            raise errors.Internal("the model said no")
        return {"digest": input_data["metadata"]["id"]}


class Teller:
    """Who asked one request, and writes down what it is told."""

    reads_heads = True

    def __init__(self, day: Day, name: str) -> None:
        self._day, self.name = day, name

    def answer(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None:
        facts = wire.unpack_head(head) if head is not None else {}
        said = wire.unpack_body(payload, content_type)
        self._day.note(
            Answered(
                id=self.name,
                at=self._day.now,
                worker=facts.get("workerId", ""),
                attempts=facts.get("attempts", 0),
                digest=said["digest"],
            )
        )

    def send_items(self, content_type: int, payloads: tuple[bytes, ...]) -> None:
        raise AssertionError("no stream was asked for")

    def end_stream(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None:
        raise AssertionError("no stream was asked for")

    def fail(self, error: BaseException) -> None:
        assert isinstance(error, errors.WrkError)
        if not isinstance(error, errors.Cancelled):
            attempts = error.data.get("attempts", 0)
            self._day.note(Answered(id=self.name, at=self._day.now, outcome=error.name, attempts=attempts))


class Day:
    """One mesh and its history."""

    def __init__(self, site: Site, orchestrator: OrchestratorWorker, racks: list[DiaryRack]) -> None:
        self.events: list[Event] = []
        self._site, self._orchestrator, self._racks = site, orchestrator, racks
        self._loop = asyncio.get_running_loop()
        self._asked = 0
        self._logged = 0

    @property
    def now(self) -> float:
        return self._loop.time()

    def note(self, event: Event) -> None:
        self.events.append(event)

    async def pass_by(self) -> list[Event]:
        began = self.now
        self.note(Run(scenario="a day", seed=0, at=began, rate=RATE, faults=2))
        beside = [
            asyncio.ensure_future(each) for each in (self._hold(), self._hang(), self._burst(), self._watch())
        ]
        for number in range(round(RATE * SECONDS)):
            await asyncio.sleep(began + number / RATE - self.now)
            self._ask(seconds=0.1, fails=number % 50 == 49, leaves=number % 40 == 39)
        await asyncio.sleep(DEADLINE + 10.0)
        beside.pop().cancel()
        await asyncio.gather(*beside)
        self._count()
        self.note(Fault(kind="held", target="r1", at=began + HELD[0], until=began + HELD[1]))
        self.note(Fault(kind="hang", target="r2", at=began + HUNG[0], until=began + HUNG[1]))
        return self.events

    def _ask(self, *, seconds: float, fails: bool = False, leaves: bool = False) -> None:
        self._asked += 1
        name, now = f"q{self._asked}", self.now
        seconds = 30.0 if leaves else seconds
        given = {"metadata": {"id": name}, "seconds": seconds, "fails": fails}
        careful = self._racks[1].hangs  # else it would be hedged, and nobody judged
        options = contract.Options(repeatable=not careful)
        question = Question(
            contract.InferenceHead("m1", options),
            wire.pack_head({"modelId": "m1"}),
            wire.MSGPACK,
            wire.pack_body(given),
            now + DEADLINE,
        )
        self.note(Sent(id=name, at=now, deadline=now + DEADLINE, repeatable=not careful, expects=name))
        route = self._orchestrator.router.start(question, Teller(self, name))
        if leaves:
            self._loop.call_later(0.5, self._leave, name, route)

    def _leave(self, name: str, route: Any) -> None:
        if any(isinstance(event, Answered) and event.id == name for event in self.events):
            return
        self.note(Left(id=name, at=self.now))
        route.cancel(errors.Cancelled("its caller left"))

    async def _hold(self) -> None:
        """An operator puts r1 away for a while."""
        await asyncio.sleep(HELD[0])
        self._say(Observation.OPERATOR_QUARANTINE)
        await asyncio.sleep(HELD[1] - HELD[0])
        self._say(Observation.OPERATOR_RELEASE)

    def _say(self, word: Observation) -> None:
        self._orchestrator.hold({"workerId": "r1"}, word)

    async def _hang(self) -> None:
        """What r2 is asked for a while is never answered, so that it is judged."""
        rack = self._racks[1]
        await asyncio.sleep(HUNG[0])
        rack.hangs = True
        await asyncio.sleep(HUNG[1] - HUNG[0])
        rack.hangs = False

    async def _burst(self) -> None:
        await asyncio.sleep(BURST_AT)
        for _ in range(BURST):
            self._ask(seconds=0.3)

    async def _watch(self) -> None:
        """What the orchestrator has open, and what it says of its workers, as it happens."""
        while True:
            self._count()
            for event, facts in self._site.log.events[self._logged :]:
                self._logged += 1
                if event == "worker.state":
                    self._note_state(facts)
            await asyncio.sleep(0.01)

    def _note_state(self, facts: dict[str, Any]) -> None:
        judged = facts["new"] == "quarantined" and "operator" not in facts["cause"]
        self.note(
            StateChanged(
                orchestrator="orc",
                worker=facts["worker"],
                old=str(facts["old"]),
                new=str(facts["new"]),
                at=self.now,
                cause=facts["cause"],
                sentence=SENTENCE if judged else 0.0,
            )
        )

    def _count(self) -> None:
        orchestrator = self._orchestrator
        calls = sum(len(peer._table) for peer in orchestrator.peers._all())
        census = Census(
            who="orc",
            at=self.now,
            open_calls=calls,
            leases=orchestrator.balancer.leases,
            queue=orchestrator.admission.waiting,
        )
        last = next((e for e in reversed(self.events) if isinstance(e, Census)), None)
        if last is None or replace_at(last, census.at) != census or census.at - last.at > 1:
            self.note(census)


def replace_at(census: Census, at: float) -> Census:
    """The same count at another time."""
    return Census(
        who=census.who, at=at, open_calls=census.open_calls, leases=census.leases, queue=census.queue
    )


def told(directory: Path) -> list[Event]:
    """The history of the day."""

    async def tell() -> list[Event]:
        async with Site(directory) as site:
            flags = {"routing.queueLimit": str(QUEUE), "health.quarantineMin": str(round(SENTENCE * 1000))}
            orchestrator = await site.orchestrator("orc", flags=flags)
            racks = [
                await site.start(DiaryRack(site.context(name, "rack"), Offer(capacity=6)))
                for name in ("r1", "r2", "r3")
            ]
            day = Day(site, orchestrator, racks)
            for rack in racks:
                rack.day = day
            await eventually(lambda: len(_healthy(orchestrator)) == len(racks), 10)
            return await day.pass_by()

    return run(tell(), "virtual", within=1e6)


def _healthy(orchestrator: OrchestratorWorker) -> list[str]:
    workers = orchestrator.list_workers({})["workers"]
    return [worker["workerId"] for worker in workers if worker["state"] == "healthy"]
