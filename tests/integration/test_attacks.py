"""Attacks on a running mesh, in few attempts of each kind: nobody gets in, and who is in notices nothing.

Only counts and order are held here; times and bytes are measured at full size, by tests/long.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.asyncio

from tests.fakes import assaults
from tests.fakes.aio import closed, eventually, run
from tests.fakes.assaults import SECRET
from tests.fakes.attackers import Badge, Target, badge
from tests.fakes.mesh import MeshHouse
from tests.fakes.open_ports import Port, descendants, mechanism, open_ports
from tests.fakes.processes import ROOT, wait_until
from tests.fakes.rpc import House
from tests.fakes.siege import Fort, fort
from wrk_base.rpc import wire
from wrk_base.rpc.zmq_link import ZmqNetwork
from wrk_base.security import z85
from wrk_base.security.curve_keys import ephemeral

CALM = 20  # requests of the good client before each attack


def test_nobody_registers_or_calls_without_the_right_certificate(tmp_path: Path) -> None:
    measured = run(assaults.registrations(tmp_path, each=6, calm=CALM, all_machines=False))
    assert measured.busiest <= 10


def test_a_worker_id_stays_with_the_machine_that_had_it_first(tmp_path: Path) -> None:
    run(assaults.another_machine(tmp_path))


def test_garbage_and_silent_connections_are_ended_and_harm_nobody(tmp_path: Path) -> None:
    run(assaults.trash(tmp_path, count=200, silent=50, calm=CALM, patience_ms=1000))


def test_a_member_may_say_anything_and_harms_nobody(tmp_path: Path) -> None:
    run(assaults.malformed(tmp_path, count=2_000, calm=CALM))


def test_a_broken_door_is_a_shut_one(tmp_path: Path) -> None:
    back = run(assaults.shut_doors(tmp_path, peers=50, rounds=3))
    assert len(back) == 3


def test_prompts_and_answers_are_not_to_be_read_on_the_wire(tmp_path: Path) -> None:
    plain = run(assaults.overheard(tmp_path / "plain", encrypted=False))
    assert plain.count(SECRET.encode()) == 4 * 20, "there and back, on both links: the test hears well"
    assert SECRET.encode() not in run(assaults.overheard(tmp_path / "encrypted", encrypted=True))


def test_who_is_revoked_is_out_and_nobody_else_notices(tmp_path: Path) -> None:
    assert len(run(assaults.revocations(tmp_path, rounds=2))) == 2


def test_a_rack_gets_a_new_key_and_no_request_is_lost(tmp_path: Path) -> None:
    run(assaults.rotations(tmp_path, rounds=1))


# --- ports


@pytest.mark.skipif(sys.platform != "linux", reason="what a process listens on is told by /proc")
def test_a_mesh_listens_on_nothing_but_encrypted_ports_its_http_port_and_mdns(tmp_path: Path) -> None:
    http, mesh = _free_port(), f"test-{secrets.token_hex(8)}"
    command = [
        sys.executable,
        "-m",
        "wrk_orchestrator.cli.main",
        "up",
        "--port",
        str(http),
        "--rpc.port",
        "0",
    ]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WRK_")}
    own = {"PYTHONPATH": str(ROOT), "WRK_DISCOVERY__MESH": mesh, "WRK_STATE_DIR": str(tmp_path / "state")}
    with (tmp_path / "log").open("wb") as log:
        up = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path, env={**clean, **own})
    try:
        said = tmp_path / "log"
        wait_until(lambda: up.poll() is not None or b"Ctrl-C" in said.read_bytes(), 60, "wrk up")
        assert up.poll() is None, said.read_text()
        ports = {pid: open_ports(pid) for pid in descendants(up.pid)}
        statuses = [json.loads(path.read_text()) for path in (tmp_path / "state" / "status").glob("*.json")]
        rpc = {status["pid"]: int(status["endpoint"].rpartition(":")[2]) for status in statuses}
        assert len(rpc) == 3, "an orchestrator and two racks"
        for pid, found in ports.items():
            own_port = {Port("tcp", rpc[pid])} if pid in rpc else set()
            assert own_port <= found
            assert found - own_port <= {Port("udp", 5353), Port("tcp", http)}
        assert sum(Port("tcp", http) in found for found in ports.values()) == 1
        assert [mechanism(port) for port in rpc.values()] == ["CURVE"] * 3
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(30)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


# --- numbers that a ROUTER gives to its callers


def test_a_connection_that_claims_the_number_of_another_gets_nothing_of_it(tmp_path: Path) -> None:
    async def story() -> None:
        async with fort(tmp_path) as f:
            assert await f.ask("before") == "before"
            number = _number_of(f, "good")
            with zmq.asyncio.Context() as context:
                shown = badge(f.mesh, "evil", "client")
                evil = _dialled(context, f.target, shown, number)
                await evil.send(shown.hello("evil", "client"))
                await evil.send(f.target.asks("routeInferenceRequest"))
                for question in range(100):
                    assert await f.ask(question) == question
                assert not await evil.poll(0)
                assert _number_of(f, "good") == number
                evil.close(0)
            assert f.client.stats()["ready"] == 1
            assert "rpc.caller_expelled" not in f.log.names()

    run(story())


def test_the_numbers_of_callers_begin_anywhere(tmp_path: Path) -> None:
    """Who knew the next one could end the process: libzmq aborts when a claimed number's turn comes."""

    async def first_number() -> bytes:
        network = ZmqNetwork(asyncio.get_running_loop(), membership=mesh.member("server-1", "rack"))
        ctypes.CDLL(None).srand(1)  # as every process begins
        async with House(network) as house:
            server = house.serve()
            stranger = _dialled(context, _target_of(house, network), Badge(ephemeral(), b""))
            await stranger.send(wire.encode([(wire.HELLO, 0, 0, {})], 0))
            await eventually(lambda: server.callers)
            stranger.close(0)
            number = next(iter(server.callers))
        await closed(network)
        return number

    async def story() -> None:
        assert await first_number() != await first_number()

    mesh = MeshHouse(tmp_path)
    with zmq.asyncio.Context() as context:
        run(story())


def _number_of(f: Fort, worker_id: str) -> bytes:
    callers = f.orchestrator.server.callers
    return next(r for r, caller in callers.items() if caller.info and caller.info.worker_id == worker_id)


def _target_of(house: House, network: ZmqNetwork) -> Target:
    assert network.membership is not None
    return Target(house.endpoint, network.membership.public_key, "server-1")


def _dialled(context: zmq.asyncio.Context, target: Target, shown: Badge, number: bytes = b"") -> Any:
    sock = context.socket(zmq.DEALER)
    sock.linger, sock.reconnect_ivl = 0, -1
    sock.curve_publickey, sock.curve_secretkey = shown.keys.public_z85, shown.keys.secret_z85
    sock.curve_serverkey = z85.encode(target.key).encode()
    if number:
        sock.setsockopt(zmq.ROUTING_ID, number)
    sock.connect(target.endpoint)
    return sock
