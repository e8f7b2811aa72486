"""The packet walker as a witness: what the compiled rules say of a packet that a test sends.

The state is what the agent itself gives out (``GET /v1/state``), the settings are those of its
configuration file, and links and addresses are the host's real ones; it routes to what it has
an address in, and everything else to eth0. Only the way through the tables is the walker's.
"""

import socket
from dataclasses import dataclass, field, replace

from nova_netagent import conf
from nova_netagent.api.wire import convert_state
from nova_netagent.compile import Compiler
from nova_netagent.events import Replace, fold
from nova_netagent.model import DesiredState, values
from nova_netagent.model.protocols import ICMP, ICMPV6, IPV6_NONXT, UDPLITE
from nova_netagent.netfilter.journey import Chains, Journey, NoRoute, Port, Scene, tables_of
from nova_netagent.netfilter.packet import Packet
from nova_netagent.netfilter.rule import Rule, TableId
from nova_netagent.netfilter.text import rule_text
from tests.lab import Agent, Forged, Icmp, Namespace, Seen
from tests.lab.probes import SO_BINDTODEVICE, IpProbe, is_unicast

UNTRACKED_ICMPV6 = frozenset({130, 131, 132, 133, 134, 135, 136, 143})
"""Discovery and MLD have no flows (nf_conntrack_proto_icmpv6.c, noct_valid_new)."""
OPENING = {ICMP: frozenset({8, 13, 15, 17}), ICMPV6: frozenset({128, 139})}
"""The messages that open a flow (valid_new there); others are replies, errors, or invalid."""


class Disagreement(AssertionError):
    """The kernel treated a packet otherwise than the compiled rules would."""


@dataclass
class Witness:
    """Leads packets through what one agent's state compiles to.

    It looks at the host once, and again only when it is told to.
    """

    host: Namespace
    agent: Agent
    appended: dict[tuple[str, str], list[Rule]] = field(default_factory=dict)
    """The operator's own rules that decide anything, by table and chain."""

    def __post_init__(self) -> None:
        self._seen: Scene | None = None
        self._compiler = Compiler(self.host.call(conf.load, [self.agent.config_file]))

    def expects(
        self, sender: Namespace, receiver: Namespace, probe: IpProbe | Forged, state: str | None = None
    ) -> bool:
        """Whether a packet should arrive, by the rules."""
        journey = self.journey(sender, receiver, probe, state)
        return journey is not None and self._lands(journey, receiver)

    def agrees(
        self, sender: Namespace, receiver: Namespace, probe: IpProbe | Forged, seen: Seen | None, state: str | None
    ) -> None:
        """Compare what became of a packet with what the rules say.

        :param state: how connection tracking sees the packet, where that cannot be told from itself.
        :raises Disagreement: kernel and rules are not of one mind.
        """
        journey = self.journey(sender, receiver, probe, state)
        expected = journey is not None and self._lands(journey, receiver)
        if expected != (seen is not None) or (seen is not None and not _same(seen, journey)):
            raise Disagreement(f"{probe} from {sender} to {receiver}: the kernel: {seen}; the rules: {_told(journey)}")

    def journey(
        self, sender: Namespace, receiver: Namespace, probe: IpProbe | Forged, state: str | None = None
    ) -> Journey | None:
        """What the rules do to a packet; None when it gets to no rule or has no route."""
        packet = packet_of(sender, probe, state)
        if sender is self.host and state is None and packet.protocol == UDPLITE:
            packet = replace(packet, states=frozenset({"NEW"}))  # its checksum is asked for in PREROUTING alone
        scene = self._seen = self._seen or self._scene()
        link, goal = self.link(sender, probe.device), self.link(receiver, to=packet.destination)
        reachable = {device for address, device in scene.local.items() if not address.startswith("fe80:")}
        if link is not None and link not in scene.ports and link not in reachable:
            return None  # a link that leads nowhere: nobody there answers for the sender's next hop
        try:
            if _is_for_many(packet.destination) or _is_link_local(packet.destination) or isinstance(probe, Forged):
                return self._as_framed(scene, packet, link, goal, probe)
            return scene.send(packet, link)
        except NoRoute:
            return None

    def look_again(self) -> None:
        """What is described has changed, or a link or an address: what was seen before does not hold."""
        self._seen = None

    def _as_framed(
        self, scene: Scene, packet: Packet, link: str | None, goal: str | None, probe: IpProbe | Forged
    ) -> Journey | None:
        """What becomes of a frame that goes where its Ethernet address says."""
        there = scene.ports.get(goal or "")
        if link is None:
            return scene.from_host(packet, out_interface=None if there is None else there.bridge)
        here = scene.ports.get(link)
        if here is None or there is None or here.bridge != there.bridge:
            return scene.from_link(packet, link)
        routed = isinstance(probe, Forged) and probe.via == self.host.links.mac(here.bridge)
        return scene.from_link(packet, link, bridged_to=None if routed else goal)

    def _lands(self, journey: Journey, receiver: Namespace) -> bool:
        """Whether it got through, and there where the receiver is."""
        packet = journey.packet
        if not journey.passed or receiver is self.host:
            return journey.passed and packet.out_interface is None
        link = self.link(receiver, to=packet.destination)
        if packet.physdev_out is not None:
            return packet.physdev_out == link
        found = _is_for_many(packet.destination) or packet.destination in _addresses(receiver)
        return found and packet.out_interface == (self.host.links.all()[str(link)]["master"] or link)

    def _scene(self) -> Scene:
        """The host as it is now."""
        state = fold(DesiredState(), Replace(convert_state(self.agent.state())), 0.0)
        ruleset = self._compiler.compile(state).ruleset
        tables = {id_: self._with_appended(id_, chains) for id_, chains in tables_of(ruleset).items()}
        links = self.host.links.all()
        ports = {
            name: self._port(name, str(link["master"]))
            for name, link in links.items()
            if link["master"] is not None and name in self.host.peers
        }
        addresses = self.host.links.addresses()
        local = {each["address"]: each["device"] for each in addresses}
        routes = [
            (values.prefix(f"{each['address']}/{each['prefix']}"), str(each["device"]))
            for each in addresses
            if links[each["device"]]["up"]
        ]
        routes += [(values.prefix(everywhere), "eth0") for everywhere in ("0.0.0.0/0", "::/0")]
        return Scene(tables, ruleset.sets, ports, tuple(routes), local)

    def _with_appended(self, id_: TableId, chains: Chains) -> Chains:
        added = {chain: rules for (table, chain), rules in self.appended.items() if table == id_.name}
        return {**chains, **{chain: [*chains.get(chain, ()), *rules] for chain, rules in added.items()}}

    def _port(self, name: str, bridge: str) -> Port:
        behind, device = self.host.peers[name]
        link = behind.links.all()[device]
        if link["master"] is None:
            return Port(name, bridge, _addresses(behind, device), link["mac"])
        others = [peer for port, peer in behind.peers.items() if peer != (self.host, name)]
        return Port(name, bridge, tuple(address for peer in others for address in _addresses(*peer)))

    def link(self, namespace: Namespace, device: str = "eth0", to: str | None = None) -> str | None:
        """The host's link behind which somebody is: by that device, or that with an address; None for the host."""
        if namespace is self.host:
            return None
        mine = [device] if to is None else [each for each in namespace.peers if to in _addresses(namespace, each)]
        peer, port = namespace.peers[(mine or ["eth0"])[0]]
        if peer is self.host:
            return port
        return next(name for name, (switch, _) in self.host.peers.items() if switch is peer)


