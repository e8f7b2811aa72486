"""What a network lets be forwarded, and what the host does for it."""

import pytest

from nova_netagent.model.protocols import TCP, UDP
from nova_netagent.netfilter.rule import FAMILIES, ChecksumFill, Family
from nova_netagent.testing import make_group, make_instance, make_network, make_rule
from tests.unit.compile.world import OUTSIDE, End, World, behind, host, make_settings, vm

OPEN = make_group(1, make_rule(1), make_rule(2, ethertype="IPv6"))
ETH5 = End("eth5", "198.18.0.5", "2001:db8:5::5")


def with_eth5(world: World) -> World:
    """A host with a second way out."""
    world.add_route("198.18.0.0/24", "eth5")
    world.add_route("2001:db8:5::/48", "eth5")
    return world


def test_all_is_forwarded_by_default(family: Family) -> None:
    world = with_eth5(
        World(make_network(1), make_network(2), OPEN, make_instance(1, (1,)), make_instance(2, (1,), network=2))
    )
    for one, other in ((vm(1), vm(2, 2)), (vm(1), OUTSIDE), (vm(1), ETH5), (OUTSIDE, vm(1)), (ETH5, vm(1))):
        assert world.passes(one, other, family=family)


def test_only_the_named_interfaces_are_forwarded_to(family: Family) -> None:
    settings = make_settings(forward_bridge_interface=("eth0",))
    world = with_eth5(
        World(
            make_network(1, bridge_interface="eth1"),
            make_network(2),
            OPEN,
            make_instance(1, (1,)),
            make_instance(2, (1,), network=2),
            make_instance(3, (1,)),
            settings=settings,
        )
    )
    for one, other in ((vm(1), OUTSIDE), (OUTSIDE, vm(1)), (vm(1), vm(3)), (vm(1), behind()), (behind(), vm(1))):
        assert world.passes(one, other, family=family)
    stranger = End("tap2", "10.2.0.99", "fd00:2::99")  # nobody whose groups would let it in
    for one, other in ((vm(1), ETH5), (ETH5, End("tap1", "10.1.0.99", "fd00:1::99")), (vm(1), stranger)):
        journey = world.send(one, other, family=family)
        assert not journey.passed
        assert journey.chains[-1] == "nova-netagent-FORWARD"
    assert world.passes(vm(1), host(), family=family)


def test_what_an_instances_groups_let_in_comes_by_any_interface(family: Family) -> None:
    """As in nova: nova-filter-top is first, and the ACCEPT of a group ends the walk before W-FORWARD."""
    world = with_eth5(
        World(make_network(1), OPEN, make_instance(1, (1,)), settings=make_settings(forward_bridge_interface=("eth0",)))
    )
    assert world.passes(ETH5, vm(1), family=family)
    assert not world.passes(vm(1), ETH5, family=family, state="ESTABLISHED")


def test_several_interfaces_and_bridges_can_be_named(family: Family) -> None:
    settings = make_settings(forward_bridge_interface=("eth5", "br2"))
    world = with_eth5(
        World(
            make_network(1),
            make_network(2),
            make_network(3),
            OPEN,
            make_instance(1, (1,)),
            make_instance(2, (1,), network=2),
            settings=settings,
        )
    )
    assert world.passes(vm(1), ETH5, family=family)
    assert world.passes(vm(1), vm(2, 2), family=family)
    assert world.passes(vm(1), End("tap2", "10.2.0.99", "fd00:2::99"), family=family)
    assert not world.passes(vm(1), End("tap3", "10.3.0.99", "fd00:3::99"), family=family)
    assert not world.passes(vm(1), OUTSIDE, family=family)


@pytest.mark.parametrize("drop_action", ["DROP", "REJECT"])
def test_nothing_is_routed_for_a_network_without_a_gateway(drop_action: str, family: Family) -> None:
    """nova's DROP for such a network also hit what was only bridged; it meant what is routed."""
    network = make_network(1, gateway=None, gateway_v6=None, bridge_interface="eth1")
    world = World(
        network,
        make_network(2),
        OPEN,
        make_instance(1, (1,)),
        make_instance(2, (1,)),
        make_instance(3, (1,), network=2),
        settings=make_settings(iptables_drop_action=drop_action),
    )
    nobody, other_nobody = End("tap1", "10.1.0.99", "fd00:1::99"), End("tap3", "10.2.0.99", "fd00:2::99")
    for one, other in ((vm(1), OUTSIDE), (OUTSIDE, nobody), (vm(1), other_nobody), (vm(3, 2), nobody)):
        journey = world.send(one, other, family=family)
        assert journey.verdict == drop_action
        assert journey.chains[-1] == "nova-netagent-FORWARD"
    for one, other in ((vm(1), vm(2)), (vm(1), behind()), (behind(), vm(1))):
        assert world.passes(one, other, family=family)


