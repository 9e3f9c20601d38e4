"""`wrk drain`, `wrk quarantine`, `wrk release`: an operator's word about one worker.

It is said to one orchestrator, which tells the others; it holds over restarts of all of them and of the
worker, until the worker is released.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .asking import Where, find, in_session
from .plain import json_text

if TYPE_CHECKING:
    from .session import Session

SECONDS = 5.0

Worker = Annotated[str, typer.Argument(metavar="ID|NAME", help="A worker, as `wrk workers` lists it.")]
Orchestrator = Annotated[
    str, typer.Option("--peer", metavar="tcp://HOST:PORT|ID", help="Tell this orchestrator.")
]
Mesh = Annotated[str, typer.Option(metavar="NAME", help="Look on this mesh.")]
Interface = Annotated[str, typer.Option(metavar="NAME|ADDRESS", help="Look on this network.")]
Seconds = Annotated[float, typer.Option(metavar="SECONDS", min=0.001, help="Give up after this long.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def add_to(app: typer.Typer) -> None:
    """Make these commands of `app`."""
    for command in (drain, quarantine, release):
        app.command()(command)


def drain(
    worker: Worker,
    peer: Orchestrator = "",
    mesh: Mesh = "",
    interface: Interface = "",
    timeout: Seconds = SECONDS,
    as_json: AsJson = False,
) -> None:
    """Give a worker no new requests until it is released; what it has, it finishes."""
    _say(worker, "drainWorker", Where(peer, mesh, interface, as_json), timeout)


def quarantine(
    worker: Worker,
    peer: Orchestrator = "",
    mesh: Mesh = "",
    interface: Interface = "",
    timeout: Seconds = SECONDS,
    as_json: AsJson = False,
) -> None:
    """Take a worker out until it is released; it then starts slowly."""
    _say(worker, "quarantineWorker", Where(peer, mesh, interface, as_json), timeout)


def release(
    worker: Worker,
    peer: Orchestrator = "",
    mesh: Mesh = "",
    interface: Interface = "",
    timeout: Seconds = SECONDS,
    as_json: AsJson = False,
) -> None:
    """Take a worker back that was drained or quarantined, also one that is away."""
    _say(worker, "releaseWorker", Where(peer, mesh, interface, as_json), timeout)


def _say(worker: str, method: str, where: Where, timeout: float) -> None:
    async def work(session: Session) -> dict[str, Any]:
        endpoint = await find(session, where.peer, timeout)
        listed = await session.call(endpoint, "listWorkers", {}, timeout)
        body = {"workerId": id_of(worker, listed["workers"])}
        told: dict[str, Any] = await session.call(endpoint, method, body, timeout)
        return told

    told = in_session(where, work)
    print(json_text(told) if where.as_json else f"{told['workerId']} is {told['state']}")


def id_of(wanted: str, workers: list[dict[str, Any]]) -> str:
    """The id of the only worker of that name; `wanted` itself where it is an id, or nobody's name."""
    if any(wanted in (worker["workerId"], worker["instanceId"]) for worker in workers):
        return wanted
    named = [str(worker["workerId"]) for worker in workers if worker["name"] == wanted]
    return named[0] if len(named) == 1 else wanted
