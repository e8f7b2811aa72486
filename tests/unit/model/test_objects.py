"""What is refused in a body, and which field is named."""

from typing import Any

import msgspec
import pytest

from nova_netagent.model import KINDS, Instance, Invalid, SecurityGroup, State, document
from nova_netagent.testing import (
    instance_id,
    make_floating_ip,
    make_group,
    make_instance,
    make_network,
    make_provider_rule,
    make_rule,
    make_vif,
    network_id,
    rule_id,
    vif_id,
)
from tests.unit.model.bodies import GOOD, NOTHING, body_of, read, refused_field

LONG = "x" * 256
BIG = 2**63


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_body_is_read(kind: str) -> None:
    assert read(kind, body_of(kind)) == GOOD[kind]


# Kind, the fields that are changed, and the field that is named (its first word is enough where it is the same).
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    # ids
    *((kind, {"id": "x"}, "id") for kind in KINDS),
    *((kind, {"id": 5}, "id") for kind in KINDS),
    *((kind, {"id": None}, "id") for kind in KINDS),
    *((kind, {"id": NOTHING}, "id") for kind in KINDS),
    *((kind, {"colour": "red"}, "colour") for kind in KINDS),
    *((kind, {"revision": value}, "revision") for kind in KINDS for value in (-1, 1.5, "1", True, BIG)),
    *((kind, {"project_id": LONG}, "project_id") for kind in KINDS if kind != "provider_rules"),
    # networks
    ("networks", {"label": NOTHING}, "label"),
    ("networks", {"label": None}, "label"),
    ("networks", {"label": LONG}, "label"),
    ("networks", {"label": "two\nlines"}, "label"),
    ("networks", {"bridge": NOTHING}, "bridge"),
    ("networks", {"bridge": ""}, "bridge"),
    ("networks", {"bridge": "sixteen-letters-"}, "bridge"),
    ("networks", {"bridge": "br+"}, "bridge"),
    ("networks", {"bridge_interface": "eth 1"}, "bridge_interface"),
    ("networks", {"bridge_interface": "br1"}, "bridge_interface"),
    *(("networks", {"vlan": value}, "vlan") for value in (0, 4095, -1, "100", 1.5)),
    *(("networks", {"mtu": value}, "mtu") for value in (67, 65536, "1500", 1279)),
    ("networks", {"mtu": 67, "cidr_v6": None, "gateway_v6": None}, "mtu"),
    ("networks", {"cidr": "10.1.0.0/33"}, "cidr"),
    ("networks", {"cidr": "fd00::/64"}, "cidr"),
    ("networks", {"cidr": 10}, "cidr"),
    ("networks", {"cidr": NOTHING}, "gateway"),
    ("networks", {"cidr_v6": "10.1.0.0/24"}, "cidr_v6"),
    ("networks", {"cidr_v6": "fd00::/129"}, "cidr_v6"),
    ("networks", {"gateway": "10.1.1.1"}, "gateway"),
    ("networks", {"gateway": "fd00:1::1"}, "gateway"),
    ("networks", {"gateway": "10.1.0.1/24"}, "gateway"),
    *(
        ("networks", {name: address}, name)
        for name in ("gateway", "dhcp_server", "dhcp_start")
        for address in ("10.1.0.0", "10.1.0.255", "0.0.0.0", "127.0.0.1", "224.0.0.1")
    ),
    *(("networks", {"cidr": cidr, "gateway": None}, "cidr") for cidr in ("0.0.0.0/0", "224.0.0.0/8", "192.0.0.0/2")),
    *(("networks", {"cidr_v6": cidr, "gateway_v6": None}, "cidr_v6") for cidr in ("::/0", "ff02::/64", "ff00::/7")),
    *(("networks", {"gateway_v6": address}, "gateway_v6") for address in ("::", "::1", "ff02::1")),
    *(("networks", {name: "lo"}, name) for name in ("bridge", "bridge_interface")),
    ("networks", {"bridge": "all"}, "bridge"),
    ("networks", {"bridge": "default"}, "bridge"),
    *(("networks", {"dns1": address}, "dns1") for address in ("0.0.0.0", "127.0.0.1", "::1", "ff02::fb")),
    ("networks", {"dhcp_server": "10.2.0.1"}, "dhcp_server"),
    ("networks", {"dhcp_server": "here"}, "dhcp_server"),
    ("networks", {"dhcp_start": "10.0.255.255"}, "dhcp_start"),
    ("networks", {"dhcp_start": "10.1"}, "dhcp_start"),
    ("networks", {"gateway_v6": "fd00:2::1"}, "gateway_v6"),
    ("networks", {"gateway_v6": "10.1.0.1"}, "gateway_v6"),
    ("networks", {"gateway_v6": "fec0::1"}, "gateway_v6"),
    ("networks", {"cidr_v6": NOTHING}, "gateway_v6"),
    *(("networks", {name: "dns.example.org"}, name) for name in ("dns1", "dns2")),
    *(
        ("networks", {name: value}, name)
        for name in ("enable_dhcp", "multi_host", "share_address")
        for value in ("yes", 1)
    ),
    *(("networks", {"nova_id": value}, "nova_id") for value in (-1, "7", BIG)),
    # instances
    ("instances", {"security_groups": NOTHING}, "security_groups"),
    ("instances", {"security_groups": None}, "security_groups"),
    ("instances", {"security_groups": "b"}, "security_groups"),
    ("instances", {"security_groups": ["default"]}, "security_groups[0]"),
    ("instances", {"security_groups": [instance_id(1), "x"]}, "security_groups[1]"),
    ("instances", {"security_groups": [7]}, "security_groups[0]"),
    *(("instances", {"hostname": name}, "hostname") for name in ("a\0", "", "a b", "-a", "a.", "é", "a" * 256, "a\n")),
    ("instances", {"vifs": NOTHING}, "vifs"),
    ("instances", {"vifs": None}, "vifs"),
    ("instances", {"vifs": {}}, "vifs"),
    # groups
    ("security_groups", {"name": LONG}, "name"),
    ("security_groups", {"stateful": "true"}, "stateful"),
    ("security_groups", {"members": ["10.0.0.1", "10.0.0.0/40"]}, "members[1]"),
    ("security_groups", {"members": "10.0.0.1"}, "members"),
    ("security_groups", {"rules": NOTHING}, "rules"),
    ("security_groups", {"rules": None}, "rules"),
    # floating IPs
    *(("floating_ips", {"id": value}, "id") for value in ("198.51.100.300", "198.51.100.1/32", "2001:db8::1")),
    *(
        ("floating_ips", {"id": value}, "id")
        for value in ("0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255")
    ),
    ("floating_ips", {"fixed_ip_address": NOTHING}, "fixed_ip_address"),
    ("floating_ips", {"fixed_ip_address": "fd00::2"}, "fixed_ip_address"),
    ("floating_ips", {"fixed_ip_address": "198.51.100.1"}, "fixed_ip_address"),
    ("floating_ips", {"interface": "eth0:1"}, "interface"),
    ("floating_ips", {"instance_id": "vm1"}, "instance_id"),
    # provider rules
    ("provider_rules", {"remote_ip_prefix": NOTHING}, "remote_ip_prefix"),
    ("provider_rules", {"remote_ip_prefix": None}, "remote_ip_prefix"),
    ("provider_rules", {"remote_ip_prefix": "10.0.0.0/99"}, "remote_ip_prefix"),
    ("provider_rules", {"ethertype": "IPv6"}, "remote_ip_prefix"),
    ("provider_rules", {"remote_ip_prefix": "fd00::/8", "ethertype": "IPv4"}, "remote_ip_prefix"),
    ("provider_rules", {"ethertype": "ARP"}, "ethertype"),
    ("provider_rules", {"direction": "ingress"}, "direction"),
]


