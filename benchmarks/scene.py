"""What is measured: N instances in a group of their own with K rules each."""

from typing import Any

from nova_netagent.model import Object, State, document
from nova_netagent.testing import (
    make_floating_ip,
    make_group,
    make_id,
    make_instance,
    make_network,
    make_rule,
    make_vif,
)

CONFIG: dict[str, dict[str, Any]] = {
    "DEFAULT": {"my_ip": "192.0.2.10"},
    "network": {"fixed_range": "10.0.0.0/8", "public_interface": "eth0", "send_arp_for_ha": "false"},
    "firewall": {"resync_interval": "3600"},
}


def group(number: int, rules: int, shift: int = 0) -> Object:
    """Group N: ports from prefixes, as tenants write them."""
    return make_group(
        number,
        *(
            make_rule(
                number * 1000 + index,
                protocol="tcp" if index % 3 else "udp",
                port_range_min=1000 + index + shift,
                port_range_max=1000 + index + shift,
                remote_ip_prefix=f"203.0.{index % 250}.0/24",
            )
            for index in range(rules)
        ),
    )


def instance(number: int) -> Object:
    """Instance N, IPv4 only, in group N."""
    vif = make_vif(
        number,
        devname=f"tap{make_id('a', number * 2654435761 % 2**28)[:8]}",
        fixed_ips=(f"10.1.{number // 250}.{number % 250 + 2}",),
    )
    return make_instance(number, (number,), vifs=(vif,))


def floating_ip() -> Object:
    """A floating IP of instance 1."""
    return make_floating_ip(1, fixed_ip_address="10.1.0.3")


def state(instances: int, rules: int) -> State:
    """The whole host."""
    numbers = range(1, instances + 1)
    return State(
        networks=(make_network(1, cidr="10.1.0.0/16"),),
        security_groups=tuple(group(number, rules) for number in numbers),  # type: ignore[arg-type]
        instances=tuple(instance(number) for number in numbers),  # type: ignore[arg-type]
    )


def body(item: Object | State) -> Any:
    """An object as the API takes it."""
    return document(item)
