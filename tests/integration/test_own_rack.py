"""A rack of the user's own, in the fifteen lines that README shows, run as its author would run it.

The file lies in a folder of the user's and is named as `package.module:Class`; a real process serves
it and is called over loopback.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.aio import run
from tests.fakes.processes import ROOT, ProcessHandle, client, spawn_worker, start_worker, until
from wrk_base import errors

RACK = """\
import asyncio

from wrk_base.contract import Description
from wrk_base.rack import Rack


class Shout(Rack):
    def describe(self):
        return Description(models=["shout"], tags=["text"], max_concurrent=4)

    async def infer(self, model_id, input_data, options):
        return await asyncio.to_thread(self.answer, input_data)

    def answer(self, prompt):
        return {"text": prompt.upper() + "!"}
"""
SHOUT = ("--wtype", "shout:Shout", "--rack", "s1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the author works."""
    place = tmp_path_factory.mktemp("mine")
    (place / "shout.py").write_text(RACK)
    return place


@pytest.fixture(scope="module")
def shout(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessHandle]:
    with start_worker(SHOUT, tmp_path_factory.mktemp("shout"), cwd=folder) as rack:
        yield rack


def ask(rack: ProcessHandle, method: str, body: Any = None) -> Any:
    async def call() -> Any:
        async with client(rack) as mesh:
            return await mesh.request(rack.endpoint, method, body, timeout=10.0)

    return run(call())


def test_it_takes_fifteen_lines_and_readme_shows_them() -> None:
    assert len(RACK.splitlines()) <= 15
    assert RACK in (ROOT / "README.md").read_text()


def test_it_says_what_it_is(shout: ProcessHandle) -> None:
    info = ask(shout, "getInfo")
    assert info["models"] == ["shout"]
    assert info["tags"] == ["text"]
    assert info["capacity"] == {"maxConcurrent": 4}
    assert (info["name"], info["role"], info["workerId"]) == ("s1", "rack", shout.worker_id)
    assert {"runInference", "checkCapacity", "getHealth"} <= set(info["endpoints"])


def test_it_answers(shout: ProcessHandle) -> None:
    answer = ask(shout, "runInference", {"modelId": "shout", "inputData": "hello"})
    assert answer == {"success": True, "result": {"text": "HELLO!"}}


def test_a_model_that_it_does_not_have_is_refused_and_the_ones_it_has_are_named(shout: ProcessHandle) -> None:
    with pytest.raises(errors.ModelNotAvailable) as refused:
        ask(shout, "runInference", {"modelId": "whisper", "inputData": "hello"})
    assert refused.value.not_started
    assert list(refused.value.data["models"]) == ["shout"]


def test_a_slip_in_its_code_is_in_its_log_and_not_on_the_wire(shout: ProcessHandle) -> None:
    with pytest.raises(errors.Internal) as failed:
        ask(shout, "runInference", {"modelId": "shout", "inputData": 5})
    assert "AttributeError" not in failed.value.message
    assert failed.value.origin == shout.worker_id
    assert "'int' object has no attribute 'upper'" in shout.log()
    assert ask(shout, "runInference", {"modelId": "shout", "inputData": "still here"})["success"]


def test_it_stops_when_told_and_takes_its_status_file_along(folder: Path, tmp_path: Path) -> None:
    with start_worker(SHOUT, tmp_path, cwd=folder) as shout:
        assert shout.status_file.exists()
        assert shout.stop() == 0
        assert not shout.status_file.exists()


@pytest.mark.parametrize(
    ("wtype", "reason"),
    [
        ("shoot:Shout", "cannot import shoot"),
        ("shout:Shoot", "the module shout has no class Shoot"),
        ("shout:asyncio", "shout:asyncio is no subclass of wrk_base.worker.Worker"),
    ],
)
def test_a_misspelt_name_ends_the_start_with_one_line(
    folder: Path, tmp_path: Path, wtype: str, reason: str
) -> None:
    with spawn_worker(["--wtype", wtype], tmp_path, cwd=folder) as process:
        assert process.wait() == 1
        (line,) = process.log().splitlines()
        assert reason in line


STUBBORN = """
import asyncio
import threading

from wrk_base.contract import Description
from wrk_base.rack import Rack


class Stubborn(Rack):
    def describe(self):
        return Description(models=["stone"])

    async def infer(self, model_id, input_data, options):
        await asyncio.to_thread(threading.Event().wait)

    async def close(self):
        await asyncio.Event().wait()
"""


def test_a_rack_whose_thread_and_close_never_end_ends_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    args = ["--wtype", "stubborn:Stubborn", "--rack", "s1", "--stop.drainTimeout", "100"]

    async def story() -> None:
        with start_worker(args, tmp_path, cwd=tmp_path) as rack:
            async with client(rack) as mesh:
                body = {"modelId": "stone", "inputData": "x"}
                waiting = asyncio.ensure_future(
                    mesh.request(rack.endpoint, "runInference", body, timeout=60.0)
                )

                async def begun() -> bool:
                    load = await mesh.request(rack.endpoint, "checkCapacity", timeout=5.0)
                    return bool(load["inFlight"])

                await until(begun)
                rack.signal(signal.SIGTERM)
                assert await rack.ended() == 0
                with pytest.raises(errors.Unavailable):
                    await waiting

    run(story())
