"""A host with the agent under test, and instances that exist as the API describes them.

The address plan is that of nova_netagent.testing: network N is 10.N.0.0/24 and fd00:N::/64 on
bridge brN, instance N has .(N+1); floating IPs are 198.51.100.N, the outside is 192.0.2.1.
"""

from collections.abc import Mapping
from typing import Any

from nova_netagent.model import Object, document
from nova_netagent.testing import make_instance, make_network, make_vif
from tests.functional.agent.forkserver import ForkedAgent
from tests.lab import Agent, Lab, Namespace
from tests.lab.agent import BACKEND

CONFIG: dict[str, dict[str, Any]] = {
    "network": {"public_interface": "eth0", "allow_same_net_traffic": False},
}


class Cloud:
    """One host under the agent, described object by object.

    :param program: start the daemon as the program that it is, half a second each time, and not as a fork.
    :param kind: how it is started otherwise.
    :param backend: its packet filter, unless the configuration names another.
    """

    def __init__(
        self,
        lab: Lab,
        config: Mapping[str, Mapping[str, Any]] | None = None,
        host: Namespace | None = None,
        *,
        program: bool = False,
        kind: type[Agent] = ForkedAgent,
        backend: str = BACKEND,
    ) -> None:
        self.lab = lab
        self.host = host or lab.host()
        merged = {**{group: dict(options) for group, options in CONFIG.items()}, "firewall": {"backend": backend}}
        for group, options in (config or {}).items():
            merged.setdefault(group, {}).update(options)
        self.backend = str(merged["firewall"]["backend"])
        self.agent: Agent = lab.agent(self.host, merged, kind=Agent if program else kind)

    @property
    def outside(self) -> Namespace:
        """A machine on the public segment."""
        return self.lab.outside

    def put(self, *objects: Object) -> None:
        """Describe objects; each must be accepted."""
        for each in objects:
            body: Any = document(each)
            self.agent.put(each.KIND.replace("_", "-"), body)

    def delete(self, *objects: Object) -> None:
        """Delete objects."""
        for each in objects:
            self.agent.delete(each.KIND.replace("_", "-"), each.id)

    def status(self, each: Object) -> dict[str, Any]:
        """How an object fares."""
        found: dict[str, Any] = self.agent.get(each.KIND.replace("_", "-"), each.id)["status"]
        return found

    def network(self, number: int = 1, **fields: Any) -> None:
        """Describe network N, and route to it from the outside."""
        self.put(make_network(number, **fields))
        routes = self.outside.links
        routes.add_route(f"10.{number}.0.0/24", via=str(self.host.ip4))
        routes.add_route(f"fd00:{number}::/64", via=str(self.host.ip6))

    def guest(self, number: int, network: int = 1, addresses: tuple[str, ...] | None = None) -> Namespace:
        """The machine of instance N: its tap is there, as a hypervisor makes it, and on no bridge yet."""
        vif = make_vif(number, network)
        if addresses is None:
            addresses = tuple(f"{each}/{64 if ':' in each else 24}" for each in vif.fixed_ips)
        return self.lab.instance(
            self.host,
            f"vm{number}",
            tap=vif.device,
            mac=vif.address,
            addresses=addresses,
            gateways=(f"10.{network}.0.1", f"fd00:{network}::1"),
        )

    def instance(self, number: int, groups: tuple[int, ...] = (), network: int = 1, **fields: Any) -> Namespace:
        """Boot instance N: its machine and its description."""
        guest = self.guest(number, network)
        self.put(make_instance(number, groups, network, **fields))
        return guest