@pytest.mark.parametrize(("kind", "fields", "field"), REFUSED)
def test_what_is_wrong_is_named(kind: str, fields: dict[str, Any], field: str) -> None:
    assert refused_field(kind, body_of(kind, **fields))[0] == field


VIFS: list[tuple[dict[str, Any], str]] = [
    ({"id": "tap1"}, "id"),
    ({"id": NOTHING}, "id"),
    ({"address": "fa:16:3e"}, "address"),
    ({"address": "01:00:5e:00:00:01"}, "address"),
    ({"address": "00:00:00:00:00:00"}, "address"),
    ({"fixed_ips": ["127.0.0.1"]}, "fixed_ips[0]"),
    ({"fixed_ips": ["10.1.0.2", "255.255.255.255"]}, "fixed_ips[1]"),
    ({"fixed_ips": ["::"]}, "fixed_ips[0]"),
    ({"devname": "lo"}, "devname"),
    ({"address": NOTHING}, "address"),
    ({"network_id": "net1"}, "network_id"),
    ({"network_id": NOTHING}, "network_id"),
    ({"devname": "tap+"}, "devname"),
    ({"devname": "x" * 16}, "devname"),
    ({"fixed_ips": ["10.1.0.2", "10.1.0.2/24"]}, "fixed_ips[1]"),
    ({"fixed_ips": None}, "fixed_ips"),
    ({"security_groups": ["default"]}, "security_groups[0]"),
    ({"port_security_enabled": "no"}, "port_security_enabled"),
    (
        {"allowed_address_pairs": [{"ip_address": "10.0.0.0/24"}, {"ip_address": "x"}]},
        "allowed_address_pairs[1].ip_address",
    ),
    ({"allowed_address_pairs": [{}]}, "allowed_address_pairs[0].ip_address"),
    (
        {"allowed_address_pairs": [{"ip_address": "10.0.0.1", "mac_address": "x"}]},
        "allowed_address_pairs[0].mac_address",
    ),
    ({"allowed_address_pairs": [{"ip_address": "10.0.0.1", "port": 5}]}, "allowed_address_pairs[0].port"),
    ({"mtu": 1500}, "mtu"),
]


