"""uvicorn inside the loop of the service: the only place that knows the HTTP server.

The socket is bound here, because uvicorn would end the program over a port in use. Its signal handling
is left out, the process has its own. It is stopped by asking, never by cancelling, which would leave it
listening; what does not end in time is cancelled and cut, so that nothing is left when `stop` returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket

import uvicorn

from wrk_base.errors import StartError

from .app import App
from .protocol import Protocol

BACKLOG = 2048  # connections that wait for one turn of the loop
KEEP_ALIVE_S = 75  # longer than clients keep an idle connection, so that they close it and not we


class HttpServer:
    """Serves `app` on one address; `port` 0 is chosen by the kernel."""

    def __init__(self, app: App, host: str, port: int, shutdown_seconds: float) -> None:
        self._host, self._port, self._shutdown_seconds = host, port, shutdown_seconds
        config = uvicorn.Config(
            app,
            loop="none",
            http=Protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Returns "http://host:port" once connections are accepted; raises `StartError`."""
        sock = _bind(self._host, self._port)
        endpoint = f"http://{_shown(self._host)}:{sock.getsockname()[1]}"
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
        left = tuple(state.tasks)
        for request in left:
            request.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        for connection in tuple(state.connections):
            connection.transport.abort()


class _Server(uvicorn.Server):
    """uvicorn's, without its signals, and with an event for its being ready."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.accepting = asyncio.Event()

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        return contextlib.nullcontext()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.accepting.set()


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
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
    return f"{error.strerror}. Check --interface and --port"


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
