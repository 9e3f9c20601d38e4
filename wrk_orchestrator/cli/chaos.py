"""`wrk chaos`: a game day. Faults are staged in a mesh that is made for it, and a checker says what they
broke.

It hurts nothing but processes that it started itself, and ends by itself. Scenarios with cables start this
very command over in a network of its own.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import msgspec
import typer
import uvloop

from wrk_base.errors import StartError, WrkError
from wrk_base.state import default_state_dir

from .asking import failed
from .plain import json_text

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def add_to(app: typer.Typer) -> None:
    app.command()(chaos)


def chaos(
    scenario: Annotated[str, typer.Argument(metavar="[SCENARIO]", help="Without one they are listed.")] = "",
    seed: Annotated[int, typer.Option(metavar="N", help="Draws who is hurt, and when.")] = 1,
    faults: Annotated[int | None, typer.Option(metavar="N", min=0, help="How many are staged.")] = None,
    seconds: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0, max=86_400, help="The least that it takes.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(metavar="N", min=1, max=10_000, help="Requests a second.")
    ] = None,
    mesh: Annotated[
        str,
        typer.Option(metavar="NAME", help="Have simulated racks of its own join this mesh, and hurt these."),
    ] = "",
    keep: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Keep the history and the logs there.")
    ] = None,
    confined: Annotated[bool, typer.Option("--confined", hidden=True)] = False,
    as_json: AsJson = False,
) -> None:
    """Stage faults under load and judge what callers saw: a game day.

    By default in a mesh of its own, which is gone afterwards. With --mesh, simulated racks of its own join a
    mesh that runs on this machine; nothing else in it is touched. The exit code says whether the promises
    held.
    """
    from ..chaos.scenarios import SCENARIOS

    if not scenario:
        width = max(map(len, SCENARIOS))
        for each in SCENARIOS.values():
            print(f"{each.name:{width}}  {each.says}")
        return
    chosen = SCENARIOS.get(scenario)
    if chosen is None:
        raise typer.BadParameter(f"there is no scenario {scenario}; there are {', '.join(SCENARIOS)}")
    if mesh and not chosen.hurts_racks_alone:
        raise typer.BadParameter(f"{scenario} hurts more than racks, and needs a mesh of its own: no --mesh")
    if chosen.confined and not confined:
        raise _started_over(as_json)
    from ..chaos import report
    from ..chaos.play import Verdict, Where, Wishes, play

    folder = Path(tempfile.mkdtemp(prefix="wrk-chaos-")) if keep is None else keep
    state_dir = default_state_dir(os.environ) if mesh else folder / "state"
    wishes = Wishes(seed, faults, seconds, rate, guest=bool(mesh))
    where = Where(mesh or f"chaos-{secrets.token_hex(6)}", state_dir, folder)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    async def work() -> Verdict:
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await play(chosen, wishes, where, say)

    try:
        verdict = uvloop.run(work())
    except asyncio.CancelledError:
        say("stopped, with all that it had started")
        raise typer.Exit(1) from None
    except (StartError, WrkError) as error:
        say(f"logs: {folder}")
        raise failed(error, as_json) from None
    told = (verdict.figures, verdict.violations, verdict.void)
    if as_json:
        print(json_text(report.facts(msgspec.to_builtins(told[0]), *told[1:])))
    else:
        print(*report.lines(*told), sep="\n")
    if keep is None and verdict.holds:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        say(f"history: {folder}")
    raise typer.Exit(0 if verdict.holds else 1)


def _started_over(as_json: bool) -> typer.Exit:
    """This process becomes the same command in a network of its own; returns only where that is refused."""
    from ..chaos.namespaces import confinement

    try:
        command = [*confinement(), sys.executable, "-P", "-m", "wrk_orchestrator.cli.main", *sys.argv[1:]]
    except StartError as error:
        return failed(error, as_json)
    os.execvp(command[0], [*command, "--confined"])
