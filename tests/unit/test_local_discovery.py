"""Processes of one user find each other by the status files that they write, and by nothing else."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.aio import run
from wrk_base.discovery import Found
from wrk_base.discovery.advert import Advert
from wrk_base.discovery.local import LOOK_SECONDS, LocalDiscovery, read_status
from wrk_base.status import StatusFile

MESH = "ours"
KEY = "k" * 40
LOOKED = LOOK_SECONDS * 1.01


def advert(worker_id: str) -> Advert:
    return Advert(worker_id, 1, "rack", MESH, "127.0.0.1", 1, 2)


def rack(number: int, *, port: int = 0, key: str = KEY) -> Found:
    return Found(f"tcp://127.0.0.1:{port or 8000 + number}", "local", f"r{number}", 0, "rack", key)


class Town:
    """Processes of one state directory, and one that looks for the others."""

    def __init__(self, state: Path, own: str = "") -> None:
        self.state = state
        self.discovery = LocalDiscovery(state, MESH)
        self.heard: list[str] = []
        self._own = own

    async def __aenter__(self) -> Town:
        await self.discovery.start(
            advert(self._own) if self._own else None,
            lambda found: self.heard.append(f"+{found.worker_id}"),
            lambda gone: self.heard.append(f"-{gone.worker_id}"),
        )
        return self

    async def __aexit__(self, *trouble: object) -> None:
        await self.discovery.stop()
        assert self.discovery.known() == []

    def file(self, name: str) -> StatusFile:
        return StatusFile(self.state / "status" / f"{name}.json")

    def starts(self, found: Found, mesh: str = MESH, **more: Any) -> None:
        self.file(found.worker_id).write(
            {
                "endpoint": found.endpoint,
                "instanceId": found.worker_id,
                "role": found.role,
                "mesh": mesh,
                "publicKey": found.key,
                **more,
            }
        )

    def ends(self, found: Found) -> None:
        self.file(found.worker_id).remove()

    async def looks(self) -> list[str]:
        """What is heard when it has looked once more."""
        self.heard.clear()
        await asyncio.sleep(LOOKED)
        return self.heard


@asynccontextmanager
async def looking(state: Path, own: str = "") -> AsyncIterator[Town]:
    async with Town(state, own) as town:
        yield town


def story(tell: Callable[[Path], Awaitable[None]], directory: Path) -> None:
    async def told() -> None:
        await tell(directory)
        loop = asyncio.get_running_loop()
        left = [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
        assert [timer for timer in left if "_look" in repr(timer)] == []

    run(told(), "virtual", within=1e6)


def test_who_is_there_is_heard_at_once_and_who_comes_at_the_next_look(tmp_path: Path) -> None:
    async def told(state: Path) -> None:
        Town(state).starts(rack(1))
        async with looking(state) as town:
            assert town.heard == ["+r1"]
            assert town.discovery.known() == [rack(1)]
            town.starts(rack(2))
            assert await town.looks() == ["+r2"]
            assert town.discovery.known() == [rack(1), rack(2)]
            assert await town.looks() == []

    story(told, tmp_path)


def test_who_ends_is_gone_at_the_next_look(tmp_path: Path) -> None:
    async def told(state: Path) -> None:
        Town(state).starts(rack(1))
        async with looking(state) as town:
            town.ends(rack(1))
            assert await town.looks() == ["-r1"]
            assert town.discovery.known() == []

    story(told, tmp_path)


def test_who_starts_again_with_another_key_or_port_is_gone_and_found(tmp_path: Path) -> None:
    async def told(state: Path) -> None:
        Town(state).starts(rack(1))
        async with looking(state) as town:
            town.starts(rack(1, key="n" * 40))
            assert await town.looks() == ["-r1", "+r1"]
            town.starts(rack(1, port=9001))
            assert await town.looks() == ["-r1", "+r1"]
            assert town.discovery.known() == [rack(1, port=9001)]

    story(told, tmp_path)


def test_a_change_within_the_tick_of_the_last_look_is_seen_in_the_end(tmp_path: Path) -> None:
    """File systems note times by ticks of some milliseconds, and a status file takes two changes."""

    async def told(state: Path) -> None:
        folder = state / "status"
        folder.mkdir()
        tick = folder.stat().st_mtime_ns
        async with looking(state) as town:
            town.starts(rack(1))
            os.utime(folder, ns=(tick, tick))
            await town.looks()
            await town.looks()
            assert town.discovery.known() == [rack(1)]

    story(told, tmp_path)


def test_nobody_finds_itself(tmp_path: Path) -> None:
    async def told(state: Path) -> None:
        async with looking(state, own="r1") as town:
            town.starts(rack(1))
            town.starts(rack(2))
            assert await town.looks() == ["+r2"]

    story(told, tmp_path)


def test_other_meshes_and_what_is_no_status_are_passed_over(tmp_path: Path) -> None:
    async def told(state: Path) -> None:
        async with looking(state) as town:
            town.starts(rack(1), mesh="theirs")
            town.starts(rack(2))
            folder = state / "status"
            for name, text in {"a": "{", "b": "[]", "c": '"ours"', "d": '{"mesh": "ours"}'}.items():
                (folder / f"{name}.json").write_text(text)
            (folder / "e.json").write_bytes(b"\xff\xfe")
            (folder / "f.json").mkdir()
            (folder / "g.json").symlink_to(folder / "nowhere")
            (folder / "half-written.json.new").write_text(json.dumps({"mesh": MESH}))
            assert await town.looks() == ["+r2"]

    story(told, tmp_path)


def test_a_status_of_an_earlier_version_has_no_key(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.file("r1").write(
        {"endpoint": "tcp://127.0.0.1:8001", "instanceId": "r1", "role": "rack", "mesh": MESH}
    )
    assert list(read_status(tmp_path / "status", MESH)) == [rack(1, key="")]


def test_a_state_directory_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    async def told(state: Path) -> None:
        async with looking(state / "later") as town:
            assert town.heard == []
            town.starts(rack(1))
            assert await town.looks() == ["+r1"]

    story(told, tmp_path)


def test_a_second_start_tells_of_everybody_again(tmp_path: Path) -> None:
    async def told(state: Path) -> None:
        Town(state).starts(rack(1))
        discovery = LocalDiscovery(state, MESH)
        for _ in range(2):
            heard: list[Found] = []
            await discovery.start(None, heard.append, lambda gone: None)
            assert heard == [rack(1)]
            await discovery.sweep()
            await discovery.stop()
            await discovery.stop()
        assert discovery.counters() == {}

    story(told, tmp_path)


def test_nothing_is_heard_after_the_stop(tmp_path: Path) -> None:
    async def told(state: Path) -> None:
        async with looking(state) as town:
            pass
        town.starts(rack(1))
        assert await town.looks() == []

    story(told, tmp_path)


@pytest.mark.parametrize("content", ['{"mesh": "ours", "endpoint": 5, "instanceId": [], "role": null}'])
def test_what_is_of_the_wrong_kind_ends_nothing(tmp_path: Path, content: str) -> None:
    """Only this user writes there, and a bug is enough."""

    async def told(state: Path) -> None:
        async with looking(state) as town:
            town.starts(rack(1))
            (state / "status" / "odd.json").write_text(content)
            await town.looks()
            assert "+r1" in town.heard

    story(told, tmp_path)


def test_without_a_descriptor_to_look_with_nobody_is_taken_for_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what changed meanwhile is seen when there is one again."""
    real, short = Path.read_bytes, asyncio.Event()

    def read(path: Path) -> bytes:
        if short.is_set():
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read)

    async def story() -> None:
        async with Town(tmp_path) as town:
            town.starts(rack(1))
            assert await town.looks() == ["+r1"]
            short.set()
            town.starts(rack(2))
            assert await town.looks() == []
            short.clear()
            assert await town.looks() == ["+r2"]

    run(story(), "virtual")
