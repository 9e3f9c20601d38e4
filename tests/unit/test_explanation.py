"""What is said of a choice: who would be picked and by what, who would not and why, and nothing is altered.

That it agrees with the picks that follow is held by the random histories of test_load_balancer.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.balanced import BalancedMesh
from wrk_base.contract import Requirements
from wrk_orchestrator.affinity import NO_AFFINITY, Affinity
from wrk_orchestrator.explanation import MOST_NAMED
from wrk_orchestrator.strategies import STRATEGIES

EVERY = sorted(STRATEGIES)
REQUEST = Affinity("alice", b"once upon a time " * 60)


def scores(told: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    return [(one["workerId"], one["score"]) for one in told if one["excluded"] is None]


def test_everybody_who_serves_the_model_is_named_with_a_score_or_a_reason() -> None:
    mesh = BalancedMesh("least-connections", 4, room=4)
    mesh.join("gpu", room=2, tags=frozenset({"gpu"}))
    mesh.join("elsewhere", models=("other",))
    mesh.report("w0", 1)
    mesh.report("w1", 4)
    mesh.balancer.set_limit("w2", 0)
    assert mesh.explain("w3") == [
        {"workerId": "gpu", "score": 0, "load": 0, "limit": 2, "excluded": None},
        {"workerId": "w0", "score": 1, "load": 1, "limit": 4, "excluded": None},
        {"workerId": "w1", "score": None, "load": 4, "limit": 4, "excluded": "full"},
        {"workerId": "w2", "score": None, "load": 0, "limit": 0, "excluded": "not routable"},
        {"workerId": "w3", "score": None, "load": 0, "limit": 4, "excluded": "tried already"},
    ]
    told = mesh.balancer.explain("m", Requirements(capabilities=["gpu"]), (), mesh.now)
    assert [(one["workerId"], one["excluded"]) for one in told[:2]] == [
        ("gpu", None),
        ("w0", "does not meet the requirements"),
    ]
    assert mesh.balancer.explain("nobody serves this", None, (), mesh.now) == []


@pytest.mark.parametrize("strategy", EVERY)
def test_asking_alters_nothing(strategy: str) -> None:
    asked, silent = (BalancedMesh(strategy, 9, seed=5, room=3) for _ in range(2))
    needs = [None, Requirements(min_capacity=1), Requirements(min_capacity=2)]
    picks: list[list[str]] = [[], []]
    for step in range(60):
        for mesh, picked in zip((asked, silent), picks, strict=True):
            mesh.now += 0.1
            mesh.report(f"w{step % 9}", step % 3)
            affinity = (REQUEST, NO_AFFINITY, Affinity(f"s{step % 5}"))[step % 3]
            if mesh is asked:
                for need in needs:
                    mesh.balancer.explain("m", need, ("w1",), mesh.now, affinity)
            picked.append(mesh.pick("w2", affinity=affinity))
    assert picks[0] == picks[1]
    assert len(asked.balancer._pools) == 1


@pytest.mark.parametrize("strategy", EVERY)
def test_it_is_bounded_and_names_some_of_those_left_out(strategy: str) -> None:
    mesh = BalancedMesh(strategy, 300)
    assert len(mesh.explain(affinity=REQUEST)) == MOST_NAMED
    for number in range(200):
        mesh.balancer.set_limit(f"w{number}", 0)
    told = mesh.explain("w250", affinity=REQUEST)
    reasons = [one["excluded"] for one in told]
    assert len(told) == MOST_NAMED
    assert reasons.count(None) == 50
    for number in range(1, 300):
        mesh.balancer.set_limit(f"w{number}", 0)
    mesh.balancer.set_limit("w0", 1)
    assert [one["excluded"] for one in mesh.explain(affinity=REQUEST)].count(None) == 1


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        ("round-robin", [("w0", 0), ("w1", 1)]),
        ("least-connections", [("w0", 1), ("w1", 2)]),
        ("power-of-two", [("w0", 1), ("w1", 2)]),
        ("random", [("w0", 0.5), ("w1", 0.5)]),
        ("peak-ewma", [("w0", 200.0), ("w1", 1200.0)]),
        ("prequal", [("w0", "cold, 100 ms, load 1"), ("w1", "hot, 400 ms, load 2")]),
        (
            "consistent-hash",
            [("w0", "choice 1, load 1, busy from 1.25"), ("w1", "choice 2, load 2, busy from 2.50")],
        ),
        ("prefix-aware", [("w0", "896 bytes known, load 1"), ("w1", "0 bytes known, load 2")]),
    ],
)
def test_the_score_is_what_the_strategy_goes_by(strategy: str, said: list[tuple[str, Any]]) -> None:
    mesh = BalancedMesh(strategy, 2, room=4)
    mesh.lease("w1", affinity=REQUEST).done(ok=True, now=mesh.now, elapsed_s=0.1)
    mesh.lease("w0").done(ok=True, now=mesh.now, elapsed_s=0.4)
    mesh.report("w0", 1)
    mesh.report("w1", 2)
    assert scores(mesh.explain(affinity=REQUEST)) == said


def test_by_weight_the_score_is_the_wait() -> None:
    mesh = BalancedMesh("weighted")
    mesh.join("one", weight=1.0)
    mesh.join("four", weight=4.0)
    for _ in range(20):
        told = scores(mesh.explain())
        assert told[0][1] <= told[1][1]
        assert dict(told)["four"] <= 0.25
        assert mesh.pick() == told[0][0]
