"""What becomes of records that were heard, without any network: who counts as a peer, what is named in
the log, and which findings a listener learns of, in which order."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import LogCapture

from wrk_base.discovery import Found
from wrk_base.discovery.advert import Advert
from wrk_base.discovery.hearsay import MAX_NAMED, Hearsay
from wrk_base.discovery.table import AdvertTable, Change

OWN = Advert("o1-00000001", 5, "orchestrator", "default", "192.0.2.1", 8004, 1)
RACK = Advert("r1-00000001", 7, "rack", "default", "192.0.2.2", 4000, 1, "KEY")
FOUND = Found("tcp://192.0.2.2:4000", "mdns", "r1-00000001", 7, "rack", "KEY")


class Ear:
    """A `Hearsay` with what it told and logged."""

    def __init__(self, own: Advert | None = OWN, listening_on: str = "192.0.2.1") -> None:
        self.log = LogCapture()
        self.told: list[tuple[str, Found]] = []
        logger: Any = structlog.wrap_logger(
            None, processors=[self.log], wrapper_class=structlog.make_filtering_bound_logger(0)
        )
        self.hearsay = Hearsay("default", logger)
        self.hearsay.begin(own, listening_on, self.on_found, self.on_gone)

    def on_found(self, found: Found) -> None:
        self.told.append(("found", found))

    def on_gone(self, found: Found) -> None:
        self.told.append(("gone", found))

    def hear(self, advert: Advert, name: str = "") -> None:
        txt: dict[bytes, bytes | None] = {k.encode(): v for k, v in advert.to_txt().items()}
        self.hearsay.hear(name or advert.label, txt, [advert.host], advert.port)

    def count(self, kind: str) -> int:
        return self.hearsay.counters()[kind]

    def events(self) -> list[str]:
        return [entry["event"] for entry in self.log.entries]


def test_a_peer_is_told_once_until_it_is_gone() -> None:
    ear = Ear()

    ear.hear(RACK)
    ear.hear(RACK)
    assert ear.told == [("found", FOUND)]
    assert ear.hearsay.known() == [FOUND]

    ear.hearsay.forget(RACK.label)
    ear.hearsay.forget(RACK.label)
    assert ear.told == [("found", FOUND), ("gone", FOUND)]
    assert ear.hearsay.known() == []
    assert (ear.count("found"), ear.count("gone")) == (1, 1)


def test_a_peer_that_moved_is_gone_and_found_anew() -> None:
    ear = Ear()
    ear.hear(RACK)

    ear.hear(dataclasses.replace(RACK, port=4001))

    moved = dataclasses.replace(FOUND, endpoint="tcp://192.0.2.2:4001")
    assert ear.told[1:] == [("gone", FOUND), ("found", moved)]


def test_a_restarted_peer_replaces_what_its_crash_left_behind() -> None:
    ear = Ear()
    ear.hear(RACK)

    ear.hear(dataclasses.replace(RACK, epoch=8))
    assert ear.told[1:] == [("gone", FOUND), ("found", dataclasses.replace(FOUND, epoch=8))]

    ear.hear(RACK)
    ear.hearsay.forget(RACK.label)
    assert [found.epoch for found in ear.hearsay.known()] == [8]


def test_a_second_claim_to_one_start_of_a_worker_is_not_believed() -> None:
    ear = Ear()
    ear.hear(RACK)

    ear.hear(dataclasses.replace(RACK, host="192.0.2.66"), name="forged")

    assert ear.told == [("found", FOUND)]


def test_another_mesh_is_counted_always_and_named_once() -> None:
    ear = Ear()

    for worker in ("a", "b", "c"):
        ear.hear(dataclasses.replace(RACK, mesh="lab", worker_id=worker))
    ear.hear(dataclasses.replace(RACK, mesh="shop"))

    assert ear.told == []
    assert ear.count("otherMesh") == 4
    assert [(entry["event"], entry["mesh"]) for entry in ear.log.entries] == [
        ("discovery.other_mesh", "lab"),
        ("discovery.other_mesh", "shop"),
    ]


def test_strangers_that_make_up_names_do_not_fill_the_log() -> None:
    ear = Ear()

    for number in range(MAX_NAMED + 20):
        ear.hear(dataclasses.replace(RACK, mesh=f"mesh-{number}"))

    assert len(ear.log.entries) == MAX_NAMED
    assert ear.count("otherMesh") == MAX_NAMED + 20


def test_malformed_records_are_counted_and_named_without_what_they_hold() -> None:
    ear = Ear()

    ear.hearsay.hear("bad\x1b[2J\xff", {b"\xff": b"secret", b"id": None}, [], None)

    assert ear.told == []
    assert ear.count("malformed") == 1
    (entry,) = ear.log.entries
    assert (entry["event"], entry["problem"]) == ("discovery.malformed", "id: missing")
    assert entry["name"].isascii()
    assert entry["name"].isprintable()


def test_a_peer_whose_record_turned_bad_is_gone() -> None:
    ear = Ear()
    ear.hear(RACK)

    ear.hearsay.hear(RACK.label, {}, [RACK.host], RACK.port)

    assert ear.told[1:] == [("gone", FOUND)]


@pytest.mark.parametrize(
    "echo",
    [
        OWN,
        dataclasses.replace(OWN, epoch=99, host="192.0.2.9"),
        dataclasses.replace(RACK, host=OWN.host, port=OWN.port),
    ],
    ids=["our own advert", "our own id elsewhere", "somebody at our own endpoint"],
)
def test_we_are_no_peer_of_ours(echo: Advert) -> None:
    ear = Ear()

    ear.hear(echo)

    assert ear.told == []
    assert ear.events() == []


def test_who_only_looks_has_nothing_of_its_own() -> None:
    ear = Ear(own=None)

    ear.hear(OWN)

    assert [found.worker_id for _, found in ear.told] == [OWN.worker_id]


@pytest.mark.parametrize(
    ("listening_on", "host", "within_reach"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", True),
        ("127.0.0.1", "::1", True),
        ("127.0.0.1", "192.0.2.2", False),
        ("192.0.2.1", "127.0.0.1", False),
        ("192.0.2.1", "::1", False),
        ("192.0.2.1", "10.9.9.9", True),
    ],
)
def test_loopback_and_lan_are_no_peers(listening_on: str, host: str, within_reach: bool) -> None:
    ear = Ear(own=None, listening_on=listening_on)

    ear.hear(dataclasses.replace(RACK, host=host))

    assert bool(ear.told) is within_reach
    assert ear.count("outOfReach") == (0 if within_reach else 1)
    assert ear.events() == ([] if within_reach else ["discovery.out_of_reach"])


def test_a_listener_that_fails_misses_nothing_else() -> None:
    ear = Ear()

    def fail(found: Found) -> None:
        raise RuntimeError("a defect of the listener")

    ear.hearsay.begin(OWN, "192.0.2.1", ear.on_found, fail)
    ear.hear(RACK)
    ear.hear(dataclasses.replace(RACK, epoch=8))

    assert [found.epoch for _, found in ear.told] == [7, 8]
    assert ear.events() == ["discovery.listener_failed"]


def test_beginning_again_forgets_what_was_heard() -> None:
    ear = Ear()
    ear.hear(RACK)

    ear.hearsay.begin(OWN, "192.0.2.1", ear.on_found, ear.on_gone)
    assert (ear.hearsay.known(), len(ear.hearsay)) == ([], 0)

    ear.hear(RACK)
    assert ear.told == [("found", FOUND), ("found", FOUND)]


def finding(number: int) -> Found:
    return Found(f"tcp://192.0.2.2:{number + 1}", "mdns", f"w{number}", 1, "rack")


def test_a_full_table_takes_a_newcomer_and_lets_the_oldest_go() -> None:
    table = AdvertTable(limit=3)
    for number in range(3):
        table.hear(f"n{number}", finding(number))

    changes = table.hear("n3", finding(3))

    assert changes == [Change(finding(0), gone=True), Change(finding(3))]
    assert table.known() == [finding(1), finding(2), finding(3)]


def test_names_of_no_use_push_no_peer_out() -> None:
    table = AdvertTable(limit=3)
    table.hear("peer", finding(0))

    for number in range(10):
        assert table.hear(f"junk{number}", None) == []

    assert table.known() == [finding(0)]
    assert len(table) == 4
    assert "junk9" in table
    assert "junk0" not in table


names = st.sampled_from(["a", "b", "c", "d", "e"])
findings = st.none() | st.builds(
    Found,
    endpoint=st.sampled_from(["tcp://h:1", "tcp://h:2"]),
    source=st.just("mdns"),
    worker_id=st.sampled_from(["w1", "w2", "w3"]),
    epoch=st.integers(1, 3),
)


@given(st.lists(st.tuples(st.booleans(), names, findings), max_size=40), st.integers(1, 4))
def test_a_listener_that_follows_the_changes_knows_what_the_table_knows(
    steps: list[tuple[bool, str, Found | None]], limit: int
) -> None:
    table = AdvertTable(limit)
    mirror: list[Found] = []

    for hears, name, found in steps:
        for changed, gone in table.hear(name, found) if hears else table.forget(name):
            if gone:
                mirror.remove(changed)
            else:
                assert changed not in mirror
                mirror.append(changed)
        assert mirror == table.known()
        assert len({found.worker_id for found in mirror}) == len(mirror) <= limit
        assert len(table) <= 2 * limit
