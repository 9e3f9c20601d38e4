"""Which address of this machine is meant by --interface: a name, an address, or the wildcard, which is
the LAN and never a bridge of containers; and what is said when there is none."""

from __future__ import annotations

import pytest

from wrk_base.discovery.addresses import Interface, choose, interfaces_of, list_interfaces, resolve_interface
from wrk_base.errors import StartError

LO = Interface("lo", "127.0.0.1", 1)
ETH = Interface("eth0", "192.168.1.7", 2)
WIFI = Interface("wlan0", "192.168.2.7", 3)
DOCKER = Interface("docker0", "172.17.0.1", 4)
TUNNEL = Interface("wg0", "10.8.0.2", 5)
HOST = [LO, DOCKER, TUNNEL, ETH, WIFI]


@pytest.mark.parametrize(
    ("interface", "preferred", "chosen"),
    [
        ("eth0", None, [ETH]),
        ("192.168.2.7", None, [WIFI]),
        ("docker0", None, [DOCKER]),
        ("wg0", None, [TUNNEL]),
        ("lo", None, [LO]),
        ("0.0.0.0", None, [ETH, WIFI]),
        ("0.0.0.0", WIFI.address, [WIFI, ETH]),
        ("0.0.0.0", TUNNEL.address, [ETH, WIFI]),
    ],
)
def test_an_interface_stands_for_addresses(
    interface: str, preferred: str | None, chosen: list[Interface]
) -> None:
    assert choose(interface, HOST, preferred) == chosen


@pytest.mark.parametrize(
    "name",
    ["docker0", "br-0123456789ab", "veth12ab", "virbr0", "lxcbr0", "cni0", "tun0", "tailscale0", "bridge100"],
)
def test_the_wildcard_is_no_bridge_of_containers_and_no_tunnel(name: str) -> None:
    assert choose("0.0.0.0", [Interface(name, "172.17.0.1"), ETH], "172.17.0.1") == [ETH]


@pytest.mark.parametrize("name", ["eth0", "enp3s0", "wlp2s0", "en0", "br0", "vmbr0", "bond0", "bridge0"])
def test_the_wildcard_is_every_lan(name: str) -> None:
    assert choose("0.0.0.0", [LO, Interface(name, "10.1.2.3")], None) == [Interface(name, "10.1.2.3")]


@pytest.mark.parametrize("interface", ["eth9", "10.9.9.9", "", "localhost"])
def test_what_does_not_exist_is_answered_with_what_does(interface: str) -> None:
    with pytest.raises(StartError) as caught:
        choose(interface, [LO, ETH], None)

    assert str(caught.value) == (
        f"--interface {interface}: no interface or address of this machine, "
        "which has lo (127.0.0.1), eth0 (192.168.1.7)"
    )


def test_a_machine_without_a_lan_says_what_it_has() -> None:
    with pytest.raises(StartError, match=r"no address on a LAN; this machine has lo \(127.0.0.1\), docker0"):
        choose("0.0.0.0", [LO, DOCKER], None)
    with pytest.raises(StartError, match="this machine has none"):
        choose("0.0.0.0", [], None)


@pytest.mark.parametrize("interface", ["::1", "fd00::1"])
def test_ipv6_is_refused_in_as_many_words(interface: str) -> None:
    with pytest.raises(StartError, match="only IPv4 is served"):
        resolve_interface(interface)


def test_loopback_is_what_it_is() -> None:
    assert resolve_interface("127.0.0.1") == "127.0.0.1"
    assert interfaces_of("127.0.0.2") == [Interface("loopback", "127.0.0.2")]


def test_every_address_of_this_machine_is_found_by_itself() -> None:
    existing = list_interfaces()

    assert any(entry.address == "127.0.0.1" for entry in existing)
    for entry in existing:
        assert resolve_interface(entry.address) == entry.address


def test_an_address_has_the_network_that_it_is_in() -> None:
    assert Interface("eth0", "192.168.1.7", 2, 24).network == "192.168.1.7/24"
    assert {entry.network for entry in list_interfaces()} >= {"127.0.0.1/8"}