@pytest.mark.parametrize(("fields", "field"), VIFS)
def test_what_is_wrong_in_a_vif_is_named_with_its_index(fields: dict[str, Any], field: str) -> None:
    good, bad = document(make_vif(1)), document(make_vif(2))
    assert isinstance(bad, dict)
    bad = {name: value for name, value in (bad | fields).items() if value is not NOTHING}
    assert refused_field("instances", body_of("instances", vifs=[good, bad]))[0] == f"vifs[1].{field}"


def rule(**fields: Any) -> dict[str, Any]:
    return {"id": rule_id(9), "direction": "ingress", "ethertype": "IPv4"} | fields


def ports(low: Any, high: Any) -> dict[str, Any]:
    return {"port_range_min": low, "port_range_max": high}


def source_ports(low: Any, high: Any) -> dict[str, Any]:
    return {"source_port_range_min": low, "source_port_range_max": high}


# What both rules of groups and of the provider refuse.
PORTED: list[tuple[dict[str, Any], str, str]] = [
    ({"protocol": "tpc"}, "protocol", "'tpc' is not a protocol"),
    ({"protocol": 256}, "protocol", "0 to 255"),
    ({"protocol": -1}, "protocol", "0 to 255"),
    ({"protocol": "1000"}, "protocol", "0 to 255"),
    ({"protocol": 6.0}, "protocol", ""),
    ({"protocol": True}, "protocol", ""),
    ({"protocol": "tcp", **ports(2, 1)}, "port_range_max", "the range is reversed: 2 is above 1"),
    ({"protocol": "tcp", **ports(None, 1)}, "port_range_min", "needs both ends"),
    ({"protocol": "tcp", **ports(1, None)}, "port_range_max", "needs both ends"),
    ({"protocol": "tcp", **ports(-1, 1)}, "port_range_min", "0 to 65535"),
    ({"protocol": "tcp", **ports(1, 65536)}, "port_range_max", "0 to 65535"),
    ({"protocol": "tcp", **ports("1", 2)}, "port_range_min", ""),
    (ports(1, 2), "port_range_min", "ports need a protocol, like tcp"),
    (ports(None, 2), "port_range_max", "ports need a protocol, like tcp"),
    ({"protocol": 0, **ports(1, 2)}, "port_range_min", "protocol 0 has no ports"),
    *(
        ({"protocol": name, **ports(1, 2)}, "port_range_min", f"protocol {name} has no ports")
        for name in ("gre", "esp", "ah", "vrrp", "ip", 200, "igmp")
    ),
    ({"protocol": "icmp", **ports(256, None)}, "port_range_min", "0 to 255"),
    ({"protocol": "icmp", **ports(-1, None)}, "port_range_min", "0 to 255"),
    ({"protocol": "icmp", **ports(8, 256)}, "port_range_max", "0 to 255"),
    ({"protocol": 1, **ports(None, 0)}, "port_range_max", "a code needs a type"),
]


