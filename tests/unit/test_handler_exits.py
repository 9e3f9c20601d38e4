"""Handlers that try to end the process: the call fails, the worker goes on."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tests.fakes.aio import run
from tests.fakes.network import FakeNetwork
from tests.fakes.rpc import House, ask
from wrk_base import errors


class Odd(BaseException):
    """No Exception, as libraries sometimes raise."""


def leave(body: Any) -> None:
    sys.exit(3)


async def leave_later(body: Any) -> None:
    sys.exit(3)


async def raise_odd(body: Any) -> None:
    raise Odd


@pytest.mark.parametrize("handler", [leave, leave_later, raise_odd])
def test_a_handler_cannot_end_the_worker(handler: Any) -> None:
    async def story() -> None:
        async with House(FakeNetwork()) as house:
            server = house.serve()
            server.respond("leave", handler)
            peer = house.peer()
            with pytest.raises(errors.Internal, match="leave failed"):
                await ask(peer, "leave")
            assert await ask(peer, "echo", "still here") == "still here"
            assert server.in_flight == 0

    run(story())
