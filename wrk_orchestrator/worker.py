"""The standalone service: an orchestrator with its HTTP face on, in one process and one event loop.

The face is another way to the same registry, balancer and router, never a second one. It accepts before
`started` is set and until the drain is over: first `/ready` says no and new inference is refused, then
what is under way ends, then the server goes. Whether it may listen at all is decided before anything does.
"""

from __future__ import annotations

import asyncio
from typing import Any

from wrk_base.discovery.addresses import resolve_interface
from wrk_base.errors import StartError
from wrk_base.worker import WorkerContext

from .http import exposure, tls
from .http.app import App
from .http.gate import Gate
from .http.inference import Inference
from .http.key_files import KeyFile, LiveKeys, admin_key
from .http.openai import OpenAi
from .http.server import HttpServer
from .orchestrator import OrchestratorWorker


class OrchestratorService(OrchestratorWorker):
    """`wrk orchestrator`: RPC on 8004 and HTTP on 8003 unless set; `http_endpoint` says where."""

    def __init__(self, context: WorkerContext) -> None:
        super().__init__(context)
        self.http_endpoint = ""
        self._inference = Inference(self)
        self._openai = OpenAi(self)
        self._http: HttpServer | None = None
        self._http_drain: asyncio.Task[None] | None = None

    async def open(self) -> None:
        host, settings = _http_host(self.settings.http.interface), self.settings.http
        file = KeyFile(self.context.state_dir)
        wanted = exposure.wants_keys(host, settings)
        for waived in exposure.check(host, settings, have_keys=wanted and bool(file.read())):
            self.log.warning(waived.event, address=host, advice=waived.advice)
        gate = Gate(
            admin_key(self.context.state_dir),
            names=(host, *settings.allowed_hosts),
            keys=LiveKeys(file, self.log) if wanted else None,
        )
        app = App(self, self._inference, self._openai, gate)
        context = tls.server_context(settings)
        self._http = HttpServer(app, host, self.settings.port, settings, context, at_once=app)
        if self._http.max_connections < settings.max_connections:
            self.log.warning(
                "http.connections_capped",
                connections=self._http.max_connections,
                advice="there are no more file descriptors: raise ulimit -n, or lower http.maxConnections",
            )
        await super().open()

    async def on_listening(self) -> None:
        await super().on_listening()
        assert self._http is not None
        self.http_endpoint = await self._http.start()
        self.log.info("http.started", endpoint=self.http_endpoint)

    async def before_drain(self) -> None:
        await super().before_drain()
        self._http_drain = self._loop.create_task(self._drain_http(), name="http drain")

    async def after_drain(self) -> None:
        if self._http_drain is not None:
            await self._http_drain
        if self._http is not None:
            await self._http.stop()
        await super().after_drain()

    def hurry(self) -> None:
        super().hurry()
        self._inference.cancel_all()
        self._openai.answers.cancel_all()

    def status(self) -> dict[str, Any]:
        return {**super().status(), "http": self.http_endpoint}

    async def _drain_http(self) -> None:
        """Beside the drain of RPC and as long as it."""
        try:
            async with asyncio.timeout(self.settings.stop.drain_timeout / 1000):
                await self._inference.drained()
                await self._openai.answers.drained()
        except TimeoutError:
            running = self._inference.in_flight + len(self._openai.answers.running)
            self.log.warning("http.drain_cut", running=running)
            self._inference.cancel_all()
            self._openai.answers.cancel_all()


def _http_host(interface: str) -> str:
    """The address to bind; raises `StartError`."""
    try:
        return resolve_interface(interface)
    except StartError as error:
        raise StartError(str(error).replace("--interface", "--http.interface", 1)) from None
