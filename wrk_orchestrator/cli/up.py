"""`wrk up`: a whole mesh on this machine, proven by requests, then kept running or stopped again.

It composes: the plan says what to start, the supervisor keeps the processes, `servers` finds the model
servers that run here, the trial sends requests, and what is printed comes from `render`. No request of
ours goes to somebody's server: it might load 40 GB first. The invariant: it ends with no process of its
own left, whether by a signal, a failure or success.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop
from rich.console import RenderableType

from wrk_base import clock
from wrk_base.config import DiscoverySettings
from wrk_base.errors import StartError, WrkError
from wrk_base.model_servers.recognition import missed
from wrk_base.security.mesh_files import MeshFiles
from wrk_base.state import StateDir

from . import render
from .failures import as_facts, as_line
from .plain import json_line, printable
from .plan import Plan, Program, make_plan
from .process import ChildProcess
from .servers import Served, Servers
from .session import Session
from .supervisor import Supervisor

if TYPE_CHECKING:
    from .trial import Trial

START_SECONDS = 30.0
DEFAULT_MESH = DiscoverySettings().mesh
MODEL_SECONDS = 600.0  # a first start may have to fetch a model that the user named


@dataclass(frozen=True, slots=True)
class Wishes:
    """What was asked for besides settings."""

    check: bool = False
    lan: bool = False
    extras: tuple[str, ...] = ()
    sims: bool = False
    search: bool = True
    verbose: bool = False
    as_json: bool = False


def run_up(wishes: Wishes, words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Returns the exit code. Raises `UsageError` and `StartError` before anything was started."""
    mesh = f"check-{secrets.token_hex(6)}" if wishes.check else ""
    plan = make_plan(words, environ, mesh=mesh, lan=wishes.lan, extras=wishes.extras, search=wishes.search)
    if plan.state_dir is not None:
        return uvloop.run(Up(plan, wishes, StateDir(plan.state_dir).path).live())
    scratch = Path(tempfile.mkdtemp(prefix="wrk-up-"))
    up = Up(plan, wishes, scratch)
    code = uvloop.run(up.live())
    if code == 0 or up.interrupted:  # else its logs say more
        shutil.rmtree(scratch, ignore_errors=True)
    return code


