"""The standalone service: an orchestrator with its HTTP face on, in one process and one event loop.

The face is another way to the same registry, balancer and router, never a second one. It accepts before
`started` is set and until the drain is over: first `/ready` says no and new inference is refused, then
what is under way ends, then the server goes.
"""

from __future__ import annotations

import asyncio
from typing import Any

from wrk_base.worker import WorkerContext

from .http.app import App
from .http.server import HttpServer
from .orchestrator import OrchestratorWorker


class OrchestratorService(OrchestratorWorker):
    """`wrk orchestrator`: RPC on 8004 and HTTP on 8003 unless set; `http_endpoint` says where."""

    def __init__(self, context: WorkerContext) -> None:
        super().__init__(context)
        settings = self.settings
        self.http_endpoint = ""
        self._app = App(self)
        self._http = HttpServer(self._app, context.host, settings.port, settings.http.shutdown_timeout / 1000)
        self._http_drain: asyncio.Task[None] | None = None

    async def on_listening(self) -> None:
        await super().on_listening()
        self.http_endpoint = await self._http.start()
        self.log.info("http.started", endpoint=self.http_endpoint)

    async def before_drain(self) -> None:
        await super().before_drain()
        self._http_drain = self._loop.create_task(self._drain_http(), name="http drain")

    async def after_drain(self) -> None:
        if self._http_drain is not None:
            await self._http_drain
        await self._http.stop()
        await super().after_drain()

    def hurry(self) -> None:
        super().hurry()
        self._app.inference.cancel_all()

    def status(self) -> dict[str, Any]:
        return {**super().status(), "http": self.http_endpoint}

    async def _drain_http(self) -> None:
        """Beside the drain of RPC and as long as it."""
        try:
            async with asyncio.timeout(self.settings.stop.drain_timeout / 1000):
                await self._app.inference.drained()
        except TimeoutError:
            self.log.warning("http.drain_cut", running=self._app.inference.in_flight)
            self._app.inference.cancel_all()