@pytest.mark.parametrize(("fields", "field", "reason"), PORTED)
def test_what_is_wrong_in_a_rule_is_named_with_its_index(fields: dict[str, Any], field: str, reason: str) -> None:
    body = body_of("security_groups", rules=[document(make_rule(1)), rule(**fields)])
    found, why = refused_field("security_groups", body)
    assert found == f"rules[1].{field}"
    assert reason.replace("a code", "an ICMP code") in why or reason in why


@pytest.mark.parametrize(("fields", "field", "reason"), PORTED)
def test_what_is_wrong_in_a_provider_rule_is_named(fields: dict[str, Any], field: str, reason: str) -> None:
    found, _ = refused_field("provider_rules", body_of("provider_rules", **fields))
    assert found == field


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"id": "1"}, "id"),
        ({"direction": "in"}, "direction"),
        ({"direction": None}, "direction"),
        ({"ethertype": "ipv4"}, "ethertype"),
        ({"ethertype": 4}, "ethertype"),
        ({"remote_ip_prefix": "10.0.0.0/24", "remote_group_id": instance_id(1)}, "remote_group_id"),
        ({"remote_group_id": "default"}, "remote_group_id"),
        ({"remote_ip_prefix": "fd00::/64"}, "remote_ip_prefix"),
        ({"remote_ip_prefix": "0.0.0.0/0", "ethertype": "IPv6"}, "remote_ip_prefix"),
        ({"remote_ip_prefix": "10.0.0.0/-1"}, "remote_ip_prefix"),
        (source_ports(1, 2), "source_port_range_min"),
        ({"protocol": "gre", **source_ports(1, 2)}, "source_port_range_min"),
        ({"protocol": "icmp", **source_ports(1, 2)}, "source_port_range_min"),
        ({"protocol": "icmp", **source_ports(None, 2)}, "source_port_range_max"),
        ({"protocol": "udp", **source_ports(2, 1)}, "source_port_range_max"),
        ({"protocol": "udp", **source_ports(2, None)}, "source_port_range_max"),
        ({"protocol": "udp", **source_ports(0, 65536)}, "source_port_range_max"),
        ({"colour": "red"}, "colour"),
        ({"revision": 1}, "revision"),
    ],
)
def test_what_only_a_groups_rule_can_have_wrong(fields: dict[str, Any], field: str) -> None:
    body = body_of("security_groups", rules=[rule(**fields)])
    assert refused_field("security_groups", body)[0] == f"rules[0].{field}"


@pytest.mark.parametrize("protocol", ["icmpv6", "ipv6-icmp", 58])
def test_icmpv6_types_are_no_types_of_an_ipv4_rule(protocol: str | int) -> None:
    """xt_icmp6 is for IPv6 and xt_icmp for protocol 1: no kernel takes such a rule (neutron: 400)."""
    body = body_of("security_groups", rules=[rule(protocol=protocol, port_range_min=128)])
    assert refused_field("security_groups", body)[0].startswith("rules[0].")


