"""What a worker announces: every advert survives the TXT record, and whatever else comes from the
network ends in an advert within bounds or in `BadAdvert`, never in anything else."""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrk_base.discovery.advert import (
    MAX_ADDRESSES,
    MAX_EPOCH,
    MAX_KEY,
    MAX_LABEL,
    MAX_TXT_ENTRY,
    METADATA_ADDRESS,
    ROLES,
    Advert,
    BadAdvert,
    NotDialable,
    StaticPeer,
    facts_of,
    from_txt,
    hosts_of,
    parse_peer,
    short_id,
    split_txt,
)
from wrk_base.security import z85

KEY = z85.encode(bytes(range(32)))

RACK = Advert(
    worker_id="r1-0badcafe",
    epoch=(3 << 32) | 0xC0FFEE,
    role="rack",
    mesh="default",
    host="192.0.2.7",
    port=40123,
    version=1,
    key="s3aled",
    mesh_id="ab12cd3400000001",
)

ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", fullmatch=True)
hosts = st.one_of(
    st.ip_addresses(v=4).filter(lambda ip: not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)),
    st.ip_addresses(v=6, network="2001:db8::/32"),
    st.ip_addresses(v=6, network="fd00::/8"),
).filter(lambda ip: ip != METADATA_ADDRESS)
adverts = st.builds(
    Advert,
    worker_id=ids,
    epoch=st.integers(1, MAX_EPOCH),
    role=st.sampled_from(sorted(ROLES)),
    mesh=st.from_regex(r"[A-Za-z0-9._-]{1,63}", fullmatch=True),
    host=hosts.map(str),
    port=st.integers(1, 65535),
    version=st.integers(1, 65535),
    key=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=MAX_KEY),
    mesh_id=st.just("") | st.from_regex(r"[0-9a-f]{16}", fullmatch=True),
)
txt_values = st.none() | st.binary(max_size=300) | st.sampled_from([b"1", b"rack", b"default", b"r1", b"ff"])
txt_records = st.dictionaries(st.sampled_from(["v", "m", "i", "id", "e", "r", "k", "x", ""]), txt_values)


@given(adverts)
def test_an_advert_comes_back_from_its_txt_record(advert: Advert) -> None:
    txt = advert.to_txt()

    assert from_txt(txt, [advert.host], advert.port) == advert
    assert all(len(key) + 1 + len(value) <= MAX_TXT_ENTRY for key, value in txt.items())


@given(
    txt_records,
    st.lists(st.text(max_size=20) | st.ip_addresses().map(str), max_size=3),
    st.none() | st.integers(-1, 70_000),
)
def test_whatever_the_network_sends_is_an_advert_or_a_bad_advert(
    txt: dict[str, bytes | None], addresses: list[str], port: int | None
) -> None:
    try:
        advert = from_txt(txt, addresses, port)
    except BadAdvert:
        return
    assert from_txt(advert.to_txt(), [advert.host], advert.port) == advert


@given(txt_records)
def test_replacing_parts_of_a_good_record_ends_the_same_way(txt: dict[str, bytes | None]) -> None:
    try:
        assert from_txt({**RACK.to_txt(), **txt}, [RACK.host], RACK.port).host == RACK.host
    except BadAdvert:
        pass


def test_the_record_holds_only_what_never_changes() -> None:
    assert RACK.to_txt() == {
        "v": b"1",
        "m": b"default",
        "id": b"r1-0badcafe",
        "e": b"300c0ffee",
        "r": b"rack",
        "i": b"ab12cd3400000001",
        "k": b"s3aled",
    }
    assert {"i", "k"}.isdisjoint(dataclasses.replace(RACK, key="", mesh_id="").to_txt())


@given(adverts, adverts)
def test_a_key_is_sealed_for_who_where_and_in_which_mesh(one: Advert, other: Advert) -> None:
    told = [dataclasses.astuple(dataclasses.replace(a, key="", mesh="m", version=1)) for a in (one, other)]

    assert (facts_of(one) == facts_of(other)) is (told[0] == told[1])
    assert facts_of(one) == facts_of(dataclasses.replace(one, key="", mesh="other"))


@pytest.mark.parametrize(
    "moved",
    [
        {"worker_id": "r2"},
        {"epoch": 1},
        {"role": "worker"},
        {"host": "192.0.2.8"},
        {"port": 1},
        {"mesh_id": ""},
    ],
)
def test_a_seal_for_one_advert_is_none_for_another(moved: dict[str, Any]) -> None:
    assert facts_of(dataclasses.replace(RACK, **moved)) != facts_of(RACK)


