"""What happens to callers when racks and the orchestrator die, stand still or leave.

Real processes on loopback that find each other by mDNS. Outcomes and order are asserted, with waits of
several times the promise; how many seconds it took is for the benchmarks.
"""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.aio import run
from tests.fakes.processes import ProcessHandle, client, join_machine, start_worker, until
from wrk_base import errors
from wrk_base.rpc.peers import Peers

NOBODY = "tcp://127.0.0.1:9"
ORCHESTRATOR = ["--wtype", "wrk_orchestrator.orchestrator:OrchestratorWorker", "--rpc.port", "0"]


def start_orchestrator(tmp_path: Path, *flags: str) -> ProcessHandle:
    return start_worker([*ORCHESTRATOR, *flags], tmp_path)


def start_rack(tmp_path: Path, name: str, *flags: str) -> ProcessHandle:
    rack = ["--wtype", "racks.sim:SimRack", "--rack", name, "--models", "m1", "--capacity", "100"]
    return start_worker([*rack, "--latency", "10", *flags], tmp_path)


class Caller:
    """Somebody who uses the mesh through one orchestrator."""

    def __init__(self, peers: Peers, orchestrator: str) -> None:
        self.peers, self.orchestrator = peers, orchestrator

    async def ask(self, method: str, body: Any = None, timeout: float = 10.0) -> Any:
        return await self.peers.request(self.orchestrator, method, body, timeout=timeout)

    async def infer(self, text: Any = "hello", **options: Any) -> Any:
        body = {"modelId": "m1", "inputData": text, "options": options}
        return await self.ask("routeInferenceRequest", body)

    async def states(self) -> dict[str, str]:
        """Name of each rack -> what health says of it; nothing while the orchestrator is away."""
        try:
            listed = await self.ask("listWorkers", {})
        except errors.Unavailable:
            return {}
        return {worker["name"]: worker["state"] for worker in listed["workers"]}

    async def see(self, **wanted: str) -> None:
        """Wait until the racks are in these states; "" means not listed."""

        async def seen() -> bool:
            states = await self.states()
            return all(states.get(name, "") == state for name, state in wanted.items())

        await until(seen, what=f"racks in states {wanted}")

    async def see_out(self, name: str) -> None:
        async def out() -> bool:
            return (await self.states()).get(name) != "healthy"

        await until(out, what=f"{name} out of routing")


@asynccontextmanager
async def caller_of(orchestrator: ProcessHandle) -> AsyncIterator[Caller]:
    async with client(orchestrator) as peers:
        yield Caller(peers, orchestrator.endpoint)


