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

from wrk_base.discovery import Found, OtherMesh
from wrk_base.discovery.advert import SERVICE_TYPE, Advert, facts_of, short_id
from wrk_base.discovery.hearsay import (
    FORGED_LOGGED_EVERY,
    MAX_MESHES,
    MAX_NAMED,
    UNSEALED_PEERS,
    UNSEALED_RATE,
    Hearsay,
)
from wrk_base.discovery.reach import Reach
from wrk_base.discovery.table import MAX_ASIDE, AdvertTable, Change
from wrk_base.security import z85
from wrk_base.security.seal import Seal

OWN = Advert("o1-00000001", 5, "orchestrator", "default", "192.168.1.1", 8004, 1)
RACK = Advert("r1-00000001", 7, "rack", "default", "192.168.1.2", 4000, 1, "KEY")
FOUND = Found("tcp://192.168.1.2:4000", "mdns", "r1-00000001", 7, "rack")
MESH_ID, KEY = b"id of the mesh..", bytes(range(32))
SEAL = Seal(b"discovery secret of this test...", MESH_ID)


def sealed(advert: Advert, seal: Seal = SEAL, mesh_id: bytes = MESH_ID) -> Advert:
    known = dataclasses.replace(advert, mesh_id=short_id(mesh_id))
    return dataclasses.replace(known, key=seal.seal(KEY, facts_of(known)))


def name_of(advert: Advert) -> str:
    return f"{advert.label}.{SERVICE_TYPE}".lower()


class Ear:
    """A `Hearsay` with what it told and logged."""

    def __init__(
        self, own: Advert | None = OWN, listening_on: str = "192.168.1.1", seal: Seal | None = None
    ) -> None:
        self.log = LogCapture()
        self.told: list[tuple[str, Found]] = []
        logger: Any = structlog.wrap_logger(
            None, processors=[self.log], wrapper_class=structlog.make_filtering_bound_logger(0)
        )
        self.hearsay = Hearsay("default", logger, seal, MESH_ID if seal else b"")
        self.reach = Reach([f"{listening_on}/24"], own.port if own else 0)
        self.now = 0.0
        self.hearsay.begin(own, self.reach, self.on_found, self.on_gone)

    def on_found(self, found: Found) -> None:
        self.told.append(("found", found))

    def on_gone(self, found: Found) -> None:
        self.told.append(("gone", found))

    def hear(self, advert: Advert, *addresses: str, name: str = "") -> bool:
        """Whether it is one to remember."""
        txt: dict[str, bytes | None] = {**advert.to_txt()}
        hosts = addresses or (advert.host,)
        return self.hearsay.hear(name or name_of(advert), txt, hosts, advert.port, self.now)

    def forget(self, advert: Advert) -> None:
        self.hearsay.forget(name_of(advert))

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

    ear.forget(RACK)
    ear.forget(RACK)
    assert ear.told == [("found", FOUND), ("gone", FOUND)]
    assert ear.hearsay.known() == []
    assert (ear.count("found"), ear.count("gone")) == (1, 1)


def test_a_peer_that_moved_is_gone_and_found_anew() -> None:
    ear = Ear()
    ear.hear(RACK)

    ear.hear(dataclasses.replace(RACK, port=4001))

    moved = dataclasses.replace(FOUND, endpoint="tcp://192.168.1.2:4001")
    assert ear.told[1:] == [("gone", FOUND), ("found", moved)]


def test_a_restarted_peer_replaces_what_its_crash_left_behind() -> None:
    ear = Ear()
    ear.hear(RACK)

    ear.hear(dataclasses.replace(RACK, epoch=8))
    assert ear.told[1:] == [("gone", FOUND), ("found", dataclasses.replace(FOUND, epoch=8))]

    ear.hear(RACK)
    ear.forget(RACK)
    assert [found.epoch for found in ear.hearsay.known()] == [8]


