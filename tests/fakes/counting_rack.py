"""A rack that counts what it runs, a mesh of such racks, and callers who ask again.

An input says what is to happen: {"wait": true} stays until `free` is set, {"items": n} streams so many with a
pause behind each, {"raise": name} ends in that error. Every answer says which execution it is of.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.fakes.aio import eventually, run
from tests.fakes.context import FakeRack, Offer, Site
from tests.fakes.streaming import quiet
from wrk_base import contract, errors
from wrk_base.rpc.peers import Peers
from wrk_base.rpc.request import Final
from wrk_base.rpc.streams import Stream
from wrk_orchestrator.orchestrator import OrchestratorWorker

PAUSE = 1.0  # seconds between the items of a stream
ASKED_FOR = 60.0


class CountingRack(FakeRack):
    """`ran` counts executions, `ended` tells how each did."""

    ran = 0

    def infer(self, model_id: str, input_data: Any, options: contract.Options) -> AsyncIterator[Any]:  # type: ignore[override]
        return self._run(input_data or {})

    async def _run(self, wish: dict[str, Any]) -> AsyncIterator[Any]:
        self.ran += 1
        number = self.ran
        self.ended: list[str] = getattr(self, "ended", [])
        try:
            if wish.get("wait"):
                await self.free.wait()
            for item in range(wish.get("items", 0)):
                yield {"item": item, "of": number, "padding": b"x" * wish.get("size", 0)}
                await asyncio.sleep(wish.get("pause", PAUSE))
            if "raise" in wish:
                raise errors.BY_NAME[wish["raise"]]("as told", not_started=wish.get("not_started", False))
            if wish.get("crash"):
                raise RuntimeError("a secret of the rack")
        except BaseException as end:
            self.ended.append(type(end).__name__)
            raise
        self.ended.append("whole")
        yield Final({"rack": self.context.rack, "execution": number, "body": b"y" * wish.get("body", 0)})


class CountingMesh(Site):
    """Racks, orchestrators, and callers who ask any of them."""

    async def __aenter__(self) -> CountingMesh:
        return self

    racks: dict[str, CountingRack]
    orcs: list[OrchestratorWorker]
    asker: Peers

    async def open(self, racks: int, orchestrators: int, capacity: int, flags: dict[str, str]) -> None:
        self.orcs = [await self.orchestrator(f"orc-{n}", flags=flags) for n in range(1, orchestrators + 1)]
        self.racks = {}
        for number in range(1, racks + 1):
            await self.add(f"r{number}", capacity, flags)
        self.asker = self.caller("alice")

    async def add(self, name: str, capacity: int = 4, flags: dict[str, str] | None = None) -> CountingRack:
        context = self.context(name, "rack", flags=flags)
        rack = self.racks[name] = await self.start(CountingRack(context, Offer(capacity=capacity)))
        await eventually(lambda: all(orc.balancer.limit(name) for orc in self.orcs))
        return rack

    @property
    def ran(self) -> int:
        return sum(rack.ran for rack in self.racks.values())

    def running(self) -> CountingRack:
        """The one rack that runs something."""
        (rack,) = (rack for rack in self.racks.values() if rack.running)
        return rack

    def ask(
        self, key: str | None, wish: dict[str, Any] | None = None, /, *, by: Peers | None = None, at: int = 0,
        timeout: float = ASKED_FOR, rack: str = "", **options: Any,
    ) -> asyncio.Task[dict[str, Any]]:  # fmt: skip
        """A request to orchestrator number `at`, or to `rack` itself."""
        method, endpoint, body = self._asked(key, wish, at, rack, options)
        asked = (self.asker if by is None else by).request(endpoint, method, body, timeout=timeout)
        return asyncio.ensure_future(asked)

    def stream(
        self, key: str | None, wish: dict[str, Any], /, *, at: int = 0, rack: str = "", idle: float = 600.0,
        timeout: float = ASKED_FOR, **options: Any,
    ) -> Stream:  # fmt: skip
        method, endpoint, body = self._asked(key, wish, at, rack, options)
        return self.asker.stream(endpoint, method, body, timeout=timeout, idle=idle)

    def _asked(
        self, key: str | None, wish: Any, at: int, rack: str, options: dict[str, Any]
    ) -> tuple[str, str, dict[str, Any]]:
        model = options.pop("model", "m1")
        body = {"modelId": model, "inputData": wish, "options": {"idempotencyKey": key, **options}}
        if rack:
            return "runInference", self.racks[rack].endpoint, body
        return "routeInferenceRequest", self.orcs[at].endpoint, body

    async def runs(self, count: int = 1) -> CountingRack:
        """The rack that runs, once so many executions have begun."""
        await eventually(lambda: self.ran == count)
        return self.running()

    async def over(self) -> None:
        """Nothing runs for anybody, and nothing is leased."""
        await quiet()
        assert [orc.balancer.leases for orc in self.orcs] == [0] * len(self.orcs)
        assert [rack.running for rack in self.racks.values()] == [0] * len(self.racks)
        assert [rack.server.in_flight for rack in self.racks.values()] == [0] * len(self.racks)


def told(
    story: Callable[[CountingMesh], Awaitable[None]],
    directory: Path,
    *,
    racks: int = 1,
    orchestrators: int = 1,
    capacity: int = 4,
    **flags: str,
) -> None:
    """Run a story in virtual time; at its end nothing may run. Flags are of the section `idempotency`."""
    named = {f"idempotency.{name}": value for name, value in flags.items()}

    async def tell() -> None:
        async with CountingMesh(directory) as mesh:
            await mesh.open(racks, orchestrators, capacity, named)
            await story(mesh)
            await mesh.over()

    run(tell(), "virtual", within=1e6)


def said(answer: dict[str, Any]) -> tuple[str, int]:
    """(how it came about, which execution it is of)"""
    return answer["idempotency"], answer["result"]["execution"]


async def refused(request: Awaitable[Any]) -> errors.WrkError:
    try:
        answer = await request
    except errors.WrkError as error:
        return error
    raise AssertionError(f"it was answered: {answer}")
