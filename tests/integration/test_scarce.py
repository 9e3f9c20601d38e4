"""Processes that get little: few file descriptors, little memory, a log that nobody takes.

Real processes under `ulimit`, on loopback. They refuse, in as many words where there are any, and go on.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.fakes.aio import eventually, run
from tests.fakes.http_process import Serving
from tests.fakes.processes import (
    THIS_PYTHON,
    ProcessHandle,
    client,
    ready,
    spawn_worker,
    start_worker,
    until,
)
from wrk_base import descriptors, errors

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, and limits by ulimit")

ORCHESTRATOR = (
    "--wtype",
    "wrk-orchestrator-http",
    "--rpc.port",
    "0",
    "--port",
    "0",
    "--discovery.mdns",
    "false",
)
RACK = ("--wtype", "racks.sim:SimRack", "--rack", "r1", "--models", "m1", "--discovery.mdns", "false")
DESCRIPTORS = 128
CROWD = 500
BUSY_LOOP = 0.5  # of a core
BODY = 16 * 2**20


def under(limit: str) -> tuple[str, ...]:
    return ("sh", "-c", f'ulimit {limit}; exec "$@"', "sh", *THIS_PYTHON)


@contextmanager
def mesh(tmp_path: Path, limit: str) -> Iterator[tuple[ProcessHandle, ProcessHandle]]:
    """An orchestrator with HTTP and a rack, both under the limit."""
    with (
        start_worker(ORCHESTRATOR, tmp_path, command=under(limit)) as orchestrator,
        start_worker([*RACK, "--capacity", "50"], tmp_path, command=under(limit)) as rack,
    ):
        yield orchestrator, rack


async def infer(peers: Any, orchestrator: ProcessHandle, text: str = "hello") -> str:
    body = {"modelId": "m1", "inputData": text}
    try:
        await peers.request(orchestrator.endpoint, "routeInferenceRequest", body, timeout=20.0)
    except errors.WrkError as error:
        return type(error).__name__
    return "ok"


async def works(orchestrator: ProcessHandle) -> None:
    """It answers by RPC, to somebody who comes now."""
    async with client(orchestrator) as peers:

        async def answers() -> bool:
            return await infer(peers, orchestrator) == "ok"

        await until(answers)


def post(endpoint: str, text: str) -> str:
    """The status, or how the connection ended."""
    body = msgspec.json.encode({"modelId": "m1", "inputData": text})
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{endpoint}/api/inference/route", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(answer.status)
    except urllib.error.HTTPError as error:
        return str(error.code)
    except OSError:
        return "closed"


def open_descriptors(process: ProcessHandle) -> int:
    return len(os.listdir(f"/proc/{process.pid}/fd"))


def crowd(port: int) -> list[socket.socket]:
    return [socket.create_connection(("127.0.0.1", port), timeout=10.0) for _ in range(CROWD)]


def port_of(endpoint: str) -> int:
    return int(endpoint.rpartition(":")[2])


# --- descriptors


@pytest.mark.parametrize("who", ["orchestrator", "rack"])
def test_crowd_of_connections_leaves_descriptors_for_the_links_to_racks(tmp_path: Path, who: str) -> None:
    async def story() -> None:
        with mesh(tmp_path, f"-n {DESCRIPTORS}") as (orchestrator, rack), ExitStack() as held:
            victim = orchestrator if who == "orchestrator" else rack
            await works(orchestrator)
            before = open_descriptors(victim)
            serving = Serving(orchestrator)
            ports = [port_of(victim.endpoint)] + ([serving.port] if victim is orchestrator else [])
            for port in ports:
                for connection in await asyncio.to_thread(crowd, port):
                    held.enter_context(connection)
            cpu = cpu_of(victim)
            await asyncio.sleep(1.0)  # what is measured is a second of it
            assert cpu_of(victim) - cpu < BUSY_LOOP
            assert open_descriptors(victim) <= DESCRIPTORS - descriptors.KEPT_FROM_LINKS
            if victim is orchestrator:
                assert post(serving.endpoint, "hello") in ("200", "503")  # an idle one made room, or none did
            async with client(orchestrator) as peers:
                assert await infer(peers, orchestrator) in ("ok", "Unavailable", "DeadlineExceeded")
            held.close()
            await eventually(lambda: open_descriptors(victim) <= before + 5)
            await works(orchestrator)
            assert post(serving.endpoint, "hello") == "200"
            assert "rpc.no_descriptors" in victim.log()
            assert "worker.few_descriptors" in victim.log()

    run(story(), within=90.0)


def cpu_of(process: ProcessHandle) -> float:
    facts = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(facts[11]) + int(facts[12])) / os.sysconf("SC_CLK_TCK")


# --- memory


def test_more_than_the_memory_holds_is_refused(tmp_path: Path) -> None:
    async def story() -> None:
        with mesh(tmp_path, f"-v {512 * 1024}") as (orchestrator, rack):
            text = "x" * BODY
            async with client(orchestrator) as peers:
                await works(orchestrator)
                told = Counter(await asyncio.gather(*(infer(peers, orchestrator, text) for _ in range(10))))
                assert set(told) == {"ok", "CapacityExceeded"}
                endpoint = Serving(orchestrator).endpoint
                posts = (asyncio.to_thread(post, endpoint, text[: BODY - 1000]) for _ in range(10))
                status = Counter(await asyncio.gather(*posts))
                assert set(status) <= {"200", "429", "closed"}
                assert status["429"]
            await works(orchestrator)
            assert orchestrator.running
            assert rack.running
            assert "worker.little_memory" in orchestrator.log()

    run(story(), within=120.0)


# --- logs


@contextmanager
def nobody_reads() -> Iterator[int]:
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@contextmanager
def full_disk() -> Iterator[int]:
    full = os.open("/dev/full", os.O_WRONLY)
    yield full
    os.close(full)


def test_log_that_nobody_takes_stops_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        with (
            nobody_reads() as closed,
            full_disk() as full,
            ready(spawn_worker([*ORCHESTRATOR, "--debug"], tmp_path, output=closed)) as orchestrator,
            ready(spawn_worker([*RACK, "--log.bodies", "1"], tmp_path, output=full)),
        ):
            await works(orchestrator)
            async with client(orchestrator) as peers:
                for _ in range(50):
                    assert await infer(peers, orchestrator) == "ok"

    run(story(), within=60.0)
