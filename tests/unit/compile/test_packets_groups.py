"""Security groups, packet by packet: every kind of rule, both directions, both families."""

from typing import Any

import pytest

from nova_netagent.model.protocols import DCCP, ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE
from nova_netagent.netfilter.rule import Family
from nova_netagent.testing import group_id, make_group, make_instance, make_network, make_rule, make_vif
from tests.unit.compile.world import ELSEWHERE, OUTSIDE, World, behind, host, make_settings, vm

Packets = list[dict[str, Any]]

APART = make_settings(allow_same_net_traffic=False)
ETHERTYPES = {4: "IPv4", 6: "IPv6"}
PING: dict[int, dict[str, Any]] = {
    4: {"protocol": ICMP, "icmp": (8, 0)},
    6: {"protocol": ICMPV6, "icmp": (128, 0)},
}


def tcp(port: int, **fields: Any) -> dict[str, Any]:
    return {"protocol": TCP, "port": port, **fields}


def udp(port: int, **fields: Any) -> dict[str, Any]:
    return {"protocol": UDP, "port": port, **fields}


def ports(low: int, high: int) -> dict[str, int]:
    return {"port_range_min": low, "port_range_max": high}


def source_ports(low: int, high: int) -> dict[str, int]:
    return {"source_port_range_min": low, "source_port_range_max": high}


KINDS: dict[str, tuple[dict[str, Any], Packets, Packets]] = {
    "anything": ({}, [tcp(80), udp(53), {"protocol": 47}, {"protocol": SCTP, "port": 5}], []),
    "protocol null": ({"protocol": None}, [tcp(80), udp(53)], []),
    "protocol ip": ({"protocol": "ip"}, [tcp(80), udp(53)], []),
    "protocol any": ({"protocol": "any"}, [tcp(80), udp(53), {"protocol": 47}], []),
    "protocol 0": ({"protocol": 0}, [tcp(80), udp(53)], []),
    "tcp": ({"protocol": "tcp"}, [tcp(0), tcp(80), tcp(65535)], [udp(80), {"protocol": 47}]),
    "TCP": ({"protocol": "TCP"}, [tcp(80)], [udp(80)]),
    "6": ({"protocol": 6}, [tcp(80)], [udp(80)]),
    "'6'": ({"protocol": "6"}, [tcp(80)], [udp(80)]),
    "a port": ({"protocol": "tcp", **ports(22, 22)}, [tcp(22)], [tcp(21), tcp(23), udp(22)]),
    "port 0": ({"protocol": "tcp", **ports(0, 0)}, [tcp(0)], [tcp(1)]),
    "a range": ({"protocol": "udp", **ports(10, 20)}, [udp(10), udp(15), udp(20)], [udp(9), udp(21), tcp(15)]),
    "every port": ({"protocol": "tcp", **ports(0, 65535)}, [tcp(0), tcp(65535)], [udp(5)]),
    "a source port": (
        {"protocol": "udp", **source_ports(53, 54)},
        [udp(5, source_port=53), udp(9, source_port=54)],
        [udp(53, source_port=55), udp(53, source_port=52), tcp(5, source_port=53)],
    ),
    "both ports": (
        {"protocol": "tcp", **source_ports(1, 9), **ports(80, 80)},
        [tcp(80, source_port=9)],
        [tcp(80, source_port=10), tcp(81, source_port=9)],
    ),
    "sctp ports": (
        {"protocol": "sctp", **ports(5, 6)},
        [{"protocol": SCTP, "port": 6}],
        [{"protocol": SCTP, "port": 7}, tcp(5)],
    ),
    "132 with both ports": (
        {"protocol": 132, **ports(5, 6), **source_ports(7, 7)},
        [{"protocol": SCTP, "port": 6, "source_port": 7}],
        [{"protocol": SCTP, "port": 6, "source_port": 8}, {"protocol": SCTP, "port": 7, "source_port": 7}],
    ),
    "udplite port": (
        {"protocol": "udplite", **ports(5, 5)},
        [{"protocol": UDPLITE, "port": 5}],
        [{"protocol": UDPLITE, "port": 6}, udp(5)],
    ),
    "dccp port": (
        {"protocol": "dccp", **ports(5, 5)},
        [{"protocol": DCCP, "port": 5}],
        [{"protocol": DCCP, "port": 6}],
    ),
    "gre": ({"protocol": "gre"}, [{"protocol": 47}], [tcp(47), {"protocol": 50}]),
    "vrrp by digits": ({"protocol": "112"}, [{"protocol": 112}], [{"protocol": 113}]),
    "an unassigned protocol": ({"protocol": 200}, [{"protocol": 200}], [{"protocol": 201}]),
    "protocol 255": ({"protocol": 255}, [{"protocol": 255}], [{"protocol": 254}]),
}


