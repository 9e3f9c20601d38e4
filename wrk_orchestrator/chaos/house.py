"""A mesh of real processes that exists to be hurt: orchestrators and simulated racks in a state directory
and a mesh of their own, on loopback unless said otherwise.

It starts them, waits until all know all, and hands each out as a `Member` that can be killed, frozen, asked
to end, and started again at the same place. The invariant: it touches no process that it did not start, and
none is left when the block ends.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any

from wrk_base import clock
from wrk_base.client import Client
from wrk_base.discovery.addresses import LOOPBACK
from wrk_base.errors import StartError, WrkError
from wrk_base.security.mesh_files import MeshFiles

from ..cli.kinds import ORCHESTRATOR, rack_type
from ..cli.plan import Flag, Program
from ..cli.process import ChildProcess
from .callers import MODEL
from .namespaces import HERE, Host, lay_out
from .recorder import Recorder
from .relay import Relay

LOOK_SECONDS = 0.02
START_SECONDS = 60.0
END_SECONDS = 30.0
CALL_SECONDS = 2.0
ROUTABLE = ("healthy", "probation")
WHOLE_LOG = "1000"  # what becomes of workers is read from it
NO_MDNS = ("discovery.mdns", "false")


@dataclass(frozen=True, slots=True)
class Layout:
    """Who lives in the house. Flags are those of their command lines.

    With `relays`, every rack is reached through one of ours and is known to orchestrators by its address
    alone; with `cables`, each is a host of its own. There is no mDNS with relays.
    """

    racks: int = 8
    orchestrators: int = 1
    relays: bool = False
    cables: bool = False
    rack_flags: tuple[Flag, ...] = (("latency", "20"), ("jitter", "60"))
    orchestrator_flags: tuple[Flag, ...] = ()


class Member:
    """One process of the house, over all its starts."""

    def __init__(self, child: ChildProcess, name: str) -> None:
        self.child, self.name = child, name
        self.status: dict[str, Any] = {}

    @property
    def worker_id(self) -> str:
        return str(self.status["instanceId"])

    @property
    def endpoint(self) -> str:
        return str(self.status["endpoint"])

    @property
    def pid(self) -> int:
        return self.child.pid

    async def launch(self) -> None:
        await self.child.launch()

    async def ready(self, seconds: float = START_SECONDS) -> None:
        """Returns when its status file is there. Raises `StartError`."""
        try:
            async with asyncio.timeout(seconds):
                while (status := self.child.status()) is None:
                    if not self.child.running:
                        raise StartError(self.child.end())
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            raise StartError(f"{self.name} is not ready after {seconds:g} s") from None
        self.status = status

    async def kill(self) -> bool:
        """Whether it was the signal that ended it."""
        self.child.kill()
        await self.child.ended()
        return self.child.exit_code == -signal.SIGKILL

    async def terminate(self) -> int | None:
        """Its exit code; None where it would not end, and was killed."""
        self.child.terminate()
        try:
            await asyncio.wait_for(self.child.ended(), END_SECONDS)
        except TimeoutError:
            await self.kill()
            return None
        return self.child.exit_code

    def freeze(self) -> None:
        self.child.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.child.signal(signal.SIGCONT)

    def is_frozen(self) -> bool:
        """What the kernel says; where it cannot be asked, the signal is believed."""
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2]
        except OSError:
            return True
        return state.startswith("T")


@dataclass(frozen=True, slots=True)
class View:
    """An orchestrator that can be asked. `endpoint` is "" where any will do, `pid` 0 where it is not ours."""

    name: str
    endpoint: str = ""
    pid: int = 0


class House:
    """`async with House(...) as house`: everybody is there and routable inside of the block.

    Without orchestrators in its layout its racks are guests in a mesh that is there, in its state directory.
    """

    def __init__(self, layout: Layout, mesh: str, state_dir: Path, recorder: Recorder, rng: Random) -> None:
        self.layout, self.mesh, self.state_dir = layout, mesh, state_dir
        self._rng = rng
        self._recorder = recorder
        self.orchestrators: list[Member] = []
        self.racks: list[Member] = []
        self.hosts: list[Host] = []
        self.relays: list[Relay] = []
        self._client: Client | None = None
        self._address = HERE if layout.cables else LOOPBACK
        self._built = AsyncExitStack()

    async def __aenter__(self) -> House:
        if self.layout.orchestrators:
            MeshFiles(self.state_dir, self.mesh).create(socket.gethostname(), clock.wall())
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def _start(self) -> None:
        if self.layout.cables:
            await self._lay_cables()
        for number in range(self.layout.racks):
            self.racks.append(self._rack(number))
        if self.layout.relays:
            await _up(self.racks)
            peers = await self._lay_relays()
        else:
            peers = ()
        for number in range(self.layout.orchestrators):
            self.orchestrators.append(self._orchestrator(number, peers))
        await _up([member for member in self.members if not member.child.running])
        for member in self.orchestrators:
            member.child.program = _fixed(member)  # whoever is started again is found where it was
        self._client = self.client("watch")
        await self.all_routable(START_SECONDS)

    async def _lay_cables(self) -> None:
        await lay_out()
        for number in range(self.layout.racks):
            self.hosts.append(await self._built.enter_async_context(Host(number)))

    async def _lay_relays(self) -> tuple[Flag, ...]:
        """The flags by which orchestrators find the racks behind their relays."""
        peers = list[str]()
        for rack in self.racks:
            host, _, port = rack.endpoint.removeprefix("tcp://").rpartition(":")
            relay = await self._built.enter_async_context(Relay(host, int(port), self._rng))
            self.relays.append(relay)
            peers.append(f"tcp://{LOOPBACK}:{relay.port}#{rack.status['publicKey']}")
        return (("discovery.peers", ",".join(peers)), NO_MDNS)

    async def _stop(self) -> None:
        try:
            await self._end_all()
        finally:
            await self._built.aclose()

    async def _end_all(self) -> None:
        if self._client is not None:
            await self._client.close()
        for members in (self.racks, self.orchestrators):
            for member in members:
                member.thaw()
            await asyncio.gather(*(member.terminate() for member in members))

    @property
    def members(self) -> list[Member]:
        return [*self.orchestrators, *self.racks]

    def client(self, name: str) -> Client:
        """It knows every orchestrator."""
        addresses = [member.endpoint for member in self.orchestrators]
        return Client(
            *addresses,
            mesh=self.mesh,
            interface=self._address,
            state_dir=self.state_dir,
            name=f"chaos-{name}",
        )

    def http(self, orchestrator: int = 0) -> tuple[str, int]:
        """Host and port."""
        where = str(self.orchestrators[orchestrator].status["http"]).removeprefix("http://")
        host, _, port = where.rpartition(":")
        return host, int(port)

    def _flags(self, address: str) -> tuple[Flag, ...]:
        return (("interface", address), ("discovery.mesh", self.mesh), ("log.format", "json"))

    def _orchestrator(self, number: int, peers: tuple[Flag, ...]) -> Member:
        name = f"o{number + 1}"
        own = (("port", "0"), ("rpc.port", "0"), ("log.sameEvents", WHOLE_LOG), *peers)
        flags = (*self._flags(self._address), *own, *self.layout.orchestrator_flags)
        program = Program(f"orchestrator {name}", ORCHESTRATOR, name, flags)
        return Member(ChildProcess(program, self.state_dir, verbose=False), name)

    def _rack(self, number: int) -> Member:
        guest = "" if self.layout.orchestrators else "chaos-"
        name, host = f"{guest}r{number + 1}", self.hosts[number] if self.hosts else None
        own = (("rpc.port", "0"), ("models", MODEL), ("journal", str(self._recorder.journal(name))))
        hidden = (NO_MDNS,) if self.layout.relays else ()
        common = self._flags(host.address if host is not None else self._address)
        program = Program(
            f"rack {name}", rack_type("sim"), name, (*common, *own, *hidden, *self.layout.rack_flags)
        )
        state_dir = self._apart() if self.layout.relays else self.state_dir
        inside = host.inside if host is not None else ()
        return Member(ChildProcess(program, state_dir, verbose=False, inside=inside), name)

    def _apart(self) -> Path:
        """A state directory with the same membership, whose status files orchestrators do not read."""
        apart = self.state_dir.with_name("racks")
        if not apart.exists():
            shutil.copytree(self.state_dir, apart)
        return apart

    # --- what is known of them

    @property
    def views(self) -> list[View]:
        if not self.layout.orchestrators:
            return [View("mesh")]
        return [View(member.name, member.endpoint, member.pid) for member in self.orchestrators]

    async def workers(self, view: View) -> dict[str, str]:
        """Worker id -> state, as this orchestrator sees it. Raises `WrkError`."""
        listed = await self.ask(view, "listWorkers")
        return {worker["workerId"]: worker["state"] for worker in listed["workers"]}

    async def ask(self, view: View, method: str) -> dict[str, Any]:
        assert self._client is not None
        answer: dict[str, Any] = await self._client.request(
            method, {}, peer=view.endpoint, timeout=CALL_SECONDS
        )
        return answer

    async def all_routable(self, seconds: float, racks: Sequence[Member] | None = None) -> None:
        """Returns when every orchestrator gives work to all of these. Raises `StartError`."""
        wanted = {member.worker_id for member in (self.racks if racks is None else racks)}
        missing = wanted
        try:
            async with asyncio.timeout(seconds):
                for view in self.views:
                    while missing := wanted - await self._routable(view):  # noqa: ASYNC110
                        await asyncio.sleep(LOOK_SECONDS * 5)
        except TimeoutError:
            names = ", ".join(sorted(missing))
            raise StartError(f"not routable after {seconds:g} s: {names}") from None

    async def routable(self) -> list[Member]:
        """The racks that every orchestrator that can be asked gives work to now."""
        given = [await self._routable(view) for view in self.views]
        return [member for member in self.racks if all(member.worker_id in names for names in given)]

    async def _routable(self, view: View) -> set[str]:
        try:
            return {name for name, state in (await self.workers(view)).items() if state in ROUTABLE}
        except WrkError:
            return set()


async def _up(members: Sequence[Member]) -> None:
    """All start at once."""
    for member in members:
        await member.launch()
    for member in members:
        await member.ready()


def _fixed(member: Member) -> Program:
    """The same program at the ports that it has now."""
    rpc = member.endpoint.rpartition(":")[2]
    http = str(member.status["http"]).rpartition(":")[2]
    return replace(
        member.child.program, flags=(*member.child.program.flags, ("port", http), ("rpc.port", rpc))
    )