def test_one_address_written_in_two_ways_is_one_fact() -> None:
    facts = {facts_of(dataclasses.replace(RACK, host=host)) for host in ("fd00::9", "fd00:0:0::9")}

    assert len(facts) == 1


def test_a_mesh_is_told_apart_by_the_first_bytes_of_its_id() -> None:
    assert short_id(bytes.fromhex("ab12cd3400000001") + b"the rest") == "ab12cd3400000001"
    assert short_id(b"") == ""


@pytest.mark.parametrize(
    ("raw", "entries"),
    [
        (b"", {}),
        (b"\x00", {"": None}),
        (b"\x03a=1\x01b\x02c=", {"a": b"1", "b": None, "c": b""}),
        (b"\x03a=1\x03a=2", {"a": b"1"}),
        (b"\x05a=b=c\x02\xff=", {"a": b"b=c", "\ufffd": b""}),
        (b"\xffa=1", {"a": b"1"}),
    ],
)
def test_a_txt_record_is_split(raw: bytes, entries: dict[str, bytes | None]) -> None:
    assert split_txt(raw) == entries


@given(st.binary(max_size=600))
def test_any_txt_record_is_split(raw: bytes) -> None:
    assert len(split_txt(raw)) <= len(raw)


def test_keys_of_a_later_version_are_ignored() -> None:
    assert from_txt({**RACK.to_txt(), "zz": b"\xff", "flag": None}, [RACK.host], RACK.port) == RACK


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("id", None, "id: missing"),
        ("id", b"", "worker id"),
        ("id", b"\xff\xfe", "id: not UTF-8"),
        ("id", b"a" * 129, "worker id"),
        ("id", b"a" * 300, "id: too long"),
        ("id", b"r1\n", "worker id"),
        ("id", b"-r1", "worker id"),
        ("m", None, "m: missing"),
        ("m", b"", "mesh"),
        ("m", b"m" * 64, "mesh"),
        ("m", b"two words", "mesh"),
        ("e", b"0", "epoch"),
        ("e", b"-1", "e: not a number"),
        ("e", b"0x1", "e: not a number"),
        ("e", b"1" * 17, "e: not a number"),
        ("e", "١".encode(), "e: not a number"),
        ("r", b"king", "role"),
        ("r", None, "r: missing"),
        ("v", b"0", "v: not a number"),
        ("v", b"1.0", "v: not a number"),
        ("v", b"65536", "version"),
        ("k", b"k" * 129, "key"),
        ("k", b"a key", "key"),
        ("i", b"ab12", "mesh id"),
        ("i", b"AB12CD3400000001", "mesh id"),
    ],
)
def test_a_field_that_is_off_is_named(key: str, value: bytes | None, complaint: str) -> None:
    txt: dict[str, bytes | None] = {**RACK.to_txt(), key: value}

    with pytest.raises(BadAdvert, match=f"^{complaint}"):
        from_txt(txt, [RACK.host], RACK.port)


@pytest.mark.parametrize("port", [None, 0, -1, 65536])
def test_a_port_that_cannot_be_dialled_is_refused(port: int | None) -> None:
    with pytest.raises(BadAdvert, match="port"):
        from_txt(RACK.to_txt(), [RACK.host], port)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "224.0.0.251",
        "255.255.255.255",
        "240.0.0.1",
        "169.254.169.254",
        "::",
        "ff02::fb",
        "fe80::1",
        "fe80::1%eth0",
        "::ffff:127.0.0.1",
        "host.local",
        "",
    ],
)
def test_an_address_that_is_no_host_is_refused(address: str) -> None:
    with pytest.raises(BadAdvert, match="address"):
        from_txt(RACK.to_txt(), [address], RACK.port)


def test_no_address_is_another_complaint_than_none_to_dial() -> None:
    with pytest.raises(BadAdvert, match=r"no address$") as caught:
        from_txt(RACK.to_txt(), [], RACK.port)
    assert not isinstance(caught.value, NotDialable)
    with pytest.raises(NotDialable):
        from_txt(RACK.to_txt(), ["169.254.169.254", "224.0.0.1"], RACK.port)


def test_of_many_addresses_the_first_are_looked_at() -> None:
    assert hosts_of([f"10.0.0.{n}" for n in range(1, 100)]) == [
        f"10.0.0.{n}" for n in range(1, MAX_ADDRESSES + 1)
    ]


def test_the_first_address_that_can_be_dialled_is_taken() -> None:
    heard = from_txt(RACK.to_txt(), ["0.0.0.0", "fe80::1", "10.0.0.9", "10.0.0.8"], RACK.port)

    assert heard.endpoint == "tcp://10.0.0.9:40123"
    assert from_txt(RACK.to_txt(), ["fd00:0::9"], 1).endpoint == "tcp://[fd00::9]:1"


