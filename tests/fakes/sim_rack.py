"""A simulated rack, whole, over a network in memory, and somebody who asks it.

    async with serving(latency="300") as caller:
        answer = await caller.infer("hello")

The flags are those of `wrk rack sim`. In virtual time (`run_virtual`), what it takes is exact.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import structlog

from racks.sim import SimRack, SimSettings
from tests.fakes.network import FakeNetwork
from tests.fakes.rpc import caller_on
from wrk_base.config import Settings
from wrk_base.discovery import combine
from wrk_base.rpc.identity import Identity
from wrk_base.rpc.peers import Peers
from wrk_base.rpc.streams import Stream
from wrk_base.settings_loader import load
from wrk_base.worker import WorkerContext


class MortalRack(SimRack):
    """Its crash ends the test's patience instead of the test's process."""

    crashes = 0

    def crash(self) -> None:
        self.crashes += 1


class Caller:
    """Somebody who asks one rack."""

    def __init__(self, rack: MortalRack, peers: Peers) -> None:
        self.rack, self._peers = rack, peers

    async def infer(self, input_data: Any, model: str = "sim-model", timeout: float = 60.0) -> dict[str, Any]:
        body = {"modelId": model, "inputData": input_data}
        answer = await self._peers.request(self.rack.endpoint, "runInference", body, timeout=timeout)
        return dict(answer["result"])

    async def ask(self, task: str, input_data: Any, timeout: float = 60.0) -> dict[str, Any]:
        answer = await self._peers.request(
            self.rack.endpoint, "runInference", _asked(task, input_data), timeout=timeout
        )
        return dict(answer["result"])

    async def tell(self, method: str, model: str) -> Any:
        """`loadModel` and `unloadModel`."""
        return await self._peers.request(self.rack.endpoint, method, {"modelId": model}, timeout=60.0)

    def offer(self) -> tuple[list[str], list[str]]:
        """What is loaded, and what is not."""
        told = self.rack.describe()
        return told.models, told.cold

    async def told(self, body: dict[str, Any]) -> Any:
        """What it answers to this, whole."""
        return await self._peers.request(self.rack.endpoint, "runInference", body, timeout=60.0)

    async def items(self, body: dict[str, Any]) -> list[Any]:
        """The same as a stream."""
        stream = self._peers.stream(self.rack.endpoint, "runInference", body, timeout=60.0, idle=60.0)
        return [item async for item in stream]

    def stream(self, task: str, input_data: Any) -> Stream:
        return self._peers.stream(
            self.rack.endpoint, "runInference", _asked(task, input_data), timeout=60.0, idle=60.0
        )


def settings_of(*flags: tuple[str, str]) -> SimSettings:
    """The rack's section, as flags set it."""
    loaded = load(
        config_dir=None, env="test", environ={}, flags=flags, section="sim", section_type=SimSettings
    )
    assert isinstance(loaded.section, SimSettings)
    return loaded.section


def make_rack(network: FakeNetwork, name: str, flags: dict[str, str]) -> MortalRack:
    log = structlog.get_logger()
    context = WorkerContext(
        settings=Settings(),
        section=settings_of(*flags.items()),
        identity=Identity(f"{name}-1", epoch=1, role="rack"),
        wtype="wrk-rack-sim",
        rack=name,
        state_dir=Path("unused"),
        host="127.0.0.1",
        network=network,
        discovery=combine(log=log),
        rng=Random(0),
        log=log,
    )
    return MortalRack(context)


@asynccontextmanager
async def serving(name: str = "r1", **flags: str) -> AsyncIterator[Caller]:
    network = FakeNetwork()
    rack = make_rack(network, name, flags)
    peers = caller_on(network)
    await rack.start()
    try:
        yield Caller(rack, peers)
    finally:
        peers.close()
        await rack.stop()


def _asked(task: str, input_data: Any) -> dict[str, Any]:
    return {"modelId": "sim-model", "inputData": input_data, "options": {"task": task}}
