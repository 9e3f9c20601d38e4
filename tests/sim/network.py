"""A network of hosts that delays, loses its way, falls apart and heals, under `wrk_base.rpc.link`.

A connection carries messages whole and in order, as TCP does: what cannot pass waits and arrives later, or
never, when the connection is lost before. Nothing is doubled. Loss is noticed as with real links: a process
that was killed resets its connections at once; of one that is cut off or stopped nothing is heard, until
ZeroMQ's own heartbeats (who listens, and who dialled with `heartbeat`) give it up. A dial tries as a kernel
does: at once, a second later, and then it is too late.

A `Wires` is the network of a whole simulation, a `SimNetwork` what one process sees of it. Without
processes and faults it is a network like any other and passes the contract of links.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable
from itertools import count
from random import Random
from typing import Any

from tests.sim.loop import Process, SimLoop
from wrk_base.errors import StartError
from wrk_base.rpc.link import LinkEvents, LinkOptions, ListenerEvents
from wrk_base.rpc.membership import Membership
from wrk_base.rpc.tick import Tick

LOST = "the connection was lost"
NOBODY = "nothing accepts connections there"
MUTE = "it accepted the connection but did not finish the handshake"

OPTIONS = LinkOptions()
SYN_AGAIN = 1.0  # seconds from the first try of a kernel to connect to the second; a third comes too late
DIAL_SECONDS = OPTIONS.handshake_timeout / 1000
PING_SECONDS, SILENCE_SECONDS = OPTIONS.heartbeat / 1000, OPTIONS.heartbeat_timeout / 1000
LONGEST_RETRY = 4.0  # seconds from a network's healing until TCP tries again, which doubles its pauses
KNOCK_SECONDS = 1.0
FIRST_PORT, PORTS = 20_000, 12_000
LOCAL = "127.0.0.1"

Chunk = memoryview | None


class Wires:
    """All connections. `quick` and `jitter` are seconds one way, faults aside."""

    def __init__(self, loop: SimLoop, rng: Random, quick: float = 0.000_2, jitter: float = 0.000_3) -> None:
        self.loop, self.rng = loop, rng
        self.quick, self.jitter = quick, jitter
        self.listeners: dict[str, SimListener] = {}
        self.open: dict[Wire, None] = {}
        self._slow: dict[str, tuple[float, float]] = {}
        self._blocked: Counter[tuple[str, str]] = Counter()
        self._ports = count(FIRST_PORT)

    # --- faults

    def block(self, senders: Iterable[str], receivers: Iterable[str]) -> None:
        """Nothing passes from these hosts to those; each `block` wants its `unblock`."""
        self._blocked.update(_pairs(senders, receivers))
        self.review()

    def unblock(self, senders: Iterable[str], receivers: Iterable[str]) -> None:
        self._blocked.subtract(_pairs(senders, receivers))
        self.review()

    def slow(self, host: str, delay: float, jitter: float) -> None:
        """What comes from there and goes there takes that much longer."""
        self._slow[host] = (delay, jitter)

    def quicken(self, host: str) -> None:
        self._slow.pop(host, None)

    def reset(self, wires: Iterable[Wire]) -> None:
        """Both ends learn that it is over; what is under way is lost."""
        for wire in [wire for wire in wires if not wire.is_down]:
            for end in wire.ends:
                end.lose_unread()
            wire.down(None)

    def deafen(self, wires: Iterable[Wire]) -> None:
        """Half-open: whoever was between the two has forgotten the connection and swallows all of it."""
        for wire in wires:
            wire.hole = True
        self.review()

    def kill(self, process: Process) -> None:
        """The kernel closes what it had open; of what it said last some may never have left."""
        for listener in [one for one in self.listeners.values() if one.process is process]:
            listener.is_open = False
            del self.listeners[listener.endpoint]
        for wire in [wire for wire in self.open if wire.is_of(process)]:
            if wire.is_down:
                continue
            for end in wire.ends:
                if end.process is not process:
                    end.lose_tail()
            wire.down(process)

    def review(self) -> None:
        """Who hears whom has changed."""
        for wire in tuple(self.open):
            wire.review()

    # --- ways

    def passes(self, sender: str, receiver: str) -> bool:
        return not self._blocked or self._blocked[sender, receiver] <= 0

    def both_ways(self, one: str, other: str) -> bool:
        return self.passes(one, other) and self.passes(other, one)

    def delay(self, sender: str, receiver: str) -> float:
        seconds = self.quick + self.jitter * self.rng.random()
        for host in (sender, receiver):
            if host in self._slow:
                delay, jitter = self._slow[host]
                seconds += max(0.0, delay + jitter * (2 * self.rng.random() - 1))
        return seconds

    def free_port(self, host: str) -> str:
        while (endpoint := f"tcp://{host}:{FIRST_PORT + next(self._ports) % PORTS}") in self.listeners:
            pass
        return endpoint

    def loses_unread(self) -> bool:
        """ZeroMQ may throw away what has arrived and was not read when the connection ends."""
        return self.rng.random() < 0.5

    def runs(self, listener: SimListener) -> bool:
        """Whether its process answers a handshake."""
        return listener.process is None or not listener.process.stopped


class Wire:
    """One connection; the end that dialled is the first."""

    def __init__(self, wires: Wires, dialled: SimLink, accepted: SimListener, routing_id: bytes) -> None:
        self.wires, self.hole, self.is_down = wires, False, False
        ends = (End(self, dialled.host, dialled.process), End(self, accepted.host, accepted.process))
        self.ends = ends
        ends[0].other, ends[1].other = ends[1], ends[0]
        ends[0].hear, ends[0].end = dialled.arrive, dialled.lost
        ends[0].watches = dialled.heartbeat
        ends[1].hear, ends[1].end = accepted.hears(routing_id), accepted.ended(routing_id)
        ends[1].watches = True
        wires.open[self] = None

    def is_of(self, process: Process | None) -> bool:
        return process is not None and process in (self.ends[0].process, self.ends[1].process)

    def carries(self, sender: End) -> bool:
        return not self.hole and self.wires.passes(sender.host, sender.other.host)

    def review(self) -> None:
        for end in self.ends:
            end.review()

    def down(self, by: Process | End | None) -> None:
        """It ends; `by` whom needs no word of it, the others learn it behind what was said before."""
        if self.is_down:
            return
        self.is_down = True
        for end in self.ends:
            if end is by or (by is not None and end.process is by):
                end.close()
            elif end.is_open:
                end.other.say(None, None)

    def closed(self) -> None:
        if not (self.ends[0].is_open or self.ends[1].is_open):
            self.wires.open.pop(self, None)


class End:
    """One end of a connection, and what is on the way to it."""

    other: End
    hear: Callable[[bytes, Chunk], None]
    end: Callable[[], None]

    def __init__(self, wire: Wire, host: str, process: Process | None) -> None:
        self.wire, self.host, self.process = wire, host, process
        self.is_open, self.watches = True, False
        self._way: deque[tuple[bytes | None, Chunk]] = deque()  # to this end, in order
        self._due: deque[float] = deque()
        self._last = self._stuck_since = 0.0
        self._silent_since: float | None = None
        self._stuck = False

    def say(self, message: bytes | None, chunk: Chunk) -> None:
        """Send to the other end; None: that it is over."""
        wire, to = self.wire, self.other
        loop = wire.wires.loop
        if wire.is_down and message is not None:
            return  # it goes to a connection that is no more, which is learnt soon
        to._way.append((message, chunk))
        if to._stuck:
            return
        if not wire.carries(self):
            to._jam()
            return
        at = loop.now + wire.wires.delay(self.host, to.host)
        if at < to._last:
            at = to._last
        to._last = at
        to._due.append(at)
        loop.at(at, None, to._arrive)

    def _jam(self) -> None:
        self._stuck, self._stuck_since = True, self.wire.wires.loop.now

    def _arrive(self) -> None:
        if not self._due or not self._way:
            return  # what it was for is lost, or waits
        self._due.popleft()
        if self._stuck or not self.wire.carries(self.other):
            if not self._stuck:
                self._jam()
            return
        self._take()

    def _take(self) -> None:
        message, chunk = self._way.popleft()
        if not self.is_open:
            return
        if message is None:
            self.close()
            self.end()
        else:
            self.hear(message, chunk)

    def close(self) -> None:
        self.is_open = False
        self.wire.closed()

    def review(self) -> None:
        """What waited goes on when TCP tries again; who hears nothing begins to count."""
        loop, wires = self.wire.wires.loop, self.wire.wires
        if self._stuck and self.wire.carries(self.other):
            self._stuck = False
            outage = min(loop.now - self._stuck_since, LONGEST_RETRY)
            self._due.clear()
            self._last = max(self._last, loop.now + outage * wires.rng.random())
            for _ in self._way:
                self._due.append(self._last)
                loop.at(self._last, None, self._arrive)
        if not self.watches:
            return
        other = self.other
        stopped = other.process is not None and other.process.stopped
        if not stopped and not self.wire.hole and wires.both_ways(self.host, other.host):
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = loop.now
            patience = SILENCE_SECONDS + PING_SECONDS * wires.rng.random()
            loop.at(loop.now + patience, None, self._give_up, loop.now)

    def _give_up(self, since: float) -> None:
        """ZeroMQ's own thread has heard nothing for long; unless it was stopped itself."""
        if self._silent_since != since or not self.is_open:
            return
        if self.process is not None and self.process.stopped:
            self._silent_since = None
            return
        self.end()
        self.wire.down(self)
        self.close()

    def lose_unread(self) -> None:
        self._way.clear()
        self._due.clear()

    def lose_tail(self) -> None:
        """Some of what was said last, perhaps nothing."""
        for _ in range(self.wire.wires.rng.randint(0, len(self._way))):
            self._way.pop()
            if self._due:
                self._due.pop()


