"""Three machines on a LAN: racks on two of them are found by the third, used, lost and found again.

The machines are network namespaces on a bridge. What is asked runs inside the orchestrator's namespace,
through the `wrk` command, as a user on that machine would.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.processes import ROOT, THIS_PYTHON, ProcessHandle, mesh_of, start_worker, wait_until
from tests.lan.namespaces import Lan, why_not

pytestmark = pytest.mark.lan


WRK = "import sys; from wrk_orchestrator.cli.main import main; sys.exit(main())"
ORCHESTRATOR = "wrk_orchestrator.orchestrator:OrchestratorWorker"


@pytest.fixture
def lan() -> Iterator[Lan]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with Lan("desk", "attic", "cellar") as made:
        yield made


class Site:
    """The LAN with the mesh on it, seen from the desk."""

    def __init__(self, lan: Lan, tmp_path: Path) -> None:
        self.lan, self.tmp_path = lan, tmp_path

    def start(self, host: str, wtype: str, *flags: str) -> ProcessHandle:
        state = self.tmp_path / host
        args = ["--wtype", wtype, "--rack", host, "--state-dir", str(state), *flags]
        args += ["--interface", self.lan.address(host)]
        command = [*self.lan.run_in(host), *THIS_PYTHON]
        return start_worker(args, self.tmp_path, command=command)

    def rack(self, host: str) -> ProcessHandle:
        return self.start(host, "racks.sim:SimRack", "--models", f"m-{host},both")

    def wrk(self, *words: str) -> Any:
        """What `wrk ... --json` prints on the desk, having found the orchestrator by itself."""
        where = ["--mesh", mesh_of(self.tmp_path), "--interface", self.lan.address("desk")]
        command = [*self.lan.run_in("desk"), sys.executable, "-c", WRK, *words, *where, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def states(self) -> dict[str, str]:
        listed = self.wrk("workers") or {"workers": []}
        return {worker["name"]: worker["state"] for worker in listed["workers"]}

    def healthy(self, *hosts: str) -> Callable[[], bool]:
        return lambda: all(self.states().get(host) == "healthy" for host in hosts)


def test_racks_on_other_machines_are_found_used_lost_and_found_again(lan: Lan, tmp_path: Path) -> None:
    site = Site(lan, tmp_path)
    with site.start("desk", ORCHESTRATOR), site.rack("attic"), site.rack("cellar"):
        wait_until(site.healthy("attic", "cellar"), what="both racks found")
        workers = {worker["name"]: worker for worker in site.wrk("workers")["workers"]}
        assert {worker["foundBy"] for worker in workers.values()} == {"mdns"}
        assert workers["attic"]["address"].startswith(f"tcp://{lan.address('attic')}:")
        assert site.wrk("infer", "m-attic", "hello")["workerId"] == workers["attic"]["workerId"]

        lan.unplug("attic")
        wait_until(lambda: site.states().get("attic") not in ("healthy", "suspect"), what="attic out")
        assert site.wrk("infer", "both", "hello")["workerId"] == workers["cellar"]["workerId"]

        lan.plug("attic")
        wait_until(site.healthy("attic", "cellar"), what="attic back")
        assert site.wrk("infer", "m-attic", "hello")["workerId"] == workers["attic"]["workerId"]


def test_start_order_does_not_matter_on_a_lan(lan: Lan, tmp_path: Path) -> None:
    site = Site(lan, tmp_path)
    with site.rack("attic"), site.start("desk", ORCHESTRATOR), site.rack("cellar"):
        wait_until(site.healthy("attic", "cellar"), what="both racks found")
