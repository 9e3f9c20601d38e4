"""Where a model is, and the thread that loads it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from racks.loading import find_model, in_daemon_thread
from tests.fakes.aio import run
from wrk_base import errors


def test_a_folder_is_read_from_this_disk_alone(tmp_path: Path) -> None:
    assert find_model(str(tmp_path), "embeddings.model") == (str(tmp_path.resolve()), True)


def test_an_id_may_be_fetched_from_the_hub() -> None:
    assert find_model("some-team/some-model", "embeddings.model") == ("some-team/some-model", False)


@pytest.mark.parametrize("model", ["./nowhere", "/nowhere/model", "~/nowhere-at-all"])
def test_a_folder_that_is_not_there_is_not_taken_for_an_id(model: str) -> None:
    with pytest.raises(errors.StartError, match=r"^embeddings\.model: there is no folder"):
        find_model(model, "embeddings.model")


def test_a_load_gives_its_model_or_its_error() -> None:
    def fail() -> None:
        raise errors.StartError("no such model")

    async def story() -> None:
        assert await in_daemon_thread(lambda: "model") == "model"
        with pytest.raises(errors.StartError, match="no such model"):
            await in_daemon_thread(fail)

    run(story())


def test_a_load_can_be_given_up_and_may_end_when_it_likes() -> None:
    async def story() -> None:
        begun, released = threading.Event(), threading.Event()
        threads: list[threading.Thread] = []

        def load() -> str:
            threads.append(threading.current_thread())
            begun.set()
            released.wait()
            return "too late"

        loading = asyncio.create_task(in_daemon_thread(load))
        await asyncio.to_thread(begun.wait)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        released.set()
        await asyncio.to_thread(threads[0].join)  # an error in there would fail this test

    run(story())