def world_with(direction: str, family: Family, **rule: Any) -> World:
    """Instance 1 in a group with one rule; nothing else goes in or out."""
    settings = make_settings(allow_same_net_traffic=False, egress_default="deny")
    group = make_group(1, make_rule(1, direction=direction, ethertype=ETHERTYPES[family], **rule))
    return World(make_network(1), group, make_instance(1, (1,)), settings=settings)


def passes(world: World, direction: str, family: Family, **packet: Any) -> bool:
    """Whether a packet gets from outside to instance 1 (ingress) or from it outside (egress)."""
    ends = (OUTSIDE, vm(1)) if direction == "ingress" else (vm(1), OUTSIDE)
    return world.passes(*ends, family=family, **packet)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rule_lets_through_what_it_names_and_nothing_else(kind: str, direction: str, family: Family) -> None:
    rule, through, stopped = KINDS[kind]
    world = world_with(direction, family, **rule)
    for packet in through:
        assert passes(world, direction, family, **packet), packet
    for packet in stopped:
        assert not passes(world, direction, family, **packet), packet


@pytest.mark.parametrize("kind", ["anything", "tcp", "a port", "gre"])
def test_a_rule_of_one_family_or_direction_says_nothing_about_the_others(kind: str, direction: str) -> None:
    rule, through, _ = KINDS[kind]
    world = world_with(direction, 4, **rule)
    other = "egress" if direction == "ingress" else "ingress"
    for packet in through:
        assert not passes(world, direction, 6, **packet)
        assert not passes(world, other, 4, **packet)


ICMP_RULES: dict[str, tuple[dict[str, int], list[tuple[int, int]], list[tuple[int, int]]]] = {
    "any type": ({}, [(8, 0), (3, 4), (128, 0)], []),
    "a type": ({"port_range_min": 3}, [(3, 0), (3, 4), (3, 255)], [(8, 0), (4, 3)]),
    "a type and a code": ({"port_range_min": 3, "port_range_max": 4}, [(3, 4)], [(3, 3), (3, 5), (4, 4)]),
    "code 0": ({"port_range_min": 8, "port_range_max": 0}, [(8, 0)], [(8, 1)]),
    "type 0": ({"port_range_min": 0}, [(0, 0), (0, 9)], [(8, 0)]),
}


@pytest.mark.parametrize("kind", ICMP_RULES)
@pytest.mark.parametrize("spelling", ["icmp", 1, "ICMP"])
def test_icmp_by_type_and_code(kind: str, spelling: str | int, direction: str, family: Family) -> None:
    """In an IPv6 rule ``icmp`` means ICMPv6."""
    rule, through, stopped = ICMP_RULES[kind]
    world = world_with(direction, family, protocol=spelling, **rule)
    number = ICMP if family == 4 else ICMPV6
    # Neighbour discovery and the like pass in any case: types that are not of their kind.
    for type_, code in through:
        assert passes(world, direction, family, protocol=number, icmp=(type_, code))
    for type_, code in stopped:
        assert not passes(world, direction, family, protocol=number, icmp=(type_, code))
    assert not passes(world, direction, family, **tcp(80))


@pytest.mark.parametrize("spelling", ["icmpv6", "ipv6-icmp", 58, "58"])
def test_icmpv6_by_all_its_names(spelling: str | int, direction: str) -> None:
    world = world_with(direction, 6, protocol=spelling, port_range_min=128)
    assert passes(world, direction, 6, protocol=ICMPV6, icmp=(128, 0))
    assert not passes(world, direction, 6, protocol=ICMPV6, icmp=(129, 0))


