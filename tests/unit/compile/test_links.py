"""The links and addresses that a state asks for."""

from typing import Any

import pytest

from nova_netagent.compile.links import Address, Bridge
from nova_netagent.testing import make_floating_ip, make_instance, make_network, make_vif
from tests.unit.compile.world import World, make_settings

QUIET = make_settings(metadata_host=None, send_arp_for_ha=False)


def addresses(world: World) -> list[tuple[str, str]]:
    return [(each.interface, each.cidr) for each in world.compiled.links.addresses]


def test_an_empty_state_wants_the_metadata_address_only() -> None:
    links = World().compiled.links
    assert links.addresses == (Address("lo", "169.254.169.254/32", True, False, None),)
    assert (links.bridges, links.ports, links.forward, links.filter_bridges) == ({}, {}, frozenset(), False)
    assert World(settings=QUIET).compiled.links.addresses == ()


def test_a_network_wants_a_bridge_with_the_hosts_addresses() -> None:
    network = make_network(1, mtu=1400)
    links = World(network).compiled.links
    assert links.bridges == {"br1": Bridge("br1", 1400)}
    key = ("networks", network.id)
    assert links.addresses[1:] == (
        Address("br1", "10.1.0.1/24", False, True, key),
        Address("br1", "fd00:1::1/64", False, True, key),
    )
    assert links.forward == {4, 6}
    assert links.filter_bridges


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ["10.1.0.1/24", "fd00:1::1/64"]),
        ({"dhcp_server": "10.1.0.2"}, ["10.1.0.2/24", "fd00:1::1/64"]),
        ({"gateway": None, "dhcp_server": "10.1.0.2"}, ["10.1.0.2/24", "fd00:1::1/64"]),
        ({"gateway": None}, ["fd00:1::1/64"]),
        ({"gateway_v6": "fe80::1"}, ["10.1.0.1/24", "fe80::1/64", "fd00:1::/64"]),
        ({"gateway_v6": "fe80::1", "cidr_v6": "fd00:1::/56"}, ["10.1.0.1/24", "fe80::1/64", "fd00:1::/56"]),
        ({"gateway_v6": "fe80::1", "cidr_v6": "fd00:1::2/127"}, ["10.1.0.1/24", "fe80::1/64"]),
        ({"cidr_v6": None, "gateway_v6": "fe80::1"}, ["10.1.0.1/24"]),
        ({"gateway_v6": None}, ["10.1.0.1/24"]),
        ({"cidr": "10.1.0.0/20"}, ["10.1.0.1/20", "fd00:1::1/64"]),
    ],
)
def test_which_addresses_the_bridge_gets(fields: dict[str, Any], expected: list[str]) -> None:
    assert addresses(World(make_network(1, **fields), settings=QUIET)) == [("br1", cidr) for cidr in expected]


@pytest.mark.parametrize(
    ("fields", "forwarded"),
    [
        ({}, {4, 6}),
        ({"gateway": None}, {6}),
        ({"gateway_v6": None}, {4}),
        ({"gateway": None, "dhcp_server": "10.1.0.2", "gateway_v6": None}, set()),
        ({"dhcp_server": "10.1.0.2"}, {4, 6}),
        ({"gateway_v6": "fe80::1"}, {4, 6}),
    ],
)
def test_forwarding_is_wanted_where_a_network_is_routed(fields: dict[str, Any], forwarded: set[int]) -> None:
    assert World(make_network(1, **fields)).compiled.links.forward == forwarded


def test_without_ipv6_no_ipv6_address_is_wanted() -> None:
    world = World(make_network(1), settings=QUIET, families=(4,))
    assert addresses(world) == [("br1", "10.1.0.1/24")]
    assert world.compiled.links.forward == {4}


def test_taps_are_ports_of_their_networks_bridge() -> None:
    instance = make_instance(1, vifs=(make_vif(1), make_vif(2, 2), make_vif(3, 9)))
    world = World(make_network(1), make_network(2), instance)
    assert world.compiled.links.ports == {"tap1": "br1", "tap2": "br2"}


def test_links_that_somebody_else_manages_are_left_alone() -> None:
    settings = make_settings(manage_links=False, public_interface="eth0")
    links = World(make_network(1), make_instance(1), make_floating_ip(1), settings=settings).compiled.links
    assert (links.bridges, links.ports) == ({}, {})
    assert [each.cidr for each in links.addresses] == ["169.254.169.254/32", "198.51.100.1/32"]
    assert links.filter_bridges
    assert links.forward == {4, 6}


@pytest.mark.parametrize(
    ("interface", "public", "expected"),
    [
        (None, "eth0", [("eth0", "198.51.100.1/32")]),
        ("eth5", "eth0", [("eth5", "198.51.100.1/32")]),
        ("eth5", None, [("eth5", "198.51.100.1/32")]),
        (None, None, []),
    ],
)
def test_where_a_floating_ip_is_bound(
    interface: str | None, public: str | None, expected: list[tuple[str, str]]
) -> None:
    settings = make_settings(metadata_host=None, public_interface=public)
    floating = make_floating_ip(1, interface=interface)
    world = World(make_network(1), floating, settings=settings)
    found = [each for each in world.compiled.links.addresses if each.interface != "br1"]
    assert [(each.interface, each.cidr) for each in found] == expected
    assert all(each.announce and each.origin == ("floating_ips", floating.id) for each in found)


def test_a_floating_ip_that_waits_is_bound_nowhere() -> None:
    assert addresses(World(make_floating_ip(1), settings=QUIET)) == []


def test_the_mtu_is_the_networks_own_or_the_hosts() -> None:
    settings = make_settings(network_device_mtu=9000)
    world = World(make_network(1), make_network(2, mtu=1400), settings=settings)
    assert {name: each.mtu for name, each in world.compiled.links.bridges.items()} == {"br1": 9000, "br2": 1400}


@pytest.mark.parametrize(("one", "other", "mtu"), [(None, 1400, 1400), (9000, 1400, 1400), (None, None, None)])
def test_a_bridge_has_the_smallest_mtu_of_its_networks(one: int | None, other: int | None, mtu: int | None) -> None:
    for first, second in ((one, other), (other, one)):
        world = World(make_network(1, mtu=first), make_network(2, bridge="br1", mtu=second), settings=QUIET)
        assert world.compiled.links.bridges["br1"].mtu == mtu


def test_two_networks_share_a_bridge() -> None:
    world = World(make_network(1), make_network(2, bridge="br1"), settings=QUIET)
    assert list(world.compiled.links.bridges) == ["br1"]
    assert addresses(world) == [
        ("br1", "10.1.0.1/24"),
        ("br1", "fd00:1::1/64"),
        ("br1", "10.2.0.1/24"),
        ("br1", "fd00:2::1/64"),
    ]
