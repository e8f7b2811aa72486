"""Who may speak as whom, and what everybody always may: proofs, DHCP, discovery, open and unknown ports."""

import pytest

from nova_netagent.model import AllowedAddressPair
from nova_netagent.model.protocols import ICMPV6, TCP, UDP
from nova_netagent.netfilter.journey import Port
from nova_netagent.netfilter.rule import Family
from nova_netagent.settings import Settings
from nova_netagent.testing import (
    instance_id,
    make_group,
    make_instance,
    make_network,
    make_provider_rule,
    make_rule,
    make_vif,
)
from tests.unit.compile.world import (
    ELSEWHERE,
    OUTSIDE,
    End,
    World,
    behind,
    host,
    link_local,
    make_settings,
    vm,
)

ETHERTYPES = {4: "IPv4", 6: "IPv6"}
APART = make_settings(allow_same_net_traffic=False)
CLOSED = make_settings(allow_same_net_traffic=False, egress_default="deny")
VIRTUAL_MAC = "00:00:5e:00:01:05"


def closed_world(settings: Settings = CLOSED) -> World:
    """Two instances that are in a group which allows nothing, one that is in none, and an uplink."""
    return World(
        make_network(1, bridge_interface="eth1"),
        make_group(1),
        make_instance(1, (1,)),
        make_instance(2, (1,)),
        make_instance(3),
        settings=settings,
    )


# --- an instance without groups


def test_an_instance_without_groups_gets_nothing_in(family: Family) -> None:
    world = closed_world()
    for sender in (OUTSIDE, host(), vm(1), behind()):
        assert not world.passes(sender, vm(3), family=family)
        assert not world.ping(sender, vm(3), family=family)


@pytest.mark.parametrize("to", ["10.1.0.255", "255.255.255.255", "224.0.0.251", "ff02::1", "ff02::fb"])
def test_broadcast_and_multicast_meet_the_rules_too(to: str) -> None:
    family: Family = 6 if ":" in to else 4
    group = make_group(
        1,
        make_rule(1, ethertype=ETHERTYPES[family], protocol="udp", port_range_min=5353, port_range_max=5353),
        make_rule(2, direction="egress", ethertype=ETHERTYPES[family]),
    )
    world = World(
        make_network(1, bridge_interface="eth1"), group, make_instance(1, (1,)), make_instance(2), settings=CLOSED
    )
    for sender in (behind(), vm(1)):
        assert not world.passes(sender, vm(2), UDP, 5353, family=family, to=to, multicast=True)
    assert world.passes(behind(), vm(1), UDP, 5353, family=family, to=to, multicast=True)
    assert not world.passes(behind(), vm(1), UDP, 5354, family=family, to=to, multicast=True)


# --- what is always allowed


def test_dhcp_works_whatever_the_groups_say(family: Family) -> None:
    world = closed_world()
    for end in (vm(1), vm(3)):
        assert world.dhcp(end, host(), family=family).passed
        server = {"from_address": "10.1.0.1" if family == 4 else "fe80::1"}
        assert world.offer(host(), end, family=family, **server).passed


def test_a_lease_is_renewed_from_the_own_address() -> None:
    assert closed_world().passes(vm(1), host(), UDP, 67, source_port=68)


def test_only_the_networks_server_answers_dhcp() -> None:
    world = closed_world()
    assert not world.offer(behind(), vm(1)).passed
    assert world.offer(behind(), vm(1), from_address="10.1.0.1").passed
    served_elsewhere = World(make_network(1, gateway=None), make_instance(1), settings=CLOSED)
    assert served_elsewhere.offer(host(), vm(1)).passed


def test_the_networks_dns_is_always_allowed(family: Family) -> None:
    network = make_network(1, dns1="203.0.113.53", dns2="2001:db8::53")
    world = World(network, make_group(1), make_instance(1, (1,)), settings=CLOSED)
    given = "203.0.113.53" if family == 4 else "2001:db8::53"
    for protocol in (UDP, TCP):
        assert world.passes(vm(1), host(), protocol, 53, family=family)
        assert world.passes(vm(1), OUTSIDE, protocol, 53, family=family, to=given)
        assert not world.passes(vm(1), OUTSIDE, protocol, 53, family=family)
        assert not world.passes(vm(1), OUTSIDE, protocol, 54, family=family, to=given)


