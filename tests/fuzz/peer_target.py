"""A `Peer` that is answered with any bytes, while calls are made, given up and run out of time.

Promised, after every step: a call that ended before it was sent is never sent, what is malformed is
counted, nothing is held for calls that have ended, and another peer of the same process is answered at
once. In the end: as soon as an honest process listens there, the peer is of use again, and each call has
its outcome.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import IntEnum
from random import Random
from typing import Any

from tests.fakes.rpc import CLIENT, EPOCH, Happenings, House, Impostor, ask, timers
from tests.fuzz import steps as codec
from tests.fuzz.steps import Step
from tests.fuzz.story import beside, faults, pause, settled, tell
from wrk_base import errors
from wrk_base.rpc import wire
from wrk_base.rpc.body import Budget
from wrk_base.rpc.call import Call
from wrk_base.rpc.client import Peer
from wrk_base.rpc.identity import Identity
from wrk_base.rpc.line import PeerLimits
from wrk_base.rpc.streams import Stream, Terms, open_stream

PEER_BYTES = 20_000
LIMITS = PeerLimits(max_pending=6, max_streams=3, peer_bytes=PEER_BYTES)
IDLE = 5.0
SECONDS = (5.0, 0.2, 0.0, 60.0)  # that a call may take
GREETING = wire.encode([(wire.HELLO_OK, 0, 0, Identity("impostor", EPOCH, "rack").greeting({}))], 0)

Inbox = Any
"""What a peer keeps of an open stream; `streams` has no public name for it."""


class Deed(IntEnum):
    SAY = 0  # the process behind the endpoint says the message
    GREET = 1  # it answers the greeting as it should
    CALL = 2  # a call begins; the message's first byte says how long it may take
    STREAM = 3  # a stream begins to be read; the same
    GIVE_UP = 4  # the latest stream, or else the latest call, is given up
    CUT = 5  # the connection breaks
    LATER = 6  # time passes: the message's first byte says how much


def run(data: bytes) -> None:
    run_steps(codec.unpack(data))


def run_steps(steps: Sequence[Step]) -> None:
    async def story(house: House) -> None:
        await _Story(house).told(steps)

    tell(story)


def _seconds(step: Step) -> float:
    return SECONDS[sum(step.message[:1]) % len(SECONDS)]


class _Story:
    def __init__(self, house: House) -> None:
        self.house = house
        self.liar: Impostor = house.impostor()
        self.liar.silent = True
        self.endpoint = self.liar.endpoint
        self.held = Budget(PEER_BYTES, "rpc.processBytes")
        self.peer = self._new_peer()
        house.serve(epoch=EPOCH + 1)
        self.good: Peer = house.peer(keep=True)
        self.calls: list[Call] = []
        self.streams: list[Inbox] = []
        self.readers: list[asyncio.Task[None]] = []
        self.refusals: list[errors.WrkError] = []
        self.unsent: set[int] = set()  # calls that had ended before anything was heard of them
        self.crowded = False  # something else lies in the drain of the next step

    def _new_peer(self) -> Peer:
        peer = Peer(
            self.endpoint,
            network=self.house.network,
            identity=CLIENT,
            rng=Random(1),
            limits=LIMITS,
            events=Happenings(),
            keep=True,
            held=self.held,
        )
        self.house.peers.append(peer)
        return peer

    @property
    def pending(self) -> list[asyncio.Future[Any]]:
        """Calls, then readers of streams, that still wait for their end."""
        begun: list[asyncio.Future[Any]] = [*self.calls, *self.readers]
        return [each for each in begun if not each.done()]

    async def told(self, steps: Sequence[Step]) -> None:
        self.peer.dial()
        await ask(self.good)
        for step in steps:
            await self._do(step)
            self.crowded = step.held
            if not step.held:
                await self._check()
        await self._check()
        await self._made_honest()
        await asyncio.sleep(2 * max(SECONDS))
        await self._check()
        assert not self.pending
        self.peer.close()
        self.good.close()
        await settled()
        assert timers() <= 0, "a closed peer plans nothing"

    async def _do(self, step: Step) -> None:
        deed = Deed(step.deed % len(Deed))
        if deed is Deed.SAY:
            await self._say(step)
        elif deed is Deed.GREET:
            await self._say(Step(Deed.SAY, GREETING, step.held))
        elif deed is Deed.CALL:
            self._call(_seconds(step))
        elif deed is Deed.STREAM:
            self.readers.append(asyncio.create_task(self._read(_seconds(step))))
        elif deed is Deed.GIVE_UP:
            self._give_up()
        elif deed is Deed.CUT:
            self.house.fake.cut(self.endpoint)
        else:
            await asyncio.sleep(pause(step.message))

    async def _say(self, step: Step) -> None:
        if not self.liar.callers or not self.liar.listener.send(
            self.liar.callers[-1], step.message, *beside(step)
        ):
            return
        before = self.peer.malformed
        if not step.held and not self.crowded:  # else what lies before it may end the link
            await settled()
            assert self.peer.malformed - before >= (faults(step.message) if step.chunk is None else 0)

    def _call(self, seconds: float) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            self.calls.append(self.peer.call("echo", wire.pack_body("hello"), deadline=deadline))
        except errors.WrkError as refusal:
            self.refusals.append(refusal)

    async def _read(self, seconds: float) -> None:
        def opened() -> Inbox:
            parts = ("count", 0, None, wire.MSGPACK, wire.pack_body("hello"))
            inbox = open_stream(self.peer, LIMITS, parts, Terms(seconds, IDLE, None))
            self.streams.append(inbox)
            return inbox

        try:
            async with Stream(opened, None) as stream:
                async for _ in stream:
                    pass
        except errors.WrkError:
            pass  # as documented

    def _give_up(self) -> None:
        if self.pending:
            self.pending[-1].cancel()

    async def _check(self) -> None:
        await settled()
        ended: list[Any] = [call for call in self.calls if call.done()] + [
            inbox for inbox in self.streams if inbox.over
        ]
        waiting = len(self.calls) + len(self.streams) - len(ended)
        assert self.peer.idle == (not waiting)
        assert all(refusal.not_started for refusal in self.refusals)
        assert waiting <= LIMITS.max_pending
        assert self.held.used <= (PEER_BYTES if waiting else 0), "held for nobody"
        heard = {envelope[2] for envelope in self.liar.of(wire.REQUEST)}
        assert not heard & self.unsent, "a call was sent after its end"
        self.unsent |= {call.id for call in ended} - heard
        assert all(wire.well_formed(envelope) for envelope in self.liar.heard)
        before = asyncio.get_running_loop().time()
        assert await ask(self.good, "echo", "are you there?") == "are you there?"
        assert asyncio.get_running_loop().time() == before, "the good wait for nobody"

    async def _made_honest(self) -> None:
        """The process ends, and one that keeps to the protocol starts at the same endpoint."""
        self.liar.listener.close()
        await settled()
        if len(self.pending) >= LIMITS.max_pending:
            self._give_up()
            await settled()
        self.house.serve(self.endpoint, epoch=EPOCH + 2)
        assert await ask(self.peer, "echo", "and you?") == "and you?"
        assert self.peer.info is not None
        assert self.peer.info.epoch == EPOCH + 2
