"""The list of revocations: signed, only ever replaced by a newer one, bounded, and not growing for ever."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from wrk_base.security.certificate import Untrusted, key_id, public_bytes
from wrk_base.security.revocations import MAX_ENTRIES, MAX_PACKED, Entry, Revocations

NOW = 1_800_000_000
DAY = 86_400
ROOT = Ed25519PrivateKey.from_private_bytes(b"r" * 32)
STRANGER = Ed25519PrivateKey.from_private_bytes(b"s" * 32)
ROOT_PUBLIC = public_bytes(ROOT)
EMPTY = Revocations.empty()


def id_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


def listing(*ids: int, until: int = NOW + DAY) -> Revocations:
    found = EMPTY
    for number in ids:
        found = found.add(ROOT, id_of(number), f"w{number}", until, NOW)
    return found


def full() -> Revocations:
    entries = tuple(Entry(id_of(n), f"w{n}", NOW + DAY + n) for n in range(MAX_ENTRIES))
    return Revocations(7, entries, bytes(64))


def test_a_list_comes_back_as_it_was_packed() -> None:
    for made in (EMPTY, listing(1), listing(1, 2, 3)):
        assert Revocations.unpack(made.pack()) == made
        made.verify(ROOT_PUBLIC)
    assert len(full().pack()) < MAX_PACKED


def test_the_longest_list_can_be_sent() -> None:
    entries = tuple(Entry(id_of(n), "\U00010348" * 128, 2**53 - 1) for n in range(MAX_ENTRIES))
    longest = Revocations(2**63 - 1, entries, bytes(64))
    assert Revocations.unpack(longest.pack()) == longest


def test_a_key_is_barred_by_itself_and_by_its_id() -> None:
    key = b"k" * 32
    found = EMPTY.add(ROOT, key_id(key), "w", NOW + DAY, NOW)
    assert found.bars(key)
    assert found.bars(key_id(key))
    assert not found.bars(b"o" * 32)
    assert not EMPTY.bars(key)


# --- one replaces another


def test_only_a_newer_list_replaces_one() -> None:
    first = listing(1)
    second = first.add(ROOT, id_of(2), "w2", NOW + DAY, NOW)
    assert (first.serial, second.serial) == (1, 2)
    assert second.replaces(first, ROOT_PUBLIC)
    assert first.replaces(EMPTY, ROOT_PUBLIC)
    assert not first.replaces(second, ROOT_PUBLIC)
    assert not first.replaces(first, ROOT_PUBLIC)
    assert not EMPTY.replaces(EMPTY, ROOT_PUBLIC)


def test_a_newer_list_that_the_root_did_not_sign_is_refused() -> None:
    for bad in (EMPTY.add(STRANGER, id_of(1), "w", NOW, NOW), replace(listing(1), signature=bytes(64))):
        with pytest.raises(Untrusted, match="list of revocations has a bad signature"):
            bad.replaces(EMPTY, ROOT_PUBLIC)
        assert not bad.replaces(listing(2), ROOT_PUBLIC), "old news are not looked at"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("serial", 3),
        ("entries", ()),
        ("entries", (Entry(id_of(1), "w1", NOW + DAY),)),
        ("entries", (Entry(id_of(2), "w2", NOW + DAY), Entry(id_of(1), "w1", NOW + DAY))),
        ("entries", (Entry(id_of(1), "w1", NOW + DAY), Entry(id_of(2), "w3", NOW + DAY))),
        ("entries", (Entry(id_of(1), "w1", NOW + DAY), Entry(id_of(2), "w2", NOW))),
    ],
)
def test_nothing_can_be_changed_under_a_signature(field: str, value: Any) -> None:
    with pytest.raises(Untrusted, match="bad signature"):
        replace(listing(1, 2), **{field: value}).verify(ROOT_PUBLIC)


# --- entries come and go


@pytest.mark.parametrize(("age", "stays"), [(1199, True), (1200, True), (1201, False)])
def test_an_entry_stays_until_its_certificates_are_out_of_date_everywhere(age: int, stays: bool) -> None:
    found = listing(1).add(ROOT, id_of(2), "w2", NOW + 9 * DAY, NOW + DAY + age)
    assert found.bars(id_of(1)) is stays
    assert found.bars(id_of(2))


def test_an_entry_that_is_there_already_stays_for_the_longer_of_both_times() -> None:
    for until, longest in ((NOW + 1, NOW + DAY), (NOW + 2 * DAY, NOW + 2 * DAY)):
        again = listing(1).add(ROOT, id_of(1), "renamed", until, NOW)
        assert again.entries == (Entry(id_of(1), "renamed", longest),)
        assert again.serial == 2


def test_a_full_list_says_when_there_is_room_again() -> None:
    with pytest.raises(ValueError, match=r"2048 keys are revoked.* dropped in 1\.0 days"):
        full().add(ROOT, id_of(MAX_ENTRIES), "w", NOW + 5 * DAY, NOW)
    again = full().add(ROOT, id_of(5), "w", NOW + 5 * DAY, NOW)
    assert len(again.entries) == MAX_ENTRIES
    room = full().add(ROOT, id_of(MAX_ENTRIES), "w", NOW + 5 * DAY, NOW + DAY + 1201)
    assert len(room.entries) == MAX_ENTRIES
    assert not room.bars(id_of(0))


# --- what comes from others


def row(**changed: Any) -> bytes:
    fields: dict[str, Any] = {"serial": 1, "entries": [(id_of(1), "w", NOW)], "signature": bytes(64)}
    return msgspec.msgpack.encode(tuple({**fields, **changed}.values()))


def test_the_row_that_the_malformed_ones_differ_from_is_sound() -> None:
    assert Revocations.unpack(row()).serial == 1


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\x91" * 1000,
        bytes(MAX_PACKED + 1),
        row() + b"\0",
        row(serial=-1),
        row(serial=2**63),
        row(serial=True),
        row(serial=0),
        row(serial=0, signature=b""),
        row(serial=0, entries=[]),
        row(signature=b""),
        row(signature=bytes(65)),
        row(entries=[(id_of(1), "w")]),
        row(entries=[(b"short", "w", NOW)]),
        row(entries=[(id_of(1), "a\nb", NOW)]),
        row(entries=[(id_of(1), "", NOW)]),
        row(entries=[(id_of(1), "w", 0)]),
        row(entries=[(id_of(1), "w", 2**53)]),
        row(entries=[(id_of(1), "w", float(NOW))]),
        row(entries=[(id_of(1), "w", NOW), (id_of(1), "v", NOW)]),
        row(entries=[(id_of(n), "w", NOW) for n in range(MAX_ENTRIES + 1)]),
    ],
)
def test_what_is_no_list_is_refused(packed: bytes) -> None:
    with pytest.raises(Untrusted, match="list of revocations is malformed"):
        Revocations.unpack(packed)


@given(st.binary(max_size=200))
def test_whatever_bytes_come_the_only_error_is_untrusted(data: bytes) -> None:
    try:
        assert Revocations.unpack(data) == EMPTY, "the one list that nobody signs"
    except Untrusted:
        pass