def test_the_metadata_service_is_always_allowed() -> None:
    world = closed_world()
    journey = world.send(vm(1), host(), TCP, 80, to="169.254.169.254")
    assert journey.passed
    assert not world.passes(vm(1), host(), TCP, 81, to="169.254.169.254")
    assert not world.passes(vm(1), host(), UDP, 80, to="169.254.169.254")


@pytest.mark.parametrize("type_", [133, 135, 136, 143])
def test_neighbour_discovery_is_always_sent(type_: int) -> None:
    world = closed_world()
    for sender in ("fd00:1::2", link_local(vm(1))):
        for receiver in (host(), behind()):
            assert world.passes(
                vm(1), receiver, ICMPV6, icmp=(type_, 0), family=6, from_address=sender, to="ff02::1", multicast=True
            )


@pytest.mark.parametrize("type_", [133, 135, 143])
def test_a_host_without_an_address_looks_for_one(type_: int) -> None:
    """Duplicate address detection and its like have the source ``::``."""
    world = closed_world()
    words = {"from_address": "::", "family": 6, "multicast": True}
    assert world.passes(vm(1), behind(), ICMPV6, icmp=(type_, 0), to="ff02::1:ff00:2", **words)
    assert not world.passes(vm(1), behind(), ICMPV6, icmp=(128, 0), to="ff02::1", **words)
    assert not world.passes(vm(1), behind(), UDP, 9, to="ff02::1", **words)
    # To everybody who listens, and not to one.
    assert not world.passes(vm(1), behind(), ICMPV6, icmp=(type_, 0), to="fd00:1::c8", **words)


@pytest.mark.parametrize("type_", [130, 135, 136])
def test_neighbour_discovery_is_always_heard(type_: int) -> None:
    world = closed_world()
    for sender in (behind(), vm(1)):
        words = {"from_address": link_local(vm(1))} if sender == vm(1) else {}
        expected = type_ != 130 or sender == behind()  # an instance is no querier
        heard = world.passes(sender, vm(3), ICMPV6, icmp=(type_, 0), family=6, to="ff02::1", multicast=True, **words)
        assert heard is expected


def test_a_router_is_heard_by_its_link_local_address() -> None:
    world = closed_world()
    words = {"icmp": (134, 0), "family": 6, "to": "ff02::1", "multicast": True}
    assert world.passes(behind(), vm(1), ICMPV6, from_address="fe80::1", **words)
    assert not world.passes(behind(), vm(1), ICMPV6, from_address="fd00:1::1", **words)


def test_the_host_hears_dhcp_dns_and_discovery_whatever_its_policy(family: Family) -> None:
    """nova's _add_dnsmasq_accept_rules: the rules are in W-INPUT, before the operator's own."""
    world = World(make_network(1), make_instance(1))
    dhcp = 67 if family == 4 else 547
    for protocol, port in ((UDP, dhcp), (UDP, 53), (TCP, 53)):
        hop = world.send(vm(1), host(), protocol, port, family=family).hops[-2]
        assert (hop.hook, hop.table) == ("INPUT", "filter")
        assert hop.walk.decided_by is not None
        assert hop.walk.decided_by.chain == "nova-netagent-INPUT"
    ordinary = world.send(vm(1), host(), TCP, 22, family=family).hops[-2]
    assert ordinary.walk.decided_by is None  # then the operator's own INPUT rules decide


# --- no lying


def test_an_instance_sends_with_its_own_addresses_only(family: Family) -> None:
    world = World(make_network(1), make_instance(1), make_instance(2))
    assert world.passes(vm(1), OUTSIDE, family=family)
    lies = ("10.1.0.3", "10.1.0.1", "192.0.2.10", "127.0.0.1") if family == 4 else ("fd00:1::3", "fd00:1::1", "::1")
    for lie in lies:
        journey = world.send(vm(1), OUTSIDE, family=family, from_address=lie)
        assert not journey.passed
        assert journey.hops[-1].table == "raw"
        assert not world.passes(vm(1), vm(2), family=family, from_address=lie)
        assert not world.passes(vm(1), host(), family=family, from_address=lie)


