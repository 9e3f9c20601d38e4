"""A search for model servers: every address is asked at once, and what answers is judged.

It asks for lists and versions, never for an answer of a model, so nothing is loaded and nothing is
computed. Whoever answers may be anybody; nothing that is said here raises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace

from .get import Unreachable, Unreadable, get
from .recognition import MODELS_PATH, OTHER, QUESTIONS, ModelServer, Nobody, confirms, judge

SECONDS = 2.0  # for all answers of one server: they are in its memory, but it may be busy computing

Finding = ModelServer | Nobody


async def look(addresses: Iterable[str], seconds: float = SECONDS) -> list[Finding]:
    """What is at each address, in their order, after `seconds` at most."""
    return list(await asyncio.gather(*(_look_at(url, seconds) for url in addresses)))


async def _look_at(url: str, seconds: float) -> Finding:
    found: Finding = Nobody(url, f"no answer within {seconds:g} s", stranger=False)
    try:
        async with asyncio.timeout(seconds):
            found = judge(url, await get(url + MODELS_PATH))
            if isinstance(found, ModelServer) and found.kind is OTHER:
                found = await _recognise(found)
    except TimeoutError:
        pass  # a server whose kind is not known in time is found all the same
    except Unreachable:
        return Nobody(url, "nothing answers", stranger=False)
    except Unreadable:
        return Nobody(url, "answers with something else", stranger=True)
    return found


async def _recognise(server: ModelServer) -> ModelServer:
    for path in QUESTIONS:
        try:
            kind = confirms(path, await get(server.url + path))
        except (Unreachable, Unreadable):
            continue
        if kind is not None:
            return replace(server, kind=kind)
    return server
