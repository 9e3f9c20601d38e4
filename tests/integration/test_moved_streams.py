"""Streams whose rack dies under them, with real processes: what OpenAI's client and ours read is whole, under
one id, and the same as of an undisturbed rack.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from racks import sim_script
from tests.fakes.gateway import MODEL, SIM, Gateway, gateway
from tests.fakes.processes import ProcessHandle, start_worker

WORDS = 60
SLOWLY = {"words": WORDS, "interval": 10, "latency": 0}
CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}
ENDS: dict[str, Callable[[ProcessHandle], None]] = {
    "killed": lambda rack: rack.kill(),
    "told to end": lambda rack: rack.signal(signal.SIGTERM),
    "frozen": lambda rack: rack.signal(signal.SIGSTOP),
}


@pytest.fixture(scope="module")
def g(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("mesh")) as made:
        yield made


@pytest.fixture
def others(g: Gateway) -> Iterator[list[ProcessHandle]]:
    """Two racks of this test's own, beside those of the gateway: whichever has the stream ends."""
    names = ("x1", "x2")
    flags = ("--stop.drainTimeout", "100", "--models", "moving")
    with (
        start_worker([*SIM, names[0], *flags], g.folder) as first,
        start_worker([*SIM, names[1], *flags], g.folder) as second,
    ):
        g.knows("moving", 2)
        yield [first, second]
        g.quiet()
        for rack in (first, second):
            if rack.running:
                rack.signal(signal.SIGCONT)


def end(g: Gateway, others: list[ProcessHandle], how: str) -> str:
    """End the rack that has the only stream; its id."""
    workers = {worker["workerId"]: worker for worker in g.get("/api/workers")["workers"]}
    (busy,) = (rack for rack in others if workers[rack.worker_id]["currentLoad"])
    ENDS[how](busy)
    return busy.worker_id


@pytest.mark.parametrize("how", ENDS)
def test_openais_client_reads_a_chat_whole(g: Gateway, others: list[ProcessHandle], how: str) -> None:
    asked = {**CHAT, "model": "moving", "stream_options": {"include_usage": True}}
    with g.openai() as ai:
        chunks = []
        for chunk in ai.chat.completions.create(**asked, stream=True, extra_body={"sim": SLOWLY}):
            chunks.append(chunk)
            if len(chunks) == 12:
                end(g, others, how)
    said = [choice.delta.content for chunk in chunks for choice in chunk.choices if choice.delta.content]
    assert "".join(said) == sim_script.text("hello", 0, WORDS)
    assert len({chunk.id for chunk in chunks}) == 1
    assert [choice.delta.role for chunk in chunks for choice in chunk.choices].count("assistant") == 1
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == WORDS


def test_openais_client_reads_the_numbered_events_of_a_response(
    g: Gateway, others: list[ProcessHandle]
) -> None:
    with g.openai() as ai:
        events = []
        for event in ai.responses.create(
            model="moving", input="hello", stream=True, extra_body={"sim": SLOWLY}
        ):
            events.append(event)
            if len(events) == 12:
                end(g, others, "killed")
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == sim_script.text("hello", 0, WORDS)


def test_our_client_reads_items_whole(g: Gateway, others: list[ProcessHandle]) -> None:
    with g.rpc() as mesh:
        items = []
        with mesh.stream("moving", {"prompt": "hello", "sim": SLOWLY}) as stream:
            for item in stream:
                items.append(item)
                if len(items) == 12:
                    left = end(g, others, "killed")
            facts = stream.facts
    assert [item["index"] for item in items] == list(range(WORDS))
    assert (facts["attempts"], facts["workerId"]) == (
        2,
        next(o.worker_id for o in others if o.worker_id != left),
    )
