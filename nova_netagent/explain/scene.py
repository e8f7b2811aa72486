"""The host as it is now: its links, addresses and routes, and who is behind which port."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from nova_netagent.backend.links.protocol import LinksBackend
from nova_netagent.backend.links.routes import NOT_FORWARDED, Asked
from nova_netagent.compile import Compiled
from nova_netagent.compile.resolve import Port as VifPort
from nova_netagent.compile.uplinks import uplink
from nova_netagent.explain.live import LiveRules
from nova_netagent.model import Network, values
from nova_netagent.model.values import Prefix
from nova_netagent.netfilter.journey import Journey, NoRoute, Port, Scene
from nova_netagent.netfilter.packet import ALL_OF_A_MARK, Packet, Walk
from nova_netagent.netfilter.rule import Opaque, TableId
from nova_netagent.plan.links import BRIDGE_SYSCTLS, FORWARD_IPV6, ActualLinks

_LINK_LOCAL = values.prefix("fe80::/10")
_LOOPBACK_IPV6 = values.prefix("::1")
_MULTICAST_IPV6 = values.prefix("ff00::/8")
_ROUTED_BY_MARK = "its mark depends on more than the packet, and where it goes may depend on its mark"


@dataclass(frozen=True)
class LiveScene(Scene):
    """The host, with the kernel's rules and its routing.

    :ivar links: asks the kernel where a packet goes, and what its links let pass.
    """

    live: LiveRules = field(kw_only=True)
    links: LinksBackend = field(kw_only=True)
    vifs: Mapping[str, VifPort] = field(default_factory=dict, kw_only=True)
    """By device."""
    networks: tuple[Network, ...] = field(default=(), kw_only=True)
    uplinks: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    """By bridge."""
    pairs: tuple[tuple[Prefix, str], ...] = field(default=(), kw_only=True)
    """What vifs may send from beside their own, with their devices."""

    def tables_at(self, hook: str, packet: Packet) -> Sequence[tuple[str, bool]]:
        """Everybody's tables, as they stand."""
        return self.live.tables_at(hook, packet.family)

    def shows_bridged(self, bridge: str, family: int) -> bool:
        """As the host's sysctl has it, or the bridge itself."""
        name = BRIDGE_SYSCTLS[family]
        known = self.links.passable(bridge)
        return self.links.read_sysctls([name]).get(name, "0") != "0" or (known is not None and family in known.filtered)

    def frames_at(self, hook: str, packet: Packet, device: str) -> Sequence[tuple[int, str]]:
        """Everybody else's, as they stand."""
        return self.live.frames_at(hook, packet.family, device)

    def leads_out(self, packet: Packet) -> str | None:
        """The port by which a bridge gives out what is sent through it."""
        found = None if packet.out_interface is None else self.holder(packet.destination, packet.out_interface)
        return None if found is None else found.device

    def walk_table(self, table: TableId, hook: str, packet: Packet) -> Walk:
        """What one table does to a packet at one hook."""
        walked = self.live.walk(table, hook, packet)
        last = walked.steps[-1].rule.target if walked.steps else None
        if isinstance(last, Opaque) and last.name == "MASQUERADE":
            return replace(walked, packet=replace(walked.packet, source=self._masquerade(walked.packet)))
        if walked.packet.destination != packet.destination:
            is_local = self.is_own(walked.packet.destination)
            return replace(walked, packet=replace(walked.packet, to_local_address=is_local))
        return walked

    def _masquerade(self, packet: Packet) -> str:
        found = self.links.route(Asked(packet.destination)).source
        return found or next((each for each, on in self.local.items() if on == packet.out_interface), packet.source)

    def route(self, packet: Packet) -> str:
        """The interface by which a packet goes on. :raises NoRoute: the kernel says why."""
        source = packet.source if packet.in_interface is not None or self.is_own(packet.source) else None
        if packet.mark_known != ALL_OF_A_MARK:
            self.live.guesses.setdefault(_ROUTED_BY_MARK)
        found = self.links.route(_asked(packet, source))
        if found.kind == "unreachable" or found.interface is None:
            raise NoRoute(found.reason or f"there is no route to {packet.destination}")
        if packet.family == 6 and packet.in_interface is not None:
            self._is_forwarded_over_ipv6(packet, packet.in_interface)
        return found.interface

    def _is_forwarded_over_ipv6(self, packet: Packet, came_by: str) -> None:
        """What IPv4's routing says by itself (ip6_forward). :raises NoRoute: it is not."""
        wanted = FORWARD_IPV6, f"net/ipv6/conf/{came_by}/force_forwarding"
        if not any(int(value) for value in self.links.read_sysctls(wanted).values()):
            raise NoRoute(f"{NOT_FORWARDED}: net.ipv6.conf.all.forwarding is 0")
        source = values.prefix(packet.source)
        if any(each.contains(source) for each in (_LINK_LOCAL, _LOOPBACK_IPV6, _MULTICAST_IPV6)):
            raise NoRoute(f"{NOT_FORWARDED}: {packet.source} is of one link only")

    def is_own(self, address: str) -> bool:
        """Whether routing calls an address local."""
        return super().is_own(address) or self.links.route(Asked(address)).kind == "local"

    def takes(self, destination: str) -> bool:
        """Whether the host itself takes what is sent to an address."""
        return super().takes(destination) or self.links.route(Asked(destination)).kind == "broadcast"

    def why_not_taken(self, packet: Packet) -> str | None:
        """Why the host does not take a packet that is for itself: the reverse path filter, or an address of the loop's.

        IPv4's routing says so; what is for everybody has no route.
        """
        if packet.family == 6 or (super().takes(packet.destination) and not self.is_own(packet.destination)):
            return None
        found = self.links.route(_asked(packet, packet.source))
        return found.reason if found.kind == "unreachable" and self.takes(packet.destination) else None

    def stays_bridged(self, packet: Packet, port: Port | None) -> str | None:
        """The port to which a frame is bridged whose new destination is on the bridge that it came by."""
        if port is None or packet.to_local_address or self.takes(packet.destination):
            return None
        try:
            if self.route(packet) != port.bridge:
                return None
        except NoRoute:
            return None
        holder = self.holder(packet.destination, port.bridge)
        return None if holder is None else holder.device

    def neighbour(self, address: str, sender: Port) -> Port | None:
        """Who holds an address on the sender's bridge."""
        found = self.holder(address, sender.bridge)
        return None if found == sender else found

    def holder(self, address: str, bridge: str) -> Port | None:
        """The port behind which an address of a bridge is: a vif's, or that of the world beyond."""
        if address in self.local or not self.is_near(address, bridge):
            return None
        beside = [port for port in self.ports.values() if port.bridge == bridge]
        own = next((port for port in beside if address in port.addresses), None)
        if own is not None:
            return own
        wanted = values.prefix(address)
        devices = {port.device: port for port in beside}
        covering = sorted(
            (each for each in self.pairs if each[0].contains(wanted) and each[1] in devices),
            key=lambda each: -each[0].length,
        )
        named = [device for prefix, device in covering if prefix.length == wanted.length]
        beyond = self.uplinks.get(bridge, "")
        # Who may send as a whole range need not have every address of it; a machine beyond the host may.
        found = named[0] if named else beyond if beyond in devices else covering[0][1] if covering else None
        return None if found is None else devices[found]

    def is_near(self, address: str, bridge: str) -> bool:
        """Whether an address is looked for on a bridge itself, and not sent to a gateway."""
        wanted = values.prefix(address)
        ranges = (each.range(wanted.family) for each in self.networks if each.bridge == bridge)
        return _LINK_LOCAL.contains(wanted) or any(cidr and values.prefix(cidr).contains(wanted) for cidr in ranges)

    def journey(self, packet: Packet, sender: str | None, bridged_to: str | None) -> Journey:
        """A packet's way. :raises NoRoute: as ``from_link``."""
        arrived = replace(packet, to_local_address=self.is_own(packet.destination))
        if sender is None:
            return self.from_host(arrived)
        return self.from_link(arrived, sender, bridged_to=bridged_to)


