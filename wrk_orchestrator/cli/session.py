"""A short-lived client of the mesh: find whom to call, call, leave nothing behind.

It reads the same settings as the processes that it calls, and looks for them first where processes of
this user noted their addresses. Whom it found it keeps a link to until it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random, SystemRandom
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from wrk_base import clock, errors
from wrk_base.client import Silence, address_of
from wrk_base.config import Settings
from wrk_base.discovery import Discovery, DiscoveryFailed, Found
from wrk_base.discovery.local import read_status
from wrk_base.discovery.static import StaticDiscovery
from wrk_base.errors import SettingsError
from wrk_base.rpc.body import Budget
from wrk_base.rpc.client import Peer, PeerEvents
from wrk_base.rpc.identity import Identity, PeerInfo
from wrk_base.rpc.peers import Peers
from wrk_base.rpc_limits import link_options, peer_limits
from wrk_base.settings_loader import load
from wrk_base.visit import Visit

from .kinds import rack_kinds
from .search import Fits, Search
from .traffic import MeteredNetwork, Traffic

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

CONNECT_SECONDS = 2.0
GOODBYE_MS = 200
ORCHESTRATOR = "orchestrator"
CALLER = "wrk"  # one caller to idempotency keys, on one machine


def read_settings(mesh: str, interface: str, environ: Mapping[str, str]) -> Settings:
    """The settings that a process started from this shell would have. Raises `SettingsError`."""
    config = environ.get("WRK_CONFIG")
    named = (("discovery.mesh", mesh), ("interface", interface))
    read = partial(
        load,
        config_dir=Path(config) if config else None,
        env=environ.get("WRK_ENV", "development"),
        environ=environ,
        flags=[flag for flag in named if flag[1]],
    )
    try:
        return read().settings
    except SettingsError:  # perhaps for a section of some rack, and those are slow to list
        return read(known_sections=rack_kinds()).settings


class Session:
    """`async with Session(settings, state_dir) as session`: calls to whoever is there."""

    def __init__(self, settings: Settings, state_dir: Path) -> None:
        rng = Random(SystemRandom().getrandbits(128))
        self.settings = settings
        self._state_dir = state_dir
        name = f"cli-{rng.getrandbits(32):08x}"
        self._visit = Visit(state_dir, settings.discovery.mesh, name, cast("FilteringBoundLogger", Silence()))
        self._book = self._visit.membership.book
        self._network = MeteredNetwork(
            asyncio.get_running_loop(), link_options(settings), self._visit.membership
        )
        self._peers = Peers(
            network=self._network,
            identity=Identity(name, rng.getrandbits(63) + 1, "client", CALLER),
            rng=rng,
            limits=replace(peer_limits(settings), connect_timeout=CONNECT_SECONDS),
            max_peers=settings.rpc.max_peers,
            linger=settings.pool_linger / 1000,
            held=Budget(settings.rpc.process_bytes, "rpc.processBytes"),
        )

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._peers.close(GOODBYE_MS)
        self._network.close()

    def learn(self, address: str) -> str:
        """The endpoint of tcp://host:port or tcp://host:port#KEY, whose key is known from here on."""
        endpoint, _, key = address.partition("#")
        if key:
            self._book.learn(endpoint, key)
        return endpoint

    async def call(self, endpoint: str, method: str, body: Any, timeout: float) -> Any:
        """The result of `method` at `endpoint`; `timeout` in seconds. Raises `WrkError`."""
        begun = clock.monotonic()
        await self._look_for_key(endpoint, timeout)
        left = timeout - (clock.monotonic() - begun)
        return await self._peers.request(endpoint, method, body, timeout=left)

    async def _look_for_key(self, endpoint: str, timeout: float) -> None:
        """Return when it is known whose key answers there, or was looked for in vain."""
        if self._book.key_of(endpoint) is None:
            for _ in self._likely():
                """What is read there is learnt."""
        if self._book.key_of(endpoint) is None and self.settings.discovery.mdns:
            await self._listen_for(endpoint, min(timeout / 2, CONNECT_SECONDS))

    async def _listen_for(self, endpoint: str, seconds: float) -> None:
        around, heard = self._mdns(), asyncio.Event()

        def hear(found: Found) -> None:
            if found.endpoint == endpoint:
                heard.set()

        with contextlib.suppress(TimeoutError, DiscoveryFailed):
            async with asyncio.timeout(seconds):
                await around.start(None, hear, lambda gone: None)
                await around.sweep()
                await heard.wait()
        await around.stop()

    async def connect(self, endpoint: str) -> tuple[PeerInfo, float]:
        """Dial anew: who answers, and after how many ms. Raises `Unavailable`."""
        await self._look_for_key(endpoint, CONNECT_SECONDS)
        dialled, begun = _Dialled(), clock.monotonic()
        peer = self._peers.hold(endpoint, dialled)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                who = await dialled.answered
        except TimeoutError:
            raise errors.Unavailable(f"cannot reach {endpoint}: {peer.reason}", not_started=True) from None
        return who, (clock.monotonic() - begun) * 1000

    @property
    def traffic(self) -> Traffic:
        """What was said and heard so far."""
        return self._network.traffic

    async def orchestrator(self) -> str:
        """The endpoint of an orchestrator of this mesh; raises `Unavailable` if none answers."""
        search = self._search(lambda worker_id, role: role == ORCHESTRATOR, ORCHESTRATOR)
        return (await search.first(self._likely())).endpoint

    async def worker(self, wanted: str, timeout: float) -> str:
        """The endpoint of the worker with this id, or of the only one with this name.

        Orchestrators know every rack; one that none of them knows may still be heard on the network.
        Raises `WorkerNotFound`.
        """
        try:
            either = self._search(lambda worker_id, role: worker_id == wanted or role == ORCHESTRATOR, wanted)
            peer = await either.first(self._likely())
            if peer.info is not None and peer.info.worker_id == wanted:
                return peer.endpoint
            listed = await self.call(peer.endpoint, "listWorkers", {}, timeout)
            address = address_of(wanted, listed["workers"])
            if address:
                return self.learn(address)
            itself = self._search(lambda worker_id, role: worker_id == wanted, wanted)
            return (await itself.first(self._likely())).endpoint
        except errors.Unavailable as error:
            raise errors.WorkerNotFound(error.message, not_started=True) from None

    def _search(self, fits: Fits, what: str) -> Search:
        chosen = self.settings.discovery
        return Search(
            self._peers, fits, f"{what} of mesh {chosen.mesh!r}", self._mdns if chosen.mdns else None
        )

    def _mdns(self) -> Discovery:
        return self._visit.around(self.settings.interface)

    def _likely(self) -> Iterator[Found]:
        known = (*noted(self._state_dir, self.settings.discovery.mesh), *self._static())
        for found in known:
            if found.key:
                self._book.learn(found.endpoint, found.key)
            yield found

    def _static(self) -> list[Found]:
        return StaticDiscovery(self.settings.discovery.peers).known()


class _Dialled(PeerEvents):
    """Waits for one link; `answered` becomes who is there."""

    def __init__(self) -> None:
        self.answered: asyncio.Future[PeerInfo] = asyncio.get_running_loop().create_future()

    def on_ready(self, peer: Peer) -> None:
        assert peer.info is not None
        if not self.answered.done():
            self.answered.set_result(peer.info)


def noted(state_dir: Path, mesh: str) -> Iterator[Found]:
    """Where processes of this user and mesh serve, by their status files; a crash leaves one behind."""
    return read_status(state_dir / "status", mesh)