def test_a_name_belongs_to_one_start_of_one_worker() -> None:
    ear = Ear()

    assert not ear.hear(RACK, name=name_of(dataclasses.replace(RACK, epoch=8)))
    assert not ear.hear(RACK, name="x" + SERVICE_TYPE)

    assert ear.told == []
    assert ear.count("malformed") == 2


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
    assert ear.hearsay.strangers() == [OtherMesh("lab", ""), OtherMesh("shop", "")]


def test_of_other_meshes_the_last_are_remembered() -> None:
    ear = Ear()

    for number in range(MAX_MESHES + 5):
        ear.hear(dataclasses.replace(RACK, mesh=f"mesh-{number}"))
        ear.hear(dataclasses.replace(RACK, mesh="neighbour"))

    heard = ear.hearsay.strangers()
    assert len(heard) == MAX_MESHES
    assert heard[-2:] == [OtherMesh(f"mesh-{MAX_MESHES + 4}", ""), OtherMesh("neighbour", "")]


def test_strangers_that_make_up_names_do_not_fill_the_log() -> None:
    ear = Ear()

    for number in range(MAX_NAMED + 20):
        ear.hear(dataclasses.replace(RACK, mesh=f"mesh-{number}"))

    assert len(ear.log.entries) == MAX_NAMED
    assert ear.count("otherMesh") == MAX_NAMED + 20


def test_malformed_records_are_counted_and_named_without_what_they_hold() -> None:
    ear = Ear()

    ear.hearsay.hear("bad\x1b[2J\xff", {"\ufffd": b"secret", "id": None}, [], None, 0.0)

    assert ear.told == []
    assert ear.count("malformed") == 1
    (entry,) = ear.log.entries
    assert (entry["event"], entry["problem"]) == ("discovery.malformed", "id: missing")
    assert entry["name"].isascii()
    assert entry["name"].isprintable()


def test_a_bad_record_in_the_name_of_a_peer_changes_nothing() -> None:
    ear = Ear()
    ear.hear(RACK)

    ear.hearsay.hear(name_of(RACK), {}, [RACK.host], RACK.port, 0.0)
    ear.hear(dataclasses.replace(RACK, mesh="lab"))

    assert ear.told == [("found", FOUND)]
    assert ear.hearsay.known() == [FOUND]


@pytest.mark.parametrize(
    "echo",
    [OWN, dataclasses.replace(OWN, epoch=99, host="192.168.1.9")],
    ids=["our own advert", "our own id elsewhere"],
)
def test_we_are_no_peer_of_ours(echo: Advert) -> None:
    ear = Ear()

    assert not ear.hear(echo)

    assert ear.told == []
    assert ear.events() == []


def test_nobody_else_is_at_our_own_endpoint() -> None:
    ear = Ear()

    ear.hear(dataclasses.replace(RACK, host=OWN.host, port=OWN.port))

    assert ear.told == []
    assert ear.count("outOfReach") == 1


def test_who_only_looks_has_nothing_of_its_own() -> None:
    ear = Ear(own=None)

    ear.hear(OWN)

    assert [found.worker_id for _, found in ear.told] == [OWN.worker_id]


@pytest.mark.parametrize(
    ("listening_on", "host", "within_reach"),
    [
        ("127.0.0.1", "127.0.0.2", True),
        ("127.0.0.1", "192.168.1.2", False),
        ("192.168.1.1", "127.0.0.1", False),
        ("192.168.1.1", "10.9.9.9", True),
        ("192.168.1.1", "8.8.8.8", False),
    ],
)
def test_who_is_out_of_reach_is_counted_and_named(listening_on: str, host: str, within_reach: bool) -> None:
    ear = Ear(own=None, listening_on=listening_on)

    assert ear.hear(dataclasses.replace(RACK, host=host))

    assert bool(ear.told) is within_reach
    assert ear.count("outOfReach") == (0 if within_reach else 1)
    assert ear.events() == ([] if within_reach else ["discovery.out_of_reach"])


