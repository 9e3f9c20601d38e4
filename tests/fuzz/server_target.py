"""A `Server` that is fed any bytes by a caller that greeted and by one that did not.

Promised, after every step: a good caller beside them is answered at once, what is malformed is counted,
nothing is kept of a caller that has gone, and no more runs, waits or is held than may. In the end, a day
later: each request was answered exactly once, items came in order, and nothing is held any more.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from enum import IntEnum
from typing import Any

from tests.fakes.rpc import ANY_PORT, EPOCH, House, Stranger, ask
from tests.fuzz import steps as codec
from tests.fuzz.steps import Step
from tests.fuzz.story import beside, envelopes_of, pause, settled, tell
from wrk_base.rpc import wire
from wrk_base.rpc.body import Budget
from wrk_base.rpc.client import Peer
from wrk_base.rpc.identity import BadGreeting, Identity, read_greeting
from wrk_base.rpc.request import Final, Request
from wrk_base.rpc.runner import RunLimits
from wrk_base.rpc.server import DOUBT_CHECKS, Server, ServerLimits

MAX_IN_FLIGHT = 4
MAX_WAITING = 2
PEER_BYTES = 20_000
A_DAY = wire.MAX_REMAINING_MS / 1000  # seconds; no deadline lies further away
METHODS = ("echo", "wait", "later", "count", "runInference", "fails")
TERMINAL = (wire.REPLY, wire.ERROR, wire.END, wire.REJECT)


class Deed(IntEnum):
    GUEST = 0  # the caller that greeted says the message
    STRANGER = 1  # one that did not says it
    LEAVE = 2  # the guest's connection breaks; the next one greets anew
    LATER = 3  # time passes: the message's first byte says how much


def run(data: bytes) -> None:
    run_steps(codec.unpack(data))


def run_steps(steps: Sequence[Step]) -> None:
    async def story(house: House) -> None:
        await _Story(house).told(steps)

    tell(story)


class _Guest:
    """A caller under suspicion, and the book of what it may still be answered."""

    def __init__(self, link: Stranger, greeted: bool) -> None:
        self.link = link
        self.greeted = greeted
        self.said_bye = False
        self.due: Counter[int] = Counter()
        self._last_id = 0

    def say(self, step: Step) -> int:
        """Returns how many faults the server must count for it at least."""
        message = step.message
        if not self.link.link.send(message, *beside(step)):
            return 0
        if not self.greeted and len(message) > wire.MAX_GREETING:
            return 0  # thrown away unread, unless it has greeted by now after all
        if step.chunk is None:
            return self._note_all(message)
        envelopes = tuple(envelopes_of(message))
        if wire.is_chunk_alone(envelopes):  # else nothing of it is taken
            self._note(envelopes[0])
        return 0

    def _note_all(self, message: bytes) -> int:
        """Returns how many faults are read of it."""
        faults = 0
        try:
            _, envelopes = wire.decode(message)
        except wire.BadMessage:
            return 1
        for envelope in envelopes:
            if not wire.well_formed(envelope):
                faults += 1
            elif _is_the_last(envelope):
                self.said_bye = True
                break
            else:
                self._note(envelope)
        return faults

    def _note(self, envelope: wire.Envelope) -> None:
        if envelope[0] == wire.REQUEST and envelope[3] != EPOCH:
            self.due[envelope[2]] += 1
        elif envelope[0] == wire.REQUEST and envelope[2] > self._last_id:
            self._last_id = envelope[2]
            self.due[envelope[2]] += 1

    def answers(self) -> Counter[int]:
        """How often each request was answered; what was said in between is in order."""
        items: Counter[int] = Counter()
        for envelope in self.link.heard:
            assert wire.well_formed(envelope)
            if envelope[0] == wire.ITEM:
                assert envelope[3] == items[envelope[2]]
                items[envelope[2]] += len(envelope[5])
            elif envelope[0] == wire.END:
                assert envelope[3] == items[envelope[2]]
        return Counter(envelope[2] for envelope in self.link.heard if envelope[0] in TERMINAL)


def _is_the_last(envelope: wire.Envelope) -> bool:
    """Whether nothing more is read of who says this: a goodbye, or a greeting that a member may not say."""
    if envelope[0] != wire.HELLO:
        return bool(envelope[0] == wire.BYE)
    try:
        read_greeting(envelope[3])
    except BadGreeting:
        return True
    return False


class _Story:
    def __init__(self, house: House) -> None:
        self.house = house
        self.held = Budget(2 * PEER_BYTES + 1000, "rpc.processBytes")
        self.server = _serve(house, self.held)
        self.good: Peer = house.peer(keep=True)
        self.guest: _Guest | None = None
        self.stranger: _Guest | None = None
        self.least_malformed = 0

    async def told(self, steps: Sequence[Step]) -> None:
        await ask(self.good)
        for step in steps:
            await self._do(step)
            if not step.held:
                await self._check()
        await asyncio.sleep(2 * A_DAY)
        await self._check()
        self.server.cancel_all()  # a stream that is not granted anything has no deadline
        await self._check()
        assert self.server.in_flight == self.server.waiting == self.held.used == 0
        if self.guest is not None and not self.guest.said_bye:
            # A REJECT of number 0 answers a greeting or a version, no request.
            answers, due = self.guest.answers(), self.guest.due
            del answers[0], due[0]
            assert answers == +due, f"answered {answers}, asked {due}"
        await self._leave()

    async def _do(self, step: Step) -> None:
        deed = Deed(step.deed % len(Deed))
        if deed is Deed.GUEST:
            if self.guest is None:
                self.guest = _Guest(await self.house.guest(), greeted=True)
            self.least_malformed += self.guest.say(step)
        elif deed is Deed.STRANGER:
            if self.stranger is None:
                self.stranger = _Guest(self.house.stranger(), greeted=False)
                await self.stranger.link.until(lambda: self.stranger and self.stranger.link.up)
            self.least_malformed += self.stranger.say(step)
        elif deed is Deed.LEAVE:
            await self._leave()
        else:
            await asyncio.sleep(pause(step.message))

    async def _leave(self) -> None:
        if self.guest is not None:
            self.guest.link.link.close()
            self.guest = None
            await asyncio.sleep(sum(DOUBT_CHECKS))

    async def _check(self) -> None:
        await settled()
        server, callers = self.server, self.server.callers.values()
        connections = len(self.house.fake.listeners[self.house.endpoint].links)
        requests = [request for caller in callers for request in caller.open.values()]
        complete = sum(request.assembly is None for request in requests)
        assert len(callers) <= connections, "a caller that has gone is kept"
        assert server.in_flight + server.waiting == complete, "what runs or waits does so for somebody"
        assert server.in_flight <= MAX_IN_FLIGHT
        assert server.waiting <= MAX_WAITING
        assert self.held.used == sum(caller.held.used for caller in callers)
        assert all(0 <= caller.held.used <= PEER_BYTES for caller in callers)
        assert not any(caller.outbox for caller in callers), "what is said leaves"
        assert server.counters["malformed"] >= self.least_malformed
        failed = [facts for event, facts in self.house.log.events if event == "rpc.handler_failed"]
        assert {facts["method"] for facts in failed} <= {"fails"}, failed
        before = asyncio.get_running_loop().time()
        assert await ask(self.good, "echo", "are you there?") == "are you there?"
        assert asyncio.get_running_loop().time() == before, "a good caller waits for nobody"


def _serve(house: House, held: Budget) -> Server:
    """Every way to answer: `echo` at once, `wait` never, `later` without a task, `count` in items."""
    loop = asyncio.get_running_loop()

    async def wait(_: Any) -> None:
        await loop.create_future()

    def later(request: Request) -> None:
        request.on_cancel = request.fail
        loop.call_later(1.0, request.answer, request.head, request.content_type, request.payload)

    async def count(body: Any) -> AsyncIterator[Any]:
        for number in range(100):
            yield number
        yield Final(body, said="all")

    def infer(body: Any) -> dict[str, Any]:
        return {"result": body, "modelId": "m"}

    def fail(body: Any) -> None:
        raise LookupError(body)

    limits = ServerLimits(
        peer_bytes=PEER_BYTES,
        max_streams=3,
        run=RunLimits(max_in_flight=MAX_IN_FLIGHT, max_waiting=MAX_WAITING),
    )
    server = Server(Identity("server-1", EPOCH, "rack"), limits=limits, held=held, log=house.log)
    house.servers.append(server)
    house.endpoint = server.listen(house.fake, ANY_PORT)
    server.respond("echo", lambda body: body)
    server.respond("wait", wait)
    server.respond("later", later, raw=True)
    server.respond("count", count)
    server.respond("runInference", infer)
    server.respond("fails", fail)
    return server
