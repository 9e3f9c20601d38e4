"""How a command reaches the mesh and what becomes of a failure: one place for all commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import typer

from wrk_base.errors import StartError, WrkError
from wrk_base.state import default_state_dir

from .failures import as_facts, as_line
from .inputs import endpoint, is_address

if TYPE_CHECKING:
    from .session import Session

T = TypeVar("T")


class Where(NamedTuple):
    """Whom a command asks, and for whom it prints."""

    peer: str
    mesh: str
    interface: str
    as_json: bool


def ask(where: Where, method: str, timeout: float) -> Any:
    """The orchestrator's answer to one question; `timeout` in seconds."""

    async def work(session: Session) -> Any:
        return await session.call(await find(session, where.peer, timeout), method, {}, timeout)

    return in_session(where, work)


async def find(session: Session, peer: str, timeout: float) -> str:
    """The endpoint of `peer` (an address or an id); of an orchestrator if none is named."""
    if is_address(peer):
        return session.learn(endpoint(peer))
    return await (session.worker(peer, timeout) if peer else session.orchestrator())


def in_session(where: Where, work: Callable[[Session], Awaitable[T]]) -> T:
    """What `work` returns. A failure is said, and ends the command."""
    import uvloop

    from .session import Session, read_settings

    async def live() -> T:
        async with Session(settings, state_dir) as session:
            return await work(session)

    if is_address(where.peer):
        endpoint(where.peer)  # wrong usage is said before anything else
    try:
        settings = read_settings(where.mesh, where.interface, os.environ)
        state_dir = default_state_dir(os.environ)
        return uvloop.run(live())
    except (WrkError, StartError) as error:
        raise failed(error, where.as_json) from None


def failed(error: WrkError | StartError, as_json: bool) -> typer.Exit:
    """Say what went wrong on one line; what to raise then."""
    print(as_facts(error) if as_json else f"wrk: {as_line(error)}", file=sys.stderr)
    return typer.Exit(1)
