"""Who is where on a host, by what was compiled; and what its rules say to the first packet of a flow.

By which link a packet came is not known from a flow: it gets through when there is a way by which it does.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property

from msgspec import Struct

from nova_netagent.compile import Compiled
from nova_netagent.compile.metadata import LOOPBACK
from nova_netagent.compile.resolve import METADATA_ADDRESS, Port
from nova_netagent.compile.uplinks import uplink
from nova_netagent.compile.zones import zones
from nova_netagent.model import FloatingIP, values
from nova_netagent.model.values import Prefix
from nova_netagent.netfilter import journey
from nova_netagent.netfilter.flow import Flow
from nova_netagent.netfilter.journey import Journey, NoRoute, Scene, tables_of
from nova_netagent.netfilter.packet import Packet
from nova_netagent.netfilter.rule import FAMILIES, Dnat, Family, Rule, TableId

_SOMEWHERE = "outside"
"""An interface or port of the host that nobody has named."""


class _Seat(Struct, frozen=True):
    """Where an address is: whose, on which bridge port, and the MAC with which it must be used."""

    instance_id: str
    device: str
    bridge: str
    mac: str


class First(Struct, frozen=True):
    """The first packet of a flow as it was sent, and where connection tracking knows that it was led."""

    packet: Packet
    led: Dnat | None = None

    @property
    def reached(self) -> str:
        """Whose address it came to."""
        return self.packet.destination if self.led is None else self.led.address


class Whereabouts:
    """Who is where on the host by what was compiled, and what its rules say to a packet."""

    def __init__(self, compiled: Compiled, own: Mapping[str, str]) -> None:
        self.own = own
        self.leads_to = leads_to(compiled.scope.resolved.floating_ips)
        self._compiled = compiled
        self._zones = {family: zones(compiled.scope.resolved, family) for family in FAMILIES}
        self._known: dict[tuple[First, int], bool] = {}

    def knows(self, flow: Flow) -> bool:
        """Whether a flow has to do with anything of ours."""
        if flow.zone:
            return flow.zone in self._zones[flow.family].values()
        return any(self._is_ours(each, flow) for each in flow.addresses)

    def _is_ours(self, address: str, flow: Flow) -> bool:
        if address in self.leads_to or self._seats(address, flow):
            return True
        wanted = values.prefix(address)
        return any(range_.contains(wanted) for range_, _ in self._ranges)

    def holders(self, address: str, flow: Flow) -> frozenset[str]:
        """The instances here whose an address is, as one of its own or of a pair."""
        return frozenset(seat.instance_id for seat in self._seats(address, flow))

    def routes(self, address: str) -> bool:
        """Whether an address is of a range for which the host is a router."""
        wanted = values.prefix(address)
        return any(range_.contains(wanted) for range_, _ in self._routed)

    def leads(self, public: str, to: str) -> bool:
        """Whether an address is one by which we lead to another: a floating IP, or the metadata service's."""
        if public != METADATA_ADDRESS:
            return self.leads_to.get(public) == to
        service = self._compiled.scope.settings.metadata.metadata_host
        return to in self.own if service in LOOPBACK else to == service

    def passes(self, first: First, flow: Flow) -> bool:
        """Whether a packet gets through by some way."""
        key = (first, flow.zone)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = any(trip.passed for trip in self._journeys(first, flow))
        return known

    def _journeys(self, first: First, flow: Flow) -> Iterator[Journey]:
        scene = self._scene_of(first)
        for packet_sent, link in self._sent(first, flow):
            try:
                if link is None:
                    yield scene.from_host(packet_sent, out_interface=self._near(first, flow))
                    continue
                port = scene.ports.get(link)
                if port is not None:
                    for device in self._bridged_to(port.bridge, first.reached, flow):
                        if device != link:
                            yield scene.from_link(packet_sent, link, bridged_to=device)
                if not flow.zone:
                    yield scene.from_link(packet_sent, link)
            except NoRoute:
                continue

    def _scene_of(self, first: First) -> Scene:
        """The host, translating what it translated: before that the packet was judged as it was sent."""
        if first.led is None:
            return self._scene
        led = (Rule(first.led),)
        nat = {TableId(first.packet.family, "nat"): {"PREROUTING": led, "OUTPUT": led}}
        return replace(self._scene, tables={**self._scene.tables, **nat})

    def _near(self, first: First, flow: Flow) -> str | None:
        """The bridge by which the host calls an instance as a neighbour, routed or not; ``None``: it does not."""
        bridge = self.own.get(first.packet.source)
        beside = first.led is None and any(seat.bridge == bridge for seat in self._seats(first.reached, flow))
        return bridge if beside else None

    def _sent(self, first: First, flow: Flow) -> Iterator[tuple[Packet, str | None]]:
        """By which links a packet may come, None for the host itself."""
        packet = first.packet
        seats = self._seats(packet.source, flow)
        for seat in seats:
            yield replace(packet, mac_source=seat.mac), seat.device
        if seats:
            return
        if packet.source in self.own:
            yield packet, None
            return
        source = values.prefix(packet.source)
        zones_ = self._zones[flow.family]
        at_home = {
            bridge for range_, bridge in self._ranges if range_.contains(source) and zones_.get(bridge, 0) == flow.zone
        }
        for bridge in at_home or {seat.bridge for seat in self._seats(first.reached, flow)}:
            for seat in self._strangers[bridge]:
                yield replace(packet, mac_source=seat.mac or None), seat.device
        if not flow.zone and not at_home:
            for interface in self._interfaces:
                yield packet, interface

    def _bridged_to(self, bridge: str, destination: str, flow: Flow) -> Iterator[str]:
        seats = self._seats(destination, flow)
        yield from (seat.device for seat in seats if seat.bridge == bridge)
        if not seats and destination not in self.own:
            yield from (seat.device for seat in self._strangers[bridge])

    def _seats(self, address: str, flow: Flow) -> list[_Seat]:
        found = [seat for seat in self._by_address.get(address, ()) if self._has_zone_of(seat.bridge, flow)]
        if not found and self._by_prefix:
            wanted = values.prefix(address)
            found = [
                seat
                for prefix, seat in self._by_prefix
                if prefix.contains(wanted) and self._has_zone_of(seat.bridge, flow)
            ]
        return found

    def _has_zone_of(self, bridge: str, flow: Flow) -> bool:
        """Whether a flow may be a bridge's: what is for the host itself has no zone (compile/zones.py)."""
        zone = self._zones[flow.family].get(bridge, 0)
        return zone == flow.zone or (not flow.zone and any(self.own.get(each) == bridge for each in flow.addresses))

    @cached_property
    def _by_address(self) -> Mapping[str, list[_Seat]]:
        found: dict[str, list[_Seat]] = {}
        for port, bridge in self._ports:
            seat = _Seat(port.instance_id, port.vif.device, bridge, port.vif.address)
            for address in (*port.addresses, values.link_local(port.vif.address)):
                found.setdefault(address, []).append(seat)
            for pair in port.vif.pairs:
                prefix = values.prefix(pair.ip_address)
                if prefix.is_host:
                    address = values.address_text(prefix.family, prefix.value)
                    seat_of_pair = _Seat(
                        port.instance_id, port.vif.device, bridge, pair.mac_address or port.vif.address
                    )
                    found.setdefault(address, []).append(seat_of_pair)
        return found

    @cached_property
    def _by_prefix(self) -> list[tuple[Prefix, _Seat]]:
        """Pairs of many addresses. One with everybody says nothing of where anybody is."""
        return [
            (prefix, _Seat(port.instance_id, port.vif.device, bridge, pair.mac_address or port.vif.address))
            for port, bridge in self._ports
            for pair in port.vif.pairs
            for prefix in (values.prefix(pair.ip_address),)
            if not prefix.is_host and prefix.length
        ]

    @cached_property
    def _strangers(self) -> Mapping[str, list[_Seat]]:
        """For each bridge the ports behind which there may be anybody: its uplink, and vifs without port security."""
        found = {bridge: [_Seat("", device, bridge, "")] for bridge, device in self._uplinks.items()}
        for port, bridge in self._ports:
            if not port.vif.port_security_enabled:
                found[bridge].append(_Seat(port.instance_id, port.vif.device, bridge, port.vif.address))
        return found

    @cached_property
    def _ports(self) -> list[tuple[Port, str]]:
        ports = (port for ports in self._compiled.scope.resolved.ports.values() for port in ports)
        return [(port, port.network.bridge) for port in ports if port.network is not None]

    @cached_property
    def _uplinks(self) -> Mapping[str, str]:
        """For each bridge the port behind which strangers are; one that nobody has named where there is none."""
        settings = self._compiled.scope.settings.network
        networks = self._compiled.scope.resolved.networks.values()
        named = {each.bridge: device for each in networks if (device := uplink(each, settings)) is not None}
        return {each.bridge: f"{_SOMEWHERE} {each.bridge}" for each in networks} | named

    @cached_property
    def _ranges(self) -> list[tuple[Prefix, str]]:
        networks = self._compiled.scope.resolved.networks.values()
        return [
            (values.prefix(cidr), each.bridge)
            for each in networks
            for family in FAMILIES
            if (cidr := each.range(family)) is not None
        ]

    @cached_property
    def _routed(self) -> list[tuple[Prefix, str]]:
        return [(range_, bridge) for range_, bridge in self._ranges if bridge not in self._zones[_family(range_)]]

    @cached_property
    def _interfaces(self) -> tuple[str, ...]:
        """The interfaces by which the outside may be reached."""
        settings = self._compiled.scope.settings.network
        named = [settings.public_interface, *settings.forward_bridge_interface]
        return tuple(dict.fromkeys(each for each in named if each not in (None, "all"))) or (_SOMEWHERE,)

    @cached_property
    def _scene(self) -> Scene:
        ports = {
            port.vif.device: journey.Port(port.vif.device, bridge, port.addresses, port.vif.address)
            for port, bridge in self._ports
        }
        ports |= {device: journey.Port(device, bridge) for bridge, device in self._uplinks.items()}
        everywhere = [(values.prefix(each), self._interfaces[0]) for each in ("0.0.0.0/0", "::/0")]
        ruleset = self._compiled.ruleset
        tables = {id_: chains for id_, chains in tables_of(ruleset).items() if id_.name != "nat"}
        return Scene(tables, ruleset.sets, ports, (*self._routed, *everywhere), self.own)


def _family(prefix: Prefix) -> Family:
    return 4 if prefix.family == 4 else 6


def leads_to(floating_ips: Iterable[FloatingIP]) -> Mapping[str, str]:
    """For each floating IP its fixed IP."""
    return {each.id: each.fixed_ip_address for each in floating_ips}