def test_a_network_is_routed_by_family() -> None:
    for routed, fields in ((4, {"gateway_v6": None}), (6, {"gateway": None})):
        world = World(make_network(1, **fields), OPEN, make_instance(1, (1,)))
        for family in FAMILIES:
            assert world.passes(vm(1), OUTSIDE, family=family) is (family == routed)


def test_a_link_local_gateway_routes(family: Family) -> None:
    world = World(make_network(1, gateway_v6="fe80::1"), OPEN, make_instance(1, (1,)))
    assert world.passes(vm(1), OUTSIDE, family=family)


def test_two_networks_on_one_bridge_are_routed_each_as_described() -> None:
    """nova's FlatDHCP has all its networks on br100: one without IPv6 must not close it for its neighbour."""
    for dual, only_4 in ((1, 2), (2, 1)):
        world = World(
            make_network(dual, bridge="br1"),
            make_network(only_4, bridge="br1", cidr_v6=None, gateway_v6=None),
            make_instance(1, network=dual),
        )
        assert world.passes(vm(1, dual), OUTSIDE)
        assert world.passes(vm(1, dual), OUTSIDE, family=6)


@pytest.mark.parametrize("closed", [1, 2])
def test_an_open_bridge_lets_nothing_in_from_a_closed_one(closed: int, family: Family) -> None:
    """Whichever of them is described first: an ACCEPT of ``-o`` must not come before the other's DROP of ``-i``."""
    opened = 3 - closed
    world = World(
        make_network(closed, gateway=None, gateway_v6=None),
        make_network(opened),
        OPEN,
        make_instance(1, (1,), network=closed),
        make_instance(2, (1,), network=opened),
    )
    nobody = {n: End(f"tap{n}9", f"10.{n}.0.99", f"fd00:{n}::99") for n in (1, 2)}
    assert not world.passes(vm(1, closed), nobody[opened], family=family)
    assert not world.passes(vm(2, opened), nobody[closed], family=family)
    assert not world.passes(vm(1, closed), OUTSIDE, family=family)
    assert world.passes(vm(2, opened), OUTSIDE, family=family)


def test_networks_know_nothing_of_each_other(family: Family) -> None:
    """Each bridge is entered by its own rules: a device of another network's name does not help."""
    world = World(make_network(1), make_network(2), make_instance(1), make_instance(2, network=2))
    assert not world.passes(vm(1), vm(2, 2), family=family)
    assert not world.passes(vm(1), vm(2, 2), family=family, from_address=vm(2, 2).address(family))


def test_dhcp_answers_get_a_checksum(family: Family) -> None:
    world = World(make_network(1), make_instance(1))
    journey = world.offer(host(), vm(1), family=family, from_address="10.1.0.1" if family == 4 else "fe80::1")
    found = [step for hop in journey.hops if hop.table == "mangle" for step in hop.walk.steps]
    assert isinstance(found[-1].rule.target, ChecksumFill)
    ordinary = world.send(host(), vm(1), UDP, 69, family=family)
    assert not [s for hop in ordinary.hops for s in hop.walk.steps if isinstance(s.rule.target, ChecksumFill)]


def test_a_network_whose_dhcp_is_not_ours_gets_no_server_rules() -> None:
    world = World(make_network(1, enable_dhcp=False, cidr_v6=None, gateway_v6=None))
    assert world.chain("INPUT") == ["-d 192.0.2.10/32 -p tcp -m tcp --dport 8775 -j ACCEPT"]
    assert not any("CHECKSUM" in rule for rule in world.chain("POSTROUTING", "mangle"))


@pytest.mark.parametrize("families", [(4,), (6,), (4, 6)])
def test_only_the_families_that_are_wanted_have_tables(families: tuple[Family, ...]) -> None:
    world = World(make_network(1), OPEN, make_instance(1, (1,)), families=families)
    assert {table.family for table in world.compiled.ruleset.tables} == set(families)
    assert world.compiled.links.forward == set(families)


def test_dropped_by_a_chain_of_the_operators() -> None:
    world = World(make_network(1), make_instance(1), settings=make_settings(iptables_drop_action="LOGDROP"))
    assert world.chain("sg-fallback") == ["-j LOGDROP"]
    unrouted = World(make_network(1, gateway=None), settings=make_settings(iptables_drop_action="LOGDROP"))
    assert unrouted.chain("FORWARD")[-2:] == ["-i br1 -j LOGDROP", "-o br1 -j LOGDROP"]


def test_the_host_reaches_outside_and_is_reached_as_its_operator_says(family: Family) -> None:
    """INPUT and OUTPUT are the operator's: ours only accept, and only what an instance needs."""
    world = World(make_network(1), make_instance(1))
    assert world.send(
        OUTSIDE, host(), TCP, 22, family=family, to="192.0.2.10" if family == 4 else "2001:db8:2::10"
    ).passed
    assert world.send(host(), OUTSIDE, TCP, 22, family=family).passed
