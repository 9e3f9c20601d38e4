"""Finding an orchestrator: hints are dialled, and the first that says the right thing is taken.

Everything is in memory and in virtual time, so a test may tell how long a search took.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.fakes.discovery import Bus, BusDiscovery
from tests.fakes.network import FakeNetwork
from tests.fakes.rpc import ANY_PORT, CLIENT, RecordedLog
from tests.fakes.virtual_time import run_virtual
from wrk_base import errors
from wrk_base.discovery import DiscoveryFailed, Found
from wrk_base.discovery.advert import Advert
from wrk_base.rpc.identity import Identity
from wrk_base.rpc.line import PeerLimits
from wrk_base.rpc.peers import Peers
from wrk_base.rpc.server import Server
from wrk_orchestrator.cli.search import FIND_SECONDS, LIKELY_SECONDS, Search
from wrk_orchestrator.cli.session import address_of, noted, read_settings

NOBODY = "tcp://127.0.0.1:1"


class Town:
    """Processes on one network and one mesh, and somebody who looks for one of them."""

    def __init__(self) -> None:
        self.network, self.bus = FakeNetwork(), Bus()
        self.servers: list[Server] = []
        self.voices: list[BusDiscovery] = []
        self.ears: list[BusDiscovery] = []
        self.peers = Peers(
            network=self.network,
            identity=CLIENT,
            rng=Random(1),
            limits=PeerLimits(),
            max_peers=64,
            linger=60.0,
        )

    async def __aenter__(self) -> Town:
        return self

    async def __aexit__(self, *trouble: object) -> None:
        self.peers.close()
        for server in self.servers:
            server.close()
        for voice in self.voices:
            await voice.stop()
        self.network.close()
        assert not self.bus.members, "a search left its discovery open"

    def serve(self, worker_id: str, role: str = "orchestrator") -> str:
        server = Server(Identity(worker_id, 7, role), log=RecordedLog())
        self.servers.append(server)
        return server.listen(self.network, ANY_PORT)

    async def announce(self, worker_id: str, endpoint: str, role: str = "orchestrator") -> None:
        voice = self.bus.join("mesh")
        self.voices.append(voice)
        port = int(endpoint.rpartition(":")[2])
        await voice.start(Advert(worker_id, 7, role, "mesh", "127.0.0.1", port, 1), _ignore, _ignore)

    def browse(self) -> BusDiscovery:
        self.ears.append(self.bus.join("mesh"))
        return self.ears[-1]

    async def find(self, *likely: Found, wanted: str = "", mdns: bool = True) -> str:
        """The id of who was found: the worker `wanted`, by default any orchestrator."""

        def fits(worker_id: str, role: str) -> bool:
            return worker_id == wanted if wanted else role == "orchestrator"

        search = Search(self.peers, fits, "somebody", self.browse if mdns else None)
        peer = await search.first(likely)
        assert peer.info is not None
        assert len(self.peers) == 1, "it hangs up on everybody else"
        return peer.info.worker_id


def _ignore(found: Found) -> None:
    """Whoever announces here does not listen."""


def hint(endpoint: str, worker_id: str = "", role: str = "") -> Found:
    return Found(endpoint, "local", worker_id, 0, role)


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_likely_address_that_answers_is_enough() -> None:
    async def story() -> None:
        async with Town() as town:
            endpoint = town.serve("main-1")
            assert await town.find(hint(endpoint, "main-1", "orchestrator")) == "main-1"
            assert now() < LIKELY_SECONDS
            assert town.ears == []

    run_virtual(story())


def test_what_a_crash_left_behind_costs_a_moment_and_misleads_nobody() -> None:
    async def story() -> None:
        async with Town() as town:
            await town.announce("main-2", town.serve("main-2"))
            other = town.serve("main-3")  # a stranger that has taken over the port of main-1
            stale = (hint(NOBODY, "main-1", "orchestrator"), hint(other, "main-1", "orchestrator"))
            assert await town.find(*stale) == "main-2"
            assert now() == pytest.approx(LIKELY_SECONDS)

    run_virtual(story())


def test_a_static_peer_says_itself_who_it_is() -> None:
    async def story() -> None:
        async with Town() as town:
            rack, orchestrator = town.serve("r1-1", "rack"), town.serve("main-1")
            assert await town.find(hint(rack), hint(orchestrator), mdns=False) == "main-1"

    run_virtual(story())


def test_who_is_known_to_be_somebody_else_is_not_dialled() -> None:
    async def story() -> None:
        async with Town() as town:
            rack = town.serve("r1-1", "rack")
            await town.announce("r1-1", rack, "rack")
            await town.announce("main-1", town.serve("main-1"))
            assert await town.find() == "main-1"
            assert rack not in town.network.dials

    run_virtual(story())


def test_a_worker_is_found_by_its_id() -> None:
    async def story() -> None:
        async with Town() as town:
            await town.announce("main-1", town.serve("main-1"))
            await town.announce("r1-1", town.serve("r1-1", "rack"), "rack")
            assert await town.find(wanted="r1-1") == "r1-1"

    run_virtual(story())


def test_an_orchestrator_that_starts_meanwhile_is_found() -> None:
    async def story() -> None:
        async with Town() as town:
            looking = asyncio.ensure_future(town.find())
            await asyncio.sleep(1.0)
            await town.announce("main-1", town.serve("main-1"))
            assert await looking == "main-1"

    run_virtual(story())


def test_a_search_in_vain_ends_in_time_and_says_what_was_tried() -> None:
    async def story() -> None:
        async with Town() as town:
            with pytest.raises(errors.Unavailable) as caught:
                await town.find(hint(NOBODY))
            assert now() == pytest.approx(LIKELY_SECONDS + FIND_SECONDS)
            assert f"{NOBODY}: nothing accepts connections there" in caught.value.message
            assert "wrk up" in caught.value.data["advice"]
            assert len(town.peers) == 0

    run_virtual(story())


def test_other_meshes_are_named_as_a_way_out() -> None:
    class Elsewhere(BusDiscovery):
        def counters(self) -> dict[str, int]:
            return {"otherMesh": 3, "outOfReach": 0}

    async def story() -> None:
        async with Town() as town:
            search = Search(
                town.peers,
                lambda worker_id, role: True,
                "somebody",
                lambda: Elsewhere(town.bus, "mesh", deaf=False, mute=False),
            )
            with pytest.raises(errors.Unavailable, match="--mesh"):
                await search.first(())

    run_virtual(story())


@pytest.mark.parametrize("mdns", [False, True])
def test_where_nothing_can_be_heard_nobody_waits(mdns: bool) -> None:
    class Broken(BusDiscovery):
        async def start(self, *arguments: Any) -> None:
            raise DiscoveryFailed("no multicast here")

    async def story() -> None:
        async with Town() as town:
            broken = Broken(town.bus, "mesh", deaf=False, mute=False)
            browse = (lambda: broken) if mdns else None
            search = Search(town.peers, lambda worker_id, role: True, "somebody", browse)
            with pytest.raises(errors.Unavailable, match="no multicast here" if mdns else "switched off"):
                await search.first(())
            assert now() == 0.0

    run_virtual(story())


# --- what the hints are made from


def status(folder: Path, name: str, content: object) -> None:
    (folder / "status").mkdir(exist_ok=True)
    (folder / "status" / f"{name}.json").write_text(
        content if isinstance(content, str) else json.dumps(content)
    )


def test_status_files_of_the_mesh_are_hints_and_damaged_ones_are_not(tmp_path: Path) -> None:
    facts = {"endpoint": NOBODY, "instanceId": "main-1", "role": "orchestrator", "mesh": "ours"}
    status(tmp_path, "a", facts)
    status(tmp_path, "b", {**facts, "mesh": "theirs"})
    status(tmp_path, "c", {"mesh": "ours"})
    status(tmp_path, "d", "{")
    status(tmp_path, "e", "[]")
    assert list(noted(tmp_path, "ours")) == [hint(NOBODY, "main-1", "orchestrator")]
    assert list(noted(tmp_path / "nothing", "ours")) == []


def listed(worker_id: str, name: str, instance: str = "") -> dict[str, Any]:
    return {"workerId": worker_id, "name": name, "instanceId": instance, "address": f"tcp://{worker_id}:1"}


def test_a_worker_is_meant_by_its_id_its_instance_or_its_name_if_that_is_clear() -> None:
    workers: Iterable[dict[str, Any]] = [
        listed("r1-a", "r1", "r1-a"),
        listed("r1-b", "r1", "r1-b"),
        listed("manual", "", "r2-c"),
        listed("r3-d", "r3"),
    ]
    expected = {"r1-b": "tcp://r1-b:1", "r2-c": "tcp://manual:1", "r3": "tcp://r3-d:1", "r1": "", "r9": ""}
    assert {wanted: address_of(wanted, list(workers)) for wanted in expected} == expected


def test_settings_are_those_of_a_process_started_here(tmp_path: Path) -> None:
    (tmp_path / "common.json").write_text('{"requestTimeout": 5, "sim": {"latency": 1}}')
    environ = {"WRK_CONFIG": str(tmp_path), "WRK_DISCOVERY__MESH": "ours", "WRK_SIM__SEED": "1"}
    settings = read_settings("", "", environ)
    assert (settings.request_timeout, settings.discovery.mesh) == (5, "ours")
    assert read_settings("theirs", "eth0", environ).discovery.mesh == "theirs"
    with pytest.raises(errors.SettingsError, match="WRK_SIMI__SEED"):
        read_settings("", "", {"WRK_SIMI__SEED": "1"})