def test_icmp_type_255_is_refused_as_no_kernel_takes_it() -> None:
    body = body_of("security_groups", rules=[rule(protocol="icmp", port_range_min=255)])
    assert refused_field("security_groups", body)[0] == "rules[0].port_range_min"


# --- what only the whole can have wrong


def test_what_must_be_distinct_is_and_both_places_are_named() -> None:
    one = make_vif(1)
    cases = [
        ((one, make_vif(2, id=one.id)), "vifs[1].id", "vifs[0].id has it too"),
        ((one, make_vif(2, devname="tap1")), "vifs[1].devname", "vifs[0].devname has it too"),
        (
            (one, make_vif(2, fixed_ips=("10.1.0.9", "10.1.0.2"))),
            "vifs[1].fixed_ips[1]",
            f"10.1.0.2 on network {network_id(1)} is given twice",
        ),
    ]
    for vifs, field, reason in cases:
        with pytest.raises(Invalid) as caught:
            make_instance(1, vifs=vifs)
        assert caught.value.field == field
        assert reason in caught.value.reason


def test_one_address_on_two_networks_is_two() -> None:
    make_instance(1, vifs=(make_vif(1, fixed_ips=("10.1.0.2",)), make_vif(2, 2, fixed_ips=("10.1.0.2",))))


def test_a_default_device_name_may_clash_as_well() -> None:
    ids = (vif_id(1), vif_id(1)[:-1] + "9")
    with pytest.raises(Invalid, match=r"vifs\[1\].devname"):
        make_instance(1, vifs=tuple(make_vif(n, id=id_, devname=None) for n, id_ in enumerate(ids)))


def test_rule_ids_are_distinct_in_a_group() -> None:
    with pytest.raises(Invalid, match=r"rules\[2\].id.*rules\[0\].id has it too"):
        make_group(1, make_rule(1), make_rule(2), make_rule(1, protocol="tcp"))


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_distinct_in_a_state(kind: str) -> None:
    twice: Any = (GOOD[kind], GOOD[kind])
    with pytest.raises(Invalid, match=rf"{kind}\[1\].id"):
        State(**{kind: twice})


# --- what is allowed at the edges


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("networks", {"vlan": 1}),
        ("networks", {"vlan": 4094}),
        ("networks", {"mtu": 1280}),
        ("networks", {"mtu": 68, "cidr_v6": None, "gateway_v6": None}),
        ("networks", {"mtu": 65535}),
        ("networks", {"gateway": "10.1.0.254", "dhcp_server": "10.1.0.2", "dhcp_start": "10.1.0.3"}),
        ("networks", {"gateway_v6": "fe80::1"}),
        ("networks", {"gateway_v6": "fe80::1", "cidr_v6": None}),
        ("networks", {"gateway_v6": "febf:ffff::1"}),
        ("networks", {"cidr": "10.1.0.0/31", "gateway": "10.1.0.0", "dhcp_server": "10.1.0.1"}),
        ("networks", {"cidr": "10.1.0.1/32", "gateway": "10.1.0.1"}),
        ("networks", {"cidr_v6": "fd00:1::/64", "gateway_v6": "fd00:1::"}),
        ("networks", {"nova_id": 0, "revision": 0}),
        ("networks", {"nova_id": BIG - 1, "revision": BIG - 1}),
        ("instances", {"vifs": [], "security_groups": []}),
        ("security_groups", {"rules": [], "members": []}),
        ("security_groups", {"rules": [rule(protocol="tcp", **ports(0, 65535), **source_ports(0, 0))]}),
        ("security_groups", {"rules": [rule(protocol="icmp", **ports(0, 255))]}),
        ("security_groups", {"rules": [rule(protocol="icmp", ethertype="IPv6", **ports(255, 255))]}),
        ("security_groups", {"rules": [rule(ethertype="IPv6", remote_ip_prefix="::/0")]}),
        ("security_groups", {"rules": [rule(remote_group_id=GOOD["security_groups"].id)]}),
        ("floating_ips", {"id": "1.0.0.1"}),
        ("floating_ips", {"id": "223.255.255.255"}),
        ("provider_rules", {"remote_ip_prefix": "::/0", "ethertype": None}),
        ("provider_rules", {"remote_ip_prefix": "0.0.0.0/0", "ethertype": "IPv4"}),
    ],
)
def test_the_edges_are_allowed(kind: str, fields: dict[str, Any]) -> None:
    read(kind, body_of(kind, **fields))