@pytest.mark.parametrize("managed", [True, False], ids=["our bridges", "others' bridges"])
def test_an_instance_sends_with_its_own_mac_only(family: Family, managed: bool) -> None:
    """Also where a port that is nobody's is let alone."""
    world = World(make_network(1), make_instance(1), make_instance(2), settings=make_settings(manage_links=managed))
    assert not world.passes(vm(1), OUTSIDE, family=family, mac="fa:16:3e:00:00:02")
    assert not world.passes(vm(1), OUTSIDE, family=family, mac="02:00:00:00:00:01")


def test_replies_are_no_excuse_for_lying(family: Family) -> None:
    world = World(make_network(1), make_instance(1), make_instance(2))
    lie = vm(2).address(family)
    assert not world.passes(vm(1), OUTSIDE, family=family, from_address=lie, state="ESTABLISHED")


def test_an_instance_is_never_a_dhcp_server(family: Family) -> None:
    group = make_group(1, make_rule(1, direction="egress"), make_rule(2, direction="egress", ethertype="IPv6"))
    world = World(make_network(1), group, make_instance(1, (1,)), make_instance(2))
    assert not world.offer(vm(1), vm(2), family=family).passed
    # A client takes an answer from any port.
    assert not world.offer(vm(1), vm(2), family=family, source_port=1067).passed
    to = "255.255.255.255" if family == 4 else link_local(vm(2))
    assert not world.offer(vm(1), vm(2), family=family, to=to, multicast=True).passed


@pytest.mark.parametrize("type_", [134, 137])
def test_an_instance_is_never_a_router(type_: int) -> None:
    world = World(make_network(1, bridge_interface="eth1"), make_instance(1), make_instance(2))
    for sender in ("fd00:1::2", link_local(vm(1))):
        for receiver in (vm(2), behind(), host()):
            words = {"icmp": (type_, 0), "family": 6, "to": "ff02::1", "multicast": True, "from_address": sender}
            assert not world.passes(vm(1), receiver, ICMPV6, **words)


def test_an_instance_has_the_link_local_address_of_its_mac_and_no_other() -> None:
    world = World(make_network(1), make_instance(1))
    assert world.passes(vm(1), host(), UDP, 9, family=6, from_address=link_local(vm(1)), to="fe80::1", multicast=True)
    for lie in (link_local(vm(2)), "fe80::1"):
        assert not world.passes(vm(1), host(), UDP, 9, family=6, from_address=lie, to="ff02::1", multicast=True)


def test_a_pair_that_is_the_own_link_local_address_is_said_once() -> None:
    pair = AllowedAddressPair(ip_address="fe80::f816:3eff:fe00:1")
    world = World(make_network(1), make_instance(1, vifs=(make_vif(1, allowed_address_pairs=(pair,)),)))
    rules = world.chain("senders", "raw", family=6)
    assert len(rules) == len(set(rules)) == 3
    assert world.passes(vm(1), OUTSIDE, family=6)


def test_a_vif_without_ipv6_says_by_ipv6_no_more_than_discovery() -> None:
    world = World(make_network(1), make_instance(1, vifs=(make_vif(1, fixed_ips=("10.1.0.2",)),)))
    words = {"family": 6, "from_address": link_local(vm(1)), "to": "ff02::1", "multicast": True}
    assert world.passes(vm(1), host(), ICMPV6, icmp=(135, 0), **words)
    assert not world.passes(vm(1), host(), ICMPV6, icmp=(128, 0), **words)
    assert not world.passes(vm(1), host(), UDP, 9, **words)
    assert not world.passes(vm(1), OUTSIDE, family=6)


