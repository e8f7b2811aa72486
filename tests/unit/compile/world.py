"""A host made of described objects, and people on it who send packets to each other.

The address plan is that of ``nova_netagent.testing``. eth0 leads outside; whoever lives behind
the uplink of a network's bridge has the addresses .200 and ::c8.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from nova_netagent.compile import ALL_TABLES, Compiled, Compiler
from nova_netagent.compile.uplinks import uplink_of
from nova_netagent.events import Put, fold
from nova_netagent.model import DesiredState, Instance, Network, Object, values
from nova_netagent.model.protocols import ICMP, ICMPV6, TCP, UDP
from nova_netagent.netfilter.journey import Journey, Port, Scene, tables_of
from nova_netagent.netfilter.packet import Packet
from nova_netagent.netfilter.rule import FAMILIES, Family, IpSet, TableId
from nova_netagent.netfilter.text import rule_text
from nova_netagent.settings import FirewallSettings, MetadataSettings, NetworkSettings, Settings

MY_IP = "192.0.2.10"


def make_settings(**changes: Any) -> Settings:
    """A host at 192.0.2.10 on eth0 with the fixed range 10.0.0.0/8; options by name, whatever their group."""
    base: dict[str, Any] = {
        "fixed_range": ("10.0.0.0/8",),
        "routing_source_ip": MY_IP,
        "public_interface": "eth0",
        "metadata_host": MY_IP,
    } | changes
    groups: dict[str, Any] = {
        name: cls(**{option: base.pop(option) for option in cls.__struct_fields__ if option in base})
        for name, cls in (("network", NetworkSettings), ("metadata", MetadataSettings), ("firewall", FirewallSettings))
    }
    return Settings(my_ip=MY_IP, **groups, **base)


def state_of(*objects: Object) -> DesiredState:
    """What a host knows after it was told of these objects, in this order."""
    state = DesiredState()
    for item in objects:
        state = fold(state, Put(item), 0.0)
    return state


@dataclass(frozen=True)
class End:
    """One who sends or receives: by which link of the host, and with which addresses."""

    link: str | None
    """``None``: the host itself."""
    ipv4: str
    ipv6: str

    def address(self, family: Family) -> str:
        """The address of a family."""
        return self.ipv4 if family == 4 else self.ipv6


def vm(number: int, network: int = 1) -> End:
    """The vif of that number: ``make_vif(number, network)``."""
    return End(f"tap{number}", f"10.{network}.0.{number + 1}", f"fd00:{network}::{number + 1:x}")


def host(network: int = 1) -> End:
    """This host, as it is on a network."""
    return End(None, f"10.{network}.0.1", f"fd00:{network}::1")


def behind(network: int = 1) -> End:
    """Somebody on the network of another host, behind ``bridge_interface`` ethN."""
    return End(f"eth{network}", f"10.{network}.0.200", f"fd00:{network}::c8")


def link_local(end: End) -> str:
    """The link-local address of a vif, by its MAC."""
    assert end.link is not None
    number = int(end.link.removeprefix("tap"))
    return values.link_local(f"fa:16:3e:00:{number >> 8:02x}:{number & 255:02x}")


OUTSIDE = End("eth0", "192.0.2.99", "2001:db8:2::99")
ELSEWHERE = End("eth0", "203.0.113.7", "2001:db8::7")


class World:
    """A host that was told of some objects, and packets on it."""

    def __init__(self, *objects: Object, settings: Settings | None = None, families: tuple[Family, ...] = FAMILIES):
        self.settings = settings or make_settings()
        self.state = state_of(*objects)
        self.compiled: Compiled = Compiler(self.settings, [t for t in ALL_TABLES if t.family in families]).compile(
            self.state
        )
        ruleset = self.compiled.ruleset
        self.scene = Scene(tables_of(ruleset), ruleset.sets, self._ports(), tuple(self._routes()), self._local())

    def _ports(self) -> dict[str, Port]:
        """Where taps and uplinks are; a device that two claim is the older one's."""
        networks = {network.id: network for network in self.state.of(Network)}
        ports: dict[str, Port] = {}
        for entry in self.state.instances.values():
            assert isinstance(entry.object, Instance)
            for vif in entry.object.vifs:
                if vif.network_id in networks:
                    bridge = networks[vif.network_id].bridge
                    ports.setdefault(vif.device, Port(vif.device, bridge, vif.fixed_ips, vif.address))
        for network in networks.values():
            device = getattr(uplink_of(network, self.settings.network), "device", None)
            if device is not None:
                other = behind(int(network.bridge.removeprefix("br")))
                ports[device] = Port(device, network.bridge, (other.ipv4, other.ipv6))
        return ports

    def _routes(self) -> Iterator[tuple[values.Prefix, str]]:
        yield from ((values.prefix("0.0.0.0/0"), "eth0"), (values.prefix("::/0"), "eth0"))
        for network in self.state.of(Network):
            for cidr in (network.cidr, network.cidr_v6):
                if cidr is not None:
                    yield values.prefix(cidr), network.bridge

    def _local(self) -> dict[str, str]:
        """The host's own addresses, and those that the agent gives it."""
        own = {MY_IP: "eth0", "2001:db8:2::10": "eth0", "127.0.0.1": "lo", "::1": "lo", "169.254.169.254": "lo"}
        ours = {each.cidr.partition("/")[0]: each.interface for each in self.compiled.links.addresses}
        return own | ours

    def plug(self, *ports: Port) -> None:
        """Put ports on bridges, whatever is described."""
        found = {**self.scene.ports, **{port.device: port for port in ports}}
        self.scene = replace(self.scene, ports=found)

    def add_route(self, cidr: str, interface: str) -> None:
        """Lead a prefix somewhere, as an operator would."""
        self.scene = replace(self.scene, routes=(*self.scene.routes, (values.prefix(cidr), interface)))

    # --- packets

    def send(
        self,
        source: End,
        destination: End,
        protocol: int = TCP,
        port: int | None = None,
        *,
        family: Family = 4,
        source_port: int | None = None,
        icmp: tuple[int, int] | None = None,
        state: str = "NEW",
        from_address: str | None = None,
        to: str | None = None,
        mac: str | None = None,
        multicast: bool = False,
        mark: int = 0,
    ) -> Journey:
        """What happens to a packet between two ends.

        :param from_address, to: addresses other than the ends' own.
        :param multicast: the frame is flooded to the destination's port, whatever its address.
        """
        ported = protocol not in (ICMP, ICMPV6) and icmp is None
        packet = Packet(
            source=from_address or source.address(family),
            destination=to or destination.address(family),
            protocol=protocol,
            source_port=source_port or (40000 if ported else None),
            destination_port=(80 if port is None else port) if ported else None,
            icmp=icmp,
            states=frozenset({state}),
            mac_source=mac,
            mark=mark,
        )
        if multicast:
            if destination.link is None:
                return self.scene.from_link(packet, source.link or "")
            if source.link is None:
                return self.scene.from_host(packet, out_interface=self.scene.ports[destination.link or ""].bridge)
            return self.scene.from_link(packet, source.link, bridged_to=destination.link)
        return self.scene.send(packet, source.link)

    def passes(self, *args: Any, **fields: Any) -> bool:
        """Whether a packet gets through."""
        return self.send(*args, **fields).passed

    def ping(self, source: End, destination: End, *, family: Family = 4, **fields: Any) -> bool:
        """Whether an echo request gets through."""
        protocol, kind = (ICMP, 8) if family == 4 else (ICMPV6, 128)
        return self.send(source, destination, protocol, icmp=(kind, 0), family=family, **fields).passed

    def dhcp(self, source: End, destination: End, *, family: Family = 4, **fields: Any) -> Journey:
        """What happens to a client's first words, which are flooded, on the way to one who hears them."""
        if family == 4:
            words: dict[str, Any] = {"from_address": "0.0.0.0", "to": "255.255.255.255", "source_port": 68, "port": 67}
        else:
            words = {"from_address": link_local(source), "to": "ff02::1:2", "source_port": 546, "port": 547}
        return self.send(source, destination, UDP, family=family, multicast=True, **(words | fields))

    def offer(self, source: End, destination: End, *, family: Family = 4, **fields: Any) -> Journey:
        """What happens to a DHCP server's answer on the way to a client."""
        ports: dict[str, Any] = {"source_port": 67, "port": 68} if family == 4 else {"source_port": 547, "port": 546}
        return self.send(source, destination, UDP, family=family, **(ports | fields))

    # --- rules

    def chain(self, name: str, table: str = "filter", family: Family = 4) -> list[str]:
        """A chain of ours, without its wrap name, as iptables-save writes its rules."""
        found = self.compiled.ruleset.tables[TableId(family, table)].chains[f"nova-netagent-{name}"]
        return [rule_text(rule, family) for rule in found.rules]

    def chains(self, table: str = "filter", family: Family = 4) -> list[str]:
        """The names of our chains in a table, without the wrap name."""
        return sorted(
            name.removeprefix("nova-netagent-") for name in self.compiled.ruleset.tables[TableId(family, table)].chains
        )

    def hook(self, name: str, table: str = "filter", family: Family = 4) -> list[str]:
        """Our rules in a built-in or shared chain."""
        (found,) = [hook for hook in self.compiled.ruleset.tables[TableId(family, table)].hooks if hook.chain == name]
        return [rule_text(rule, family) for rule in found.rules]

    @property
    def sets(self) -> dict[str, IpSet]:
        """Our sets, without the wrap name."""
        return {name.removeprefix("nova-netagent-"): each for name, each in self.compiled.ruleset.sets.items()}

    def problems(self, item: Object) -> list[tuple[str, str]]:
        """What is wrong with an object."""
        return list(self.compiled.problems.get((item.KIND, item.id), ()))
