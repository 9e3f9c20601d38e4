"""Peers that settings name, and several sources as one: a source that cannot work is logged once, tried
again at each sweep, and keeps no other from working."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture

from wrk_base.discovery import Discoveries, Discovery, DiscoveryFailed, Found, OnFound, OtherMesh, combine
from wrk_base.discovery.advert import Advert, StaticPeer
from wrk_base.discovery.static import StaticDiscovery

KEY = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
RACK = Advert("r1-00000001", 1, "rack", "default", "127.0.0.1", 4000, 1)


class Flaky:
    """A source that works unless `broken` says why not."""

    name = "flaky"

    def __init__(self, broken: str = "") -> None:
        self.broken = broken
        self.steps: list[str] = []
        self.found = Found("tcp://10.0.0.9:1", "flaky", "w9", 1, "rack")

    def step(self, name: str) -> None:
        self.steps.append(name)
        if self.broken:
            raise OSError(self.broken) if self.broken.startswith("[") else DiscoveryFailed(self.broken)

    async def start(self, advert: Advert | None, on_found: OnFound, on_gone: OnFound) -> None:
        self.step("start")
        on_found(self.found)

    async def sweep(self) -> None:
        self.step("sweep")

    async def stop(self) -> None:
        self.step("stop")

    def known(self) -> list[Found]:
        return [self.found]

    def counters(self) -> dict[str, int]:
        return {"found": 1, "malformed": 2}


class Story:
    """Sources combined, with what they reported and logged."""

    def __init__(self, *sources: Discovery) -> None:
        self.log = LogCapture()
        self.found: list[Found] = []
        self.gone: list[Found] = []
        logger: Any = structlog.wrap_logger(
            None, processors=[self.log], wrapper_class=structlog.make_filtering_bound_logger(0)
        )
        self.discovery: Discoveries = combine(*sources, log=logger)

    async def start(self) -> None:
        await self.discovery.start(RACK, self.found.append, self.gone.append)

    def events(self) -> list[str]:
        return [entry["event"] for entry in self.log.entries]


def test_every_static_peer_is_found_at_start() -> None:
    found: list[Found] = []
    discovery = StaticDiscovery([f"tcp://gpu-1:8004#{KEY}", StaticPeer("10.0.0.5", 8004), "10.0.0.5:8004"])

    asyncio.run(discovery.start(RACK, found.append, found.append))

    assert found == [
        Found("tcp://gpu-1:8004", "static", key=KEY),
        Found("tcp://10.0.0.5:8004", "static"),
    ]
    assert discovery.known() == found


def test_a_static_peer_has_no_role_until_it_says_hello() -> None:
    (found,) = StaticDiscovery(["gpu-1:8004"]).known()

    assert (found.worker_id, found.epoch, found.role) == ("", 0, "")


def test_a_static_list_with_a_mistake_does_not_start() -> None:
    with pytest.raises(ValueError, match="static peer 'gpu-1': no port"):
        StaticDiscovery(["gpu-2:8004", "gpu-1"])


def test_static_peers_stay_known_through_sweeps_and_stops() -> None:
    discovery = StaticDiscovery(["gpu-1:8004"])

    async def live() -> None:
        await discovery.sweep()
        await discovery.stop()
        await discovery.stop()

    asyncio.run(live())

    assert [found.endpoint for found in discovery.known()] == ["tcp://gpu-1:8004"]
    assert discovery.counters() == {"found": 1}


def test_combined_sources_are_one() -> None:
    story = Story(StaticDiscovery(["gpu-1:8004"]), Flaky())

    asyncio.run(story.start())

    assert [found.source for found in story.found] == ["static", "flaky"]
    assert story.discovery.known() == story.found
    assert story.discovery.counters() == {"found": 2, "malformed": 2}
    assert story.events() == []


def test_combined_sources_tell_which_other_meshes_were_heard() -> None:
    class Sharp(Flaky):
        def strangers(self) -> list[OtherMesh]:
            return [OtherMesh("lab", "ab12cd3400000001")]

    story = Story(StaticDiscovery(["gpu-1:8004"]), Flaky(), Sharp())

    assert story.discovery.strangers() == [OtherMesh("lab", "ab12cd3400000001")]


@pytest.mark.parametrize("cause", ["no multicast here", "[Errno 19] No such device"])
def test_a_source_that_fails_leaves_the_others_and_says_what_to_do(cause: str) -> None:
    story = Story(Flaky(broken=cause), StaticDiscovery(["gpu-1:8004"]))

    asyncio.run(story.start())

    assert [found.source for found in story.found] == ["static"]
    (entry,) = story.log.entries
    assert (entry["event"], entry["log_level"]) == ("discovery.failed", "warning")
    assert (entry["source"], entry["cause"]) == ("flaky", cause)
    assert "discovery.peers" in entry["advice"]


def test_a_source_that_failed_is_tried_again_and_named_only_when_that_changes() -> None:
    flaky = Flaky(broken="no multicast here")
    story = Story(flaky)

    async def live() -> None:
        await story.start()
        await story.discovery.sweep()
        await story.discovery.sweep()
        assert story.events() == ["discovery.failed"]

        flaky.broken = ""
        await story.discovery.sweep()

    asyncio.run(live())

    assert flaky.steps == ["start"] * 4
    assert story.events() == ["discovery.failed", "discovery.recovered"]
    assert story.found == [flaky.found]


def test_a_source_that_fails_in_a_sweep_starts_afresh() -> None:
    flaky = Flaky()
    story = Story(flaky)

    async def live() -> None:
        await story.start()
        flaky.broken = "the cable is out"
        await story.discovery.sweep()
        assert flaky.steps == ["start", "sweep", "stop", "start"]
        flaky.broken = ""
        await story.discovery.sweep()

    asyncio.run(live())

    assert flaky.steps[4:] == ["start"]
    assert story.events() == ["discovery.failed", "discovery.recovered"]


def test_one_source_that_cannot_stop_does_not_keep_the_next_from_stopping() -> None:
    first, second = Flaky(), Flaky()
    story = Story(first, second)

    async def live() -> None:
        await story.start()
        first.broken = "stuck"
        await story.discovery.stop()

    asyncio.run(live())

    assert second.steps == ["start", "stop"]


def test_a_failed_source_is_not_started_again_after_the_stop() -> None:
    flaky = Flaky(broken="no multicast here")
    story = Story(flaky)

    async def live() -> None:
        await story.start()
        await story.discovery.stop()
        flaky.broken = ""
        await story.discovery.sweep()

    asyncio.run(live())

    assert "start" not in flaky.steps[1:]
    assert story.found == []


def test_a_defect_is_not_taken_for_a_failure() -> None:
    class Defect(Flaky):
        def step(self, name: str) -> None:
            raise TypeError("a defect")

    story = Story(Defect())
    start: Callable[[], Any] = story.start

    with pytest.raises(TypeError):
        asyncio.run(start())
