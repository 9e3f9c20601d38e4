"""One line to one endpoint: dial, greet, write, notice loss, dial again.

A `Line` owns one link at a time and is its only user. Nothing that was queued for a process survives
that process: a new link begins with an empty outbox, a new count of bytes and a new greeting. What is
said on it is its subclass's business.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from . import wire
from .calls import redial_delay
from .flow import Flow
from .identity import BadGreeting, Identity, PeerInfo, meet
from .link import UNTRUSTED, Link, Network
from .outbox import Outbox


@dataclass(frozen=True, slots=True)
class PeerLimits:
    """Seconds, bytes and counts; the reasons stand at the settings of the same names."""

    connect_timeout: float = 3.0
    greeting_timeout: float = 3.0
    redial_min: float = 0.1
    redial_max: float = 1.0
    max_message: int = 1_048_576
    max_pending: int = 65_536
    link_window: int = 8_388_608
    max_body: int = 134_217_728
    peer_bytes: int = 268_435_456
    max_streams: int = 10_000
    stream_items: int = 1024
    stream_bytes: int = 1_048_576

    @property
    def dial_timeout(self) -> float:
        """Longer than any link takes to connect and to shake hands, or to give that up."""
        return 3 * self.greeting_timeout


class Line(ABC):
    """`keep` redials for ever; otherwise only while something waits for the link."""

    def __init__(
        self,
        endpoint: str,
        network: Network,
        identity: Identity,
        rng: Random,
        limits: PeerLimits,
        *,
        keep: bool,
        heartbeat: bool,
    ) -> None:
        self.endpoint = endpoint
        self.info: PeerInfo | None = None
        self.ready = False
        self.closed = False
        self.reason = "not dialled yet"
        self.last_used = 0.0
        self.malformed = 0
        self._network, self._identity, self._rng, self._limits = network, identity, rng, limits
        self._keep, self._heartbeat = keep, heartbeat
        self._loop = asyncio.get_running_loop()
        self._tick = network.tick
        self._outbox = Outbox(limits.max_message, self._cannot_travel, Flow(limits.link_window))
        self._flush_due = False
        self._attempt = 0
        self._link: Link | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}

    # --- what a subclass does

    @abstractmethod
    def on_message(self, message: bytes, chunk: memoryview | None = None) -> None:
        """The link hands over what has arrived."""

    @abstractmethod
    def on_drained(self) -> None:
        """It has handed over all of it."""

    @abstractmethod
    def _cannot_travel(self, envelope: wire.Envelope, problem: str) -> None:
        """An envelope was not sent, because no message can carry it."""

    @abstractmethod
    def _wanted(self) -> bool:
        """Whether something waits for the link."""

    @abstractmethod
    def _came_up(self) -> None:
        """The peer answered the greeting; `info` says who it is."""

    @abstractmethod
    def _went_down(self, reason: str) -> None:
        """The link failed or was lost."""

    # --- writing

    def _say(self, envelope: wire.Envelope, payload_bytes: int = 0) -> None:
        if self._outbox.add(envelope, payload_bytes):
            self._flush()
        else:
            self._flush_later()

    def _flush_later(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._tick.at_end(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        link = self._link
        now = self._loop.time()
        self.last_used = now
        if link is None or not self.ready:
            return  # what waits is written when the greeting was answered, or failed
        for message, chunk in self._outbox.take(int(now * 1000)):
            if not link.send(message, chunk):
                return  # the link is being lost; its end fails what was sent

    # --- the link's life

    def dial(self) -> None:
        """Start to connect, if nothing is under way."""
        if self._link is None and not self.closed and "redial" not in self._timers:
            self._connect()

    def _connect(self) -> None:
        self._timers.pop("redial", None)
        self._outbox.flow = Flow(self._limits.link_window)
        self._link = self._network.dial(self.endpoint, self, heartbeat=self._heartbeat)
        # A link tells how its dial ended; where ZeroMQ finds no descriptor for it, nobody ever does.
        self._timer("greeting", self._loop.time() + self._limits.dial_timeout, self._dial_late)

    def on_up(self) -> None:
        self._send_now(self._hello())
        self._timer("greeting", self._loop.time() + self._limits.greeting_timeout, self._greeting_late)

    def _hello(self) -> wire.Envelope:
        limits = {"maxMessage": self._limits.max_message, "window": self._limits.link_window}
        return (wire.HELLO, 0, 0, self._identity.greeting(limits, self._network.membership))

    def _send_now(self, envelope: wire.Envelope) -> None:
        """Beside the outbox: a first or a last word."""
        assert self._link is not None
        message = wire.encode([envelope], int(self._loop.time() * 1000))
        self._outbox.flow.sent(len(message))
        self._link.send(message)

    def _dial_late(self) -> None:
        self.drop("the dial had no end")

    def _greeting_late(self) -> None:
        self.drop("no answer to the greeting")

    def _greeted(self, facts: dict[str, Any]) -> None:
        if not self._meet(facts):
            return
        assert self.info is not None
        self._outbox.max_message = self.info.longest(self._limits.max_message)
        self._outbox.flow.window = self.info.window(self._limits.link_window)
        self._cancel_timer("greeting")
        self._cancel_timer("connect")
        self._attempt, self.ready, self.reason = 0, True, ""
        self.last_used = self._loop.time()
        membership = self._network.membership
        if membership is not None and membership.serial > self.info.serial:
            self._say((wire.REVOKED, 0, 0, membership.revocations()))
        self._came_up()

    def _meet(self, facts: dict[str, Any]) -> bool:
        """Learn who answers; one that does not prove it is dropped. Nothing was said to it but who we are."""
        assert self._link is not None
        try:
            self.info = meet(facts, self._network.membership, self._link.key)
        except BadGreeting as error:
            self.drop(f"{UNTRUSTED}{error}")
            return False
        return True

    def _take_membership(self, envelope: wire.Envelope) -> bool:
        """What a member may say of memberships at any time; False for everything else."""
        membership = self._network.membership
        if membership is None:
            return False
        if envelope[0] == wire.HELLO_OK:  # it has a newer certificate
            self._meet(envelope[3])
        elif envelope[0] == wire.REVOKED:
            membership.hear_revocations(envelope[3])
        else:
            return False
        return True

    def greet_again(self) -> None:
        """Show the peer our newest certificate."""
        if self.ready:
            self._say(self._hello())

    def say(self, envelope: wire.Envelope) -> None:
        """Say something that wants no answer, if the peer is there."""
        if self.ready:
            self._say(envelope)

    def recheck(self) -> None:
        """Drop a peer that is no member any more."""
        membership = self._network.membership
        member = self.info.member if self.info is not None else None
        if self.ready and member is not None and membership is not None and not membership.stays(member):
            self.drop("its certificate was revoked or has expired")

    def drop(self, reason: str) -> None:
        """Give this link up; calls that it carried fail, and it is dialled anew where wanted."""
        if self._link is not None:
            self._link.close()
            self.on_down(reason)

    def on_down(self, reason: str) -> None:
        self._link, self.ready, self.reason = None, False, reason
        self._outbox.clear()
        self._cancel_timer("greeting")
        if self._keep or self._wanted():
            self._redial()
        self._went_down(reason)

    def _redial(self) -> None:
        if self.closed or self._link is not None or "redial" in self._timers:
            return
        self._attempt += 1
        limits = self._limits
        pause = redial_delay(self._attempt, limits.redial_min, limits.redial_max, self._rng.random())
        self._timer("redial", self._loop.time() + pause, self._connect)

    def _end(self, linger_ms: int) -> None:
        """Leave no timer and no socket."""
        was_ready, self.closed, self.ready = self.ready, True, False
        for name in list(self._timers):
            self._cancel_timer(name)
        if self._link is not None:
            if was_ready:
                self._send_now((wire.BYE, 0, 0))
            self._link.close(linger_ms)
            self._link = None

    # --- timers

    def _timer(self, name: str, at: float, action: Callable[[], None]) -> None:
        self._cancel_timer(name)
        self._timers[name] = self._loop.call_at(at, action)

    def _cancel_timer(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
