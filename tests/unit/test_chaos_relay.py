"""What the relay does to bytes between two ends, over real connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random

import pytest

from wrk_orchestrator.chaos.relay import DELAYED, RESET, SLICED, SWALLOWED, TRUNCATED, Relay, Trouble

WORDS = b"what was said " * 500


class Ends:
    """A caller, what it is connected to, and the relay between them."""

    def __init__(self, relay: Relay, said: asyncio.Queue[bytes]) -> None:
        self.relay, self.said = relay, said

    async def call(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.relay.port)


@asynccontextmanager
async def ends() -> AsyncIterator[Ends]:
    """The far end repeats what it hears, and notes each read."""
    said: asyncio.Queue[bytes] = asyncio.Queue()

    async def repeat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                said.put_nowait(data)
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            said.put_nowait(b"")
            writer.close()

    server = await asyncio.start_server(repeat, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Relay("127.0.0.1", port, Random(1)) as relay:
        yield Ends(relay, said)


def told(story: Callable[[Ends], Awaitable[None]]) -> None:
    async def tell() -> None:
        async with asyncio.timeout(30), ends() as there:
            await story(there)

    asyncio.run(tell())


@pytest.mark.parametrize(
    ("trouble", "did"),
    [(Trouble(), ""), (Trouble(delay=0.01, jitter=0.01), DELAYED), (Trouble(slices=64), SLICED)],
)
def test_all_bytes_come_in_order(trouble: Trouble, did: str) -> None:
    async def story(there: Ends) -> None:
        there.relay.trouble = trouble
        reader, writer = await there.call()
        writer.write(WORDS)
        assert await reader.readexactly(len(WORDS)) == WORDS
        assert set(there.relay.did) == ({did} if did else set())
        writer.close()
        assert await reader.read() == b""  # the end is passed on, too

    told(story)


def test_it_breaks_off_behind_a_byte() -> None:
    async def story(there: Ends) -> None:
        there.relay.trouble = Trouble(truncate_within=1000)
        reader, writer = await there.call()
        writer.write(WORDS)
        heard = await reader.read()
        assert len(heard) < 1000
        assert WORDS.startswith(heard)
        assert there.relay.did[TRUNCATED] == 1

    told(story)


def test_a_reset_is_heard_as_one() -> None:
    async def story(there: Ends) -> None:
        there.relay.trouble = Trouble(reset_within=1000)
        reader, writer = await there.call()
        writer.write(WORDS)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        assert there.relay.did[RESET] == 1

    told(story)


def test_connections_that_are_there_can_be_reset() -> None:
    async def story(there: Ends) -> None:
        reader, writer = await there.call()
        writer.write(b"x")
        await reader.readexactly(1)
        there.relay.reset()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)

    told(story)


def test_a_deaf_one_keeps_the_connection_and_says_nothing() -> None:
    async def story(there: Ends) -> None:
        reader, writer = await there.call()
        writer.write(b"x")
        await reader.readexactly(1)
        there.relay.trouble = Trouble(deaf=True)
        writer.write(WORDS)
        async with asyncio.timeout(10):
            while not there.relay.did[SWALLOWED]:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
        assert there.said.qsize() == 1  # of the words nothing came
        assert not reader.at_eof()

    told(story)