@pytest.mark.parametrize("address", ["169.254.169.254", "0.0.0.0", "224.0.0.251", "fe80::1"])
def test_an_address_of_no_neighbour_is_out_of_reach_for_everybody(address: str) -> None:
    ear = Ear(own=None)

    assert not ear.hear(RACK, address)

    assert (ear.told, ear.count("outOfReach")) == ([], 1)


def test_of_several_addresses_the_first_within_reach_is_taken() -> None:
    ear = Ear()

    ear.hear(RACK, "8.8.8.8", "127.0.0.1", RACK.host, "192.168.1.9")

    assert ear.told == [("found", FOUND)]


# --- with a seal


def test_what_a_member_sealed_is_found_with_its_key() -> None:
    ear = Ear(seal=SEAL)

    assert ear.hear(sealed(RACK))

    assert ear.told == [("found", dataclasses.replace(FOUND, key=z85.encode(KEY)))]
    assert ear.events() == []


@pytest.mark.parametrize(
    "forged",
    [
        RACK,
        dataclasses.replace(RACK, key=""),
        dataclasses.replace(sealed(RACK), port=4001),
        dataclasses.replace(sealed(RACK), host="192.168.1.66"),
        dataclasses.replace(sealed(RACK), worker_id="r2"),
        dataclasses.replace(sealed(RACK), epoch=8),
        dataclasses.replace(sealed(RACK), role="orchestrator"),
        sealed(RACK, Seal(b"a secret that was made up by me.", MESH_ID)),
    ],
    ids=["key", "no key", "port", "host", "worker", "epoch", "role", "secret"],
)
def test_what_no_member_sealed_is_never_found(forged: Advert) -> None:
    ear = Ear(seal=SEAL)

    assert not ear.hear(forged)

    assert (ear.told, len(ear.hearsay)) == ([], 0)
    assert ear.count("forged") == 1
    assert ear.events() == ["discovery.forged"]


def test_a_peer_is_what_it_was_whatever_is_forged_in_its_name() -> None:
    ear = Ear(seal=SEAL)
    ear.hear(sealed(RACK))

    for forged in (
        RACK,
        dataclasses.replace(sealed(RACK), host="192.168.1.66"),
        sealed(RACK, mesh_id=b"x" * 16),
    ):
        ear.hear(forged)

    assert len(ear.told) == 1
    assert [found.endpoint for found in ear.hearsay.known()] == [RACK.endpoint]


def test_the_forged_share_a_line_every_ten_seconds() -> None:
    ear = Ear(seal=SEAL)

    for number in range(1000):
        ear.now = 0.025 * number
        ear.hear(dataclasses.replace(RACK, worker_id=f"w{number}"))

    assert ear.count("forged") == 1000
    assert [entry["forged"] for entry in ear.log.entries] == [1, 401, 801]
    assert FORGED_LOGGED_EVERY == 10


def test_addresses_of_strangers_do_not_hide_the_one_that_is_sealed() -> None:
    ear = Ear(seal=SEAL)

    ear.hear(sealed(RACK), "192.168.1.66", "8.8.8.8", RACK.host)

    assert [found.endpoint for _, found in ear.told] == [RACK.endpoint]


def test_two_meshes_of_one_name_are_told_apart() -> None:
    ear = Ear(seal=SEAL)
    other_id = b"another id......"

    assert ear.hear(sealed(RACK, Seal(b"another secret of other people..", other_id), other_id))

    assert (ear.told, ear.count("otherMesh"), ear.count("forged")) == ([], 1, 0)
    assert ear.hearsay.strangers() == [OtherMesh("default", short_id(other_id))]
    (entry,) = ear.log.entries
    assert "`wrk invite --role rack`" in entry["advice"]
    assert "`wrk join STRING`" in entry["advice"]


