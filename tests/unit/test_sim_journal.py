"""What a simulated rack says it ran, line by line, in the events that the checker reads."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from racks.sim_journal import Journal, name_of
from tests.fakes.sim_rack import serving
from tests.fakes.virtual_time import run_virtual
from wrk_base.errors import StartError, WrkError
from wrk_orchestrator.chaos.history import Began, Ended, read


def told(path: Path) -> list[tuple[str, str]]:
    """(id, what became of it), in order; each end belongs to the begin before it."""
    story, begun = [], dict[str, str]()
    for event in read(path.read_bytes().splitlines(keepends=True)):
        assert isinstance(event, Began | Ended)
        assert event.worker == "r1-1"
        if isinstance(event, Began):
            assert event.execution not in begun
            begun[event.execution] = event.id
        else:
            assert begun[event.execution] == event.id
        story.append((event.id, event.outcome if isinstance(event, Ended) else "began"))
    return story


def named(name: str, **sim: Any) -> dict[str, Any]:
    return {"prompt": "hello", "metadata": {"id": name}, "sim": sim}


def test_it_says_what_began_and_how_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "r1.jsonl"

    async def story() -> None:
        async with serving(journal=str(path)) as caller:
            await caller.infer(named("good"))
            with pytest.raises(WrkError, match="out of memory"):
                await caller.infer(named("bad", fail="out of memory"))
            with pytest.raises(WrkError):
                await caller.infer(named("late", hang=True), timeout=0.5)
            await asyncio.sleep(1)
            messages = {"messages": [{"role": "user", "content": "hi"}], "metadata": {"id": "chat"}}
            await caller.ask("chat", messages)
            await caller.infer("nobody's")

    run_virtual(story())
    assert told(path) == [
        ("good", "began"),
        ("good", "ok"),
        ("bad", "began"),
        ("bad", "failed"),
        ("late", "began"),
        ("late", "cancelled"),
        ("chat", "began"),
        ("chat", "ok"),
    ]


def test_a_reader_that_leaves_is_a_cancel(tmp_path: Path) -> None:
    path = tmp_path / "r1.jsonl"

    async def story() -> None:
        async with serving(journal=str(path), interval="1000") as caller:
            stream = caller.stream("raw", named("left"))
            async for _ in stream:
                break
            await stream.aclose()
            await asyncio.sleep(5)

    run_virtual(story())
    assert told(path) == [("left", "began"), ("left", "cancelled")]


def test_a_journal_is_added_to_and_one_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "r1.jsonl"
    for epoch in (1, 2):
        journal = Journal(str(path), "r1-1", epoch, lambda: 7.0)
        with journal.execution(named("q")):
            pass
        journal.close()
    assert told(path) == [("q", "began"), ("q", "cancelled")] * 2
    with pytest.raises(StartError, match=r"sim.journal: cannot write .*: No such file or directory"):
        Journal(str(tmp_path / "nowhere" / "r1.jsonl"), "r1-1", 1, lambda: 7.0)


@pytest.mark.parametrize("given", ["text", None, 7, {}, {"metadata": "q"}, {"metadata": {"id": 7}}])
def test_who_has_no_name_is_not_written_down(given: Any) -> None:
    assert name_of(given) == ""