class Load:
    """Requests at a steady pace; `outcomes` counts how they ended."""

    def __init__(self, caller: Caller, per_second: float) -> None:
        self.outcomes: Counter[str] = Counter()
        self._caller, self._pause = caller, 1 / per_second
        self._running = True

    async def _one(self) -> None:
        try:
            await self._caller.infer()
            self.outcomes["answered"] += 1
        except errors.WrkError as error:
            self.outcomes[f"{error.name}: {error.message}"] += 1

    async def _pace(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        async with asyncio.TaskGroup() as group:
            while self._running:
                group.create_task(self._one())
                due += self._pause
                await asyncio.sleep(max(0.0, due - loop.time()))

    async def __aenter__(self) -> Load:
        self._task = asyncio.create_task(self._pace())
        await self.answered(20)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._running = False
        await self._task

    async def answered(self, more: int) -> None:
        """Wait until so many more requests were answered."""
        wanted = self.outcomes["answered"] + more

        async def enough() -> bool:
            return self.outcomes["answered"] >= wanted

        await until(enough, what=f"{more} more answers; so far {dict(self.outcomes)}")


def test_killed_rack_is_out_at_once_and_its_restart_is_back(tmp_path: Path) -> None:
    async def story() -> None:
        with start_orchestrator(tmp_path) as orchestrator, start_rack(tmp_path, "r2"):
            first = start_rack(tmp_path, "r1")
            async with caller_of(orchestrator) as caller:
                await caller.see(r1="healthy", r2="healthy")
                async with Load(caller, 50) as load:
                    first.kill()
                    await caller.see(r1="gone")
                    await load.answered(20)
                    with start_rack(tmp_path, "r1"):
                        await caller.see(r1="healthy", r2="healthy")
                        await load.answered(20)
                assert set(load.outcomes) == {"answered"}, load.outcomes

    run(story())


async def _running_on(caller: Caller, rack: ProcessHandle) -> int:
    capacity = await caller.peers.request(rack.endpoint, "checkCapacity", timeout=5)
    return int(capacity["inFlight"])


async def _kill_with_a_request_in_it(
    tmp_path: Path, caller: Caller, **options: Any
) -> tuple[asyncio.Task[Any], ProcessHandle]:
    """A request that waits in a rack, then another rack, then the first one's end."""
    doomed = start_rack(tmp_path, "doomed")
    await caller.see(doomed="healthy")
    waiting = asyncio.create_task(caller.infer({"prompt": "x", "sim": {"latency": 60_000}}, **options))
    await until(lambda: _running_on(caller, doomed))
    heir = start_rack(tmp_path, "heir")
    await caller.see(heir="healthy")
    doomed.kill()
    return waiting, heir


def test_request_in_a_killed_rack_moves_to_another_one(tmp_path: Path) -> None:
    async def story() -> None:
        with start_orchestrator(tmp_path) as orchestrator:
            async with caller_of(orchestrator) as caller:
                waiting, heir = await _kill_with_a_request_in_it(tmp_path, caller)
                with heir:
                    await until(lambda: _running_on(caller, heir), what="the request on the other rack")
                    waiting.cancel()

                    async def freed() -> bool:
                        return await _running_on(caller, heir) == 0

                    await until(freed, what="the cancelled request's slot")

    run(story())


def test_request_that_must_not_be_repeated_ends_in_a_typed_error(tmp_path: Path) -> None:
    async def story() -> None:
        with start_orchestrator(tmp_path) as orchestrator:
            async with caller_of(orchestrator) as caller:
                waiting, heir = await _kill_with_a_request_in_it(tmp_path, caller, repeatable=False)
                with heir:
                    with pytest.raises(errors.Unavailable) as lost:
                        await waiting
                    assert not lost.value.not_started
                    methods = (await caller.peers.request(heir.endpoint, "getStats", timeout=5))["methods"]
                    assert "runInference" not in methods

    run(story())


def test_stopped_rack_is_out_and_back_when_it_goes_on(tmp_path: Path) -> None:
    async def story() -> None:
        with (
            start_orchestrator(tmp_path) as orchestrator,
            start_rack(tmp_path, "r2"),
            start_rack(tmp_path, "r1") as frozen,
        ):
            async with caller_of(orchestrator) as caller:
                await caller.see(r1="healthy", r2="healthy")
                frozen.signal(signal.SIGSTOP)
                await caller.see_out("r1")
                async with Load(caller, 50) as load:
                    await load.answered(100)
                    frozen.signal(signal.SIGCONT)
                    await caller.see(r1="healthy")
                    await load.answered(50)
                assert set(load.outcomes) == {"answered"}, load.outcomes

    run(story())


def test_rack_that_is_told_to_end_loses_no_request(tmp_path: Path) -> None:
    async def story() -> None:
        with (
            start_orchestrator(tmp_path) as orchestrator,
            start_rack(tmp_path, "r2"),
            start_rack(tmp_path, "r1", "--latency", "100") as leaving,
        ):
            async with caller_of(orchestrator) as caller:
                await caller.see(r1="healthy", r2="healthy")
                async with Load(caller, 100) as load:
                    leaving.signal(signal.SIGTERM)
                    assert await leaving.ended() == 0
                    await caller.see(r1="")
                    await load.answered(50)
                assert set(load.outcomes) == {"answered"}, load.outcomes

    run(story())


def test_restarted_orchestrator_has_every_rack_again(tmp_path: Path) -> None:
    async def story() -> None:
        first = start_orchestrator(tmp_path)
        port = first.endpoint.rpartition(":")[2]
        with start_rack(tmp_path, "r1"), start_rack(tmp_path, "r2"):
            async with caller_of(first) as caller:
                await caller.see(r1="healthy", r2="healthy")
                first.kill()
                with start_orchestrator(tmp_path, "--rpc.port", port):
                    await caller.see(r1="healthy", r2="healthy")
                    assert (await caller.infer())["success"] is True

    run(story())


def test_every_orchestrator_gets_every_rack_and_start_order_does_not_matter(tmp_path: Path) -> None:
    async def story() -> None:
        with (
            start_rack(tmp_path, "early"),
            start_orchestrator(tmp_path) as one,
            start_orchestrator(tmp_path, "--rack", "second") as two,
            start_rack(tmp_path, "late"),
        ):
            for orchestrator in (one, two):
                async with caller_of(orchestrator) as caller:
                    await caller.see(early="healthy", late="healthy")
                    assert (await caller.infer())["result"]["simulated"] is True

    run(story())


def test_manual_registration_survives_the_orchestrator(tmp_path: Path) -> None:
    async def story() -> None:
        machine = join_machine(tmp_path, "elsewhere", "rack")
        elsewhere = ["--state-dir", str(machine), "--discovery.mdns", "false"]  # where nobody hears of it
        first = start_orchestrator(tmp_path)
        port = first.endpoint.rpartition(":")[2]
        with start_rack(tmp_path, "far", *elsewhere) as far:
            async with caller_of(first) as caller:
                address = f"{far.endpoint}#{far.status['publicKey']}"
                offer = {"workerId": "by-hand", "address": address, "capabilities": {"models": ["m1"]}}
                assert (await caller.ask("registerWorker", offer))["success"] is True
                await until(lambda: _routed_to(caller, "by-hand"))
                first.kill()
                with start_orchestrator(tmp_path, "--rpc.port", port):
                    await until(lambda: _routed_to(caller, "by-hand"))
                    assert (await caller.ask("unregisterWorker", {"workerId": "by-hand"}))["success"] is True
                    with pytest.raises(errors.NoWorkersAvailable):
                        await caller.infer()

    run(story())


async def _routed_to(caller: Caller, worker_id: str) -> bool:
    try:
        return bool((await caller.infer())["workerId"] == worker_id)
    except (errors.NoWorkersAvailable, errors.Unavailable):
        return False


@pytest.mark.parametrize(("key", "cause"), [("", "key is not known"), ("#" + "k" * 40, "refused")])
def test_registered_rack_that_cannot_be_dialled_is_listed_with_its_cause(
    tmp_path: Path, key: str, cause: str
) -> None:
    async def story() -> None:
        with start_orchestrator(tmp_path) as orchestrator:
            async with caller_of(orchestrator) as caller:
                offer = {"workerId": "ghost", "address": NOBODY + key, "capabilities": {"models": ["m1"]}}
                await caller.ask("registerWorker", offer)

                async def listed() -> Any:
                    (worker,) = (await caller.ask("listWorkers", {}))["workers"]
                    said = worker["state"] == "unreachable" and cause in worker["cause"]
                    return worker if said else None

                worker = await until(listed)
                assert "127.0.0.1:9" in worker["cause"]
                with pytest.raises(errors.NoWorkersAvailable):
                    await caller.infer()

    run(story())


BAD_REGISTRATIONS = [
    ({"workerId": "w", "address": 5}, "address"),
    ({"workerId": "w"}, "address"),
    ({"workerId": "w", "address": "not an address"}, "address"),
    ({"workerId": "", "address": NOBODY}, "workerId"),
    ({"workerId": "w", "address": NOBODY, "capabilities": {"models": "m1"}}, "models"),
    ({"workerId": "w", "address": NOBODY, "capabilities": {"models": ["m"] * 10_000}}, "models"),
    (
        {"workerId": "w", "address": NOBODY, "capabilities": {"capacity": {"maxConcurrent": -1}}},
        "maxConcurrent",
    ),
    ({"workerId": "w", "address": NOBODY, "labels": {"a": "x" * 1_000_000}}, "labels"),
]


def test_malformed_registrations_name_the_field_and_change_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        with start_orchestrator(tmp_path) as orchestrator:
            async with caller_of(orchestrator) as caller:
                for offer, field in BAD_REGISTRATIONS:
                    with pytest.raises(errors.BadRequest) as refused:
                        await caller.ask("registerWorker", offer)
                    assert field in str(refused.value), refused.value
                assert (await caller.ask("listWorkers", {}))["total"] == 0

    run(story())


def test_refusals_come_at_once_and_name_what_exists(tmp_path: Path) -> None:
    async def story() -> None:
        with (
            start_orchestrator(tmp_path, "--routing.queueLimit", "0") as orchestrator,
            start_rack(tmp_path, "r1", "--capacity", "1") as rack,
        ):
            async with caller_of(orchestrator) as caller:
                await caller.see(r1="healthy")
                body = {"modelId": "unheard", "inputData": "x"}
                with pytest.raises(errors.NoWorkersAvailable, match="m1"):
                    await caller.ask("routeInferenceRequest", body)
                with pytest.raises(errors.NoWorkersMatch, match="gpu"):
                    await caller.infer(requirements={"capabilities": ["gpu"]})
                busy = asyncio.create_task(caller.infer({"prompt": "x", "sim": {"hang": True}}))
                await until(lambda: _running_on(caller, rack))
                with pytest.raises(errors.CapacityExceeded, match="m1"):
                    await caller.infer()
                busy.cancel()
                await until(lambda: _answered(caller), what="the slot of the cancelled request")

    run(story())


async def _answered(caller: Caller) -> bool:
    try:
        await caller.infer()
    except errors.CapacityExceeded:
        return False
    return True


def test_handler_that_never_returns_ends_at_the_callers_deadline_and_frees_its_slot(tmp_path: Path) -> None:
    async def story() -> None:
        with start_orchestrator(tmp_path) as orchestrator, start_rack(tmp_path, "r1", "--capacity", "1"):
            async with caller_of(orchestrator) as caller:
                await caller.see(r1="healthy")
                with pytest.raises(errors.DeadlineExceeded):
                    await caller.infer({"prompt": "x", "sim": {"hang": True}}, timeoutMs=200)
                await until(lambda: _answered(caller))

    run(story())


def test_second_process_of_one_name_and_a_busy_port_do_not_start(tmp_path: Path) -> None:
    with start_orchestrator(tmp_path) as orchestrator:
        with pytest.raises(AssertionError, match="already running"):
            start_orchestrator(tmp_path)
        port = orchestrator.endpoint.rpartition(":")[2]
        with pytest.raises(AssertionError, match="port is in use"):
            start_orchestrator(tmp_path, "--rack", "other", "--rpc.port", port)