PREFIXES: dict[Family, list[tuple[str, tuple[str, ...], tuple[str, ...]]]] = {
    4: [
        ("0.0.0.0/0", ("192.0.2.99", "203.0.113.7"), ()),
        ("192.0.2.0/24", ("192.0.2.0", "192.0.2.255"), ("192.0.1.255", "192.0.3.0")),
        ("192.0.2.99", ("192.0.2.99",), ("192.0.2.98", "192.0.2.100")),
        ("192.0.2.98/31", ("192.0.2.98", "192.0.2.99"), ("192.0.2.97", "192.0.2.100")),
        ("192.0.2.77/24", ("192.0.2.99",), ("192.0.3.77",)),
        ("128.0.0.0/1", ("192.0.2.99",), ("100.64.0.1",)),
    ],
    6: [
        ("::/0", ("2001:db8:2::99", "2001:db8::7"), ()),
        ("2001:db8:2::/48", ("2001:db8:2::", "2001:db8:2:ffff::1"), ("2001:db8:1::1", "2001:db8:3::")),
        ("2001:db8:2::99", ("2001:db8:2::99",), ("2001:db8:2::98",)),
        ("2001:DB8:2::0099/127", ("2001:db8:2::98", "2001:db8:2::99"), ("2001:db8:2::9a",)),
    ],
}


@pytest.mark.parametrize(("family", "case"), [(family, case) for family, cases in PREFIXES.items() for case in cases])
def test_a_prefix_is_the_other_side(
    family: Family, case: tuple[str, tuple[str, ...], tuple[str, ...]], direction: str
) -> None:
    prefix, inside, outside = case
    world = world_with(direction, family, remote_ip_prefix=prefix)
    other = "from_address" if direction == "ingress" else "to"
    for address in inside:
        assert passes(world, direction, family, **{other: address})
    for address in outside:
        assert not passes(world, direction, family, **{other: address})


@pytest.mark.parametrize("kind", ["tcp", "a port", "sctp ports"])
def test_a_prefix_and_ports_must_both_agree(kind: str, direction: str, family: Family) -> None:
    rule, through, stopped = KINDS[kind]
    prefix = "192.0.2.0/24" if family == 4 else "2001:db8:2::/48"
    world = world_with(direction, family, remote_ip_prefix=prefix, **rule)
    other = "from_address" if direction == "ingress" else "to"
    for packet in through:
        assert passes(world, direction, family, **packet)
        assert not passes(world, direction, family, **packet, **{other: ELSEWHERE.address(family)})
    for packet in stopped:
        assert not passes(world, direction, family, **packet)


# --- remote groups


def remote_world(direction: str, *extra: Any, **group: Any) -> World:
    """Instance 1 lets in (or may reach) tcp 80 of group 2, whose member here is instance 2; instance 3 is in none."""
    rules = [
        make_rule(
            n, direction=direction, ethertype=ethertype, protocol="tcp", remote_group_id=group_id(2), **ports(80, 80)
        )
        for n, ethertype in enumerate(("IPv4", "IPv6"))
    ]
    settings = make_settings(allow_same_net_traffic=False, egress_default="deny" if direction == "egress" else "allow")
    return World(
        make_network(1),
        make_network(2),
        make_group(1, *rules),
        make_group(2, make_rule(9), make_rule(10, ethertype="IPv6"), **group),
        make_instance(1, (1,)),
        make_instance(2, (2,)),
        make_instance(3, (3,)),
        make_instance(4, (2,), network=2),
        make_group(3, make_rule(11), make_rule(12, ethertype="IPv6")),
        *extra,
        settings=settings,
    )


def test_a_remote_group_is_its_members_here(direction: str, family: Family) -> None:
    world = remote_world(direction)
    for member, other in ((vm(2), vm(3)), (vm(4, 2), OUTSIDE)):
        if direction == "ingress":
            assert world.passes(member, vm(1), TCP, 80, family=family)
            assert not world.passes(member, vm(1), TCP, 81, family=family)
            assert not world.passes(other, vm(1), TCP, 80, family=family)
        else:
            assert world.passes(vm(1), member, TCP, 80, family=family)
            assert not world.passes(vm(1), member, TCP, 81, family=family)
            assert not world.passes(vm(1), other, TCP, 80, family=family)


