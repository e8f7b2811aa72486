"""Which link leads from a network's bridge, and whose it is where two networks ask for one."""

from typing import Any

import pytest

from nova_netagent.compile.links import Bridge, Vlan
from nova_netagent.model import Object
from nova_netagent.testing import make_floating_ip, make_group, make_instance, make_network, make_rule, network_id
from tests.unit.compile.world import World, make_settings


def errors(world: World, each: Object) -> list[str]:
    return [message for kind, message in world.problems(each) if kind == "error"]


def test_a_flat_network_and_a_vlan() -> None:
    flat = make_network(1, bridge_interface="eth1")
    tagged = make_network(2, bridge_interface="eth1", vlan=7, mtu=1400)
    bare = make_network(3)
    links = World(flat, tagged, bare).compiled.links
    assert links.bridges == {
        "br1": Bridge("br1", None, "eth1"), "br2": Bridge("br2", 1400, "vlan7"), "br3": Bridge("br3", None),
    }  # fmt: skip
    assert links.uplinks == {"eth1": "br1", "vlan7": "br2"}
    assert links.vlans == {"vlan7": Vlan("vlan7", "eth1", 7, 1400)}
    assert [list(links.under(name)) for name in ("br1", "br2", "br3", "br9")] == [["eth1"], ["vlan7", "eth1"], [], []]


@pytest.mark.parametrize(
    ("options", "fields", "uplinks", "carrier"),
    [
        ({"flat_interface": "eth7"}, {"bridge_interface": "eth1"}, {"eth7": "br1"}, None),
        ({"vlan_interface": "eth7"}, {"bridge_interface": "eth1"}, {"eth1": "br1"}, None),
        ({"vlan_interface": "eth7"}, {"bridge_interface": "eth1", "vlan": 7}, {"vlan7": "br1"}, "eth7"),
        ({"flat_interface": "eth7"}, {"bridge_interface": "eth1", "vlan": 7}, {"vlan7": "br1"}, "eth1"),
        ({"flat_interface": "eth7"}, {"vlan": 7}, {}, None),
        ({"flat_interface": "eth7", "manage_links": False}, {}, {}, None),
    ],
)
def test_the_local_option_wins(
    options: dict[str, Any], fields: dict[str, Any], uplinks: dict[str, str], carrier: str | None
) -> None:
    links = World(make_network(1, **fields), settings=make_settings(**options)).compiled.links
    assert links.uplinks == uplinks
    assert [each.interface for each in links.vlans.values()] == ([] if carrier is None else [carrier])


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        ({}, {"bridge_interface": "eth1"}, "it wants eth1 in bridge br2, and {} has eth1 in bridge br1 already"),
        (
            {"bridge": "br1"},
            {"bridge": "br1", "bridge_interface": "eth2"},
            "it wants eth2 in bridge br1, and {} has eth1 in bridge br1 already",
        ),
        (
            {"vlan": 7},
            {"bridge_interface": "eth2", "vlan": 7},
            "it wants vlan7 on eth2 in bridge br2, and {} has vlan7 on eth1 in bridge br1 already",
        ),
        (
            {"vlan": 7},
            {"bridge": "br1", "bridge_interface": "eth1"},
            "it wants eth1 in bridge br1, and {} has vlan7 on eth1 in bridge br1 already",
        ),
    ],
)
def test_the_older_keeps_the_uplink(first: dict[str, Any], second: dict[str, Any], why: str) -> None:
    """Whichever has the lower id: of two that claim one thing, the older."""
    for one, two in ((1, 2), (2, 1)):
        older = make_network(one, **({"bridge": "br1", "bridge_interface": "eth1"} | first))
        younger = make_network(two, **({"bridge": "br2"} | second))
        world = World(older, younger, make_instance(5, network=two))
        holder = f"network {network_id(one)} ({older.label})"
        assert errors(world, younger) == [why.format(holder)]
        assert errors(world, older) == []
        assert list(world.compiled.links.bridges) == ["br1"]
        assert world.compiled.links.ports == {}


def test_networks_that_agree_share_a_bridge_and_its_uplink() -> None:
    one = make_network(1, bridge_interface="eth1")
    two, three = make_network(2, bridge="br1", bridge_interface="eth1"), make_network(3, bridge="br1")
    world = World(one, two, three)
    assert [errors(world, each) for each in (one, two, three)] == [[], [], []]
    assert world.compiled.links.uplinks == {"eth1": "br1"}


def test_a_network_that_overlaps_holds_no_uplink() -> None:
    overlapping = make_network(2, cidr="10.1.0.0/16", gateway="10.1.9.9", bridge_interface="eth1")
    third = make_network(3, bridge_interface="eth1")
    world = World(make_network(1), overlapping, third)
    assert errors(world, third) == []
    assert world.compiled.links.uplinks == {"eth1": "br3"}


def test_links_of_somebody_else_are_not_contested() -> None:
    networks = [make_network(number, bridge_interface="eth1") for number in (1, 2)]
    world = World(*networks, settings=make_settings(manage_links=False))
    assert [errors(world, each) for each in networks] == [[], []]


@pytest.mark.parametrize(("shared", "options"), [(True, {}), (False, {"share_dhcp_address": True})])
def test_an_address_that_every_host_has_is_not_announced(shared: bool, options: dict[str, Any]) -> None:
    world = World(make_network(1, share_address=shared), settings=make_settings(**options))
    assert [each.announce for each in world.compiled.links.addresses if each.interface == "br1"] == [False, False]
    assert any(each.announce for each in World(make_network(1)).compiled.links.addresses)


# --- a public interface that is an uplink


@pytest.mark.parametrize(
    ("fields", "interface"), [({"bridge_interface": "eth0"}, "br1"), ({"bridge_interface": "eth1"}, "eth0")]
)
def test_what_comes_and_goes_by_an_uplink_does_so_by_its_bridge(fields: dict[str, str], interface: str) -> None:
    """nova's operators had to say ``public_interface = br100``; the interface means the same here."""
    everybody = make_group(1, make_rule(1))
    settings = make_settings(public_interface="eth0", fixed_range=("10.0.0.0/8",))
    world = World(make_network(1, **fields), everybody, make_instance(1, (1,)), make_floating_ip(1), settings=settings)
    (bound,) = [each.interface for each in world.compiled.links.addresses if each.cidr == "198.51.100.1/32"]
    assert bound == interface
    assert any(f"-o {interface} " in rule and "SNAT" in rule for rule in world.chain("snat", "nat"))
    assert any(f"-s 10.1.0.2/32 -o {interface} " in rule for rule in world.chain("float-snat", "nat"))