def scene_of(compiled: Compiled, actual: ActualLinks, live: LiveRules, links: LinksBackend) -> LiveScene:
    """The host as it is now; vifs whose tap is not there yet are on the bridge that they belong to."""
    scope = compiled.scope
    vifs = {port.vif.device: port for port in scope.all_ports if port.holds_device and port.network is not None}
    networks = tuple(scope.networks)
    ports = dict(_ports(vifs, actual))
    uplinks = {each.bridge: device for each in networks if (device := uplink(each, scope.settings.network)) is not None}
    return LiveScene(
        tables={},
        sets={},
        ports=ports,
        routes=(),
        local={cidr.partition("/")[0]: name for name, cidr in actual.addresses},
        live=live,
        links=links,
        vifs=vifs,
        networks=networks,
        uplinks=uplinks,
        pairs=tuple(
            (values.prefix(each.ip_address), device) for device, port in vifs.items() for each in port.vif.pairs
        ),
    )


def _asked(packet: Packet, source: str | None) -> Asked:
    """The question where a packet goes."""
    ports = packet.source_port, packet.destination_port
    return Asked(packet.destination, source, packet.in_interface, packet.mark, packet.protocol, *ports)


def _ports(vifs: Mapping[str, VifPort], actual: ActualLinks) -> Iterator[tuple[str, Port]]:
    for name, port in vifs.items():
        assert port.network is not None
        link = actual.links.get(name)
        bridge = port.network.bridge if link is None or link.master is None else link.master
        addresses = (*port.addresses, values.link_local(port.vif.address))
        yield name, Port(name, bridge, addresses, port.vif.address)
    for name, link in actual.links.items():
        if link.master is not None and name not in vifs and link.master in actual.links:
            yield name, Port(name, link.master, (), None)
