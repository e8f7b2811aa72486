"""Which flows a change has revoked: of the rules before and after it, and of the flows that there are.

A flow was let in by its first packet, and its later ones are not asked for rules. So the first
packet is led through the rules again: what was let in before and is refused now is to be cut,
and what is refused either way is somebody else's business. Not known from a flow is by which
link it came; it lives while there is one by which it may.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property

from msgspec import Struct

from nova_netagent.compile import Compiled
from nova_netagent.compile.network import uplink
from nova_netagent.compile.resolve import Group, Port, Resolved
from nova_netagent.compile.zones import zones
from nova_netagent.model import FloatingIP, values
from nova_netagent.model.protocols import TCP
from nova_netagent.model.values import Prefix
from nova_netagent.netfilter import journey
from nova_netagent.netfilter.flow import EXPECTED, Addresses, Flow, Side
from nova_netagent.netfilter.journey import Journey, NoRoute, Scene, tables_of
from nova_netagent.netfilter.packet import Packet
from nova_netagent.netfilter.rule import FAMILIES, Family

EVERYBODY = Addresses(everybody=True)
_SOMEWHERE = "outside"
"""An interface or port of the host that nobody has named."""
_LEAST_EPHEMERAL = 32768


class Cut(Struct, frozen=True):
    """A flow to be cut."""

    flow: Flow
    remembered: bool
    """Its ends are still there and may speak again: they must not resume it mid-stream."""


# --- whose flows a change may have revoked


def concerned(before: Compiled | None, after: Compiled) -> Addresses:
    """The addresses whose flows may have been let in by what is no longer.

    :param before: what was enforced; ``None`` when that is not known.
    """
    if before is None:
        return EVERYBODY
    if before is after:
        return Addresses()
    old, new = before.scope.resolved, after.scope.resolved
    found = [
        *_of_ports(old, new, after.scope.settings.network.manage_links),
        *_of_groups(old, new),
        *_of_members(before, after),
        *_of_floating_ips(old, new),
        *_of_networks(old, new),
        *(each.remote_ip_prefix for each in new.provider_rules if each not in old.provider_rules),
    ]
    if not found:
        return Addresses()
    prefixes = [values.prefix(each) for each in dict.fromkeys(found)]
    if any(each.length == 0 for each in prefixes):
        return EVERYBODY
    single = frozenset(values.address_text(each.family, each.value) for each in prefixes if _is_host(each))
    return Addresses(single, tuple(each for each in prefixes if not _is_host(each)))


def _is_host(prefix: Prefix) -> bool:
    return prefix.length == values.FAMILY_BITS[prefix.family]


def _of_ports(old: Resolved, new: Resolved, arrives_closed: bool) -> Iterator[str]:
    """The addresses of the instances that are not what they were.

    :param arrives_closed: an instance that is not described passes nothing, so one that arrives has
        no flows but those that the host judged from which it came.
    """
    for id_ in {*old.ports, *new.ports}:
        before, after = old.ports.get(id_, ()), new.ports.get(id_, ())
        if before is not after:
            for port in {*before} ^ {*after}:
                if arrives_closed and id_ not in old.ports:
                    continue
                yield from _own(port)
                # A pair with everybody would have every flow looked at; it names nobody (see Whereabouts).
                yield from (pair.ip_address for pair in port.vif.pairs if not pair.ip_address.endswith("/0"))


def _own(port: Port) -> Iterator[str]:
    yield from port.vif.fixed_ips
    yield values.link_local(port.vif.address)


def _of_groups(old: Resolved, new: Resolved) -> Iterator[str]:
    narrowed: dict[str, set[int]] = {}
    gone = {id_ for id_ in old.groups if id_ not in new.groups}
    for id_, group in old.groups.items():
        families = _narrowed(group, new.groups.get(id_), gone)
        if families:
            narrowed[id_] = families
    if narrowed:
        for port in (port for ports in old.ports.values() for port in ports):
            families = {family for judge in port.groups for family in narrowed.get(judge.id, ())}
            if families:
                yield from (each for each in _own(port) if (6 if ":" in each else 4) in families)


def _narrowed(old: Group, new: Group | None, gone: set[str]) -> set[int]:
    """The families in which a group lets less pass than it did."""
    if gone:
        families = {family for (_, family), ids in old.remotes.items() if not gone.isdisjoint(ids)}
        if families:
            return {*families}
    if new is old or new is None:
        return set()
    kept = set(new.definition.rules)
    return {rule.family for rule in old.definition.rules if rule not in kept}


def _of_members(before: Compiled, after: Compiled) -> Iterator[str]:
    for name, old in before.ruleset.sets.items():
        new = after.ruleset.sets.get(name)
        if new is not None and new is not old:
            yield from old.members - new.members


def _of_floating_ips(old: Resolved, new: Resolved) -> Iterator[str]:
    leads_to = _leads_to(new.floating_ips)
    for floating in old.floating_ips:
        if leads_to.get(floating.id) != floating.fixed_ip_address:
            yield floating.id


def _leads_to(floating_ips: Iterable[FloatingIP]) -> Mapping[str, str]:
    return {each.id: each.fixed_ip_address for each in floating_ips}


def _of_networks(old: Resolved, new: Resolved) -> Iterator[str]:
    for id_, network in old.networks.items():
        other = new.networks.get(id_)
        if other is network:
            continue
        for family in FAMILIES:
            cidr = network.range(family)
            here = (network.bridge, cidr, network.routed(family))
            if cidr is not None and (
                other is None or here != (other.bridge, other.range(family), other.routed(family))
            ):
                yield cidr


# --- which of their flows are to be cut


def revoked(
    before: Compiled | None,
    after: Compiled,
    flows: Iterable[Flow],
    own: Mapping[str, str],
    bound: Collection[str] = (),
) -> Iterator[Cut]:
    """The flows that are to be cut after a change.

    :param before: what was enforced when they were let in; ``None`` when that is not known.
    :param own: the host's addresses, each with its interface.
    :param bound: where it is not known, the addresses that the agent had given to the host.
    """
    now = Whereabouts(after, own)
    was = None if before is None else Whereabouts(before, own)
    for flow in flows:
        if not any(each.knows(flow) for each in (now, was) if each is not None):
            continue
        if was is not None and any(_has_left(each, flow, was, now) for each in flow.addresses):
            yield Cut(flow, remembered=False)
        elif flow.status & EXPECTED:
            continue
        elif _floating_ip_left(flow, was, now, bound) or not _may_live(flow, was, now):
            yield Cut(flow, remembered=flow.protocol == TCP)


def _has_left(address: str, flow: Flow, was: "Whereabouts", now: "Whereabouts") -> bool:
    """Whether an address was an instance's here, and is no longer, or is another's; or its range is not routed now."""
    if not flow.zone and was.routes(address) and not now.routes(address):
        return True
    held_by = was.holders(address, flow)
    return bool(held_by) and held_by.isdisjoint(now.holders(address, flow))


def ends(cut: Cut) -> set[str]:
    """How a cut TCP connection is remembered: client, its port, server; as each end's segments show it."""
    original, reply = cut.flow.original, cut.flow.reply
    return {
        f"{original.source},tcp:{original.source_port},{original.destination}",
        f"{reply.destination},tcp:{reply.destination_port},{reply.source}",
    }


