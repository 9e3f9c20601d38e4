"""Slow callers at full size: 2,000 connections of each kind, beside a good caller at 100 requests a second.

Run by `bin/test --long`; every test prints what it measured. The server, the attack (pinned to one core)
and the good caller are three processes. How much slower the good caller's answers get is held against a
baseline from just before and after, in the same run.
"""

from __future__ import annotations

import asyncio
import faulthandler
import sys
from pathlib import Path

import pytest
import uvloop

from tests.fakes.good_caller import Answers, GoodCaller
from tests.fakes.http_process import Serving, serving
from tests.fakes.slow_callers import FIRST, Figures, Plan, attacking

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="counts by epoll and /proc"),
]

CONNECTIONS = 2000
ATTACK_S = 120.0
BASELINE_S = 20.0
WARM_UP_S = 3.0
MOST_SECONDS = 12.0
LEAST_SHARE = 0.999
MOST_TIMES = 2.0
MEGABYTE = 2**20


async def beside(server: Serving, plan: Plan) -> tuple[Answers, Answers, Figures]:
    """(without the attack, with it, what became of the attack)"""
    good = GoodCaller(server.endpoint)
    await good.ask(WARM_UP_S)
    before = await good.ask(BASELINE_S)
    with attacking(plan) as attack:
        with_it = await good.ask(ATTACK_S)
        figures = await asyncio.to_thread(attack.figures)
    after = await good.ask(BASELINE_S)
    await good.close()
    return Answers(before.seconds + after.seconds, before.failures + after.failures), with_it, figures


@pytest.mark.parametrize("kind", FIRST)
def test_slow_callers_are_ended_in_time_and_a_good_one_hardly_notices(kind: str, tmp_path: Path) -> None:
    faulthandler.cancel_dump_traceback_later()  # it takes minutes, and that is no hang
    with serving(tmp_path) as server:
        memory, cpu = server.rss(), server.cpu()
        plan = Plan(kind, server.port, CONNECTIONS)
        baseline, with_it, figures = uvloop.run(beside(server, plan))
        grown, cpu = (server.rss() - memory) / MEGABYTE, server.cpu() - cpu
    lives = sorted(figures.lives)
    print(
        f"\n{kind}: {figures.opened} connections opened, at most {figures.most} at once; the server ended "
        f"{len(lives)} after {lives[0]:.1f} to {lives[-1]:.1f} s, left {figures.left}; "
        f"the good caller got {with_it.share:.2%} of {len(with_it.seconds) + len(with_it.failures)}, "
        f"p50 {with_it.ms(0.5):.2f} ms (without: {baseline.ms(0.5):.2f}), "
        f"p99 {with_it.ms(0.99):.2f} ms (without: {baseline.ms(0.99):.2f}); "
        f"memory +{grown:.0f} MiB, {cpu:.1f} s of a core"
    )
    assert figures.most >= CONNECTIONS * 0.9
    assert (figures.left, figures.refused) == (0, 0)
    assert figures.longest <= MOST_SECONDS
    assert with_it.share >= LEAST_SHARE, with_it.failures[:5]
    assert with_it.ms(0.99) <= MOST_TIMES * baseline.ms(0.99)
