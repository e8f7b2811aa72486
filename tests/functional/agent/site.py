"""A host that the tests of a module share, and a second opinion on every packet.

The machines stay where they are; ``describe`` replaces what the agent was told. Whatever packet
a test sends through the kernel is led through the compiled rules as well (law 7: the packet
walker gives it the same verdict): a test fails when the two witnesses disagree.

The machines vm1 and vm2 live on network 1, vm3 on network 2.
"""

import re
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, overload

from nova_netagent.model import Network, Object, State, document
from nova_netagent.netfilter.rule import DROP, Rule
from nova_netagent.testing import make_network
from tests.functional.agent.cloud import Cloud
from tests.functional.agent.forkserver import ForkedAgent
from tests.functional.agent.kernel import closed_input
from tests.functional.agent.witness import Witness
from tests.lab import Agent, Forged, Lab, Namespace, Refusal, Seen, arrives, iptables, refused
from tests.lab.agent import BACKEND
from tests.lab.clients import PATIENCE
from tests.lab.probes import IpProbe, new_port, new_token
from tests.lab.proof import drain, one_processor
from tests.lab.watch import watching

ETHERTYPES = {4: "IPv4", 6: "IPv6"}
NETWORKS = (make_network(1), make_network(2))
NETWORK_OF = {3: 2}
"""The networks of those machines that are not on network 1."""