def test_a_remote_group_is_its_members_elsewhere_too(direction: str) -> None:
    world = remote_world(direction, members=("10.9.0.5", "203.0.113.0/29", "fd00:9::/64"))
    inside: list[tuple[Family, str]] = [(4, "10.9.0.5"), (4, "203.0.113.7"), (6, "fd00:9::1")]
    outside: list[tuple[Family, str]] = [(4, "10.9.0.6"), (4, "203.0.113.8"), (6, "fd00:a::1")]
    for expected, addresses in ((True, inside), (False, outside)):
        for family, address in addresses:
            ends = (OUTSIDE, vm(1)) if direction == "ingress" else (vm(1), OUTSIDE)
            side = "from_address" if direction == "ingress" else "to"
            assert world.passes(*ends, TCP, 80, family=family, **{side: address}) is expected


def test_a_vifs_own_list_of_groups_decides_what_it_is_a_member_of(family: Family) -> None:
    one = make_instance(5, (3,), vifs=(make_vif(5, 1, security_groups=(group_id(2),)),))
    other = make_instance(6, (2,), vifs=(make_vif(6, 1, security_groups=()),))
    world = remote_world("ingress", one, other)
    assert world.passes(vm(5), vm(1), TCP, 80, family=family)
    assert not world.passes(vm(6), vm(1), TCP, 80, family=family)


def test_a_member_without_port_security_is_a_member(family: Family) -> None:
    free = make_instance(5, (2,), vifs=(make_vif(5, 1, port_security_enabled=False),))
    assert remote_world("ingress", free).passes(vm(5), vm(1), TCP, 80, family=family)


def test_allowed_pairs_are_no_members(family: Family) -> None:
    """``remote_group_id`` means the fixed IPs of the members."""
    pair = {"ip_address": "10.1.0.50" if family == 4 else "fd00:1::50"}
    from nova_netagent.model import AllowedAddressPair

    world = remote_world(
        "ingress", make_instance(5, (2,), vifs=(make_vif(5, 1, allowed_address_pairs=(AllowedAddressPair(**pair),)),))
    )
    assert world.passes(vm(5), vm(1), TCP, 80, family=family)
    assert not world.passes(vm(5), vm(1), TCP, 80, family=family, from_address=pair["ip_address"])


def test_a_fixed_ip_that_is_in_error_makes_nobody_a_member() -> None:
    """An address outside its network's range, and one that an older vif has."""
    stray = make_instance(5, (2,), vifs=(make_vif(5, 1, fixed_ips=("10.77.0.5", "10.1.0.4")),))
    world = remote_world("ingress", stray)
    assert not world.passes(OUTSIDE, vm(1), TCP, 80, from_address="10.77.0.5")
    assert not world.passes(vm(3), vm(1), TCP, 80)


def test_a_rule_whose_remote_group_is_not_known_lets_nobody_in_and_nothing_else_is_lost(family: Family) -> None:
    group = make_group(
        1,
        make_rule(1, ethertype=ETHERTYPES[family], remote_group_id=group_id(77)),
        make_rule(2, ethertype=ETHERTYPES[family], protocol="tcp", **ports(22, 22)),
    )
    world = World(make_network(1), group, make_instance(1, (1,)), make_instance(2, (1,)), settings=APART)
    assert not world.passes(OUTSIDE, vm(1), TCP, 80, family=family)
    assert not world.passes(vm(2), vm(1), TCP, 80, family=family)
    assert world.passes(OUTSIDE, vm(1), TCP, 22, family=family)
    assert world.problems(group) == [("pending", f"rule {group.rules[0].id} waits for security group {group_id(77)}")]


def test_a_group_that_refers_to_itself_lets_its_members_talk_and_waits_for_nothing(
    direction: str, family: Family
) -> None:
    group = make_group(1, make_rule(1, direction=direction, ethertype=ETHERTYPES[family], remote_group_id=group_id(1)))
    open_ = make_group(2, make_rule(2), make_rule(3, ethertype="IPv6"))
    settings = make_settings(allow_same_net_traffic=False, egress_default="deny" if direction == "egress" else "allow")
    ours = (1,) if direction == "ingress" else (1, 2)
    world = World(
        make_network(1),
        group,
        open_,
        make_instance(1, ours),
        make_instance(2, ours),
        make_instance(3, (2,)),
        settings=settings,
    )
    assert not world.compiled.problems
    assert world.passes(vm(2), vm(1), family=family)
    if direction == "ingress":
        assert not world.passes(vm(3), vm(1), family=family)
    else:
        assert not world.passes(vm(1), vm(3), family=family)


