"""A TCP relay of our own that does to bytes what bad networks do: late, in slivers, cut off, or not at all.

    async with Relay(host, port, rng) as relay:
        relay.trouble = Trouble(delay=0.05)          # for connections that are there, too
        ...
        relay.did[RESET]                             # how often it bit

It stands between an orchestrator and a rack and understands nothing of what passes. Chance comes from `rng`.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from asyncio import StreamReader, StreamWriter
from collections import Counter
from dataclasses import dataclass
from random import Random
from types import TracebackType

from wrk_base.discovery.addresses import LOOPBACK

READ_BYTES = 65_536
DELAYED, SLICED, RESET, TRUNCATED, SWALLOWED = "delayed", "sliced", "reset", "truncated", "swallowed"
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Trouble:
    """`delay` and `jitter` in seconds before each piece is passed on; `slices` are of at most so many bytes.

    A connection is reset, or ended, behind a byte that is drawn from so many; 0 is never. `deaf`: what comes
    is read and kept by nobody, and no side learns that the other is gone.
    """

    delay: float = 0.0
    jitter: float = 0.0
    slices: int = 0
    reset_within: int = 0
    truncate_within: int = 0
    deaf: bool = False


NO_TROUBLE = Trouble()


class Relay:
    """Listens on loopback, at `port`, and passes on to one address."""

    def __init__(self, host: str, port: int, rng: Random) -> None:
        self._host, self._port, self._rng = host, port, rng
        self.trouble = NO_TROUBLE
        self.did: Counter[str] = Counter()
        self._server: asyncio.Server | None = None
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._accept, LOOPBACK, 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def reset(self) -> None:
        """Break every connection that is there now."""
        for pair in tuple(self._pairs):
            self.did[RESET] += 1
            pair.abort()

    async def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.transport.abort()
            self._tasks.discard(task)
            return
        pair = _Pair(self, (reader, writer), (far_reader, far_writer), self._rng)
        self._pairs.add(pair)
        try:
            await pair.run()
        finally:
            pair.close()
            self._pairs.discard(pair)
            self._tasks.discard(task)


class _Pair:
    """One connection, and the one that it leads to."""

    def __init__(
        self,
        relay: Relay,
        near: tuple[StreamReader, StreamWriter],
        far: tuple[StreamReader, StreamWriter],
        rng: Random,
    ) -> None:
        self._relay, self._near, self._far, self._rng = relay, near, far, rng
        self._passed = 0
        self._over = asyncio.Event()
        self._fate = (rng.random(), rng.random())  # where it breaks, as a share of `..._within`
        for _, writer in (near, far):
            _at_once(writer)

    async def run(self) -> None:
        """Until one side ends and the other has been told, or it is broken."""
        both = [
            asyncio.ensure_future(self._pump(self._near[0], self._far[1])),
            asyncio.ensure_future(self._pump(self._far[0], self._near[1])),
            asyncio.ensure_future(self._over.wait()),
        ]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def _pump(self, reader: StreamReader, writer: StreamWriter) -> None:
        relay = self._relay
        try:
            while data := await reader.read(READ_BYTES):
                await self._wait()
                if relay.trouble.deaf:
                    relay.did[SWALLOWED] += 1
                    await asyncio.Event().wait()  # nothing of this connection is ever passed on again
                await self._pass_on(data, writer)
        except OSError:
            return
        if relay.trouble.deaf:
            await asyncio.Event().wait()

    async def _wait(self) -> None:
        trouble = self._relay.trouble
        if trouble.delay or trouble.jitter:
            self._relay.did[DELAYED] += 1
            await asyncio.sleep(trouble.delay + trouble.jitter * self._rng.random())

    async def _pass_on(self, data: bytes, writer: StreamWriter) -> None:
        trouble = self._relay.trouble
        left = self._breaks_after(trouble)
        whole = left is None or len(data) <= left
        self._passed += len(data)
        for piece in self._pieces(data if whole else data[:left], trouble.slices):
            writer.write(piece)
            await writer.drain()
            if trouble.slices:
                await asyncio.sleep(0)  # so that each leaves by itself
        if not whole:
            self._break(trouble)

    def _breaks_after(self, trouble: Trouble) -> int | None:
        """How many more bytes pass; None where there is no end to them."""
        ends = [
            int(share * within)
            for share, within in zip(self._fate, (trouble.reset_within, trouble.truncate_within), strict=True)
            if within
        ]
        return max(0, min(ends) - self._passed) if ends else None

    def _break(self, trouble: Trouble) -> None:
        if trouble.reset_within:
            self._relay.did[RESET] += 1
            self.abort()
        else:
            self._relay.did[TRUNCATED] += 1
            self._over.set()

    def _pieces(self, data: bytes, most: int) -> list[bytes]:
        if not most:
            return [data]
        self._relay.did[SLICED] += 1
        pieces, at = list[bytes](), 0
        while at < len(data):
            size = self._rng.randint(1, most)
            pieces.append(data[at : at + size])
            at += size
        return pieces

    def abort(self) -> None:
        """Both sides hear a reset."""
        for _, writer in (self._near, self._far):
            sock = writer.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
            writer.transport.abort()
        self._over.set()

    def close(self) -> None:
        for _, writer in (self._near, self._far):
            writer.close()


def _at_once(writer: StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
