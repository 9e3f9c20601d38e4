"""Attempts on a port, as plain data, and the process that makes them: held to one core, so many a second.

    told = await attack(Orders(attempts, count=10_000))
    assert not accepted(told)

An `Attempt` is one connection: how it opens, what it says, and what one that is refused hears. Nothing of
the product opens the connections; only `wire` is borrowed, to write and to read what is said on them.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import msgspec
import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from tests.fuzz.mutate import mutated_message
from wrk_base.rpc import wire
from wrk_base.security import z85

ROOT = Path(__file__).resolve().parents[2]
CURVE, NULL, PLAIN, TCP = "curve", "null", "plain", "tcp"
ANSWERS = frozenset({"REPLY", "ITEM", "END", "JOIN"})  # to a request: whoever hears one got what it asked for
BEATS = frozenset({"PING"})  # to a connection whose number had another one, which has just ended
_OVER = zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
_OVER |= zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH


class Attempt(msgspec.Struct, frozen=True):
    """One connection to `to` (tcp://host:port), kept for `stays` seconds or until the other side ends it.

    Keys have 32 bytes; without `public` each attempt makes a pair of its own. `says` are messages, or with
    the mechanism `tcp` bare bytes. `hears` is what somebody hears who is refused: kinds of envelopes, and
    for an ERROR its name.
    """

    kind: str
    to: str
    mechanism: str = CURVE
    server_key: bytes = b""
    public: bytes = b""
    secret: bytes = b""
    says: tuple[bytes, ...] = ()
    hears: frozenset[str] = frozenset()
    stays: float = 1.0


class Flood(msgspec.Struct, frozen=True):
    """A member that says `count` messages, `rate` a second: `samples` as they are, or damaged.

    It greets anew behind every fiftieth of them, and dials again when it was thrown out.
    """

    attempt: Attempt
    samples: tuple[bytes, ...]
    count: int
    seed: int
    rate: float = 2000.0
    intact: float = 0.1  # of them are said as they are


class Orders(msgspec.Struct, frozen=True):
    """`count` attempts over all kinds in turn, `rate` a second; beside them are so many `silent` ones."""

    attempts: tuple[Attempt, ...] = ()
    count: int = 0
    rate: float = 200.0
    silent: int = 0
    flood: Flood | None = None


class Tale(msgspec.Struct):
    """What became of the attempts of one kind. `ended` by the other side; `slowest` of those, in seconds."""

    made: int = 0
    heard: dict[str, int] = {}
    ended: int = 0
    slowest: float = 0.0
    said: int = 0


Told = dict[str, Tale]


def add(told: Told, more: Told) -> None:
    """One tale of what was told in several parts."""
    for kind, tale in more.items():
        whole = told.setdefault(kind, Tale())
        whole.made, whole.ended, whole.said = (
            whole.made + tale.made,
            whole.ended + tale.ended,
            whole.said + tale.said,
        )
        whole.slowest = max(whole.slowest, tale.slowest)
        for word, count in tale.heard.items():
            whole.heard[word] = whole.heard.get(word, 0) + count


def accepted(told: Told) -> dict[str, dict[str, int]]:
    """By kind, the answers that nobody should have heard."""
    found = {kind: {w: n for w, n in tale.heard.items() if w in ANSWERS} for kind, tale in told.items()}
    return {kind: words for kind, words in found.items() if words}


def astray(told: Told, attempts: tuple[Attempt, ...], share: float = 0.9) -> list[str]:
    """Kinds that heard something else than a refusal, or too rarely that: what went wrong, for people."""
    wrong = []
    for attempt in attempts:
        tale = told[attempt.kind]
        few = [word for word in attempt.hears if tale.heard.get(word, 0) < share * tale.made]
        if few or tale.heard.keys() - attempt.hears - BEATS:
            wrong.append(f"{attempt.kind}: of {tale.made} heard {tale.heard}, not {set(attempt.hears)}")
    return wrong


async def attack(orders: Orders) -> Told:
    """Have it done by another process; returns when all is over there."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        told, _ = await process.communicate(msgspec.json.encode(orders))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, "the attackers failed"
    return msgspec.json.decode(told, type=Told)


# --- in the process of its own


class Gang:
    """All attackers, on one loop."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._told: Told = {}
        self._running: set[asyncio.Task[None]] = set()
        self._over = False
        self._context = zmq.asyncio.Context()
        self._context.set(zmq.MAX_SOCKETS, 65_535)

    async def go(self) -> Told:
        orders, begun = self._orders, time.monotonic()
        held = [asyncio.create_task(self._hold()) for _ in range(orders.silent)]
        if orders.flood is not None:
            self._start(self._flood(orders.flood))
        for number in range(orders.count):
            await asyncio.sleep(begun + number / orders.rate - time.monotonic())
            self._start(self._make(orders.attempts[number % len(orders.attempts)]))
        while self._running:
            await asyncio.wait(self._running)
        self._over = True
        await asyncio.gather(*held)
        self._context.destroy(0)
        return self._told

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._running.add(task := asyncio.create_task(work))
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        task.result()  # what went wrong is shown by the loop

    async def _hold(self) -> None:
        """A connection that says nothing, and the next one when it was ended."""
        silent = Attempt("silent", self._orders.attempts[0].to, TCP, stays=30.0)
        while not self._over:
            await self._make(silent)

    async def _make(self, attempt: Attempt) -> None:
        tale = self._told.setdefault(attempt.kind, Tale())
        tale.made += 1
        begun, words = time.monotonic(), set[str]()
        try:
            async with asyncio.timeout(attempt.stays):
                await (self._by_hand(attempt) if attempt.mechanism == TCP else self._talk(attempt, words))
            tale.ended += 1
            tale.slowest = max(tale.slowest, time.monotonic() - begun)
        except TimeoutError:
            pass  # it may stay
        _count(tale, words)

    async def _by_hand(self, attempt: Attempt) -> None:
        """Returns when the other side has ended it."""
        where = urlsplit(attempt.to)
        with suppress(ConnectionError):
            reader, writer = await asyncio.open_connection(where.hostname, where.port)
            try:
                for data in attempt.says:
                    writer.write(data)
                    await writer.drain()
                while await reader.read(65_536):
                    pass
            finally:
                writer.transport.abort()

    async def _talk(self, attempt: Attempt, words: set[str]) -> None:
        with self._dialled(attempt) as (sock, over):
            for message in attempt.says:
                await sock.send(message)
            reading = asyncio.ensure_future(_hear(sock, words))
            try:
                await _until_over(over)
            finally:
                reading.cancel()

    @contextmanager
    def _dialled(self, attempt: Attempt) -> Iterator[tuple[zmq.asyncio.Socket, zmq.asyncio.Socket]]:
        """A socket that dials once, and its monitor."""
        sock = self._context.socket(zmq.DEALER)
        sock.linger, sock.reconnect_ivl = 0, -1
        if attempt.mechanism == PLAIN:
            sock.plain_username, sock.plain_password = b"wrk", b"wrk"
        elif attempt.mechanism == CURVE:
            if attempt.public:
                public, secret = z85.encode(attempt.public).encode(), z85.encode(attempt.secret).encode()
            else:
                public, secret = zmq.curve_keypair()
            sock.curve_publickey, sock.curve_secretkey = public, secret
            sock.curve_serverkey = z85.encode(attempt.server_key).encode()
        monitor = sock.get_monitor_socket(_OVER)
        try:
            sock.connect(attempt.to)
            yield sock, monitor
        finally:
            sock.disable_monitor()
            monitor.close(0)
            sock.close(0)

    async def _flood(self, flood: Flood) -> None:
        rng, left = Random(flood.seed), flood.count
        tale = self._told.setdefault(flood.attempt.kind, Tale())
        while left > 0:
            tale.made += 1
            with self._dialled(flood.attempt) as (sock, over):
                ending = asyncio.ensure_future(_until_over(over))
                reading = asyncio.ensure_future(_hear(sock, words := set[str]()))
                begun, before = time.monotonic(), left
                while left > 0 and not ending.done():
                    message = list(flood.attempt.says) if left % 50 == 0 else _malformed(flood, rng)
                    try:
                        await sock.send_multipart(message, zmq.DONTWAIT)
                        left -= 1
                    except zmq.Again:
                        pass  # it is read too slowly, or not any more
                    await asyncio.sleep(begun + (before - left) / flood.rate - time.monotonic())
                await asyncio.wait({ending}, timeout=flood.attempt.stays)
                tale.ended += ending.done()
                for task in (ending, reading):
                    task.cancel()
                _count(tale, words)
                tale.said += before - left


def _count(tale: Tale, words: set[str]) -> None:
    for word in words:
        tale.heard[word] = tale.heard.get(word, 0) + 1


async def _hear(sock: zmq.asyncio.Socket, words: set[str]) -> None:
    while True:
        message = (await sock.recv_multipart())[0]
        for envelope in wire.decode(message)[1]:
            words.add(envelope[4] if envelope[0] == wire.ERROR else wire.NAMES[envelope[0]])


async def _until_over(monitor: zmq.asyncio.Socket) -> None:
    parse_monitor_message(await monitor.recv_multipart())


def _malformed(flood: Flood, rng: Random) -> list[bytes]:
    """One message of up to three frames."""
    sample = rng.choice(flood.samples)
    if rng.random() >= flood.intact:
        sample = mutated_message(sample, 16_384, rng, _Bytes(rng))
    frames = rng.random()
    if frames < 0.9:
        return [sample]
    return [sample, b"x"] if frames < 0.96 else [sample, b"", b"x"]


class _Bytes:
    """A change of bytes that means nothing."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def __call__(self, data: bytes, max_size: int) -> bytes:
        rng, changed = self._rng, bytearray(data)
        how = rng.random()
        if how < 0.3:
            del changed[rng.randrange(len(data) + 1) :]
        elif how < 0.5:
            changed += rng.randbytes(rng.randrange(1, 20))
        for _ in range(rng.randrange(4) if changed else 0):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        return bytes(changed[:max_size])


def main() -> None:
    """Orders on standard input, the tale on standard output."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))
    orders = msgspec.json.decode(sys.stdin.buffer.read(), type=Orders)
    told = asyncio.run(Gang(orders).go())
    sys.stdout.buffer.write(msgspec.json.encode(told))


if __name__ == "__main__":
    main()