def test_rules_that_read_alike_are_one() -> None:
    """In neutron's order; the kernel would ask the second one for nothing."""
    group = make_group(
        1,
        make_rule(1, protocol="tcp"),
        make_rule(2, protocol="6"),
        make_rule(3, protocol="tcp", remote_ip_prefix="0.0.0.0/0"),
        make_rule(4, protocol="tcp", **ports(0, 65535)),
        make_rule(5, protocol="udp"),
    )
    world = World(make_network(1), group, make_instance(1, (1,)))
    assert world.chain("sgi-b0000001") == ["-p tcp -j ACCEPT", "-p udp -j ACCEPT"]


def test_two_groups_allow_what_either_does(direction: str, family: Family) -> None:
    ethertype = ETHERTYPES[family]
    settings = make_settings(allow_same_net_traffic=False, egress_default="deny")
    world = World(
        make_network(1),
        make_group(1, make_rule(1, direction=direction, ethertype=ethertype, protocol="tcp", **ports(22, 22))),
        make_group(2, make_rule(2, direction=direction, ethertype=ethertype, protocol="udp", **ports(53, 53))),
        make_instance(1, (1, 2)),
        settings=settings,
    )
    assert passes(world, direction, family, **tcp(22))
    assert passes(world, direction, family, **udp(53))
    assert not passes(world, direction, family, **tcp(53))


def test_a_group_that_is_not_known_yet_leaves_the_others_in_force(family: Family) -> None:
    known = make_group(1, make_rule(1, ethertype=ETHERTYPES[family], protocol="tcp", **ports(22, 22)))
    instance = make_instance(1, (1, 9))
    world = World(make_network(1), known, instance)
    assert world.passes(OUTSIDE, vm(1), TCP, 22, family=family)
    assert not world.passes(OUTSIDE, vm(1), TCP, 23, family=family)
    assert world.problems(instance) == [
        ("pending", f"vif {instance.vifs[0].id} waits for security group {group_id(9)}")
    ]


# --- replies, and groups that are not stateful


@pytest.mark.parametrize("state", ["ESTABLISHED", "RELATED"])
def test_replies_pass_both_ways(state: str, family: Family) -> None:
    world = World(make_network(1), make_group(1), make_instance(1, (1,)), settings=make_settings(egress_default="deny"))
    assert world.passes(OUTSIDE, vm(1), family=family, state=state)
    assert world.passes(vm(1), OUTSIDE, family=family, state=state)
    assert not world.passes(OUTSIDE, vm(1), family=family)
    assert not world.passes(vm(1), OUTSIDE, family=family)


def test_what_connection_tracking_finds_invalid_is_dropped_whatever_is_allowed(family: Family) -> None:
    ethertype = ETHERTYPES[family]
    group = make_group(
        1, make_rule(1, ethertype=ethertype), make_rule(2, direction="egress", ethertype=ethertype, protocol="tcp")
    )
    world = World(make_network(1), group, make_instance(1, (1,)))
    assert world.passes(OUTSIDE, vm(1), family=family)
    assert not world.passes(OUTSIDE, vm(1), family=family, state="INVALID")
    assert not world.passes(vm(1), OUTSIDE, family=family, state="INVALID")


def test_udplite_is_judged_although_connection_tracking_finds_it_invalid(direction: str, family: Family) -> None:
    """It verifies a checksum that UDP-Lite does not have."""
    world = world_with(direction, family, protocol="udplite", **ports(5, 5))
    assert passes(world, direction, family, protocol=UDPLITE, port=5, state="INVALID")
    assert not passes(world, direction, family, protocol=UDPLITE, port=6, state="INVALID")


def test_a_stateless_group_is_judged_packet_by_packet(direction: str, family: Family) -> None:
    group = make_group(
        1,
        make_rule(1, direction=direction, ethertype=ETHERTYPES[family], protocol="tcp", **ports(80, 80)),
        stateful=False,
    )
    world = World(make_network(1), group, make_instance(1, (1,)), settings=make_settings(egress_default="deny"))
    for state in ("NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED"):
        assert passes(world, direction, family, **tcp(80), state=state), state
        assert not passes(world, direction, family, **tcp(81), state=state), state