def test_a_vif_without_a_described_ipv6_address_can_do_dhcpv6() -> None:
    """CONTRACT, No lying: whatever the groups say, an instance can always do DHCP and neighbour discovery."""
    world = World(make_network(1), make_instance(1, vifs=(make_vif(1, fixed_ips=("10.1.0.2",)),)))
    assert world.dhcp(vm(1), host(), family=6).passed


def test_a_vif_without_any_address_can_still_do_dhcp() -> None:
    world = World(make_network(1), make_instance(1, vifs=(make_vif(1, fixed_ips=()),)))
    assert world.dhcp(vm(1), host()).passed
    assert not world.passes(vm(1), OUTSIDE)


def test_only_a_request_of_a_client_may_come_from_nobody() -> None:
    world = World(make_network(1, bridge_interface="eth1"), make_instance(1))
    assert world.dhcp(vm(1), behind()).passed
    assert not world.dhcp(vm(1), behind(), to="10.1.0.200").passed
    assert not world.dhcp(vm(1), behind(), port=69).passed
    assert not world.dhcp(vm(1), behind(), source_port=69).passed
    assert not world.dhcp(vm(1), behind(), mac="02:00:00:00:00:09").passed


# --- allowed address pairs


def paired(**pair: str) -> World:
    vif = make_vif(1, allowed_address_pairs=(AllowedAddressPair(**pair),))
    return World(make_network(1), make_group(1), make_instance(1, (1,), vifs=(vif,)), make_instance(2))


@pytest.mark.parametrize(
    ("family", "cidr", "inside", "beyond"),
    [
        (4, "10.1.0.100", "10.1.0.100", "10.1.0.101"),
        (4, "10.1.0.128/25", "10.1.0.200", "10.1.0.127"),
        (4, "172.16.0.0/16", "172.16.5.5", "172.17.0.1"),
        (6, "fd00:1::100", "fd00:1::100", "fd00:1::101"),
        (6, "fd00:5::/64", "fd00:5::1", "fd00:6::1"),
    ],
)
def test_an_instance_sends_from_its_pairs(family: Family, cidr: str, inside: str, beyond: str) -> None:
    world = paired(ip_address=cidr)
    assert world.passes(vm(1), OUTSIDE, family=family, from_address=inside)
    assert not world.passes(vm(1), OUTSIDE, family=family, from_address=beyond)
    assert world.passes(vm(1), OUTSIDE, family=family)
    assert not world.passes(vm(2), OUTSIDE, family=family, from_address=inside)
    assert not world.passes(vm(1), OUTSIDE, family=family, from_address=inside, mac=VIRTUAL_MAC)


def test_a_pairs_own_mac_goes_with_its_address_only() -> None:
    world = paired(ip_address="10.1.0.100", mac_address=VIRTUAL_MAC)
    assert world.passes(vm(1), OUTSIDE, from_address="10.1.0.100", mac=VIRTUAL_MAC)
    assert not world.passes(vm(1), OUTSIDE, from_address="10.1.0.100")
    assert not world.passes(vm(1), OUTSIDE, mac=VIRTUAL_MAC)
    assert world.passes(vm(1), OUTSIDE)


def test_a_pair_of_everything_lifts_the_proof_of_the_address_alone(family: Family) -> None:
    world = paired(ip_address="0.0.0.0/0" if family == 4 else "::/0")
    anything = "203.0.113.5" if family == 4 else "2001:db8:5::5"
    assert world.passes(vm(1), OUTSIDE, family=family, from_address=anything)
    assert not world.passes(vm(1), OUTSIDE, family=family, from_address=anything, mac="02:00:00:00:00:09")
    assert not world.offer(vm(1), vm(2), family=family, from_address=anything).passed
    other: Family = 10 - family  # type: ignore[assignment]
    assert not world.passes(vm(1), OUTSIDE, family=other, from_address="203.0.113.5" if other == 4 else "2001:db8:5::5")


