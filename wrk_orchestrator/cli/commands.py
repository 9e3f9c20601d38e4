"""The commands of a terminal: what each asks of the mesh, and how its answer and its exit code look.

Every command ends with 0 (done), 1 (refused or failed, one line on standard error) or 2 (wrong usage).
With --json, standard output carries JSON and nothing else, and the line of an error is JSON, too. Heavy
modules are imported by the command that needs them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wrk_base import __version__, clock
from wrk_base.errors import StartError

from . import chaos, holds, keys, membership
from .asking import Where, ask, failed, find, in_session
from .inputs import body_of, parse_json, read_input
from .plain import json_text

if TYPE_CHECKING:
    from .measure import Cost, Pings
    from .session import Session

PING_SECONDS = 2.0
QUICK_SECONDS = 5.0  # for questions that an orchestrator answers from memory
GRACE_SECONDS = 0.5  # so that the mesh's own word about a deadline comes before ours

app = typer.Typer(
    help="One address for every AI model on a LAN.",
    epilog="Processes of the mesh, each with --KEY VALUE ...: wrk orchestrator, wrk rack KIND, wrk worker.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Orchestrator = Annotated[
    str, typer.Option("--peer", metavar="tcp://HOST:PORT|ID", help="Ask this orchestrator.")
]
Worker = Annotated[
    str,
    typer.Option("--peer", metavar="tcp://HOST:PORT|ID", help="Whom to call; by default an orchestrator."),
]
Pinged = Annotated[
    str,
    typer.Argument(metavar="tcp://HOST:PORT|ID|NAME", help="Whom to call; by default an orchestrator."),
]
Mesh = Annotated[str, typer.Option(metavar="NAME", help="Look on this mesh.")]
Interface = Annotated[str, typer.Option(metavar="NAME|ADDRESS", help="Look on this network.")]
Seconds = Annotated[float, typer.Option(metavar="SECONDS", min=0.001, help="Give up after this long.")]
Deadline = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", min=0.001, help="Deadline; by default the setting requestTimeout."),
]


def run(words: Sequence[str]) -> int:
    """Run the command that `words` name; returns the exit code."""
    try:
        app(args=list(words), prog_name="wrk")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


def _tell_version(asked: bool) -> None:
    if asked:
        print(f"wrk {__version__}")
        raise typer.Exit


@app.callback()
def wrk(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What `wrk` itself takes, before a command."""


@app.command()
def workers(
    peer: Orchestrator = "",
    mesh: Mesh = "",
    interface: Interface = "",
    timeout: Seconds = QUICK_SECONDS,
    as_json: AsJson = False,
) -> None:
    """List the workers that an orchestrator knows."""
    listed = ask(Where(peer, mesh, interface, as_json), "listWorkers", timeout)
    if as_json:
        print(json_text(listed))
        return
    from . import render

    render.show(*render.workers_parts(listed["workers"]))


@app.command()
def status(
    peer: Orchestrator = "",
    mesh: Mesh = "",
    interface: Interface = "",
    timeout: Seconds = QUICK_SECONDS,
    as_json: AsJson = False,
) -> None:
    """Show an orchestrator's state: workers, balancing, health, requests."""
    told = ask(Where(peer, mesh, interface, as_json), "getServiceStatus", timeout)
    if as_json:
        print(json_text(told))
        return
    from . import render

    render.show(*render.status_parts(told))


@app.command()
def infer(
    model: Annotated[str, typer.Argument(help="Id of the model.")],
    text: Annotated[str, typer.Argument(metavar="INPUT", help="@FILE reads a file, - standard input.")],
    input_json: Annotated[bool, typer.Option("--input-json", help="INPUT is JSON, not a text.")] = False,
    task: Annotated[str, typer.Option(help="raw, chat, completion, embedding, rerank or response.")] = "raw",
    idempotency_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Not run again for who asks the same again with this key."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Tell who might have answered, and why.")
    ] = False,
    peer: Orchestrator = "",
    mesh: Mesh = "",
    interface: Interface = "",
    timeout: Deadline = None,
    as_json: AsJson = False,
) -> None:
    """Have a model answer one request."""
    read = read_input(text)
    given = parse_json(read, "INPUT") if input_json else body_of(read, task, model)
    request = {"modelId": model, "inputData": given}

    async def work(session: Session) -> tuple[dict[str, Any], float]:
        endpoint = await find(session, peer, QUICK_SECONDS)
        seconds = timeout or session.settings.request_timeout / 1000
        options = {
            "task": task,
            "timeoutMs": max(1, round(seconds * 1000)),
            "idempotencyKey": idempotency_key,
            "explain": explain,
        }
        body = {**request, "options": options}
        asked = clock.monotonic()
        said = await session.call(endpoint, "routeInferenceRequest", body, seconds + GRACE_SECONDS)
        return said, (clock.monotonic() - asked) * 1000

    answer, ms = in_session(Where(peer, mesh, interface, as_json), work)
    if as_json:
        print(json_text({**answer, "ms": round(ms, 1)}))
        return
    from . import render

    print(render.answer_text(answer["result"]), flush=True)
    print(render.answered_by(answer, ms), file=sys.stderr)
    if explain:
        render.show(*render.explained_parts(answer["explain"]))