class SimNetwork:
    """The network of one process on one host; `process` None: of a test without processes."""

    rescued = 0  # nothing is ever forgotten in memory
    membership: Membership | None = None

    def __init__(self, wires: Wires, host: str = LOCAL, process: Process | None = None) -> None:
        self.wires, self.host, self.process = wires, host, process
        self.tick = Tick(wires.loop)

    def listen(self, endpoint: str, events: ListenerEvents) -> SimListener:
        host, _, port = endpoint.rpartition(":")
        if not host.startswith("tcp://") or not port.isdigit():
            raise StartError(f"cannot listen on {endpoint}: no such address")
        if port == "0":
            endpoint = self.wires.free_port(host.removeprefix("tcp://"))
        if endpoint in self.wires.listeners:
            raise StartError(f"cannot listen on {endpoint}: the port is in use")
        listener = self.wires.listeners[endpoint] = SimListener(self, endpoint, events)
        return listener

    def dial(self, endpoint: str, events: LinkEvents, *, heartbeat: bool = True) -> SimLink:
        return SimLink(self, endpoint, events, heartbeat)

    async def diagnose(self, endpoint: str) -> str:
        if not await self._reaches(endpoint, 2 * KNOCK_SECONDS):
            return "no answer: the host is down, or a firewall drops the port"
        if endpoint not in self.wires.listeners:
            return "connection refused: nothing listens on that port"
        return "the port accepts connections, but no worker answered the greeting in time"

    async def host_answers(self, endpoint: str) -> bool:
        if not await self._reaches(endpoint, KNOCK_SECONDS):
            return False
        listener = self.wires.listeners.get(endpoint)
        if listener is not None and not self.wires.runs(listener):
            await asyncio.sleep(KNOCK_SECONDS)  # its kernel accepts, and nothing more is heard
            return False
        return listener is not None

    async def _reaches(self, endpoint: str, within: float) -> bool:
        host = _host(endpoint)
        way = self.wires.delay(self.host, host) + self.wires.delay(host, self.host)
        reaches = self.wires.both_ways(self.host, host) and way < within
        await asyncio.sleep(way if reaches else within)
        return reaches

    def close(self) -> None:
        """Every link and listener must be closed already, as a ZeroMQ context wants it."""
        left = [one.endpoint for one in self.wires.listeners.values() if one.network is self]
        assert not left, f"still listening: {left}"