def test_strangers_are_put_aside_within_bounds_and_may_speak_again() -> None:
    ear = Ear(seal=SEAL)

    taken = [ear.hear(dataclasses.replace(RACK, worker_id=f"w{n}", mesh="lab")) for n in range(2 * MAX_ASIDE)]
    assert sum(taken) == len(ear.hearsay) == MAX_ASIDE

    ear.hear(sealed(RACK))
    ear.hearsay.forget_strangers()
    assert len(ear.hearsay) == 1
    assert name_of(RACK) in ear.hearsay


def test_a_peer_that_a_stranger_named_first_is_found_all_the_same() -> None:
    ear = Ear(seal=SEAL)

    ear.hear(dataclasses.replace(RACK, mesh="lab"))
    ear.hear(sealed(RACK))

    assert [what for what, _ in ear.told] == ["found"]


def test_without_a_seal_new_peers_are_found_at_a_bounded_rate() -> None:
    ear = Ear()

    def crowd(now: float) -> int:
        ear.now, before = now, ear.count("found")
        for number in range(1000):
            ear.hear(dataclasses.replace(RACK, worker_id=f"w{number}-{now}"))
        return ear.count("found") - before

    assert crowd(0.0) == UNSEALED_PEERS
    assert crowd(2.0) == 2 * UNSEALED_RATE
    assert len(ear.hearsay.known()) == UNSEALED_PEERS


def test_without_a_seal_who_is_known_may_say_so_at_any_rate() -> None:
    ear = Ear()

    assert all(ear.hear(RACK) for _ in range(2 * UNSEALED_PEERS))
    assert ear.hear(dataclasses.replace(RACK, worker_id="r2"))


def test_a_listener_that_fails_misses_nothing_else() -> None:
    ear = Ear()

    def fail(found: Found) -> None:
        raise RuntimeError("a defect of the listener")

    ear.hearsay.begin(OWN, ear.reach, ear.on_found, fail)
    ear.hear(RACK)
    ear.hear(dataclasses.replace(RACK, epoch=8))

    assert [found.epoch for _, found in ear.told] == [7, 8]
    assert ear.events() == ["discovery.listener_failed"]


def test_beginning_again_forgets_what_was_heard() -> None:
    ear = Ear()
    ear.hear(RACK)

    ear.hearsay.begin(OWN, ear.reach, ear.on_found, ear.on_gone)
    assert (ear.hearsay.known(), len(ear.hearsay)) == ([], 0)

    ear.hear(RACK)
    assert ear.told == [("found", FOUND), ("found", FOUND)]


def finding(number: int) -> Found:
    return Found(f"tcp://192.168.1.2:{number + 1}", "mdns", f"w{number}", 1, "rack")


def test_a_full_table_takes_a_newcomer_and_lets_the_oldest_go() -> None:
    table = AdvertTable(limit=3)
    for number in range(3):
        table.hear(f"n{number}", finding(number))

    changes = table.hear("n3", finding(3))

    assert changes == [Change(finding(0), gone=True), Change(finding(3))]
    assert table.known() == [finding(1), finding(2), finding(3)]


def test_names_put_aside_push_no_peer_out() -> None:
    table = AdvertTable(limit=3, aside=3)
    table.hear("peer", finding(0))

    assert [table.put_aside(f"junk{number}") for number in range(5)] == [True, True, True, False, False]
    assert not table.put_aside("peer")

    assert table.known() == [finding(0)]
    assert len(table) == 4
    assert "junk2" in table
    assert "junk3" not in table


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
    table = AdvertTable(limit, aside=limit)
    mirror: list[Found] = []

    for hears, name, found in steps:
        if found is None:
            table.put_aside(name)
            continue
        for changed, gone in table.hear(name, found) if hears else table.forget(name):
            if gone:
                mirror.remove(changed)
            else:
                assert changed not in mirror
                mirror.append(changed)
        assert mirror == table.known()
        assert len({found.worker_id for found in mirror}) == len(mirror) <= limit
        assert len(table) <= 2 * limit
