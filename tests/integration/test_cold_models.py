"""Models that are loaded when somebody asks, with an orchestrator and a rack in processes of their own."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.fakes.aio import run
from tests.fakes.processes import client, start_worker, until
from wrk_base.rpc.peers import Peers

ORCHESTRATOR = ("--wtype", "wrk_orchestrator.orchestrator:OrchestratorWorker", "--rpc.port", "0")
RACK = (
    "--wtype",
    "racks.sim:SimRack",
    "--rack",
    "r1",
    "--models",
    "small",
    "--cold",
    "big",
    "--latency",
    "1",
)


def test_requests_wait_while_their_model_is_loaded_in_the_place_of_another(tmp_path: Path) -> None:
    async def story(peers: Peers, orchestrator: str) -> None:
        async def offered() -> list[tuple[list[str], list[str]]]:
            listed = await peers.request(orchestrator, "listWorkers", {}, timeout=10.0)
            offers = [worker["capabilities"] for worker in listed["workers"] if worker["state"] == "healthy"]
            return [(offer["models"], offer["cold"]) for offer in offers]

        async def ask(model: str) -> str:
            body = {"modelId": model, "inputData": "x"}
            answer = await peers.request(orchestrator, "routeInferenceRequest", body, timeout=30.0)
            return str(answer["result"]["model"])

        await until(offered, what="the rack")
        assert await offered() == [(["small"], ["big"])]
        assert await asyncio.gather(*(ask("big") for _ in range(10))) == ["big"] * 10
        assert await offered() == [(["big"], ["small"])]
        assert await ask("small") == "small"
        status = await peers.request(orchestrator, "getServiceStatus", {}, timeout=10.0)
        assert status["registry"]["models"] == {"small": 1, "big": 0}
        assert (status["loadBalancer"]["waiting"], status["loadBalancer"]["loading"]) == (0, {})

    async def told() -> None:
        with (
            start_worker(ORCHESTRATOR, tmp_path) as orchestrator,
            start_worker([*RACK, "--modelLoadTime", "100", "--maxLoaded", "1"], tmp_path),
        ):
            async with client(orchestrator) as peers:
                await story(peers, orchestrator.endpoint)

    run(told())