def test_a_pairs_addresses_are_filtered_inbound_as_the_vifs_own(family: Family) -> None:
    cidr = "172.16.0.0/16" if family == 4 else "fd00:5::/64"
    inside = "172.16.5.5" if family == 4 else "fd00:5::1"
    vif = make_vif(1, allowed_address_pairs=(AllowedAddressPair(ip_address=cidr),))
    group = make_group(
        1, make_rule(1, ethertype=ETHERTYPES[family], protocol="tcp", port_range_min=22, port_range_max=22)
    )
    world = World(make_network(1), group, make_instance(1, (1,), vifs=(vif,)), make_instance(2), settings=APART)
    world.add_route(cidr, "br1")
    world.plug(Port("tap1", "br1", (inside,), vif.address))
    for sender in (OUTSIDE, vm(2), host()):
        assert world.passes(sender, vm(1), TCP, 22, family=family, to=inside)
        assert not world.passes(sender, vm(1), TCP, 23, family=family, to=inside)
    # Routed as well, where the sender does not know that it is a neighbour.
    world.plug(Port("tap1", "br1", (), vif.address))
    assert not world.passes(vm(2), vm(1), TCP, 23, family=family, to=inside)


def test_the_longest_prefix_decides_whose_an_address_is(family: Family) -> None:
    """A pair of everything does not take over what a neighbour's own address gets."""
    ethertype = ETHERTYPES[family]
    vif = make_vif(1, allowed_address_pairs=(AllowedAddressPair(ip_address="0.0.0.0/0" if family == 4 else "::/0"),))
    world = World(
        make_network(1),
        make_group(1, make_rule(1, ethertype=ethertype)),
        make_group(2, make_rule(2, ethertype=ethertype, protocol="udp")),
        make_instance(1, (1,), vifs=(vif,)),
        make_instance(2, (2,)),
    )
    assert not world.passes(OUTSIDE, vm(2), TCP, family=family)
    assert world.passes(OUTSIDE, vm(2), UDP, family=family)
    assert world.passes(OUTSIDE, vm(1), TCP, family=family)


def test_a_pair_does_not_take_over_a_neighbours_fixed_ip(family: Family) -> None:
    """Whoever names a neighbour's address in a pair must not decide what that neighbour gets."""
    pair = AllowedAddressPair(ip_address=vm(2).address(family))
    open_ = make_group(1, make_rule(1, ethertype=ETHERTYPES[family]))
    for lower, upper in ((1, 2), (2, 1)):
        instances = (
            make_instance(lower, (1,), vifs=(make_vif(1, allowed_address_pairs=(pair,)),)),
            make_instance(upper, vifs=(make_vif(2),)),
        )
        world = World(make_network(1), open_, *instances)
        assert not world.passes(OUTSIDE, vm(2), family=family)


@pytest.mark.parametrize("bridged", [True, False])
def test_a_pair_of_one_vif_does_not_open_another_vif_of_the_instance(family: Family, bridged: bool) -> None:
    """Fail closed: what is let in by the first one's groups, or for want of port security, is let in to the second."""
    own = "10.1.0.0/24" if family == 4 else "fd00:1::/64"
    first = make_vif(1, allowed_address_pairs=(AllowedAddressPair(ip_address=own),), port_security_enabled=False)
    instance = make_instance(1, vifs=(first, make_vif(2)))
    world = World(make_network(1, bridge_interface="eth1"), instance, settings=APART)
    assert not world.passes(behind() if bridged else OUTSIDE, vm(2), family=family)


def test_a_pair_of_one_of_several_vifs_is_reached_as_that_vif_is(family: Family) -> None:
    own = "10.1.0.100" if family == 4 else "fd00:1::100"
    first = make_vif(1, allowed_address_pairs=(AllowedAddressPair(ip_address=own),))
    web = make_group(1, make_rule(1, ethertype=ETHERTYPES[family], protocol="tcp"))
    world = World(make_network(1), web, make_instance(1, (1,), vifs=(first, make_vif(2))))
    assert world.passes(OUTSIDE, vm(1), TCP, family=family, to=own)
    assert not world.passes(OUTSIDE, vm(1), UDP, family=family, to=own)


# --- port security off


