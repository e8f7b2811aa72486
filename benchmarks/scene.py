"""What is measured: N instances with K rules each, in groups of their own or shared by many."""

from dataclasses import dataclass
from typing import Any

from nova_netagent.model import Instance, Object, SecurityGroup, State, document
from nova_netagent.testing import (
    group_id,
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
RULES = 20


@dataclass(frozen=True)
class Scene:
    """A host: so many instances, and by how many each group is shared."""

    size: int
    shared: int = 1
    remote: bool = False
    """Whether each group lets its own members in, wherever they are."""

    @property
    def groups(self) -> str:
        """In a word."""
        return "private" if self.shared == 1 else f"by {self.shared}"

    def group_of(self, number: int) -> int:
        """The number of an instance's group."""
        return (number - 1) // self.shared + 1

    def group(self, number: int, shift: int = 0, shifted: int = RULES, members: tuple[str, ...] = ()) -> SecurityGroup:
        """Group N: ports from prefixes, as tenants write them.

        :param shift: by how much the ports of the first ``shifted`` rules are others.
        """
        ports = [1000 + index + (shift if index < shifted else 0) for index in range(RULES)]
        rules = [
            make_rule(
                number * 1000 + index,
                protocol="tcp" if index % 3 else "udp",
                port_range_min=port,
                port_range_max=port,
                remote_ip_prefix=f"203.0.{index % 250}.0/24",
            )
            for index, port in enumerate(ports)
        ]
        if self.remote:
            rules.append(make_rule(number * 1000 + RULES, protocol="tcp", remote_group_id=group_id(number)))
        return make_group(number, *rules, members=members)

    def instance(self, number: int) -> Instance:
        """Instance N, IPv4 only, in its group."""
        vif = make_vif(number, devname=device(number), fixed_ips=(address(number),))
        return make_instance(number, (self.group_of(number),), vifs=(vif,))

    def state(self, shift: int = 0) -> State:
        """The whole host."""
        numbers = range(1, self.size + 1)
        groups = sorted({self.group_of(number) for number in numbers})
        return State(
            networks=(make_network(1, cidr="10.1.0.0/16"),),
            security_groups=tuple(self.group(number, shift) for number in groups),
            instances=tuple(self.instance(number) for number in numbers),
        )


def device(number: int) -> str:
    """The tap of instance N: letters as random as nova's."""
    return f"tap{make_id('a', number * 2654435761 % 2**28)[:8]}"


def address(number: int) -> str:
    """The fixed IP of instance N."""
    return f"10.1.{number // 250}.{number % 250 + 2}"


def floating_ip() -> Object:
    """A floating IP of instance 1."""
    return make_floating_ip(1, fixed_ip_address=address(1))


def body(item: Object | State) -> Any:
    """An object as the API takes it."""
    return document(item)