def test_objects_are_frozen_and_equal_by_value() -> None:
    one, other = make_network(1), make_network(1)
    assert one == other
    assert one is not other
    with pytest.raises(AttributeError):
        one.label = "x"  # type: ignore[misc]


# --- what an object says of itself


@pytest.mark.parametrize(
    ("fields", "server", "external", "serves"),
    [
        ({}, "10.1.0.1", False, True),
        ({"dhcp_server": "10.1.0.1"}, "10.1.0.1", False, True),
        ({"dhcp_server": "10.1.0.2"}, "10.1.0.2", True, True),
        ({"gateway": None}, None, False, False),
        ({"gateway": None, "dhcp_server": "10.1.0.2"}, "10.1.0.2", False, True),
        ({"enable_dhcp": False}, "10.1.0.1", False, False),
        ({"enable_dhcp": None}, "10.1.0.1", False, True),
    ],
)
def test_who_serves_a_network(fields: dict[str, Any], server: str | None, external: bool, serves: bool) -> None:
    network = make_network(1, **fields)
    assert (network.server, network.external_gateway, network.serves_dhcp) == (server, external, serves)


def test_which_families_are_routed_here() -> None:
    assert [make_network(1).routed(family) for family in (4, 6)] == [True, True]
    assert [make_network(1, gateway=None, gateway_v6=None).routed(family) for family in (4, 6)] == [False, False]
    link_local = make_network(1, cidr_v6=None, gateway_v6="fe80::1")
    assert not link_local.routed(6)
    assert [link_local.range(family) for family in (4, 6)] == ["10.1.0.0/24", None]


def test_a_vifs_own_groups_stand_for_the_instances() -> None:
    instance = make_instance(
        1, (1, 2), vifs=(make_vif(1), make_vif(2, security_groups=()), make_vif(3, security_groups=(instance_id(5),)))
    )
    assert [len(instance.groups_of(vif)) for vif in instance.vifs] == [2, 0, 1]


def test_a_vifs_device_is_named_after_it_as_nova_does() -> None:
    vif = make_vif(1, devname=None)
    assert vif.device == f"tap{vif.id}"[:14] == "tapf0000001-00"


def test_families_of_rules() -> None:
    assert [make_rule(1, ethertype=name).family for name in ("IPv4", "IPv6")] == [4, 6]
    assert make_provider_rule(1, remote_ip_prefix="fd00::/8").family == 6
    assert make_provider_rule(1, remote_ip_prefix="fd00::/8").ethertype == "IPv6"


def test_a_state_gives_what_is_referred_to_first() -> None:
    state = State(
        floating_ips=(make_floating_ip(1),),
        instances=(make_instance(1),),
        networks=(make_network(1),),
        security_groups=(make_group(1),),
        provider_rules=(make_provider_rule(1),),
    )
    assert [item.KIND for item in state.objects()] == [
        "networks",
        "security_groups",
        "provider_rules",
        "instances",
        "floating_ips",
    ]


def test_types_are_those_of_the_kinds() -> None:
    assert KINDS["instances"] is Instance
    assert KINDS["security_groups"] is SecurityGroup
    assert all(kind == cls.KIND for kind, cls in KINDS.items())
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert([], Instance)
