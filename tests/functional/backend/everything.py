"""A host with everything that can be described, so that every kind of rule, set and map is among its rules."""

from collections.abc import Mapping
from typing import Any

from nova_netagent.model import AllowedAddressPair, Instance, SecurityGroup, SecurityGroupRule, State
from nova_netagent.testing import (
    group_id,
    make_floating_ip,
    make_group,
    make_instance,
    make_network,
    make_provider_rule,
    make_rule,
    make_vif,
)

IPV6: Mapping[str, Any] = {"ethertype": "IPv6"}
PAIRS = (
    AllowedAddressPair(ip_address="10.1.0.128/25"),
    AllowedAddressPair(ip_address="fd00:1:0:0:8000::/65", mac_address="fa:16:3e:ff:ff:01"),
    AllowedAddressPair(ip_address="0.0.0.0/0"),
)


def everything() -> State:
    """The state."""
    return State(
        networks=(
            make_network(1, bridge_interface="eth1"),
            make_network(2, dhcp_server="10.2.0.2"),
            make_network(3, gateway=None, gateway_v6=None),
            make_network(4, cidr_v6=None, gateway_v6=None, share_address=True),
        ),
        security_groups=(_servers(), _clients(), _stateless(), _protocols()),
        instances=_instances(),
        floating_ips=(
            make_floating_ip(1, 1),
            make_floating_ip(2, 2, interface="eth0"),
            make_floating_ip(3, 1),
            make_floating_ip(4, 3, network=2),
        ),
        provider_rules=(
            make_provider_rule(1),
            make_provider_rule(2, protocol="tcp", port_range_min=20, port_range_max=25),
            make_provider_rule(3, remote_ip_prefix="2001:db8:bad::/48", protocol="icmp", port_range_min=1),
        ),
    )


def _instances() -> tuple[Instance, ...]:
    return (
        make_instance(1, (1,)),
        make_instance(2, (1, 2)),
        make_instance(3, (3,), network=2),
        make_instance(4, (3, 4), network=3),
        make_instance(
            5,
            (2,),
            vifs=(make_vif(51, allowed_address_pairs=PAIRS), make_vif(52, 2, security_groups=(group_id(4),))),
        ),
        make_instance(6, vifs=(make_vif(61, port_security_enabled=False),)),
        make_instance(7, (4,), vifs=(make_vif(7, 4, fixed_ips=("10.4.0.8",)),)),
        *(make_instance(number, (1,)) for number in range(10, 20)),
    )


def _servers() -> SecurityGroup:
    """Ports as elements and as rules, ICMP, prefixes, remote groups."""
    return make_group(
        1,
        *(_ports(100 + number, "tcp", port) for number, port in enumerate((22, 80, 443))),
        _ports(110, "tcp", 8000, 9000, remote_ip_prefix="192.0.2.0/24"),
        _ports(111, "udp", 1, 65535, remote_ip_prefix="203.0.113.7"),
        _ports(112, "tcp", 400, 500),
        _ports(113, "tcp", 1, 9, source_port_range_min=53, source_port_range_max=53),
        make_rule(114, protocol="icmp", port_range_min=8),
        make_rule(115, protocol="icmp", port_range_min=3, port_range_max=4),
        make_rule(116, remote_ip_prefix="198.51.96.0/21"),
        make_rule(117, remote_group_id=group_id(1)),
        _ports(118, "tcp", 1, 1024, remote_group_id=group_id(2)),
        make_rule(119),
        *(_ports(120 + port, "udp", port, remote_ip_prefix="2001:db8:2::/64", **IPV6) for port in range(3)),
        _ports(130, "tcp", 0, 65535, **IPV6),
        make_rule(131, protocol="icmp", port_range_min=128, port_range_max=0, **IPV6),
        make_rule(132, remote_group_id=group_id(2), **IPV6),
    )


def _clients() -> SecurityGroup:
    """Egress, and members elsewhere."""
    return make_group(
        2,
        *(_ports(200 + number, "tcp", port, direction="egress") for number, port in enumerate((80, 443))),
        _ports(202, "udp", 53, remote_ip_prefix="192.0.2.53", direction="egress"),
        make_rule(203, direction="egress", remote_group_id=group_id(1)),
        _ports(204, "tcp", 443, direction="egress", **IPV6),
        make_rule(205),
        members=("10.9.0.5", "10.1.0.0/28", "10.1.0.3", "fd00:9::5", "fd00:8::/60", "255.255.255.0/24"),
    )


def _stateless() -> SecurityGroup:
    return make_group(
        3,
        _ports(300, "tcp", 22),
        make_rule(301, direction="egress", protocol="udp", **IPV6),
        make_rule(302, remote_group_id=group_id(4)),
        stateful=False,
    )


def _protocols() -> SecurityGroup:
    """Protocols of all kinds, and whoever is anywhere."""
    return make_group(
        4,
        _ports(400, "udplite", 5, 6),
        _ports(401, "dccp", 7),
        _ports(402, "sctp", 5, 7),
        *(make_rule(410 + number, protocol=name) for number, name in enumerate(("icmp", "esp", 47, "112", 253))),
        make_rule(420, protocol="icmp", **IPV6),
        make_rule(421, **IPV6),
        members=("0.0.0.0/0", "::/0"),
    )


def _ports(number: int, protocol: str, low: int, high: int | None = None, **fields: Any) -> SecurityGroupRule:
    ports = {"port_range_min": low, "port_range_max": low if high is None else high}
    return make_rule(number, protocol=protocol, **ports, **fields)
