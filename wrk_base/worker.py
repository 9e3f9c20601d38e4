"""What every process of the mesh is made of, and what an author subclasses.

A `Worker` serves methods, calls peers, is announced and found. It owns its server, its peers, its
discovery and every timer and task that it makes, and `stop` leaves none of them. What it needs from
outside (settings, identity, network, clock, chance) comes in a `WorkerContext`, so that the same code
runs on a fake network and a virtual clock.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import msgspec
import structlog

from . import __version__, clock, errors
from .belonging import Belonging
from .config import Settings
from .contract import Description, as_body
from .discovery import Discovery, Found
from .discovery.advert import Advert, facts_of, short_id
from .loop_lag import LoopLag
from .rpc import wire
from .rpc.body import Budget
from .rpc.handlers import Blocking, MethodStats
from .rpc.identity import Identity
from .rpc.link import Network
from .rpc.peers import Peers
from .rpc.server import Server
from .rpc.streams import Stream
from .rpc_limits import peer_limits, server_limits
from .security.membership import Membership

CLOSE_SECONDS = 1.0  # for handlers and tasks that were cancelled to end
GOODBYE_LINGER_MS = 300  # for the last answers to leave


@dataclass(slots=True)
class WorkerContext:
    """What a worker gets from outside. `section` is its own settings section, parsed; `membership` is that
    of the network, None on an open one; `environ` is for secrets that a setting names and does not hold."""

    settings: Settings
    section: Any
    identity: Identity
    wtype: str
    rack: str
    state_dir: Path
    host: str
    network: Network
    discovery: Discovery
    rng: Random
    log: structlog.typing.FilteringBoundLogger
    membership: Membership | None = None
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def prefix(self) -> str:
        return f"{self.wtype}-{self.rack}"


class Worker:
    """Subclass it, say what you offer in `describe`, add methods with `respond`.

    `section` names a settings section of the class's own and `section_type` its frozen msgspec Struct;
    the parsed section is `self.options`, and its fields become command-line flags.
    """

    role: ClassVar[str] = "worker"
    default_port: ClassVar[int] = 0
    section: ClassVar[str | None] = None
    section_type: ClassVar[type[msgspec.Struct] | None] = None

    def __init__(self, context: WorkerContext) -> None:
        self.context = context
        self.settings = context.settings
        self.options = context.section
        self.identity = context.identity
        self.log = context.log
        self.started = asyncio.Event()
        self.endpoint = ""
        self.stopping = False
        self.lag = LoopLag()
        self._started_at = clock.wall_ms()
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._start_task: asyncio.Task[None] | None = None
        self._stop_task: asyncio.Task[None] | None = None
        rpc = self.settings.rpc
        self.held = held = Budget(rpc.process_bytes, "rpc.processBytes")
        self.server = Server(
            context.identity, limits=server_limits(self.settings), held=held, log=context.log
        )
        self.peers = Peers(
            network=context.network,
            identity=context.identity,
            rng=context.rng,
            limits=peer_limits(self.settings),
            max_peers=rpc.max_peers,
            linger=self.settings.pool_linger / 1000,
            held=held,
        )
        self.membership = context.membership
        self._belonging = (
            Belonging(context.membership, self.server, self.peers, self.spawn, self.log)
            if context.membership is not None
            else None
        )
        self._respond_to_everybody()

    # --- what an author overrides

    def describe(self) -> Description:
        """What this worker offers; asked again for every registration."""
        return Description()

    async def open(self) -> None:
        """Get ready (load the model, open files) before anybody can call."""

    async def close(self) -> None:
        """Give back what `open` took, within `stop.drainTimeout`; called once, after the last handler."""

    def on_found(self, found: Found) -> None:
        """Discovery heard of a peer. A hint: nothing is known of it until it answers."""

    def on_gone(self, found: Found) -> None:
        """Discovery says that a peer left. A hint, too."""

    # --- what an author uses

    def respond(
        self,
        method: str,
        handler: Callable[..., Any],
        *,
        raw: bool = False,
        blocking: Blocking | None = None,
        limit: int | None = None,
    ) -> None:
        """Serve `method` by `handler(body)` or `handler(body, request)`.

        A plain function runs at once in the event loop (for work under 1 ms), a coroutine function as a
        task; what it returns is the result, what it raises the error. An async generator streams what it
        yields; a last `Final(value)` declares the final value, which is the whole answer for a caller who
        did not ask for a stream. `blocking` runs a plain function in a "thread" or a "process" of a pool.
        `limit` requests of it run at once; `rpc.methodLimits` may say otherwise.
        """
        told = self.settings.rpc.method_limits.get(method, limit)
        self.server.respond(method, handler, raw=raw, blocking=blocking, limit=told)

    async def request(self, peer: str, method: str, body: Any = None, timeout: float | None = None) -> Any:
        """Call `method` of `peer`: the id of a worker that discovery knows, or `tcp://host:port#KEY`, where
        the key may be left out for one that was heard or called before.

        `timeout` is in seconds, by default the setting `requestTimeout`. Raises `WrkError`.
        """
        seconds = self.settings.request_timeout / 1000 if timeout is None else timeout
        return await self.peers.request(self.resolve(peer), method, body, timeout=seconds)

    def stream(
        self,
        peer: str,
        method: str,
        body: Any = None,
        timeout: float | None = None,
        *,
        idle: float | None = None,
        total: float | None = None,
    ) -> Stream:
        """The items of a streaming method: `async for item in worker.stream(peer, method, body)`.

        `timeout` bounds the wait for the first item (default: the setting `requestTimeout`), `idle` that for
        each later one (`routing.streamIdleTimeout`), `total` all of it (no bound); seconds. Leaving the loop
        stops the handler. `WrkError`s come out of the loop.
        """
        settings = self.settings
        return self.peers.stream(
            self.resolve(peer),
            method,
            body,
            timeout=settings.request_timeout / 1000 if timeout is None else timeout,
            idle=settings.routing.stream_idle_timeout / 1000 if idle is None else idle,
            total=total,
        )

    def resolve(self, peer: str) -> str:
        """The endpoint of a peer; raises `WorkerNotFound` for an id that discovery does not know."""
        if "://" in peer:
            endpoint, sharp, key = peer.partition("#")
            if sharp and self.membership is not None:
                self.membership.book.learn(endpoint, key)
            return endpoint
        known = [found for found in self.context.discovery.known() if found.worker_id == peer]
        if not known:
            raise errors.WorkerNotFound(f"no worker {peer!r} was heard on this mesh", not_started=True)
        return max(known, key=lambda found: found.epoch).endpoint

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """A background task that is cancelled at the stop; its failure is logged, never lost."""
        task = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    # --- life

    async def start(self) -> None:
        """Open, listen, announce. When it returns, `started` is set and calls are answered.

        Raises `StartError`, also when `stop` ends the start.
        """
        if self._start_task is not None or self._stop_task is not None:
            raise errors.StartError("a worker starts once")
        self._start_task = self._loop.create_task(self._start(), name="start")
        try:
            await self._start_task
        except BaseException:
            await self.stop()
            caller = asyncio.current_task()
            if self._start_task.cancelled() and not (caller and caller.cancelling()):
                raise errors.StartError("it was stopped before it had started") from None
            raise
        self.started.set()
        self.log.info(
            "worker.started", worker=self.identity.worker_id, role=self.role, endpoint=self.endpoint
        )

    async def _start(self) -> None:
        await self.open()
        self.endpoint = self.server.listen(self.context.network, self._listen_on())
        self.lag.start()
        if self._belonging is not None:
            self._belonging.start()
        await self.on_listening()
        await self.context.discovery.start(self._advert(), self.on_found, self.on_gone)

    async def on_listening(self) -> None:
        """The base classes' own start: the endpoint is known, discovery has not begun."""

    async def stop(self) -> None:
        """Drain, un-announce, close. May be called often and at any time; every caller waits for the end."""
        if self._stop_task is None:
            self.stopping = True
            self._stop_task = self._loop.create_task(self._stop(), name="stop")
        await asyncio.shield(self._stop_task)

    def hurry(self) -> None:
        """Stop waiting for handlers that still run."""
        self.server.cancel_all()

    async def before_drain(self) -> None:
        """The base classes' own stop, before handlers are waited for."""

    async def after_drain(self) -> None:
        """The base classes' own stop, when no handler runs any more but links are still there."""

    async def _stop(self) -> None:
        self.server.drain("it stops")
        if self._start_task is not None and not self._start_task.done():
            self._start_task.cancel()  # nothing is opened after it was closed
            await asyncio.wait((self._start_task,))
        goodbye = self._loop.create_task(self.context.discovery.stop(), name="goodbye")
        await self.before_drain()
        await self._drain()
        await self.after_drain()
        await self._end_tasks()
        await asyncio.gather(goodbye, return_exceptions=True)
        try:
            async with asyncio.timeout(self.settings.stop.drain_timeout / 1000):
                await self.close()
        except Exception as error:  # a TimeoutError, too
            self.log.error("worker.close_failed", exc_info=error)
        self.lag.stop()
        if self._belonging is not None:
            self._belonging.stop()
        await self.server.heard(GOODBYE_LINGER_MS / 1000)
        self.peers.close(GOODBYE_LINGER_MS)
        self.server.close(GOODBYE_LINGER_MS)
        await self._end_tasks()  # what links that came and went meanwhile have begun
        self.log.info("worker.stopped", worker=self.identity.worker_id)

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(self.settings.stop.drain_timeout / 1000):
                await self.server.drained()
            return
        except TimeoutError:
            self.log.warning("worker.drain_cut", running=self.server.in_flight)
        self.server.cancel_all()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.server.drained()
        except TimeoutError:
            self.log.error("worker.handlers_stuck", running=self.server.in_flight)

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            _, stuck = await asyncio.wait(self._tasks, timeout=CLOSE_SECONDS)
            for task in stuck:
                self.log.error("worker.task_stuck", task=task.get_name())

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.log.error("worker.task_failed", task=task.get_name(), exc_info=task.exception())

    def _listen_on(self) -> str:
        port = self.settings.rpc.port
        host = f"[{self.context.host}]" if ":" in self.context.host else self.context.host
        return f"tcp://{host}:{self.default_port if port is None else port}"

    def _advert(self) -> Advert:
        advert = Advert(
            worker_id=self.identity.worker_id,
            epoch=self.identity.epoch,
            role=self.role,
            mesh=self.settings.discovery.mesh,
            host=self.context.host,
            port=int(self.endpoint.rpartition(":")[2]),
            version=wire.VERSION,
        )
        if self.membership is None:
            return advert
        advert = replace(advert, mesh_id=short_id(self.membership.mesh_id))
        return replace(advert, key=self.membership.seal().seal(self.membership.public_key, facts_of(advert)))

    # --- methods of every worker

    def _respond_to_everybody(self) -> None:
        self.respond("ping", _echo)
        self.respond("echo", _echo)
        self.respond("getInstanceId", lambda _: {"instanceId": self.identity.worker_id})
        self.respond("getInfo", lambda _: self.info())
        self.respond("getStats", lambda _: self.stats())
        self.respond("getHealth", lambda _: self.health())

    def info(self) -> dict[str, Any]:
        """Result of `getInfo`."""
        offer = as_body(self.describe())
        return {
            "success": True,
            "workerId": self.identity.worker_id,
            "name": self.context.rack,
            "type": self.context.wtype,
            "role": self.role,
            "version": __version__,
            "epoch": self.identity.epoch,
            "address": self.endpoint,
            "models": offer["models"],
            "cold": offer["cold"],
            "facts": offer["facts"],
            "resumable": offer["resumable"],
            "tags": offer["tags"],
            "labels": offer["labels"],
            "weight": offer["weight"],
            "capacity": {"maxConcurrent": offer["maxConcurrent"]},
            "startedAt": self._started_at,
            "endpoints": sorted(self.server.handlers),
        }

    def status(self) -> dict[str, Any]:
        """What the status file says; never a secret."""
        return {
            "prefix": self.context.prefix,
            "instanceId": self.identity.worker_id,
            "pid": os.getpid(),
            "endpoint": self.endpoint,
            "role": self.role,
            "mesh": self.settings.discovery.mesh,
            "publicKey": self.membership.public_text if self.membership is not None else "",
            "startedAt": self._started_at,
        }

    def stats(self) -> dict[str, Any]:
        """Result of `getStats`; times in milliseconds."""
        used = {m: h.stats.facts() for m, h in self.server.handlers.items() if h.stats != MethodStats()}
        return {
            "success": True,
            "methods": used,
            "inFlight": self.server.in_flight,
            "waiting": self.server.waiting,
            "heldBytes": self.server.held_bytes,
            "callers": len(self.server.callers),
            "tasks": len(asyncio.all_tasks()),
            "counters": {
                **self.server.counters,
                "lateReplies": self.peers.late_answers,
                "rescuedWakeUps": self.context.network.rescued,
            },
            "loopLag": {
                "lastMs": round(self.lag.last * 1000, 3),
                "p50Ms": round(self.lag.percentile(0.50) * 1000, 3),
                "p99Ms": round(self.lag.percentile(0.99) * 1000, 3),
            },
        }

    def health(self) -> dict[str, Any]:
        """Result of `getHealth`; a subclass may say why it is not healthy."""
        return {"success": True, "healthy": not self.stopping, "timestamp": clock.wall_ms()}


def _echo(body: Any) -> Any:
    return body
