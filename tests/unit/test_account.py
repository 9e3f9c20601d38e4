"""The account of one request: looks and hops in the order of time."""

from __future__ import annotations

from wrk_orchestrator.account import Account


def test_it_tells_looks_and_hops_in_milliseconds() -> None:
    account = Account("random", 10.0)
    account.looked("m1", [{"workerId": "r1"}], 10.001)
    account.sent("r1", "m1", 10.5)
    account.ended("r1", "ERR_UNAVAILABLE", 11.0)
    account.looked("m2", [], 11.0)
    account.sent("r2", "m2", 11.25)
    told = account.told(waited=0.499)
    assert (told["strategy"], told["queuedMs"]) == ("random", 499)
    assert [(look["model"], look["atMs"]) for look in told["looks"]] == [("m1", 1), ("m2", 1000)]
    first, second = told["hops"]
    assert (first["workerId"], first["atMs"], first["tookMs"]) == ("r1", 500, 500)
    assert first["outcome"] == "ERR_UNAVAILABLE"
    assert (second["workerId"], second["tookMs"], second["outcome"]) == ("r2", None, "open")
