"""Tables of what the mesh answers, as a terminal and as a pipe get them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from wrk_orchestrator.cli import render


def worker(worker_id: str, **other: Any) -> dict[str, Any]:
    """As `listWorkers` tells of one that is well."""
    offer = {"models": ["m1", "m2"], "tags": [], "capacity": {"maxConcurrent": 8}}
    told = {
        "workerId": worker_id,
        "name": worker_id,
        "type": "wrk-rack-sim",
        "address": "tcp://127.0.0.1:5001",
    }
    return {
        **told,
        "capabilities": offer,
        "foundBy": "mdns",
        "currentLoad": 3,
        "state": "healthy",
        "cause": "",
        **other,
    }


STATUS = {
    "workerId": "main-1",
    "status": "ok",
    "mesh": "default",
    "endpoint": "tcp://127.0.0.1:8004",
    "registry": {"workers": 2, "models": {"m1": 2, "m9": 0}, "aliases": {"gpt-4o": "m1"}},
    "loadBalancer": {
        "strategy": "round-robin",
        "waiting": 3,
        "queues": [{"model": "m9", "waiting": 3, "estimateMs": 12_340}],
        "loading": {"m9": "r1-1"},
        "workers": {
            "r1-1": {"requestCount": 7, "failureCount": 1, "averageProcessingTime": 20.04, "currentLoad": 3}
        },
    },
    "health": {"healthy": 1, "states": {"healthy": 1, "suspect": 1, "gone": 0}, "panic": ["m9"]},
    "rpcClients": {"active": 2, "ready": 1},
    "routing": {"routed": 7, "failed": 1},
    "discovery": {"found": 2},
}


def shown(capsys: pytest.CaptureFixture[str], *parts: Any) -> list[list[str]]:
    """The words of each line that was printed."""
    render.show(*parts)
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_a_worker_is_one_line_in_the_order_of_ids(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, *render.workers_parts([worker("r2"), worker("r1")]))
    address = "tcp://127.0.0.1:5001"
    assert lines[2:] == [
        [name, name, "sim", "m1,", "m2", "healthy", address, "mdns", "3", "of", "8"] for name in ("r1", "r2")
    ]


def test_what_a_worker_tells_of_its_models_stands_behind_them(capsys: pytest.CaptureFixture[str]) -> None:
    facts = {
        "m1": {"capabilities": ["vision", "tools"], "contextLength": 32_768},
        "m2": {"capabilities": [], "contextLength": 200_000},
        "m3": {"capabilities": [], "contextLength": 0},
    }
    facts["m5"] = facts["m1"]
    offer = {"models": ["m1", "m2", "m3", "m4", "m5"], "capacity": {"maxConcurrent": 8}, "facts": facts}
    line = " ".join(shown(capsys, *render.workers_parts([worker("r1", capabilities=offer)]))[2])
    assert " m1, m5 (tools, vision, 32k); m2 (200000); m3, m4 healthy " in line


def test_a_worker_that_is_not_well_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    sick = worker("r1", state="unreachable", cause="nothing listens there: firewall?")
    line = shown(capsys, *render.workers_parts([sick]))[-1]
    assert " ".join(line) == "r1 is unreachable: nothing listens there: firewall?"


def test_nobody_there_comes_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert "wrk rack sim" in " ".join(shown(capsys, *render.workers_parts([]))[0])


def test_one_that_is_let_in_by_panic_is_told_from_one_that_gets_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sick = worker("r1", state="quarantined", cause="5 deadlines missed in a row", letIn=True)
    line = " ".join(" ".join(line) for line in shown(capsys, *render.workers_parts([sick]))[-2:])
    assert "r1 is quarantined: 5 deadlines missed in a row (gets a call at a time" in line


def test_texts_of_others_are_neither_markup_nor_commands_of_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    hostile = worker("r1", name="[red]x[/red]", state="suspect", cause="a\x1b[2J\nr9 healthy")
    render.show(*render.workers_parts([hostile]))
    out = capsys.readouterr().out
    assert "[red]x[/red]" in out
    assert "\x1b" not in out
    assert "a\\x1b[2J\\nr9 healthy" in out


def test_models_that_are_not_loaded_are_marked(capsys: pytest.CaptureFixture[str]) -> None:
    offer = {"models": ["m1"], "cold": ["m2"], "capacity": {"maxConcurrent": 8}}
    line = " ".join(shown(capsys, *render.workers_parts([worker("r1", capabilities=offer)]))[-1])
    assert "m1; m2 (cold)" in line


def test_a_long_list_of_models_stays_whole(capsys: pytest.CaptureFixture[str]) -> None:
    models = [f"model-{n}" for n in range(60)]
    offer = {"models": models, "capacity": {"maxConcurrent": 8}}
    words = [
        word.rstrip(",")
        for line in shown(capsys, *render.workers_parts([worker("r1", capabilities=offer)]))
        for word in line
    ]
    assert set(models) <= set(words)


def test_a_status_tells_the_state_of_every_part(capsys: pytest.CaptureFixture[str]) -> None:
    lines = {" ".join(line) for line in shown(capsys, *render.status_parts(STATUS))}
    assert "panic m9: too few workers, so those in quarantine are let in" in lines
    assert {
        "orchestrator main-1, ok, mesh default",
        "workers 2 registered, 1 healthy, 1 suspect",
        "models m1 (2), m9 (cold)",
        "aliases gpt-4o = m1",
        "balancing round-robin, 3 waiting",
        "queue m9: 3 waiting, about 12.3 s",
        "loading m9 at r1-1",
        "requests 7 routed, 1 failed",
        "links 1 of 2 ready",
        "r1-1 7 1 20.0 3",
    } <= lines


def test_an_answer_is_its_text_if_it_has_one() -> None:
    assert render.answer_text({"text": "hello", "model": "m1"}) == "hello"
    assert render.answer_text("hello") == "hello"
    assert render.answer_text({"embeddings": [[1.0]]}) == '{"embeddings":[[1.0]]}'
    assert render.answer_text({"text": 7}) == '{"text":7}'


@pytest.mark.parametrize(
    "answer",
    [
        {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}}]},
        {"choices": [{"index": 0, "text": "hello"}, {"index": 1, "text": "another"}]},
        {"output": [{"type": "reasoning"}, {"type": "message", "content": [{"text": "hello"}]}]},
    ],
)
def test_of_an_answer_in_the_shape_of_openai_the_text_is_shown(answer: Any) -> None:
    assert render.answer_text(answer) == "hello"


@pytest.mark.parametrize("answer", [{"choices": []}, {"choices": [{"message": {"content": None}}]}])
def test_one_without_a_text_is_shown_whole(answer: Any) -> None:
    assert json.loads(render.answer_text(answer)) == answer


def test_who_answered_is_told_and_whether_it_was_simulated() -> None:
    answer = {"result": {"text": "x"}, "workerId": "r1-1", "attempts": 1}
    assert render.answered_by(answer, 21.6) == "by r1-1 in 22 ms"
    again = {"result": {"simulated": True}, "workerId": "r1-1", "attempts": 2}
    assert render.answered_by(again, 21.6) == "simulated by r1-1 in 22 ms, attempt 2"
    other = {**answer, "modelId": "m1"}
    assert render.answered_by(other, 21.6) == "by r1-1 in 22 ms, model m1"


def test_the_closest_pair_is_marked_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, render.pairs_table([("a", "b", 0.7164), ("a", "c", -0.02)]))
    assert lines[2:] == [["0.716", "a", "b", "<-", "closest"], ["-0.020", "a", "c"]]