def test_an_instance_with_one_stateful_group_is_stateful(family: Family) -> None:
    world = World(
        make_network(1),
        make_group(1, stateful=False),
        make_group(2),
        make_instance(1, (1, 2)),
        make_instance(2, (1,)),
        settings=make_settings(egress_default="deny"),
    )
    for one, expected in ((vm(1), True), (vm(2), False)):
        assert world.passes(OUTSIDE, one, family=family, state="ESTABLISHED") is expected
        assert world.passes(one, OUTSIDE, family=family, state="ESTABLISHED") is expected


# --- the network's own, and the host's


def test_the_own_network_is_let_in(family: Family) -> None:
    world = World(
        make_network(1, bridge_interface="eth1"),
        make_network(2),
        make_instance(1),
        make_instance(2),
        make_instance(3, network=2),
    )
    for neighbour in (vm(2), host(1), behind(1)):
        assert world.passes(neighbour, vm(1), family=family)
    for stranger in (vm(3, 2), OUTSIDE):
        assert not world.passes(stranger, vm(1), family=family)


def test_the_own_network_is_not_let_in_where_the_operator_says_so(family: Family) -> None:
    world = World(make_network(1, bridge_interface="eth1"), make_instance(1), make_instance(2), settings=APART)
    for neighbour in (vm(2), host(1), behind(1), OUTSIDE):
        assert not world.passes(neighbour, vm(1), family=family)


def test_a_neighbours_link_local_address_is_of_the_own_network() -> None:
    world = World(make_network(1), make_instance(1), make_instance(2))
    address = "fe80::f816:3eff:fe00:2"
    assert world.send(vm(2), vm(1), UDP, 9, family=6, from_address=address, multicast=True).passed
    apart = World(make_network(1), make_instance(1), make_instance(2), settings=APART)
    assert not apart.send(vm(2), vm(1), UDP, 9, family=6, from_address=address, multicast=True).passed


def test_the_host_itself_is_judged_like_anybody(family: Family) -> None:
    """nova: nova-filter-top is in OUTPUT too, so that the host is no way around the groups."""
    group = make_group(1, make_rule(1, ethertype=ETHERTYPES[family], protocol="tcp", **ports(22, 22)))
    world = World(make_network(1), group, make_instance(1, (1,)), settings=APART)
    assert world.passes(host(), vm(1), TCP, 22, family=family)
    journey = world.send(host(), vm(1), TCP, 23, family=family)
    assert journey.refused_by is not None
    assert journey.refused_by[1].chain == "nova-netagent-sg-fallback"


# --- members of the same group on several vifs


def test_each_vif_is_judged_by_its_own_groups(family: Family) -> None:
    ethertype = ETHERTYPES[family]
    instance = make_instance(
        1,
        (1,),
        vifs=(make_vif(1, 1), make_vif(2, 2, security_groups=(group_id(2),)), make_vif(3, 1, security_groups=())),
    )
    world = World(
        make_network(1),
        make_network(2),
        make_group(1, make_rule(1, ethertype=ethertype, protocol="tcp", **ports(22, 22))),
        make_group(
            2,
            make_rule(2, ethertype=ethertype, protocol="tcp", **ports(80, 80)),
            make_rule(3, ethertype=ethertype, direction="egress", protocol="udp"),
        ),
        instance,
        make_instance(9, (1,)),
        settings=APART,
    )
    for end, port in ((vm(1), 22), (vm(2, 2), 80)):
        for sender in (OUTSIDE, vm(9)):
            assert world.passes(sender, end, TCP, port, family=family)
            assert not world.passes(sender, end, TCP, 102 - port, family=family)
    assert not world.passes(OUTSIDE, vm(3), TCP, 22, family=family)
    assert not world.passes(vm(9), vm(3), TCP, 22, family=family)
    # Only the second one's group restricts what is sent.
    assert world.passes(vm(1), OUTSIDE, TCP, 80, family=family)
    assert world.passes(vm(3), OUTSIDE, TCP, 80, family=family)
    assert not world.passes(vm(2, 2), OUTSIDE, TCP, 80, family=family)
    assert world.passes(vm(2, 2), OUTSIDE, UDP, 80, family=family)


