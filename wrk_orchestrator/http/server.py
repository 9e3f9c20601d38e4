"""uvicorn inside the loop of the service: the only place that knows the HTTP server.

The socket is bound here, because uvicorn would end the program over a port in use. Its signal handling
is left out, the process has its own. It is stopped by asking, never by cancelling, which would leave it
listening; what does not end in time is cancelled and cut, so that nothing is left when `stop` returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import socket
import ssl
from typing import cast

import uvicorn

from wrk_base import descriptors
from wrk_base.config import HttpSettings
from wrk_base.errors import StartError

from .app import App
from .direct import AtOnce
from .protocol import Bounds, Protocol, Resting

BACKLOG = 2048  # connections that wait for one turn of the loop
UNSENT_BYTES = 16_384  # what the kernel takes ahead of a slow reader; the rest waits where it is looked at


class HttpServer:
    """Serves `app` on one address, by TLS if there is a context for it; `port` 0 is chosen by the kernel.

    What `at_once` takes is answered by it, without ASGI.
    """

    def __init__(
        self,
        app: App,
        host: str,
        port: int,
        settings: HttpSettings,
        tls: ssl.SSLContext | None = None,
        at_once: AtOnce | None = None,
    ) -> None:
        self._host, self._port, self._tls = host, port, tls
        self._shutdown_seconds = settings.shutdown_timeout / 1000
        self.max_connections = _affordable(settings.max_connections)
        bounds = Bounds.of(settings, self.max_connections)
        config = uvicorn.Config(
            app,
            loop="none",
            http=functools.partial(  # type: ignore[arg-type]
                Protocol, bounds=bounds, resting=Resting(), at_once=at_once
            ),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=settings.idle_timeout / 1000,  # type: ignore[arg-type]
        )
        self._server = _Server(config, tls, bounds)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Returns "http://host:port", or with https, once connections are accepted; raises `StartError`."""
        sock = _bind(self._host, self._port)
        endpoint = f"{'https' if self._tls else 'http'}://{_shown(self._host)}:{sock.getsockname()[1]}"
        self._task = asyncio.get_running_loop().create_task(self._server.serve([sock]), name="http")
        accepting = asyncio.ensure_future(self._server.accepting.wait())
        try:
            await asyncio.wait({self._task, accepting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            accepting.cancel()
        if self._task.done():
            sock.close()
            raise StartError(f"cannot serve {endpoint}") from self._task.exception()
        return endpoint

    async def stop(self) -> None:
        """Stop accepting, let open requests end within the shutdown timeout, cut the rest."""
        task, self._task = self._task, None
        if task is None:
            return
        self._server.should_exit = True
        await asyncio.wait({task}, timeout=self._shutdown_seconds)
        self._server.force_exit = True
        await self._cut()  # before waiting: from Python 3.12 on, a listener ends after its connections
        await task
        await self._cut()  # what came in before the server looked at `should_exit`

    async def _cut(self) -> None:
        state = self._server.server_state
        connections = cast(set[Protocol], state.connections)
        for connection in tuple(connections):
            if connection.flow.write_paused:  # a request cannot even say that it ends while nobody listens
                connection.transport.abort()
        left = tuple(state.tasks)
        for request in left:
            request.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        for connection in tuple(connections):
            connection.transport.abort()


class _Server(uvicorn.Server):
    """uvicorn's, without its signals, with an event for its being ready, and bounds on what TLS does."""

    def __init__(self, config: uvicorn.Config, tls: ssl.SSLContext | None, bounds: Bounds) -> None:
        super().__init__(config)
        self.accepting = asyncio.Event()
        self._tls = tls
        self._bounds = bounds

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        return contextlib.nullcontext()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(
                self._connection,
                sock=sock,
                backlog=BACKLOG,
                ssl=self._tls,
                ssl_handshake_timeout=self._bounds.head_s if self._tls else None,
                ssl_shutdown_timeout=self._bounds.write_s if self._tls else None,
            )
            for sock in sockets or ()
        ]
        self.started = True
        self.accepting.set()

    def _connection(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made


def _affordable(connections: int) -> int:
    """No more than there are descriptors for, once the process has what it needs."""
    free = descriptors.limit() - len(os.listdir("/dev/fd")) - descriptors.KEPT_FROM_HTTP
    return max(1, min(connections, free))


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # connections inherit it
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        sock.bind((host, port))
        sock.listen(BACKLOG)  # with the option above, it is only here that two starts at once collide
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise StartError(f"cannot listen on http {_shown(host)}:{port}: {_advice(error)}") from None
    return sock


def _advice(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            "the port is in use. Stop the process that has it, "
            "or choose another with --port (0 lets the system choose)"
        )
    return f"{error.strerror}. Check --http.interface and --port"


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