class Site(Cloud):
    """One host under the agent, described as a whole, again and again."""

    def __init__(
        self,
        lab: Lab,
        config: Mapping[str, Mapping[str, Any]] | None = None,
        host: Namespace | None = None,
        *,
        kind: type[Agent] = ForkedAgent,
        backend: str = BACKEND,
    ) -> None:
        super().__init__(lab, config, host, kind=kind, backend=backend)
        self.witness = Witness(self.host, self.agent)
        self._machines: dict[int, Namespace] = {}
        self._behind: dict[str, Namespace] = {}
        self._gateway_macs: dict[str, str] = {}
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

    def behind(self, device: str, network: str, bridge: str | None = None) -> Namespace:
        """A machine behind another link of the host, made when it is first asked for.

        On their segment it is .9, and the host, unless the link is a port of a bridge, .8.
        """
        if device not in self._behind:
            self.lab.plug(self.host, device, f"segment of {device}")
            if bridge is None:
                self.host.links.add_address(device, network.format(8))
            else:
                self.host.links.set(device, master=bridge)
            station = self._behind[device] = self.lab.add(Namespace(f"behind {device}"))
            self.lab.plug(station, "eth0", f"segment of {device}")
            station.links.add_address("eth0", network.format(9))
            station.sysctl("net/ipv6/conf/eth0/accept_ra", 0)
            station.ip4, station.mac = network.format(9).split("/")[0], station.links.mac("eth0")
            self.witness.look_again()
        return self._behind[device]

    def describe(self, *objects: Object) -> None:
        """Tell the agent all that there is; with networks 1 and 2, unless others are given."""
        networks = () if any(isinstance(each, Network) for each in objects) else NETWORKS
        state: dict[str, list[Any]] = {}
        for each in (*networks, *objects):
            state.setdefault(each.KIND, []).append(each)
        self.agent.state(document(State(**{kind: tuple(items) for kind, items in state.items()})))
        self._settle()
        self.forget_flows()

    def put(self, *objects: Object) -> None:
        """Describe some objects more, or anew."""
        super().put(*objects)
        self._settle()

    def delete(self, *objects: Object) -> None:
        """Delete objects."""
        super().delete(*objects)
        self._settle()

    def _settle(self) -> None:
        """Wait for bridges whose first port has just come: until the kernel has noticed they lose what they send."""
        self.witness.look_again()
        links = self.host.links.all()
        bridges = {str(link["master"]) for link in links.values() if link["master"] and link["running"]}
        self.host.links.wait_running(*bridges)
        self._follow_gateways({name: str(links[name]["mac"]) for name in bridges})

    def _follow_gateways(self, macs: Mapping[str, str]) -> None:
        """Have machines ask anew for gateways that have another MAC, as with an uplink that comes or goes.

        What is announced within a second of the last answer they would not believe (locktime, arp(7)).
        """
        if any(self._gateway_macs.get(name) != mac for name, mac in macs.items()):
            for machine in (*self._machines.values(), *self._behind.values()):
                machine.run(["ip", "neigh", "flush", "dev", "eth0"])
        self._gateway_macs |= macs

    def forget_flows(self) -> None:
        """Empty the connection table, so that what comes next is new."""
        delete_all = struct.pack("=IHHIIBBH", 20, 1 << 8 | 2, 0x5, 1, 0, 0, 0, 0)  # IPCTNL_MSG_CT_DELETE, with ACK
        with self.host.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as asking:
            asking.send(delete_all)
            answer = asking.recv(1024)
        assert struct.unpack_from("=i", answer, 16)[0] == 0, answer

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
        probe = self.addressed(sender, receiver, probe)
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
        probe = self.addressed(sender, receiver, probe)
        refusal = refused(sender, receiver, probe, device=device)
        self.witness.agrees(sender, receiver, probe, refusal.seen, state)
        return refusal

    def judge(
        self, sender: Namespace, receiver: Namespace, probe: IpProbe | Forged, *, state: str | None = None
    ) -> Seen | None:
        """Send the probe: as the receiver saw it, if it did. For a test that does not know what must become of it."""
        probe = self.addressed(sender, receiver, probe)
        token = new_token()
        with watching(receiver, [probe], None) as watch, one_processor():
            watch.expect(token)
            expected = self.witness.expects(sender, receiver, probe, state)
            probe.prepare(sender, token)()
            gone_by = not expected and drain(receiver)
            seen = watch.look(token) if gone_by else watch.wait(token, PATIENCE if expected else 0.3)
        if seen is not None and _is_overheard(seen, receiver):
            seen = None
        self.witness.agrees(sender, receiver, probe, seen, state)
        return seen

    @overload
    def addressed(self, sender: Namespace, receiver: Namespace, probe: IpProbe) -> IpProbe: ...

    @overload
    def addressed(self, sender: Namespace, receiver: Namespace, probe: Forged) -> Forged: ...

    def addressed(self, sender: Namespace, receiver: Namespace, probe: IpProbe | Forged) -> IpProbe | Forged:
        """With its destination and ports decided; a frame that must be routed goes to the bridge."""
        if (
            isinstance(probe, Forged)
            and probe.via is None
            and self._bridge_of(sender, probe.device) != self._bridge_of(receiver)
        ):
            probe = replace(probe, via=self.gateway_mac(sender, probe.device))
        probe = probe.towards(receiver)
        inner = probe.probe if isinstance(probe, Forged) else probe
        if getattr(inner, "source_port", 0) is None:
            inner = replace(inner, source_port=new_port())  # type: ignore[call-arg]
        return replace(probe, probe=inner) if isinstance(probe, Forged) else inner

    # the host

    def gateway_mac(self, machine: Namespace, device: str = "eth0") -> str | None:
        """The MAC to which a machine sends what is to be routed; None when it is on no bridge."""
        bridge = self._bridge_of(machine, device)
        return None if bridge is None else self.host.links.mac(bridge)

    def _lead_to_networks(self, station: Namespace) -> None:
        station.links.add_route("198.51.100.0/24", device="eth0")  # floating IPs are asked for on the segment
        for number in range(1, 5):
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
                iptables(self.host, re.sub(" -[AI] ", " -D ", rule, count=1), family=family)  # type: ignore[arg-type]

    @contextmanager
    def closed_input(self) -> Iterator[None]:
        """Have an operator meanwhile whose policy is to let nothing in but replies."""
        with closed_input(self.host, self.backend):
            self._after_ours({("filter", "INPUT"): [Rule(DROP)]})
            try:
                yield
            finally:
                self._after_ours({})

    def _after_ours(self, rules: dict[tuple[str, str], list[Rule]]) -> None:
        self.witness.appended = rules
        self.witness.look_again()

    def _bridge_of(self, machine: Namespace, device: str = "eth0") -> str | None:
        """The bridge behind whose port a machine is."""
        link = self.witness.link(machine, device)
        master = self.host.links.all()[link]["master"] if link is not None else None
        return None if master is None else str(master)


def _is_overheard(seen: Seen, receiver: Namespace) -> bool:
    """Whether a frame for another was flooded here, as a bridge does that has not learned the way."""
    mac = seen.destination_mac
    return mac is not None and mac != receiver.mac and not int(mac[:2], 16) & 1