@app.command()
def call(
    method: Annotated[str, typer.Argument(help="A method of the peer: ping, getInfo, getStats, ...")],
    body: Annotated[str, typer.Argument(metavar="[JSON]", help="The request.")] = "{}",
    peer: Worker = "",
    stats: Annotated[bool, typer.Option("--stats", help="Tell what the call cost, too.")] = False,
    mesh: Mesh = "",
    interface: Interface = "",
    timeout: Deadline = None,
    as_json: AsJson = False,
) -> None:
    """Call one method of one worker, peer to peer; prints the result as JSON."""
    request = parse_json(body, "JSON")
    where = Where(peer, mesh, interface, as_json)
    if stats:
        _call_with_stats(where, method, request, timeout)
        return

    async def work(session: Session) -> Any:
        seconds = timeout or session.settings.request_timeout / 1000
        return await session.call(await find(session, peer, seconds), method, request, seconds)

    print(json_text(in_session(where, work)))


def _call_with_stats(where: Where, method: str, request: Any, timeout: float | None) -> None:
    """With --json one object of `result` and `stats`, else the result, and beside it what it cost."""

    async def work(session: Session) -> tuple[Any, Cost]:
        from .measure import measured

        seconds = timeout or session.settings.request_timeout / 1000
        endpoint = await find(session, where.peer, seconds)
        return await measured(session, endpoint, method, request, seconds)

    result, cost = in_session(where, work)
    if where.as_json:
        print(json_text({"result": result, "stats": cost.facts()}))
        return
    from . import render

    print(json_text(result), flush=True)
    for line in render.cost_lines(method, cost.facts()):
        print(line, file=sys.stderr)


@app.command()
def ping(
    peer: Pinged = "",
    count: Annotated[int, typer.Option(metavar="N", min=1, max=1_000_000, help="Round trips.")] = 10,
    interval: Annotated[
        int, typer.Option(metavar="MS", min=0, max=3_600_000, help="Pause between two, in milliseconds.")
    ] = 100,
    mesh: Mesh = "",
    interface: Interface = "",
    timeout: Seconds = PING_SECONDS,
    as_json: AsJson = False,
) -> None:
    """Measure round trips to one worker: a histogram, and the usual percentiles."""

    async def work(session: Session) -> Pings:
        from .measure import ping

        endpoint = await find(session, peer, QUICK_SECONDS)
        return await ping(session, endpoint, count, interval / 1000, timeout)

    pings = in_session(Where(peer, mesh, interface, as_json), work).facts()
    if as_json:
        print(json_text(pings))
        return
    from . import render

    render.show(*render.ping_parts(pings))


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    help="Start an orchestrator here, and a rack before each model server that runs on this machine (Ollama, "
    "LM Studio, vLLM, llama.cpp, others by --modelServers.addresses), now or later. Where there is none, two "
    "simulated racks stand in, and requests are routed through them."
    "\n\nSettings follow as --KEY VALUE. The orchestrator's own are --port and --rpc.port; what else "
    "`wrk worker` takes is everybody's (--mesh, --interface, --state-dir, --config, --env, "
    "--loadBalancingStrategy, ...), and what a rack takes is the racks' (--latency, ... the simulated "
    "racks', --openai.maxConcurrent, ... those before servers). "
    "WRK_* variables reach all of them.",
)
def up(
    context: typer.Context,
    check: Annotated[
        bool, typer.Option("--check", help="Try everything, stop, tell by the exit code.")
    ] = False,
    lan: Annotated[bool, typer.Option("--lan", help="For the LAN, not for this machine alone.")] = False,
    extras: Annotated[
        list[str] | None, typer.Option("--with", metavar="embeddings", help="Start it, too.")
    ] = None,
    sims: Annotated[bool, typer.Option("--sims", help="Simulated racks also beside model servers.")] = False,
    no_search: Annotated[bool, typer.Option("--no-search", help="Look for no model servers.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show what the processes log.")] = False,
    as_json: AsJson = False,
) -> None:
    from wrk_base.boot import UsageError

    from .up import Wishes, run_up

    wishes = Wishes(
        check=check,
        lan=lan,
        extras=tuple(extras or ()),
        sims=sims,
        search=not no_search,
        verbose=verbose,
        as_json=as_json,
    )
    try:
        code = run_up(wishes, context.args, os.environ)
    except UsageError as error:
        raise typer.BadParameter(str(error)) from None
    except StartError as error:
        raise failed(error, as_json) from None
    raise typer.Exit(code)


holds.add_to(app)
membership.add_to(app)  # behind the commands for every day, as --help lists them
keys.add_to(app)
chaos.add_to(app)