def test_one_vif_cannot_use_anothers_address_or_device(family: Family) -> None:
    instance = make_instance(1, (1,), vifs=(make_vif(1, 1), make_vif(2, 1)))
    world = World(make_network(1), make_group(1), instance)
    assert world.passes(vm(1), OUTSIDE, family=family)
    assert not world.passes(vm(1), OUTSIDE, family=family, from_address=vm(2).address(family))
    assert not world.passes(vm(2), OUTSIDE, family=family, mac="fa:16:3e:00:00:01")


# --- egress


def test_without_egress_rules_egress_is_free_or_closed_as_the_operator_says(family: Family) -> None:
    group = make_group(1, make_rule(1, ethertype=ETHERTYPES[family], protocol="tcp"))
    for default, expected in (("allow", True), ("deny", False)):
        world = World(
            make_network(1),
            make_network(2),
            group,
            make_instance(1, (1,)),
            make_instance(2),
            make_instance(3, (1,), network=2),
            settings=make_settings(egress_default=default),
        )
        for one in (vm(1), vm(2)):
            for target in (OUTSIDE, host(1), host(2), vm(3, 2)):
                assert world.passes(one, target, family=family) is expected, (default, one, target)


def test_one_egress_rule_restricts_both_families() -> None:
    """As in neutron: from the first egress rule on only what the groups allow goes out."""
    world = World(
        make_network(1), make_group(1, make_rule(1, direction="egress", protocol="tcp")), make_instance(1, (1,))
    )
    assert world.passes(vm(1), OUTSIDE, TCP)
    assert not world.passes(vm(1), OUTSIDE, UDP)
    assert not world.passes(vm(1), OUTSIDE, TCP, family=6)


def test_an_egress_rule_that_cannot_match_yet_restricts_already() -> None:
    group = make_group(1, make_rule(1, direction="egress", remote_group_id=group_id(9)))
    world = World(make_network(1), group, make_instance(1, (1,)))
    assert not world.passes(vm(1), OUTSIDE)


def test_a_group_that_is_not_known_yet_may_restrict_egress(family: Family) -> None:
    world = World(make_network(1), make_instance(1, (9,)))
    assert not world.passes(vm(1), OUTSIDE, family=family)


@pytest.mark.parametrize("default", ["allow", "deny"])
def test_egress_to_the_host_is_egress_like_any_other(default: str, family: Family) -> None:
    group = make_group(
        1, make_rule(1, direction="egress", ethertype=ETHERTYPES[family], protocol="tcp", **ports(22, 22))
    )
    world = World(make_network(1), group, make_instance(1, (1,)), settings=make_settings(egress_default=default))
    assert world.passes(vm(1), host(), TCP, 22, family=family)
    assert not world.passes(vm(1), host(), TCP, 23, family=family)


def test_the_sources_egress_and_the_destinations_ingress_must_both_agree(family: Family) -> None:
    ethertype = ETHERTYPES[family]
    world = World(
        make_network(1),
        make_group(1, make_rule(1, ethertype=ethertype, direction="egress", protocol="tcp", **ports(1, 100))),
        make_group(2, make_rule(2, ethertype=ethertype, protocol="tcp", **ports(50, 200))),
        make_instance(1, (1,)),
        make_instance(2, (2,)),
        settings=APART,
    )
    found = [port for port in (49, 50, 100, 101, 200) if world.passes(vm(1), vm(2), TCP, port, family=family)]
    assert found == [50, 100]


@pytest.mark.parametrize("groups", [(1, 2), (2, 1)])
def test_a_mark_of_somebody_elses_allows_nothing(groups: tuple[int, ...], family: Family) -> None:
    """The bit that says "allowed" is ours alone: it is cleared first and never leaves our chains."""
    ethertype = ETHERTYPES[family]
    world = World(
        make_network(1),
        make_group(1, make_rule(1, ethertype=ethertype, direction="egress", protocol="tcp", **ports(22, 22))),
        make_group(2, make_rule(2, ethertype=ethertype, direction="egress", protocol="udp", **ports(53, 53))),
        make_instance(1, groups),
    )
    bit = world.settings.firewall.egress_mark
    assert not world.passes(vm(1), OUTSIDE, TCP, 80, family=family, mark=bit | 5)
    for protocol, port in ((TCP, 22), (UDP, 53)):
        journey = world.send(vm(1), OUTSIDE, protocol, port, family=family, mark=5)
        assert journey.passed
        assert journey.packet.mark == 5