@given(adverts)
def test_a_label_fits_into_a_dns_name(advert: Advert) -> None:
    assert len(advert.label.encode()) <= MAX_LABEL
    assert "." not in advert.label
    assert advert.label.endswith(f"-{advert.epoch:x}")


def test_a_short_id_is_readable_in_its_label() -> None:
    assert RACK.label == "r1-0badcafe-300c0ffee"


@given(st.sets(ids, min_size=2, max_size=20), st.integers(1, MAX_EPOCH))
def test_two_ids_never_share_a_label(worker_ids: set[str], epoch: int) -> None:
    labels = {dataclasses.replace(RACK, worker_id=worker, epoch=epoch).label for worker in worker_ids}

    assert len(labels) == len(worker_ids)


@pytest.mark.parametrize(
    ("one", "other"),
    [("rack.1", "rack-1"), ("rack:1", "rack-1"), ("a" * 60 + "1", "a" * 60 + "2"), ("a" * 47, "a" * 48)],
)
def test_ids_that_look_alike_once_shortened_keep_apart(one: str, other: str) -> None:
    labels = [dataclasses.replace(RACK, worker_id=worker, epoch=MAX_EPOCH).label for worker in (one, other)]

    assert labels[0] != labels[1]


@pytest.mark.parametrize(
    ("text", "peer", "endpoint"),
    [
        ("tcp://10.0.0.5:8004", StaticPeer("10.0.0.5", 8004), "tcp://10.0.0.5:8004"),
        ("10.0.0.5:8004", StaticPeer("10.0.0.5", 8004), "tcp://10.0.0.5:8004"),
        (" gpu-1.lan:8004 ", StaticPeer("gpu-1.lan", 8004), "tcp://gpu-1.lan:8004"),
        (f"tcp://localhost:1#{KEY}", StaticPeer("localhost", 1, KEY), "tcp://localhost:1"),
        (f"tcp://[fd00::1]:8004#{KEY}", StaticPeer("fd00::1", 8004, KEY), "tcp://[fd00::1]:8004"),
        ("[::1]:65535", StaticPeer("::1", 65535), "tcp://[::1]:65535"),
        ("h:1#" + "0#:[2" * 8, StaticPeer("h", 1, "0#:[2" * 8), "tcp://h:1"),
    ],
)
def test_a_static_peer_is_read(text: str, peer: StaticPeer, endpoint: str) -> None:
    assert parse_peer(text) == peer
    assert parse_peer(text).endpoint == endpoint


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no port"),
        ("gpu-1", "no port"),
        ("tcp://gpu-1", "no port"),
        ("tcp://[fd00::1]", "no port"),
        (":8004", "no port"),
        ("gpu-1:", "the port is a number"),
        ("gpu-1:0", "the port is a number"),
        ("gpu-1:65536", "the port is a number"),
        ("gpu-1:port", "the port is a number"),
        ("http://gpu-1:80", "only tcp://"),
        ("fd00::1:8004", "an IPv6 address goes in brackets"),
        ("[gpu-1]:8004", "no address to dial"),
        ("[fe80::1]:8004", "no address to dial"),
        ("0.0.0.0:8004", "no address to dial"),
        ("300.1.1.1:8004", "no address to dial"),
        ("gpu 1:8004", "no host name or address"),
        ("user@gpu-1:8004", "no host name or address"),
        ("gpu-1:8004#", "no key after the #"),
        ("gpu-1:8004#KEY", "the key is 40 characters of Z85"),
        (f"gpu-1:8004#{KEY}0", "the key is 40 characters"),
        (f"gpu-1:8004#{KEY[:-1]}~", "the key is 40 characters"),
        ("gpu-1:8004#" + "#" * 40, "the key is 40 characters"),
    ],
)
def test_a_static_peer_that_cannot_be_read_is_explained(text: str, problem: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_peer(text)

    assert f"static peer {text!r}: {problem}" in str(caught.value)
    assert "write tcp://host:port or tcp://host:port#KEY" in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_a_peer_or_a_value_error(text: str) -> None:
    try:
        peer = parse_peer(text)
    except ValueError:
        return
    assert parse_peer(peer.endpoint + (f"#{peer.key}" if peer.key else "")) == peer


@given(hosts, st.integers(1, 65535))
def test_an_endpoint_reads_back_as_a_static_peer(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    advert = dataclasses.replace(RACK, host=str(ip), port=port)

    assert parse_peer(advert.endpoint) == StaticPeer(str(ip), port)