def packet_of(sender: Namespace, probe: IpProbe | Forged, state: str | None) -> Packet:
    inner = probe.probe if isinstance(probe, Forged) else probe
    assert inner.to is not None
    forged = (probe.source, probe.source_mac) if isinstance(probe, Forged) else (None, None)
    icmp = None
    if isinstance(inner, Icmp):
        echo_request = 128 if inner.family == 6 else 8
        icmp = (echo_request if inner.kind is None else inner.kind, inner.code)
    return Packet(
        source=forged[0] or _own_address(sender, probe, inner.to),
        destination=inner.to,
        protocol=inner.protocol,
        source_port=getattr(inner, "source_port", None),
        destination_port=getattr(inner, "port", None),
        icmp=icmp,
        mac_source=forged[1],
        states=frozenset({state or _state(inner, icmp)}),
    )


def _state(inner: IpProbe, icmp: tuple[int, int] | None) -> str:
    """What connection tracking makes of the first packet of its kind."""
    protocol = inner.protocol
    if protocol == UDPLITE:
        return "INVALID"  # it takes the checksum for UDP's
    if (inner.family, protocol) == (6, IPV6_NONXT):
        return "INVALID"  # it asks for what comes next
    if icmp is None or icmp[0] in OPENING.get(protocol, ()):
        return "NEW"
    return "UNTRACKED" if protocol == ICMPV6 and icmp[0] in UNTRACKED_ICMPV6 else "INVALID"


def _own_address(sender: Namespace, probe: IpProbe | Forged, to: str) -> str:
    if isinstance(probe, Forged):
        return sender.ip(probe.family)
    return sender.call(_source_address, to, probe.device)


def _source_address(to: str, device: str) -> str:
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if not is_unicast(to) or _is_link_local(to):
            asking.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, device.encode())
        asking.connect((to, 9))
        return str(asking.getsockname()[0]).split("%")[0]


def _is_for_many(address: str) -> bool:
    return not is_unicast(address) or address.endswith(".255")


def _is_link_local(address: str) -> bool:
    return address.startswith("fe80:")


def _same(seen: Seen, journey: Journey | None) -> bool:
    """Whether the packet arrived as the rules would have left it."""
    assert journey is not None
    packet = journey.packet
    pairs = (
        (seen.source, packet.source),
        (seen.destination, packet.destination),
        (seen.source_port, packet.source_port),
        (seen.destination_port, packet.destination_port),
    )
    return all(None in pair or pair[0] == pair[1] for pair in pairs)


def _addresses(namespace: Namespace, device: str | None = None) -> tuple[str, ...]:
    return tuple(each["address"] for each in namespace.links.addresses(device))


def _told(journey: Journey | None) -> str:
    if journey is None:
        return "no way"
    refused = journey.refused_by
    by = ""
    if refused is not None:
        hop, step = refused
        by = f" by {rule_text(step.rule, journey.packet.family)} in {step.chain} of {hop.table} {hop.hook}"
    return f"{journey.verdict}{by} as {journey.packet}, through {' '.join(journey.chains)}"
