"""A host that the tests of a module share, and a second opinion on every packet.

The machines stay where they are; ``describe`` replaces what the agent was told. Whatever packet
a test sends through the kernel is led through the compiled rules as well (law 7: the packet
walker gives it the same verdict): a test fails when the two witnesses disagree.

The machines vm1 and vm2 live on network 1, vm3 on network 2.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from nova_netagent.model import Network, Object, State, document
from nova_netagent.netfilter.rule import DROP, Rule
from nova_netagent.testing import make_network
from tests.functional.agent.cloud import Cloud
from tests.functional.agent.witness import Witness
from tests.lab import Forged, Lab, Namespace, Refusal, Seen, arrives, iptables, refused
from tests.lab.probes import IpProbe, new_port

ETHERTYPES = {4: "IPv4", 6: "IPv6"}
NETWORKS = (make_network(1), make_network(2))
NETWORK_OF = {1: 1, 2: 1, 3: 2}
"""The network of each vif's machine; of those not named here it is 1."""


class Site(Cloud):
    """One host under the agent, described as a whole, again and again."""

    def __init__(
        self, lab: Lab, config: Mapping[str, Mapping[str, Any]] | None = None, host: Namespace | None = None
    ) -> None:
        super().__init__(lab, config, host)
        self.witness = Witness(self.host, self.agent)
        self._machines: dict[int, Namespace] = {}
        self._lead_to_networks(self.outside)
        self.elsewhere = self.neighbour("elsewhere", "77")
        self.vm1, self.vm2, self.vm3 = self.machine(1), self.machine(2), self.machine(3)

    def neighbour(self, name: str, number: str) -> Namespace:
        """Another machine outside, 192.0.2.N, that knows the way to the networks."""
        station = self.lab.station(name, number)
        self._lead_to_networks(station)
        return station

    def machine(self, number: int, network: int | None = None) -> Namespace:
        """The machine of the vif of that number, made when it is first asked for."""
        if number not in self._machines:
            self._machines[number] = self.guest(number, network or NETWORK_OF.get(number, 1))
        return self._machines[number]

    def describe(self, *objects: Object) -> None:
        """Tell the agent all that there is; with networks 1 and 2, unless others are given."""
        networks = () if any(isinstance(each, Network) for each in objects) else NETWORKS
        state: dict[str, list[Object]] = {}
        for each in (*networks, *objects):
            state.setdefault(each.KIND, []).append(each)
        body: Any = document(State(**{kind: tuple(items) for kind, items in state.items()}))
        self.agent.state(body)
        self.host.run(["conntrack", "-F"])

    # packets, each judged twice

    def passes(
        self,
        sender: Namespace,
        receiver: Namespace,
        probe: IpProbe | Forged,
        *,
        state: str | None = None,
        device: str | None = None,
    ) -> Seen | None:
        """Send the probe; as the receiver saw it, if it arrived, and if it should have by the rules.

        :param state: how connection tracking sees the packet, where that cannot be told from itself.
        """
        probe = self._addressed(sender, receiver, probe)
        seen = arrives(sender, receiver, probe, device=device)
        self.witness.agrees(sender, receiver, probe, seen, state)
        return seen

    def stops(
        self,
        sender: Namespace,
        receiver: Namespace,
        probe: IpProbe | Forged,
        *,
        state: str | None = None,
        device: str | None = None,
    ) -> Refusal:
        """Send the probe; true when it did not arrive, and should not have by the rules."""
        probe = self._addressed(sender, receiver, probe)
        refusal = refused(sender, receiver, probe, device=device)
        self.witness.agrees(sender, receiver, probe, refusal.seen, state)
        return refusal

    def _addressed(self, sender: Namespace, receiver: Namespace, probe: IpProbe | Forged) -> IpProbe | Forged:
        """With its destination and ports decided; a frame that must be routed goes to the bridge."""
        if isinstance(probe, Forged) and probe.via is None and not self._on_one_bridge(sender, receiver, probe.device):
            probe = replace(probe, via=self.gateway_mac(sender, probe.device))
        probe = probe.towards(receiver)
        inner = probe.probe if isinstance(probe, Forged) else probe
        if getattr(inner, "source_port", 0) is None:
            inner = replace(inner, source_port=new_port())  # type: ignore[call-arg]
        return replace(probe, probe=inner) if isinstance(probe, Forged) else inner

    # the host

    def gateway_mac(self, machine: Namespace, device: str = "eth0") -> str:
        """The MAC to which a machine sends what is to be routed."""
        return self.host.links.mac(self._bridge_of(machine, device))

    def _lead_to_networks(self, station: Namespace) -> None:
        station.links.add_route("198.51.100.0/24", device="eth0")  # floating IPs are asked for on the segment
        for number in (1, 2):
            station.links.add_route(f"10.{number}.0.0/24", via=self.host.ip4)
            station.links.add_route(f"fd00:{number}::/64", via=self.host.ip6)

    @contextmanager
    def foreign(self, *rules: str, families: tuple[int, ...] = (4, 6)) -> Iterator[None]:
        """Have the operator's own rules meanwhile, each as ``-t TABLE -A CHAIN ...``, behind all others."""
        commands = [(rule, family) for rule in rules for family in families]
        for rule, family in commands:
            iptables(self.host, rule, family=family)  # type: ignore[arg-type]
        try:
            yield
        finally:
            for rule, family in commands:
                iptables(self.host, rule.replace(" -A ", " -D ", 1), family=family)  # type: ignore[arg-type]

    @contextmanager
    def closed_input(self) -> Iterator[None]:
        """Have an operator meanwhile whose policy is to let nothing in but replies."""
        self.witness.appended = {("filter", "INPUT"): [Rule(DROP)]}
        self._input_policy("DROP")
        try:
            with self.foreign("-t filter -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"):
                yield
        finally:
            self._input_policy("ACCEPT")
            self.witness.appended = {}

    def _input_policy(self, policy: str) -> None:
        for family in (4, 6):
            iptables(self.host, f"-P INPUT {policy}", family=family)  # type: ignore[arg-type]

    def _bridge_of(self, machine: Namespace, device: str) -> str:
        tap = machine.peers[device][1]
        return str(self.host.links.all()[tap]["master"])

    def _on_one_bridge(self, sender: Namespace, receiver: Namespace, device: str) -> bool:
        ours = [each for each in (sender.peers[device], receiver.peers["eth0"]) if each[0] is self.host]
        if len(ours) < 2:
            return False
        links = self.host.links.all()
        return links[ours[0][1]]["master"] == links[ours[1][1]]["master"]