def test_without_port_security_everything_passes_both_ways(family: Family) -> None:
    free = make_instance(1, (1,), vifs=(make_vif(1, port_security_enabled=False),))
    world = World(make_network(1, bridge_interface="eth1"), make_group(1), free, make_instance(2), settings=CLOSED)
    strange = "203.0.113.5" if family == 4 else "2001:db8:5::5"
    for end in (OUTSIDE, host(), behind()):
        assert world.passes(vm(1), end, family=family)
        assert world.passes(vm(1), end, family=family, from_address=strange, mac="02:00:00:00:00:09")
        assert world.passes(end, vm(1), family=family)
        assert world.passes(end, vm(1), family=family, state="INVALID")
    assert world.offer(vm(1), behind(), family=family).passed
    # It lifts nothing for those it talks to.
    assert not world.passes(vm(1), vm(2), family=family)


def test_one_vif_without_port_security_leaves_the_other_vifs_theirs(family: Family) -> None:
    instance = make_instance(1, vifs=(make_vif(1, port_security_enabled=False), make_vif(2)))
    world = World(make_network(1), instance)
    assert world.passes(OUTSIDE, vm(1), family=family)
    assert not world.passes(OUTSIDE, vm(2), family=family)
    assert not world.passes(vm(2), OUTSIDE, family=family, from_address=vm(3).address(family))


# --- provider rules


def test_a_provider_rule_goes_before_the_instances_own_rules(family: Family) -> None:
    prefix = "203.0.113.0/24" if family == 4 else "2001:db8::/48"
    group = make_group(1, make_rule(1, ethertype=ETHERTYPES[family]))
    world = World(make_network(1), make_provider_rule(1, remote_ip_prefix=prefix), group, make_instance(1, (1,)))
    assert not world.passes(ELSEWHERE, vm(1), family=family)
    assert world.passes(OUTSIDE, vm(1), family=family)
    assert world.passes(ELSEWHERE, vm(1), family=family, state="ESTABLISHED")  # replies, as in nova
    other: Family = 10 - family  # type: ignore[assignment]
    assert not world.passes(ELSEWHERE, vm(1), family=other)


def test_a_provider_rule_goes_before_the_own_network(family: Family) -> None:
    prefix = "10.1.0.3/32" if family == 4 else "fd00:1::3/128"
    rule = make_provider_rule(1, remote_ip_prefix=prefix)
    world = World(make_network(1), rule, make_instance(1), make_instance(2), make_instance(3))
    assert not world.passes(vm(2), vm(1), family=family)
    assert world.passes(vm(3), vm(1), family=family)


@pytest.mark.parametrize(
    ("fields", "dropped", "kept"),
    [
        ({"protocol": "tcp"}, [(TCP, 1), (TCP, 80)], [(UDP, 80)]),
        (
            {"protocol": "tcp", "port_range_min": 25, "port_range_max": 26},
            [(TCP, 25), (TCP, 26)],
            [(TCP, 24), (UDP, 25)],
        ),
        ({"protocol": 132}, [(132, 5)], [(TCP, 5)]),
        ({}, [(TCP, 1), (UDP, 1), (47, 0)], []),
    ],
)
def test_a_provider_rule_drops_what_it_names(
    fields: dict[str, object], dropped: list[tuple[int, int]], kept: list[tuple[int, int]]
) -> None:
    world = World(make_network(1), make_provider_rule(1, **fields), make_group(1, make_rule(1)), make_instance(1, (1,)))
    for protocol, port in dropped:
        assert not world.passes(ELSEWHERE, vm(1), protocol, port)
    for protocol, port in kept:
        assert world.passes(ELSEWHERE, vm(1), protocol, port)


def test_a_provider_rule_of_everywhere_leaves_dhcp_and_discovery() -> None:
    rules = (
        make_provider_rule(1, remote_ip_prefix="0.0.0.0/0"),
        make_provider_rule(2, remote_ip_prefix="::/0", protocol="icmp"),
    )
    world = World(make_network(1, bridge_interface="eth1"), *rules, make_instance(1), make_instance(2))
    assert not world.passes(vm(2), vm(1))
    assert not world.ping(vm(2), vm(1), family=6)
    assert world.passes(vm(2), vm(1), family=6)
    assert world.offer(host(), vm(1)).passed
    assert world.passes(behind(), vm(1), ICMPV6, icmp=(135, 0), family=6)