def _floating_ip_left(flow: Flow, was: "Whereabouts | None", now: "Whereabouts", bound: Collection[str]) -> bool:
    """Whether a flow was translated by a floating IP that no longer leads there."""
    for public, fixed in _translations(flow):
        if now.leads_to.get(public) == fixed:
            continue
        if was is None and (public in bound or public in now.leads_to):
            return True
        if was is not None and was.leads_to.get(public) == fixed:
            return True
    return False


def _translations(flow: Flow) -> Iterator[tuple[str, str]]:
    """The address that was shown, and whose it stood for."""
    original, reply = flow.original, flow.reply
    if original.destination != reply.source:
        yield original.destination, reply.source
    if original.source != reply.destination:
        yield reply.destination, original.source


def _may_live(flow: Flow, was: "Whereabouts | None", now: "Whereabouts") -> bool:
    """Whether the rules would still let in what they let in."""
    directions = tuple(_directions(flow, {*now.leads_to, *(was.leads_to if was is not None else ())}))
    came = was is not None and any(not now.holders(each, flow) <= was.holders(each, flow) for each in flow.addresses)
    if was is None and not flow.picked_up:
        directions = directions[:1]
    if was is None or came:
        # An instance that was migrated in may speak first in a connection that it did not open.
        return any(now.passes(each, flow) for each in directions)
    if now.passes(directions[0], flow):
        return True
    let_in = next((each for each in directions if was.passes(each, flow)), None)
    return let_in is None or now.passes(let_in, flow)


