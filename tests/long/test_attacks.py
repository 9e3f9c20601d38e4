"""Attacks on a running mesh at full size: what they cost the members, and that they bring nothing.

Run by `bin/test --long`; every test prints what it measured. The attackers are a process that is held to
one core, 200 attempts a second; a good client asks 100 times a second, and its 99th percentile just before
is the yardstick for that meanwhile. An attack comes in parts with calm between them, and the median part
counts, so that a busy moment of the machine decides nothing. Linux only.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import assaults
from tests.fakes.aio import LoopName, run
from tests.fakes.assaults import Measured
from wrk_base.boot import COLLECT_AFTER

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="measures by /proc and holds processes to cores"),
]

CALM = 1_000  # requests before each part of an attack: 10 seconds
PARTS = 5
LOOP: LoopName = "uvloop"  # as in a worker's own process
WITHIN = 1_800.0  # seconds until a test counts as hanging
MAX_SLOWDOWN = 2.0
MAX_LOG = 10  # lines a second
MAX_GROWTH = 32 * 2**20
MAX_STAY = 5.0  # seconds, of a stranger
MAX_SHUT = 1.0  # seconds, of a door that was mended
MAX_REVOKED = 5.0  # seconds until a revoked member is linked to nobody


@pytest.fixture(autouse=True)
def _spared_by_the_collector() -> Iterator[None]:
    """As in a worker's own process: what the tests have imported is not walked again and again."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def show(measured: Measured) -> Measured:
    print(f"\n{measured}")
    return measured


def test_registrations_and_calls_without_the_right_certificate(tmp_path: Path) -> None:
    measured = show(
        run(assaults.registrations(tmp_path, each=230, calm=CALM, parts=PARTS), LOOP, within=WITHIN)
    )
    assert sum(tale.made for tale in measured.told.values()) >= 10_000
    assert measured.busiest <= MAX_LOG
    assert measured.slowdown <= MAX_SLOWDOWN


def test_garbage_beside_silent_connections(tmp_path: Path) -> None:
    measured = show(
        run(assaults.trash(tmp_path, count=10_000, silent=500, calm=CALM, parts=PARTS), LOOP, within=WITHIN)
    )
    for kind, tale in measured.told.items():
        print(f"  {kind}: {tale.made}, the last ended after {tale.slowest:.1f} s")
    assert max(tale.slowest for tale in measured.told.values()) <= MAX_STAY
    assert measured.grown <= MAX_GROWTH
    assert measured.busiest <= MAX_LOG


def test_malformed_envelopes_of_a_member(tmp_path: Path) -> None:
    measured = show(
        run(assaults.malformed(tmp_path, count=100_000, calm=CALM, parts=PARTS), LOOP, within=WITHIN)
    )
    assert measured.grown <= MAX_GROWTH


def test_a_broken_door(tmp_path: Path) -> None:
    back = run(assaults.shut_doors(tmp_path, peers=1_000, rounds=50), within=WITHIN)
    print(f"\n50 times 1,000 peers at a broken door: back after {max(back):.2f} s at most")
    assert max(back) <= MAX_SHUT


def test_revocations_under_load(tmp_path: Path) -> None:
    lasted = run(assaults.revocations(tmp_path, rounds=20), within=WITHIN)
    print(f"\n20 members revoked: linked to nobody after {max(lasted):.2f} s at most")
    assert max(lasted) <= MAX_REVOKED


def test_rotations_under_load(tmp_path: Path) -> None:
    print(f"\n20 new keys of racks: {run(assaults.rotations(tmp_path, rounds=20), within=WITHIN)}")


def test_numbers_of_callers_that_others_claim(tmp_path: Path) -> None:
    answers = run(assaults.stolen_numbers(tmp_path, rounds=50, storm=60), within=WITHIN)
    print(
        f"\n3,000 connections that claim the number of a caller whose connection breaks: {answers} answered"
    )
    assert answers == 0