class Up:
    """One run, from the first process to the last."""

    def __init__(self, plan: Plan, wishes: Wishes, state_dir: Path) -> None:
        self._plan, self._wishes, self._state_dir = plan, wishes, state_dir
        self._logs = state_dir / "logs"
        self._supervisor = Supervisor(state_dir, self._say, verbose=wishes.verbose)
        self._servers = Servers(plan, self._supervisor, self._say)
        self.interrupted = False

    async def live(self) -> int:
        """Returns the exit code when everything that was started is gone."""
        began = clock.monotonic()
        work = asyncio.ensure_future(self._work())
        self._stop_on_signals(work)
        code = 1
        try:
            code = await work
        except asyncio.CancelledError:
            code = 1 if self._wishes.check else 0
        except (StartError, WrkError) as error:
            self._complain(error)
        finally:
            await self._supervisor.stop()
        if self._wishes.check and code == 0:
            self._say(f"all well; everything is stopped again after {clock.monotonic() - began:.1f} s")
        elif self.interrupted:
            self._say("stopped")
        return code

    def _stop_on_signals(self, work: asyncio.Future[int]) -> None:
        """The first signal stops in order, a second one at once."""

        def on_signal() -> None:
            self._say("stopping at once" if self.interrupted else "stopping; Ctrl-C again does not wait")
            if self.interrupted:
                self._supervisor.hurry()
            self.interrupted = True
            work.cancel()

        hang_up = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)  # nohup
        for number in (signal.SIGINT, signal.SIGTERM, *hang_up):
            asyncio.get_running_loop().add_signal_handler(number, on_signal)

    async def _work(self) -> int:
        plan, supervisor = self._plan, self._supervisor
        # Before the racks look for it, and before this process itself is a member.
        MeshFiles(self._state_dir, plan.settings.discovery.mesh).create(socket.gethostname(), clock.wall())
        orchestrator = await supervisor.start(plan.orchestrator)
        served = await self._servers.search()
        sims = [await supervisor.start(program) for program in self._sims(served)]
        model = await supervisor.start(plan.embeddings) if plan.embeddings is not None else None
        async with Session(plan.settings, self._state_dir) as session:
            report = await supervisor.during(self._prove(session, orchestrator, served, sims, model))
        if self._wishes.as_json:
            print(json_line(report), flush=True)
        if self._wishes.check:
            return 0
        for line in self._what_next(report):
            self._say(line)
        await supervisor.keep(self._servers.keep_searching())
        raise AssertionError("it keeps until it is cancelled")

    def _sims(self, served: Sequence[Served]) -> tuple[Program, ...]:
        """The simulated racks to start: where there is a real server, only for somebody who wants them."""
        plan = self._plan
        if served and not (self._wishes.sims or plan.sims_asked_for):
            return ()
        if self._servers.missed and not served:
            self._say(f"no model server found ({missed(self._servers.missed)})")
            self._say("two simulated racks instead; one that starts later is found")
        return plan.sims

    async def _prove(
        self,
        session: Session,
        orchestrator: ChildProcess,
        served: Sequence[Served],
        sims: Sequence[ChildProcess],
        model: ChildProcess | None,
    ) -> dict[str, Any]:
        """Route requests through everything; returns what there is to tell about it."""
        from .trial import Trial  # httpx is slow to import: meanwhile the processes start

        told = await self._supervisor.ready(orchestrator, START_SECONDS)
        rpc, http = str(told["endpoint"]), str(told["http"])
        trial = Trial(session, rpc, http)
        servers = await self._join(trial, served)
        if sims:
            ids = [await self._id_of(sim, START_SECONDS) for sim in sims]
            await trial.route(await trial.meet(ids))
            self._show(render.routed_table(trial.rows))
        self._show(f"rpc   {rpc}", f"http  {http}  (docs {http}/docs)")
        report = {
            **{"rpc": rpc, "http": http, "docs": f"{http}/docs"},
            **{"routed": trial.rows, "servers": servers},
        }
        if model is not None:
            report["similarities"] = await self._prove_model(trial, model)
        return report

    async def _join(self, trial: Trial, served: Sequence[Served]) -> list[dict[str, Any]]:
        """What there is to tell of servers and their racks. A server that has no time for its rack now is
        no reason to end: the rack comes in when it has."""
        ids = [await self._id_of(each.rack, START_SECONDS) for each in served]
        try:
            await trial.meet(ids, by_mdns=False)
        except StartError as error:
            self._say(str(error))
        return [
            {
                "rack": each.rack.program.rack,
                "workerId": worker_id,
                "kind": each.server.kind.name,
                "url": each.server.url,
                "models": each.server.models,
            }
            for each, worker_id in zip(served, ids, strict=True)
        ]

    async def _prove_model(self, trial: Trial, model: ChildProcess) -> list[dict[str, Any]]:
        self._say("the model is being loaded, which takes 10 to 20 s ...")
        (worker,) = await trial.meet([await self._id_of(model, MODEL_SECONDS)])
        pairs = await trial.compare(worker)
        self._show(render.pairs_table(pairs), render.model_line(worker))
        return [{"one": one, "other": other, "similarity": likeness} for one, other, likeness in pairs]

    async def _id_of(self, child: ChildProcess, seconds: float) -> str:
        return str((await self._supervisor.ready(child, seconds))["instanceId"])

    # --- telling

    def _what_next(self, report: Mapping[str, Any]) -> Iterator[str]:
        mesh = self._plan.settings.discovery.mesh
        base_url = f"{report['http']}/v1"
        yield f"logs  {self._logs}"
        yield f"try   {own_command()} workers{'' if mesh == DEFAULT_MESH else f' --mesh {mesh}'}"
        yield f"      {example(base_url, models_of(report))}"
        yield f"      any OpenAI client: base_url={base_url}, api_key=anything"
        yield "Ctrl-C stops"

    def _show(self, *parts: RenderableType) -> None:
        if not self._wishes.as_json:
            render.show(*parts)

    def _say(self, line: str) -> None:
        """One line for a person; beside the output for programs if there is such. A terminal may be gone."""
        try:
            print(printable(line), file=sys.stderr if self._wishes.as_json else sys.stdout, flush=True)
        except OSError:
            pass

    def _complain(self, error: StartError | WrkError) -> None:
        where = "" if self._wishes.verbose else f" (logs: {self._logs})"
        line = as_facts(error) if self._wishes.as_json else f"wrk: {as_line(error)}{where}"
        print(line, file=sys.stderr, flush=True)


def models_of(report: Mapping[str, Any]) -> list[str]:
    """The models that answer, those of real servers first."""
    real = [model for server in report["servers"] for model in server["models"]]
    return [*real, *(row["model"] for row in report["routed"])]


def example(base_url: str, models: Sequence[str]) -> str:
    """A command to try: a chat, with the first model that is not called after embeddings."""
    if not models:
        return f"curl -s {base_url}/models"
    chatty = next((model for model in models if "embed" not in model.lower()), models[0])
    body = json_line({"model": chatty, "messages": [{"role": "user", "content": "hello"}]})
    header = "-H 'content-type: application/json'"
    return f"curl -s {base_url}/chat/completions {header} -d {shlex.quote(body)}"  # a name may hold anything


def own_command() -> str:
    """How this user starts `wrk`: a clone has it in bin/, which need not be in the search path. What the
    search path holds may be another program of that name: there is a well-known one.
    """
    beside = Path(sys.executable).with_name("wrk")
    in_clone = beside.parents[2] / "bin" / "wrk"
    found = shutil.which("wrk")
    if found and Path(found).resolve() in (beside.resolve(), in_clone.resolve()):
        return "wrk"
    return os.path.relpath(in_clone if in_clone.exists() else beside)
