"""The mesh for outsiders: scripts, services and notebooks that use models and serve nothing.

    async with Client() as client:
        print(await client.infer("m1", "hello"))

It finds the orchestrators by mDNS, or is given their addresses, and asks one of them; when that one fails,
the next (`failover.py` says when). It announces nothing, logs nothing, and reads no settings: what differs
from a default is an argument. `SyncClient` is the same for code that does not await.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Mapping
from pathlib import Path
from random import Random, SystemRandom
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, cast

from . import contract, errors
from .client_stream import Begun, ClientStream
from .discovery import Discovery
from .discovery.advert import parse_peer
from .orchestrators import Orchestrators
from .rpc.identity import Identity
from .rpc.line import PeerLimits
from .rpc.link import Network
from .rpc.peers import Peers
from .state import default_state_dir

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from .visit import Visit

MESH = "default"
INTERFACE = "auto"
TIMEOUT = 60.0
IDLE = 60.0
CONNECT_TIMEOUT = 5.0  # a responder of mDNS may keep silent for a second, and a process starts within two
# One that came back has to be linked before the other one dies. What a crash leaves behind in mDNS
# stays for an hour and is dialled all the time; such dials are refused at once.
REDIAL_MAX = 1.0
MAX_PEERS = 4096
LINGER_SECONDS = 300.0  # of an idle link to a worker that was called directly
GOODBYE_MS = 200
LONGEST_NAME = 64
ROUTE = "routeInferenceRequest"


class InferOptions(TypedDict, total=False):
    """Options of a request; the names of the wire (`sessionId`) do as well.

    `task` is raw, chat, completion, embedding, rerank or response; with all but raw, input and answer are
    those of OpenAI's endpoint. `requirements` is a map of `capabilities`, `min_capacity`, `labels` and
    `min_context` (tokens). With `repeatable` False nothing is sent again that may have begun. What is asked
    again with the same `idempotency_key`, by the same caller, is not run again while the rack that ran it is
    there and keeps it: the answer of `request`, and the `facts` of a stream, say under `idempotency` whether
    it `ran`, was `attached` to what ran, or was `stored`. `simulate` has the orchestrator answer, without any
    rack.
    """

    task: str
    requirements: dict[str, Any]
    session_id: str
    priority: str
    repeatable: bool
    idempotency_key: str
    simulate: bool


class Client:
    """Calls to a mesh: `async with Client() as client`; or call at once, and `await client.close()` at last.

    `addresses` (`tcp://host:port`) are those of orchestrators: the first to answer is asked, and when it
    fails the others in their order. Without any, all are used that run on this machine or are heard by mDNS
    on `interface` (a name or an address of this machine; auto: every LAN) and belong to `mesh`. An address
    may bring the key of who is there, tcp://host:port#KEY, which one that was never heard needs; links are
    encrypted, and both sides have to be members of the mesh: this machine is one by what `state_dir` holds
    (None: where `wrk` keeps it). `timeout` is for calls that name
    none; `connect_timeout` is how long a call waits where no orchestrator is there yet. Both in seconds.
    `name` is what workers see of their caller. With one, every client of that name on this machine is one and
    the same caller to idempotency keys, also in a later process; without, each is one of its own.

    For one event loop; `rng`, `network` and `discovery` are for tests. Raises `ValueError` for an address
    that cannot be read. What calls raise is a `wrk_base.errors.WrkError`.
    """

    def __init__(
        self,
        *addresses: str,
        mesh: str = MESH,
        interface: str = INTERFACE,
        timeout: float = TIMEOUT,
        connect_timeout: float = CONNECT_TIMEOUT,
        name: str = "",
        state_dir: Path | str | None = None,
        rng: Random | None = None,
        network: Network | None = None,
        discovery: Discovery | None = None,
    ) -> None:
        self._given = [parse_peer(address) for address in addresses]
        self._addresses = list(dict.fromkeys(peer.endpoint for peer in self._given))
        self._state_dir = state_dir
        self._mesh, self._interface = mesh, interface
        self._timeout, self._connect_timeout = timeout, connect_timeout
        self._name = name[:LONGEST_NAME]
        self._rng = rng or Random(SystemRandom().getrandbits(128))
        self._network, self._discovery = network, discovery
        self._opened: _Opened | None = None
        self._visit: Visit | None = None
        self._closed = False

    async def __aenter__(self) -> Client:
        self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Hang up; calls that are under way fail. A second close does nothing."""
        self._closed = True
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.close()

    # --- models

    async def infer(
        self, model: str, input: Any, *, timeout: float | None = None, **options: Unpack[InferOptions]
    ) -> Any:
        """What `model` answers to `input`, which is anything that JSON can carry, or bytes.

        `timeout` is in seconds. Raises `NoWorkersAvailable` for a model that nobody serves now,
        `CapacityExceeded`, `DeadlineExceeded`, `Unavailable`, `BadRequest`, what the rack raised, and
        `TypeError` for an option that does not exist.
        """
        answer = await self.request(ROUTE, _inference(model, input, options), timeout=timeout)
        return _field(answer, "result")

    def stream(
        self,
        model: str,
        input: Any,
        *,
        timeout: float | None = None,
        idle: float = IDLE,
        total: float | None = None,
        **options: Unpack[InferOptions],
    ) -> ClientStream:
        """What `model` answers, item by item: `async for item in client.stream(model, input)`.

        `timeout` bounds the wait for the first item, `idle` that for each later one, `total` all of it
        (None: no bound); seconds. Leaving the loop stops the rack. A model that does not stream gives its
        answer as one item. The loop raises what `infer` raises; after the first item nothing is sent again,
        and the error's `data["items"]` says how many came before it.
        """
        body = _inference(model, input, options)
        seconds = self._seconds(timeout)
        seconds = seconds if total is None else min(seconds, total)

        async def begin(stream: ClientStream) -> Begun:
            opened = self._open()

            async def attempt(endpoint: str, left: float) -> Begun:
                rest = None if total is None else total - (seconds - left)
                return await stream.first_of(
                    opened.peers.stream(endpoint, ROUTE, body, timeout=left, idle=idle, total=rest)
                )

            return await opened.orchestrators.ask(attempt, seconds, repeatable=_may_repeat(ROUTE, body))

        return ClientStream(begin)

    async def models(self) -> list[str]:
        """The ids of the models that are served now or are loaded when asked for, in order."""
        status = await self.request("getServiceStatus", {})
        return sorted(_field(_field(status, "registry"), "models"))

    async def workers(self) -> list[dict[str, Any]]:
        """The workers that an orchestrator knows, each as `wrk workers --json` shows it."""
        workers: list[dict[str, Any]] = _field(await self.request("listWorkers", {}), "workers")
        return workers

    # --- any method

    async def request(
        self,
        method: str,
        body: Any = None,
        *,
        timeout: float | None = None,
        peer: str = "",
        repeatable: bool = True,
    ) -> Any:
        """The whole answer to `method` of an orchestrator; or of `peer`, and of nobody else.

        A `peer` is `tcp://host:port`, or the id or name of a worker, where an orchestrator is asked first
        where that is. `timeout` is in seconds. With `repeatable` False nothing is sent again that may have
        begun. Raises what the handler raised, `WorkerNotFound`, `Unavailable`, `DeadlineExceeded`,
        `BadRequest`; `ValueError` for an address that cannot be read.
        """
        opened = self._open()
        seconds = self._seconds(timeout)
        if peer:
            deadline = opened.loop.time() + seconds
            endpoint = await self._find(opened, peer, seconds)
            left = deadline - opened.loop.time()
            return await opened.peers.request(endpoint, method, body, timeout=left)

        def one(endpoint: str, left: float) -> Awaitable[Any]:
            return opened.peers.request(endpoint, method, body, timeout=left)

        again = repeatable and _may_repeat(method, body)
        return await opened.orchestrators.ask(one, seconds, repeatable=again)

    async def _find(self, opened: _Opened, peer: str, seconds: float) -> str:
        """The endpoint of a peer. What was only heard counts where no orchestrator can be asked."""
        if "://" in peer:
            named = parse_peer(peer)
            if named.key and self._visit is not None:
                self._visit.membership.book.learn(named.endpoint, named.key)
            return named.endpoint
        heard, usable = opened.orchestrators.heard(peer), opened.orchestrators.usable()
        if heard and (heard in usable or not usable):
            return heard
        listed = await self.request("listWorkers", {}, timeout=seconds)
        found = address_of(peer, _field(listed, "workers"))
        if found:
            return await self._find(opened, found, seconds)
        if not heard:
            raise errors.WorkerNotFound(f"no worker of this mesh is called {peer!r}", not_started=True)
        return heard

    # --- life

    def _seconds(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else timeout

    def _open(self) -> _Opened:
        if self._closed:
            raise RuntimeError("this client is closed: make another one")
        if self._opened is None:
            identity = self._identity()
            self._visit = None if self._network is not None else self._visiting(identity.worker_id)
            network = self._network or _zmq(self._visit)
            peers = Peers(
                network=network,
                identity=identity,
                rng=self._rng,
                limits=PeerLimits(connect_timeout=self._connect_timeout, redial_max=REDIAL_MAX),
                max_peers=MAX_PEERS,
                linger=LINGER_SECONDS,
            )
            own = network if self._network is None else None
            self._opened = _Opened(peers, self._orchestrators(peers), own)
        return self._opened

    def _identity(self) -> Identity:
        unique = f"{self._name or 'client'}-{self._rng.getrandbits(32):08x}"
        return Identity(unique, self._rng.getrandbits(63) + 1, "client", self._name)

    def _visiting(self, worker_id: str) -> Visit:
        """Raises `Unauthenticated` where this machine is in no such mesh."""
        from .visit import Visit  # slow to import, and a test brings a network of its own

        state_dir = default_state_dir(os.environ) if self._state_dir is None else Path(self._state_dir)
        visit = Visit(state_dir, self._mesh, worker_id, cast("FilteringBoundLogger", Silence()))
        for peer in self._given:
            if peer.key:
                visit.membership.book.pin(peer.endpoint, peer.key)
        return visit

    def _around(self) -> Discovery | None:
        """Where to listen: for orchestrators, or for the keys of those whose addresses were given."""
        if self._discovery is not None or self._visit is None:
            return self._discovery
        if all(peer.key for peer in self._given) and self._given:
            return None
        return self._visit.around(self._interface, keys_only=bool(self._given))

    def _orchestrators(self, peers: Peers) -> Orchestrators:
        discovery = self._around()
        if self._addresses:
            complaint = f"no orchestrator answers at {', '.join(self._addresses)}"
            advice = "start one there with `wrk orchestrator`, or give the address that its RPC listens on"
        else:
            complaint = f"no orchestrator of mesh {self._mesh!r} answers on {self._interface}"
            advice = (
                "start one with `wrk orchestrator`, search elsewhere with mesh= or interface=, "
                "or give an address: Client('tcp://host:port')"
            )
        return Orchestrators(
            peers,
            self._addresses,
            discovery,
            patience=self._connect_timeout,
            complaint=complaint,
            advice=advice,
            rng=self._rng,
        )


class _Opened:
    """What an open client holds. `network` is None where it is somebody else's."""

    def __init__(self, peers: Peers, orchestrators: Orchestrators, network: Network | None) -> None:
        self.peers, self.orchestrators, self._network = peers, orchestrators, network
        self.loop = asyncio.get_running_loop()

    async def close(self) -> None:
        try:
            await self.orchestrators.close()
        finally:
            self.peers.close(GOODBYE_MS)
            if self._network is not None:
                self._network.close()


class Silence:
    """A logger that says nothing: what a caller must know is in what its calls return and raise."""

    def info(self, event: str, **facts: object) -> None:
        """Not said."""

    warning = error = exception = info


def _zmq(visit: Visit | None) -> Network:
    from .rpc.zmq_link import ZmqNetwork  # slow to import, and a test brings a network of its own

    assert visit is not None
    return ZmqNetwork(asyncio.get_running_loop(), membership=visit.membership)


def address_of(wanted: str, workers: list[dict[str, Any]]) -> str:
    """The address, with its key, of the worker with this id, or of the only one with this name; empty if
    there is none.

    `workers` are records of `listWorkers`.
    """
    by_id = [worker for worker in workers if wanted in (worker["workerId"], worker["instanceId"])]
    by_name = [worker for worker in workers if wanted == worker["name"]]
    matches = by_id or (by_name if len(by_name) == 1 else [])
    if not matches:
        return ""
    address, key = str(matches[0]["address"]), str(matches[0].get("publicKey", ""))
    return f"{address}#{key}" if key else address


def _inference(model: str, input: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The body of an inference request. Raises `TypeError` and `BadRequest` for its options."""
    told = _spelt(contract.Options, options)
    if isinstance(told.get("requirements"), Mapping):
        told["requirements"] = _spelt(contract.Requirements, told["requirements"])
    contract.parse(contract.Options, told, what="options")
    return {"modelId": model, "inputData": input, "options": told}


def _spelt(kind: type[contract.Shape], given: Mapping[str, Any]) -> dict[str, Any]:
    """Options by their names on the wire. A misspelt one would be ignored there, so it is refused here."""
    names = dict(zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True))
    names.pop("timeout_ms", None)  # it is the call's own `timeout`, in seconds, which travels with it
    spelt = {names.get(name, name): value for name, value in given.items()}
    unknown = spelt.keys() - set(names.values())
    if unknown:
        raise TypeError(f"there is no option {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return spelt


def _may_repeat(method: str, body: Any) -> bool:
    """What a request says of itself, if it is one that may."""
    if method not in contract.PAYLOAD_FIELDS or not isinstance(body, Mapping):
        return True
    options = body.get("options")
    return not (isinstance(options, Mapping) and options.get("repeatable") is False)


def _field(answer: Any, name: str) -> Any:
    """What an orchestrator has to say; raises `Internal` if it does not."""
    if not isinstance(answer, Mapping) or name not in answer:
        raise errors.Internal(f"the orchestrator's answer has no {name}")
    return answer[name]
