"""Where an announcement may bring a process to dial: to a neighbour, and to nobody else."""

from __future__ import annotations

import pytest

from wrk_base.discovery.reach import Reach, parse_ranges

LAN = "192.168.1.7/24"
CAMPUS = "130.149.7.7/16"
LOOPBACK = "127.0.0.1/32"


@pytest.mark.parametrize(
    ("own", "host", "within"),
    [
        (LAN, "192.168.1.8", True),
        (LAN, "10.9.9.9", True),
        (LAN, "172.31.255.255", True),
        (LAN, "172.32.0.1", False),
        (LAN, "169.254.7.7", True),
        (LAN, "fd00::9", True),
        (LAN, "2001:db8::9", False),
        (LAN, "8.8.8.8", False),
        (LAN, "130.149.7.8", False),
        (LAN, "100.64.0.1", False),
        (LAN, "127.0.0.1", False),
        (LAN, "::1", False),
        (LAN, "no address", False),
        (CAMPUS, "130.149.200.1", True),
        (CAMPUS, "130.150.0.1", False),
        (CAMPUS, "10.9.9.9", True),
        (LOOPBACK, "127.0.0.1", True),
        (LOOPBACK, "127.0.0.2", True),
        (LOOPBACK, "::1", True),
        (LOOPBACK, "192.168.1.7", False),
    ],
)
def test_neighbours_are_within_reach(own: str, host: str, within: bool) -> None:
    assert (Reach([own]).complaint(host, 4000) == "") is within


def test_of_several_interfaces_each_has_its_network() -> None:
    reach = Reach([LAN, CAMPUS])

    assert [reach.complaint(host, 1) for host in ("192.168.1.9", "130.149.1.1")] == ["", ""]


def test_we_are_no_neighbour_of_ours() -> None:
    reach = Reach([LAN, CAMPUS], port=8004)

    assert reach.complaint("192.168.1.7", 8004) == "this process answers there"
    assert reach.complaint("130.149.7.7", 8004) == "this process answers there"
    assert reach.complaint("192.168.1.7", 8005) == ""
    assert reach.complaint("192.168.1.8", 8004) == ""


def test_ranges_that_were_chosen_replace_all_others() -> None:
    reach = Reach([LAN], ranges=parse_ranges(["100.64.0.0/10", "fd00::/8"]))

    assert [reach.complaint(host, 1) == "" for host in ("100.64.0.1", "fd00::9")] == [True, True]
    assert reach.complaint("192.168.1.8", 1) == "allow its network: discovery.ranges"
    assert Reach([LOOPBACK], ranges=parse_ranges(["10.0.0.0/8"])).complaint("127.0.0.1", 1) == ""


@pytest.mark.parametrize("text", ["", "192.168.1.7/24", "10.0.0.0/33", "lan"])
def test_a_range_that_is_none_is_explained(text: str) -> None:
    with pytest.raises(ValueError, match=r"no range of addresses: .*; write 192\.168\.0\.0/16"):
        parse_ranges([text])