class _Station:
    """What a process has open: what arrived is handed over in one batch, in a turn of that process."""

    def __init__(self, network: SimNetwork, endpoint: str) -> None:
        self.network, self.endpoint = network, endpoint
        self.host, self.process, self.wires = network.host, network.process, network.wires
        self.is_open = True
        self.inbox: deque[Any] = deque()
        self._due = False

    def wake(self) -> None:
        if not self._due and self.is_open:
            self._due = True
            self.wires.loop.soon(self.process, self._turn)

    def _turn(self) -> None:
        self._due = False
        if not self.is_open:
            return
        try:
            with self.network.tick:
                self._deliver()
        finally:
            if self.inbox:  # an owner's exception must not leave the rest lying
                self.wake()

    def _deliver(self) -> None:
        raise NotImplementedError


class SimListener(_Station):
    def __init__(self, network: SimNetwork, endpoint: str, events: ListenerEvents) -> None:
        super().__init__(network, endpoint)
        self.peers: dict[bytes, End] = {}
        self._events = events
        self._ids = count(1)

    def accept(self, link: SimLink) -> Wire:
        routing_id = b"\0" + next(self._ids).to_bytes(4, "big")
        wire = Wire(self.wires, link, self, routing_id)
        self.peers[routing_id] = wire.ends[1]
        return wire

    def send(self, routing_id: bytes, message: bytes, chunk: Chunk = None) -> bool:
        end = self.peers.get(routing_id)
        if end is None or not self.is_open:
            return False
        if _too_long(message, chunk):
            self.wires.reset([end.wire])
        else:
            end.say(message, chunk)
        return True

    def key_of(self, routing_id: bytes) -> bytes:
        return b""

    def settled(self, routing_id: bytes) -> None:
        """Nobody is thrown out here for saying nothing."""

    def expel(self, routing_id: bytes) -> None:
        end = self.peers.get(routing_id)
        if end is not None:
            self.wires.reset([end.wire])

    def forget(self, routing_id: bytes) -> None:
        """Nothing is kept of a peer that is gone."""

    def close(self, linger_ms: int = 0) -> None:
        if self.is_open:
            self.is_open = False
            del self.wires.listeners[self.endpoint]
            for end in tuple(self.peers.values()):
                end.close()
                end.wire.down(end)
            self.peers.clear()

    def hears(self, routing_id: bytes) -> Callable[[bytes, Chunk], None]:
        def hear(message: bytes, chunk: Chunk) -> None:
            self.inbox.append((routing_id, message, chunk))
            self.wake()

        return hear

    def ended(self, routing_id: bytes) -> Callable[[], None]:
        def end() -> None:
            self.peers.pop(routing_id, None)
            if self.wires.loses_unread():
                self.inbox = deque(item for item in self.inbox if item[0] != routing_id)
            self.inbox.append((routing_id, None, None))
            self.wake()

        return end

    def _deliver(self) -> None:
        lost = []
        for _ in range(len(self.inbox)):
            routing_id, message, chunk = self.inbox.popleft()
            if message is None:
                lost.append(routing_id)
            elif self.is_open:
                self._events.on_message(routing_id, message, chunk)
        if self.is_open:
            self._events.on_drained()
        for routing_id in lost:
            if self.is_open:
                self._events.on_lost(routing_id)


