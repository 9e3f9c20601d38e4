"""Looks at an endpoint from outside ZeroMQ: does anything accept there, does ZeroMQ itself still run?"""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

DIAGNOSE_SECONDS = 2.0
KNOCK_SECONDS = 1.0


async def begins_handshake(endpoint: str) -> bool:
    """Whether a process there still runs, whatever its event loop does.

    The kernel accepts connections for a stopped process, too; the first bytes of ZMTP come from ZeroMQ's
    own thread, which a stuck event loop does not hold up.
    """
    where = urlsplit(endpoint)
    try:
        async with asyncio.timeout(KNOCK_SECONDS):
            reader, writer = await asyncio.open_connection(where.hostname, where.port)
            try:
                return (await reader.readexactly(1)) == b"\xff"
            finally:
                writer.close()
    except (OSError, ValueError, EOFError, TimeoutError):
        return False


async def diagnose(endpoint: str) -> str:
    """The likely cause why nobody answers at `endpoint`, for people."""
    where = urlsplit(endpoint)
    try:
        dial = asyncio.open_connection(where.hostname, where.port)
        _, writer = await asyncio.wait_for(dial, DIAGNOSE_SECONDS)
    except TimeoutError:
        return "no answer: the host is down, or a firewall drops the port"
    except ConnectionRefusedError:
        return "connection refused: nothing listens on that port"
    except (OSError, ValueError) as error:
        return f"{error.strerror or error}" if isinstance(error, OSError) else f"no address: {error}"
    writer.close()
    return "the port accepts connections, but no worker answered the greeting in time"
