"""A machine as its user has it: a state directory, processes in it, and a terminal for `wrk`.

    desk = Machine(tmp_path, "desk")
    orchestrator = desk.start(*ORCHESTRATOR)
    desk.wrk("mesh", "--json").json

It holds no mesh until it makes one or joins one. All that are made with one folder share a mesh's name,
which nobody else has; on loopback each is a machine to the others, as each has files of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.processes import (
    LOOPBACK,
    ROOT,
    THIS_PYTHON,
    ProcessHandle,
    mesh_of,
    ready,
    spawn_worker,
)
from wrk_base.security.mesh_files import MeshFiles

WRK = (sys.executable, "-m", "wrk_orchestrator.cli.main")
COMMAND_S = 60.0
ORCHESTRATOR = ("--wtype", "wrk_orchestrator.orchestrator:OrchestratorWorker", "--rpc.port", "0")


@dataclass(frozen=True)
class Ran:
    """What became of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)

    def refused(self) -> str:
        """The one line that a refused command says."""
        assert (self.code, self.out, self.err.count("\n")) == (1, "", 1), self
        return self.err

    def misused(self) -> str:
        """What is said of wrong usage, without frame and line breaks."""
        assert (self.code, self.out) == (2, ""), self
        return " ".join(self.err.replace("│", " ").split())


class Machine:
    """`prefix` is put before every command line, as in `ip netns exec desk`."""

    def __init__(
        self, folder: Path, name: str, *, interface: str = LOOPBACK, prefix: Sequence[str] = ()
    ) -> None:
        self.folder, self.name, self.interface, self.prefix = folder, name, interface, tuple(prefix)
        self.state = folder / name
        self.mesh = mesh_of(folder)
        self.files = MeshFiles(self.state, self.mesh)

    def wrk(self, *words: str, stdin: str = "", **environment: str) -> Ran:
        ran = subprocess.run(
            [*self.prefix, *WRK, *words],
            env={**self.environment(), **environment},
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
        )
        assert "Traceback" not in ran.stderr, ran.stderr
        return Ran(ran.returncode, ran.stdout, ran.stderr)

    def environment(self) -> dict[str, str]:
        """Of a shell in which `wrk` finds what runs here."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("WRK_")}
        here = {"WRK_STATE_DIR": str(self.state), "WRK_DISCOVERY__MESH": self.mesh, "PYTHONPATH": str(ROOT)}
        return {**clean, **here, **({"WRK_INTERFACE": self.interface} if self.interface else {})}

    def spawn(self, *args: str) -> ProcessHandle:
        """A process that need not come up: this machine may be in no mesh yet."""
        return spawn_worker(
            [*args, "--state-dir", str(self.state)],
            self.folder,
            command=[*self.prefix, *THIS_PYTHON],
            in_mesh=False,
            interface=self.interface,
        )

    def start(self, *args: str) -> ProcessHandle:
        """A process that is ready for calls."""
        return ready(self.spawn(*args))

    def orchestrator(self, *flags: str) -> ProcessHandle:
        return self.start(*ORCHESTRATOR, *flags)

    def rack(self, name: str, *flags: str, models: str = "m1") -> ProcessHandle:
        return self.start(*rack_args(name, models), *flags)

    def invite(self, *words: str, role: str = "rack") -> str:
        """The string that lets another machine in."""
        ran = self.wrk("invite", "--role", role, *words)
        assert ran.code == 0, ran.err
        return ran.out.strip()

    def joins(self, first: Machine, *words: str, role: str = "rack") -> None:
        """Become a member by an invitation from the mesh's first machine."""
        ran = self.wrk("join", first.invite(*words, role=role), "--name", self.name)
        assert ran.code == 0, ran.err

    def states(self) -> dict[str, str]:
        """Name of each rack -> what health says of it; nothing while no orchestrator is heard from here."""
        ran = self.wrk("workers", "--json")
        return {worker["name"]: worker["state"] for worker in ran.json["workers"]} if ran.code == 0 else {}


def rack_args(name: str, models: str = "m1") -> list[str]:
    return ["--wtype", "racks.sim:SimRack", "--rack", name, "--models", models]