class SimLink(_Station):
    key = b""

    def __init__(self, network: SimNetwork, endpoint: str, events: LinkEvents, heartbeat: bool) -> None:
        super().__init__(network, endpoint)
        self.heartbeat = heartbeat
        self._events = events
        self._wire: Wire | None = None
        self._up, self._lost = False, ""
        now = self.wires.loop.now
        self._deadline = now + DIAL_SECONDS
        self._goes_to = _host(endpoint)
        self._knock()

    def send(self, message: bytes, chunk: Chunk = None) -> bool:
        if not self._up or not self.is_open or self._wire is None:
            return False
        if _too_long(message, chunk):
            self.wires.reset([self._wire])
        else:
            self._wire.ends[0].say(message, chunk)
        return True

    def close(self, linger_ms: int = 0) -> None:
        if self.is_open:
            self.is_open = False
            if self._wire is not None:
                self._wire.ends[0].close()
                self._wire.down(self._wire.ends[0])

    # --- coming up, all of it by the kernels and network threads

    def _knock(self) -> None:
        """One try of the kernel to connect."""
        wires, loop = self.wires, self.wires.loop
        if wires.both_ways(self.host, self._goes_to):
            way = wires.delay(self.host, self._goes_to) + wires.delay(self._goes_to, self.host)
            loop.at(loop.now + way, None, self._reached)
        elif loop.now + SYN_AGAIN < self._deadline - SYN_AGAIN:
            loop.at(loop.now + SYN_AGAIN, None, self._when_open, self._knock)
        else:
            loop.at(self._deadline, None, self.lost, NOBODY)

    def _reached(self) -> None:
        """The kernel there answered; now ZeroMQ shakes hands."""
        listener = self.wires.listeners.get(self.endpoint)
        if not self._waits():
            return
        if listener is None:
            self.lost(NOBODY)
        elif self.wires.loop.now >= self._deadline:
            self.lost(MUTE)
        elif not self.wires.runs(listener) or not self.wires.both_ways(self.host, self._goes_to):
            self.wires.loop.at(min(self.wires.loop.now + 0.1, self._deadline), None, self._reached)
        else:
            self._wire = listener.accept(self)
            self.wake()

    def _when_open(self, step: Callable[[], None]) -> None:
        if self._waits():
            step()

    def _waits(self) -> bool:
        alive = self.process is None or self.process.alive
        return alive and self.is_open and self._wire is None and not self._lost

    # --- what arrives

    def arrive(self, message: bytes, chunk: Chunk) -> None:
        self.inbox.append((message, chunk))
        self.wake()

    def lost(self, reason: str = LOST) -> None:
        self._lost = self._lost or reason
        if self.wires.loses_unread():
            self.inbox.clear()
        self.wake()

    def _deliver(self) -> None:
        if self._wire is not None and not self._up:
            self._up = True
            self._events.on_up()
        arrived = len(self.inbox)
        for _ in range(arrived):
            if self.is_open:
                self._events.on_message(*self.inbox.popleft())
        if arrived and self.is_open:
            self._events.on_drained()
        if self._lost and self.is_open:
            self.is_open = False
            self._events.on_down(self._lost)


def _host(endpoint: str) -> str:
    return endpoint.removeprefix("tcp://").rpartition(":")[0]


def _pairs(senders: Iterable[str], receivers: Iterable[str]) -> Iterable[tuple[str, str]]:
    there = tuple(receivers)
    return ((one, other) for one in senders for other in there if one != other)


def _too_long(message: bytes, chunk: Chunk) -> bool:
    return len(message) > OPTIONS.max_message or (chunk is not None and len(chunk) > OPTIONS.max_message)
