"""A story of one input, in virtual time, that hides nothing; and what its checks share.

`tell` raises whatever went wrong anywhere: in the story, in a callback of the loop, or because a task
was left over. So a target is a story and its promises, and every exception that comes out is a finding.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from tests.fakes.rpc import House
from tests.fakes.virtual_time import VirtualLoop
from tests.fuzz.steps import Step
from wrk_base.rpc import wire

Story = Callable[[House], Coroutine[Any, Any, None]]

HANG = 1e9  # virtual seconds that no story reaches
PAUSES = (0.001, 0.3, 1.1, 3.5, 12.0, 130.0)  # up to redials, deadlines and the window of delays


def tell(story: Story) -> None:
    """Run a story in a house of its own; raises what went wrong in it or beside it."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(_told(story))


async def _told(story: Story) -> None:
    loop = asyncio.get_running_loop()
    unseen: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: unseen.append(context))
    try:
        async with asyncio.timeout(HANG), House() as house:
            await story(house)
    finally:
        if unseen:  # it comes first: what the story noticed later may well be its consequence
            raise unseen[0].get("exception") or AssertionError(unseen[0]["message"])
    await settled()
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not left, f"tasks left over: {left}"


async def settled() -> None:
    """Returns when everything that can happen now has happened."""
    await asyncio.sleep(1e-6)


def pause(message: bytes) -> float:
    """The seconds that a step of waiting stands for."""
    return PAUSES[sum(message[:1]) % len(PAUSES)]


def beside(step: Step) -> tuple[memoryview, ...]:
    """The second frame, as the arguments of a link's `send`."""
    return () if step.chunk is None else (memoryview(step.chunk),)


def envelopes_of(message: bytes) -> list[wire.Envelope]:
    """The well-formed envelopes of a message, none where it is not one."""
    try:
        _, envelopes = wire.decode(message)
    except wire.BadMessage:
        return []
    return [envelope for envelope in envelopes if wire.well_formed(envelope)]


def faults(message: bytes) -> int:
    """How many malformed things a message holds: itself, or envelopes."""
    try:
        _, envelopes = wire.decode(message)
    except wire.BadMessage:
        return 1
    return sum(not wire.well_formed(envelope) for envelope in envelopes)
