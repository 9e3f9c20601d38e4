"""A gateway as people run it: an orchestrator with HTTP and two simulated racks with `MODEL`, all processes.

    with gateway(tmp_path) as g:
        g.openai().chat.completions.create(model="m1", messages=[...])

`openai` and `openai_async` are OpenAI's own client, which finds nothing in the environment and repeats
nothing unless told to. `heard` holds what it was answered, and `on_answer` is called with each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import msgspec
from openai import AsyncOpenAI, OpenAI

from tests.fakes.processes import LOOPBACK, ProcessHandle, mesh_of, start_worker, wait_until
from wrk_base import SyncClient

ORCHESTRATOR = ("--wtype", "wrk-orchestrator-http", "--port", "0", "--rpc.port", "0")
SIM = ("--wtype", "racks.sim:SimRack", "--capacity", "100", "--latency", "0", "--rack")
MODEL = "m1"


class Heard(NamedTuple):
    status: int
    headers: httpx2.Headers
    at: float


class Gateway:
    def __init__(
        self, folder: Path, orchestrator: ProcessHandle, racks: dict[str, ProcessHandle], key: str
    ) -> None:
        self.folder, self.orchestrator, self.racks = folder, orchestrator, racks
        self.url = f"{orchestrator.status['http']}/v1"
        self.heard: list[Heard] = []
        self.on_answer: Callable[[Heard], None] = lambda _: None
        self._key = key
        shown = {"authorization": f"Bearer {key}"}
        self._plain = httpx2.Client(base_url=orchestrator.status["http"], headers=shown, trust_env=False)

    def close(self) -> None:
        self._plain.close()

    # --- OpenAI's client

    def openai(self, **more: Any) -> OpenAI:
        self.heard.clear()
        http = httpx2.Client(trust_env=False, event_hooks={"response": [self._hear]})
        return OpenAI(**self._settings(http_client=http, **more))

    def openai_async(self, **more: Any) -> AsyncOpenAI:
        http = httpx2.AsyncClient(trust_env=False, limits=httpx2.Limits(max_connections=200))
        return AsyncOpenAI(**self._settings(http_client=http, **more))

    def _settings(self, **more: Any) -> dict[str, Any]:
        return {"base_url": self.url, "api_key": self._key, "max_retries": 0, "timeout": 30.0, **more}

    def _hear(self, response: httpx2.Response) -> None:
        heard = Heard(response.status_code, response.headers, time.monotonic())
        self.heard.append(heard)
        self.on_answer(heard)

    # --- beside it

    def get(self, path: str) -> Any:
        """What the control face says."""
        return msgspec.json.decode(self._plain.get(path).raise_for_status().content)

    def rpc(self) -> SyncClient:
        """The same mesh without HTTP."""
        state = self.orchestrator.state
        return SyncClient(
            self.orchestrator.endpoint, mesh=mesh_of(self.folder), state_dir=state, interface=LOOPBACK
        )

    def knows(self, model: str, workers: int) -> None:
        """Wait until so many workers can be routed to for it."""
        wait_until(lambda: self.healthy(model) == workers, what=f"{workers} racks with {model} are known")

    def healthy(self, model: str) -> int:
        """Workers that can be routed to for it."""
        found = self.get("/api/workers")["workers"]
        return sum(w["state"] == "healthy" and model in w["capabilities"]["models"] for w in found)

    def running(self) -> int:
        """Requests that run in the racks now."""
        with self.rpc() as client:
            return sum(
                client.request("checkCapacity", peer=rack.endpoint)["inFlight"]
                for rack in self.racks.values()
            )

    def load(self) -> int:
        """Requests that the orchestrator counts as under way."""
        workers = self.get("/api/load-balancer")["workers"]
        return sum(int(worker["currentLoad"]) for worker in workers.values())

    def quiet(self) -> None:
        """Wait until nothing runs any more, here or there."""
        wait_until(lambda: self.load() == 0 and self.running() == 0, what="nothing runs")

    @contextmanager
    def rack(self, name: str, *flags: str) -> Iterator[ProcessHandle]:
        """One more rack, for the time of the block."""
        with start_worker([*SIM, name, *flags], self.folder) as started:
            self.racks[name] = started
            try:
                yield started
            finally:
                del self.racks[name]


@contextmanager
def gateway(folder: Path, *flags: str, key: str = "none") -> Iterator[Gateway]:
    """`flags` are the orchestrator's; `key` is an API key, where one is asked for."""
    with (
        start_worker([*ORCHESTRATOR, *flags], folder) as orchestrator,
        start_worker([*SIM, "r1", "--models", MODEL], folder) as one,
        start_worker([*SIM, "r2", "--models", MODEL], folder) as two,
    ):
        made = Gateway(folder, orchestrator, {"r1": one, "r2": two}, key)
        made.knows(MODEL, 2)
        try:
            yield made
        finally:
            made.close()
