"""Builders for tests of the agent, and of what drives it.

The address plan of every test: networks are 10.N.0.0/24 and fd00:N::/64 on bridge brN,
the host is .1 and ::1 there; the outside is 192.0.2.0/24 and 2001:db8:2::/64, floating
IPs are 198.51.100.0/24. Ids are readable: the kind's letter, then the number.
"""

from typing import Any

from nova_netagent.model import (
    FloatingIP,
    Instance,
    Network,
    ProviderRule,
    SecurityGroup,
    SecurityGroupRule,
    Vif,
)


def make_id(kind: str, number: int) -> str:
    """A UUID that tells what it is: ``make_id("a", 18)`` begins with ``a0000012``.

    The first eight digits differ for each number, as short names come from them.
    """
    return f"{kind}{number:07x}-0000-4000-8000-{number:012x}"


def network_id(number: int) -> str:
    """The id of a network."""
    return make_id("e", number)


def instance_id(number: int) -> str:
    """The id of an instance."""
    return make_id("a", number)


def vif_id(number: int) -> str:
    """The id of a vif."""
    return make_id("f", number)


def group_id(number: int) -> str:
    """The id of a security group."""
    return make_id("b", number)


def rule_id(number: int) -> str:
    """The id of a rule of a group."""
    return make_id("c", number)


def provider_rule_id(number: int) -> str:
    """The id of a provider rule."""
    return make_id("d", number)


def make_network(number: int = 1, **fields: Any) -> Network:
    """Network N: bridge brN, 10.N.0.0/24 and fd00:N::/64, routed by this host."""
    body: dict[str, Any] = {
        "id": network_id(number),
        "label": f"net{number}",
        "bridge": f"br{number}",
        "cidr": f"10.{number}.0.0/24",
        "gateway": f"10.{number}.0.1",
        "cidr_v6": f"fd00:{number}::/64",
        "gateway_v6": f"fd00:{number}::1",
    }
    return Network(**(body | fields))


def make_vif(number: int, network: int = 1, **fields: Any) -> Vif:
    """The vif of instance N: tapN, 10.NET.0.(N+1) and fd00:NET::(N+1)."""
    body: dict[str, Any] = {
        "id": vif_id(number),
        "address": f"fa:16:3e:00:{number >> 8:02x}:{number & 255:02x}",
        "network_id": network_id(network),
        "devname": f"tap{number}",
        "fixed_ips": (f"10.{network}.{(number + 1) >> 8}.{(number + 1) & 255}", f"fd00:{network}::{number + 1:x}"),
    }
    return Vif(**(body | fields))


def make_instance(number: int = 1, groups: tuple[int, ...] = (), network: int = 1, **fields: Any) -> Instance:
    """Instance N with one vif on a network, in the groups of those numbers."""
    body: dict[str, Any] = {
        "id": instance_id(number),
        "hostname": f"vm{number}",
        "security_groups": tuple(group_id(group) for group in groups),
        "vifs": (make_vif(number, network),),
    }
    return Instance(**(body | fields))


def make_rule(number: int = 1, **fields: Any) -> SecurityGroupRule:
    """Rule N: by default it lets in any IPv4."""
    body: dict[str, Any] = {"id": rule_id(number), "direction": "ingress", "ethertype": "IPv4"}
    return SecurityGroupRule(**(body | fields))


def make_group(number: int = 1, *rules: SecurityGroupRule, **fields: Any) -> SecurityGroup:
    """Group N with these rules."""
    return SecurityGroup(**({"id": group_id(number), "name": f"group{number}", "rules": rules} | fields))


def make_floating_ip(number: int = 1, instance: int = 1, network: int = 1, **fields: Any) -> FloatingIP:
    """198.51.100.N on the first address of an instance."""
    body: dict[str, Any] = {"id": f"198.51.100.{number}", "fixed_ip_address": f"10.{network}.0.{instance + 1}"}
    return FloatingIP(**(body | fields))


def make_provider_rule(number: int = 1, **fields: Any) -> ProviderRule:
    """Provider rule N: by default it drops everything from 203.0.113.0/24."""
    body: dict[str, Any] = {"id": provider_rule_id(number), "remote_ip_prefix": "203.0.113.0/24"}
    return ProviderRule(**(body | fields))