# --- ports that are nobody's, and uplinks

STRANGER = End("tap77", "10.1.0.2", "fd00:1::2")


def with_stranger(world: World) -> World:
    world.plug(Port("tap77", "br1", ("10.1.0.77",), "fa:16:3e:00:00:01"))
    return world


def test_an_unknown_port_passes_nothing(family: Family) -> None:
    free = make_instance(2, vifs=(make_vif(2, port_security_enabled=False),))
    world = with_stranger(World(make_network(1, bridge_interface="eth1"), make_instance(1), free))
    for end in (vm(2), OUTSIDE, host(), behind()):
        assert not world.passes(STRANGER, end, family=family)
        assert not world.dhcp(STRANGER, host(), family=family, from_address=vm(1).address(family)).passed
    for sender in (vm(2), behind()):
        assert not world.passes(
            sender, STRANGER, family=family, to="ff02::1" if family == 6 else "10.1.0.77", multicast=True
        )


def test_a_name_that_begins_like_a_known_ports_is_unknown(family: Family) -> None:
    world = World(make_network(1), *(make_instance(n) for n in range(1, 20)))
    assert world.passes(vm(1), OUTSIDE, family=family)
    for name in ("tap1x", "tap", "tap20", "tap111", "xtap1"):
        world.plug(Port(name, "br1", (), "fa:16:3e:00:00:01"))
        assert not world.passes(End(name, vm(1).ipv4, vm(1).ipv6), OUTSIDE, family=family)
        assert not world.passes(vm(2), End(name, "10.1.0.99", "fd00:1::99"), family=family, multicast=True)


def test_a_port_on_another_bridge_than_its_networks_passes_nothing(family: Family) -> None:
    world = World(make_network(1), make_network(2), make_instance(1), make_instance(2, network=2))
    world.plug(Port("tap1", "br2", (), "fa:16:3e:00:00:01"))
    assert not world.passes(vm(1), OUTSIDE, family=family)
    assert not world.passes(vm(2, 2), vm(1), family=family, multicast=True)


def test_what_is_behind_the_uplink_is_not_filtered_here(family: Family) -> None:
    """Addresses behind ``bridge_interface`` are other hosts'."""
    world = closed_world()
    assert world.passes(behind(), host(), family=family)
    assert world.passes(behind(), OUTSIDE, family=family)
    assert world.passes(behind(), End("eth1", "10.1.0.201", "fd00:1::c9"), family=family, multicast=True)
    # An instance's own egress is judged on the way there.
    assert not world.passes(vm(1), behind(), family=family)
    assert World(make_network(1, bridge_interface="eth1"), make_instance(1)).passes(vm(1), behind(), family=family)


@pytest.mark.parametrize(
    ("settings", "fields", "device"),
    [
        ({}, {"bridge_interface": "eth1"}, "eth1"),
        ({"flat_interface": "eth7"}, {"bridge_interface": "eth1"}, "eth7"),
        ({"flat_interface": "eth7"}, {}, "eth7"),
        ({"vlan_interface": "eth7"}, {"vlan": 100}, "vlan100"),
        ({}, {"vlan": 100, "bridge_interface": "eth1"}, "vlan100"),
        ({"flat_interface": "eth7"}, {"vlan": 100, "bridge_interface": "eth1"}, "vlan100"),
    ],
)
def test_which_port_is_the_uplink(settings: dict[str, str], fields: dict[str, object], device: str) -> None:
    world = World(make_network(1, **fields), make_instance(1), settings=make_settings(**settings))
    world.plug(*(Port(name, "br1") for name in ("eth1", "eth7", "vlan100")))
    found = [
        name for name in ("eth1", "eth7", "vlan100") if world.passes(vm(1), End(name, "10.1.0.200", ""), multicast=True)
    ]
    assert found == [device]