def _directions(flow: Flow, floating_ips: set[str]) -> Iterator[Packet]:
    """The first packet as it was; then as it was if connection tracking took the server's for the client's."""
    first = _packet(flow, flow.original, flow.reply.source, flow.reply.source_port, floating_ips)
    second = _packet(flow, flow.reply, flow.original.source, flow.original.source_port, floating_ips)
    if flow.picked_up and _server_spoke_first(flow):
        first, second = second, first
    yield first
    yield second


def _server_spoke_first(flow: Flow) -> bool:
    source, destination = flow.original.source_port, flow.original.destination_port
    return source is not None and destination is not None and source < _LEAST_EPHEMERAL <= destination


def _packet(flow: Flow, side: Side, reached: str, reached_port: int | None, floating_ips: set[str]) -> Packet:
    """A direction's first packet. A translation that is not ours is taken as done: its address is not judged."""
    ours = side.destination in floating_ips
    return Packet(
        source=side.source,
        destination=side.destination if ours else reached,
        protocol=flow.protocol,
        source_port=side.source_port,
        destination_port=side.destination_port if ours else reached_port,
        icmp=flow.original.icmp,
    )


class _Seat(Struct, frozen=True):
    """Where an address is: whose, on which bridge port, and the MAC with which it must be used."""

    instance_id: str
    device: str
    bridge: str
    mac: str


class Whereabouts:
    """Who is where on the host by what was compiled, and what its rules say to a packet."""

    def __init__(self, compiled: Compiled, own: Mapping[str, str]) -> None:
        self.own = own
        self.leads_to = _leads_to(compiled.scope.resolved.floating_ips)
        self._compiled = compiled
        self._zones = {family: zones(compiled.scope.resolved, family) for family in FAMILIES}
        self._known: dict[tuple[Packet, int], bool] = {}

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

    def passes(self, packet: Packet, flow: Flow) -> bool:
        """Whether a packet gets through by some way."""
        key = (packet, flow.zone)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = any(trip.passed for trip in self._journeys(packet, flow))
        return known

    def _journeys(self, packet: Packet, flow: Flow) -> Iterator[Journey]:
        for packet_sent, link in self._sent(packet, flow):
            try:
                if link is None:
                    yield self._scene.from_host(packet_sent)
                    continue
                port = self._scene.ports.get(link)
                if port is not None:
                    for device in self._bridged_to(port.bridge, packet.destination, flow):
                        if device != link:
                            yield self._scene.from_link(packet_sent, link, bridged_to=device)
                if not flow.zone:
                    yield self._scene.from_link(packet_sent, link)
            except NoRoute:
                continue

    def _sent(self, packet: Packet, flow: Flow) -> Iterator[tuple[Packet, str | None]]:
        """By which links a packet may come, None for the host itself."""
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
        for bridge in at_home or {seat.bridge for seat in self._seats(packet.destination, flow)}:
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
        zones_ = self._zones[flow.family]
        found = [seat for seat in self._by_address.get(address, ()) if zones_.get(seat.bridge, 0) == flow.zone]
        if not found and self._by_prefix:
            wanted = values.prefix(address)
            found = [
                seat
                for prefix, seat in self._by_prefix
                if prefix.contains(wanted) and zones_.get(seat.bridge, 0) == flow.zone
            ]
        return found

    @cached_property
    def _by_address(self) -> Mapping[str, list[_Seat]]:
        found: dict[str, list[_Seat]] = {}
        for port, bridge in self._ports:
            seat = _Seat(port.instance_id, port.vif.device, bridge, port.vif.address)
            for address in (*port.addresses, values.link_local(port.vif.address)):
                found.setdefault(address, []).append(seat)
            for pair in port.vif.pairs:
                prefix = values.prefix(pair.ip_address)
                if _is_host(prefix):
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
            if not _is_host(prefix) and prefix.length
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
        return Scene(tables_of(ruleset), ruleset.sets, ports, (*self._routed, *everywhere), self.own)


def _family(prefix: Prefix) -> Family:
    return 4 if prefix.family == 4 else 6
