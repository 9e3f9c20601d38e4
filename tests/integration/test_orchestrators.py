"""Two orchestrators as real processes: one dies under load, and nobody notices; what one is told both know.

`tests/long` has fifty deaths, with their seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.fakes.aio import run
from tests.fakes.orchestrator_kills import kills
from tests.fakes.processes import (
    LOOPBACK,
    ROOT,
    ProcessHandle,
    join_machine,
    mesh_of,
    start_worker,
    wait_until,
)
from wrk_base.security.mesh_files import MeshFiles

WRK = (sys.executable, "-m", "wrk_orchestrator.cli.main")
AGREED_S = 5.0


def test_clients_that_know_both_see_no_error_when_one_is_killed_and_comes_back(tmp_path: Path) -> None:
    measured = run(kills(tmp_path, count=2, rate=50.0, racks=2), "uvloop", within=120.0)
    assert (measured.kills, measured.failed) == (2, {}), str(measured)
    assert measured.answered > 100
    assert measured.streamed > 20


# --- two gateways on two machines


@contextmanager
def gateways(tmp_path: Path) -> Iterator[tuple[ProcessHandle, ProcessHandle]]:
    """The first machine's and another one's, linked by an address with its key, as where no multicast is."""
    far = join_machine(tmp_path, "far", "orchestrator", "rack", "operator", "client")
    gateway = ("--wtype", "wrk-orchestrator-http", "--port", "0", "--rpc.port", "0", "--discovery.mdns", "0")
    with start_worker([*gateway, "--rack", "one"], tmp_path) as one:
        to_one = f"{one.endpoint}#{one.status['publicKey']}"
        flags = ("--rack", "two", "--state-dir", str(far), "--discovery.peers", to_one)
        with start_worker([*gateway, *flags], tmp_path) as two:
            yield one, two


def admin(gateway: ProcessHandle) -> dict[str, str]:
    return {"authorization": f"Bearer {(gateway.state / 'admin.key').read_text().strip()}"}


def http(gateway: ProcessHandle, method: str, path: str, **more: Any) -> Any:
    url = f"{gateway.status['http']}{path}"
    answer = httpx.request(method, url, headers=admin(gateway), trust_env=False, timeout=10.0, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()


def listed(gateway: ProcessHandle) -> dict[str, str]:
    workers = http(gateway, "GET", "/api/workers")["workers"]
    return {worker["workerId"]: worker["hold"] for worker in workers}


def wrk(gateway: ProcessHandle, tmp_path: Path, *words: str) -> Any:
    environ = {"WRK_STATE_DIR": str(gateway.state), "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    ran = subprocess.run([*WRK, *words, "--json"], env=environ, cwd=tmp_path, capture_output=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_two_gateways_tell_the_same_of_workers_holds_and_keys(tmp_path: Path) -> None:
    with gateways(tmp_path) as (one, two):
        body = {"workerId": "far", "address": "tcp://127.0.0.1:9", "capabilities": {"models": ["m9"]}}
        http(one, "POST", "/api/workers/register", json=body)
        wait_until(lambda: listed(two) == {"far": ""}, AGREED_S)
        http(two, "POST", "/api/workers/far/drain")
        wait_until(lambda: listed(one) == {"far": "drain"}, AGREED_S)
        wrk(one, tmp_path, "release", "far", "--mesh", mesh_of(tmp_path), "--interface", LOOPBACK)
        wait_until(lambda: listed(two) == {"far": ""}, AGREED_S)
        wrk(two, tmp_path, "key", "add", "alice")
        keys = wait_until(lambda: wrk(one, tmp_path, "key", "list")["keys"], AGREED_S)
        assert [key["name"] for key in keys] == ["alice"]
        http(two, "DELETE", "/api/workers/far")
        wait_until(lambda: listed(one) == {}, AGREED_S)


def test_a_revocation_reaches_the_other_orchestrator(tmp_path: Path) -> None:
    """They are linked with each other, so it is enough that one of them hears."""
    with gateways(tmp_path) as (one, two):
        linked = wait_until(
            lambda: http(two, "GET", "/api/status")["records"]["orchestrators"], AGREED_S, "they are linked"
        )
        assert linked == [one.worker_id]
        here, there = (MeshFiles(gateway.state, mesh_of(tmp_path)) for gateway in (one, two))
        before = there.load().revocations.serial
        newer = here.revoke_key(bytes(16), "somebody", 4_000_000_000, 1.0)
        wait_until(lambda: there.load().revocations.serial == newer.serial > before, AGREED_S)