@pytest.mark.parametrize("settings", [{}, {"flat_interface": "eth7"}])
def test_a_vif_cannot_have_the_hosts_own_interface_for_its_tap(settings: dict[str, str]) -> None:
    """It would be unfiltered as an uplink is, and with ``public_interface`` take the host off the net."""
    network = make_network(1, bridge_interface="eth1")
    for device in {"eth0", settings.get("flat_interface", "eth1")}:
        instance = make_instance(1, vifs=(make_vif(1, devname=device),))
        world = World(network, instance, settings=make_settings(**settings))
        assert [kind for kind, _ in world.problems(instance)] == ["error"]
        assert world.compiled.links.ports == {}


# --- what is pending passes nothing


def test_a_vif_whose_network_is_not_known_passes_nothing(family: Family) -> None:
    instance = make_instance(1, vifs=(make_vif(1, 1), make_vif(2, 9)))
    world = World(make_network(1), instance)
    world.plug(Port("tap2", "br1", (), "fa:16:3e:00:00:02"))
    assert not world.passes(vm(2), OUTSIDE, family=family)
    assert not world.passes(vm(1), vm(2), family=family, multicast=True)
    assert world.passes(vm(1), OUTSIDE, family=family)
    assert world.problems(instance)[0][0] == "pending"


def test_a_device_or_a_vif_that_is_anothers_passes_as_his(family: Family) -> None:
    older = make_instance(1)
    younger = make_instance(2, vifs=(make_vif(2, devname="tap1"),))
    world = World(make_network(1), older, younger)
    assert world.passes(vm(1), OUTSIDE, family=family)
    assert not world.passes(vm(1), OUTSIDE, family=family, from_address=vm(2).address(family), mac="fa:16:3e:00:00:02")
    assert world.problems(younger) == [
        ("error", f"vif {younger.vifs[0].id}: device tap1 is instance {instance_id(1)}'s already")
    ]


# --- bridges that somebody else manages

THEIRS = make_settings(manage_links=False, allow_same_net_traffic=False, egress_default="deny")


def test_on_others_bridges_only_described_vifs_are_filtered(family: Family) -> None:
    world = with_stranger(World(make_network(1), make_group(1), make_instance(1, (1,)), settings=THEIRS))
    for end in (OUTSIDE, host()):
        assert world.passes(STRANGER, end, family=family)
        assert not world.passes(vm(1), end, family=family)
    assert not world.passes(vm(1), STRANGER, family=family, multicast=True)
    assert not world.passes(STRANGER, vm(1), family=family)


def test_on_others_bridges_a_described_vif_is_filtered_wherever_it_is(family: Family) -> None:
    """Fail closed: the tap is known, and only where somebody plugged it is not as described."""
    world = World(make_network(1), make_group(1), make_instance(1, (1,)), settings=THEIRS)
    world.plug(Port("tap1", "br9", (), "fa:16:3e:00:00:01"), Port("tap5", "br9"))
    other = End("tap5", "10.1.0.5", "fd00:1::5")
    assert not world.passes(vm(1), other, family=family, multicast=True)
    assert not world.passes(vm(1), OUTSIDE, family=family, from_address=vm(7).address(family))
    assert not world.passes(other, vm(1), family=family, multicast=True)


def test_on_others_bridges_a_pending_vif_is_shut(family: Family) -> None:
    """Nothing keeps its tap from being a port there."""
    world = World(make_network(1), make_instance(1, vifs=(make_vif(1, 9),)), settings=THEIRS)
    world.plug(Port("tap1", "br9", (), "fa:16:3e:00:00:01"), Port("tap5", "br9"))
    other = End("tap5", "10.9.0.5", "fd00:9::5")
    assert not world.passes(vm(1), other, family=family, multicast=True)
    assert not world.passes(other, vm(1), family=family, multicast=True)
    assert not world.passes(vm(1), OUTSIDE, family=family)
    assert world.passes(other, OUTSIDE, family=family)
