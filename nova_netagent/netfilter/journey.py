"""Lead a packet through every hook that it meets on a host, as the kernel would.

``netfilter.packet`` walks one chain. Here its walks are put in a row: which hooks a packet
meets, in which tables, and what the kernel knows of it there.

    comes by a link   raw, mangle, nat PREROUTING, then one of
                        bridged   mangle, filter FORWARD, mangle, nat POSTROUTING
                        for us    mangle, filter, nat INPUT
                        routed    mangle, filter FORWARD, mangle, nat POSTROUTING
    is the host's     raw, mangle, nat, filter OUTPUT, mangle, nat POSTROUTING
    and for itself    thereafter, by lo, raw, mangle PREROUTING, mangle, filter INPUT

Around that, where somebody has rules below IP, it is met as a frame:

    comes by a link   the link's ingress; of a bridge port the bridge's prerouting, around ours
                        bridged   forward, around ours; postrouting, before ours; the port's egress
                        not       input, the bridge's own ingress
    leaves by a link  its egress; of a bridge then output, postrouting, and the port's egress

Sources: linux/netfilter_ipv4.h (``enum nf_ip_hook_priorities``); net/bridge/br_netfilter_hooks.c
for what a bridged frame shows: ``-i`` and ``-o`` are the bridge, the ports are physdev's, and
``physdev_out`` is known only while it is bridged. The nat table sees the first packet of a flow.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from nova_netagent.model import values
from nova_netagent.model.values import Prefix
from nova_netagent.netfilter.hooks import BRIDGED_IP
from nova_netagent.netfilter.packet import Packet, Step, Walk, chains_of, walk
from nova_netagent.netfilter.rule import IpSet, Rule, Ruleset, TableId

LOOPBACK = "lo"

PASSAGES: Mapping[str, tuple[str, ...]] = {
    "PREROUTING": ("raw", "mangle", "nat"),
    "INPUT": ("mangle", "filter", "nat"),
    "FORWARD": ("mangle", "filter"),
    "OUTPUT": ("raw", "mangle", "nat", "filter"),
    "POSTROUTING": ("mangle", "nat"),
}
"""The tables that a packet meets at each hook, in order."""

_EVERYBODY = (values.prefix("255.255.255.255"), values.prefix("224.0.0.0/4"), values.prefix("ff00::/8"))

Chains = Mapping[str, Sequence[Rule]]


class NoRoute(Exception):
    """The host would not know where to send the packet.

    :ivar journey: how far it came.
    """

    journey: "Journey | None" = None


@dataclass(frozen=True)
class Port:
    """A bridge port, and whose it is."""

    device: str
    bridge: str
    addresses: tuple[str, ...] = ()
    mac: str | None = None


@dataclass(frozen=True)
class Hop:
    """One table at one hook, and what it did to the packet; of a foreign table one of its base chains."""

    table: str
    hook: str
    walk: Walk


@dataclass(frozen=True)
class Journey:
    """Everything a packet met, and what became of it."""

    verdict: str
    """``ACCEPT``, ``DROP`` or ``REJECT``."""
    packet: Packet
    """As it leaves the host, arrives at it, or was when it was refused."""
    hops: tuple[Hop, ...]

    @property
    def passed(self) -> bool:
        """Whether it got through."""
        return self.verdict == "ACCEPT"

    @property
    def refused_by(self) -> tuple[Hop, Step] | None:
        """Where it was refused, and by which rule; ``None`` when it got through, or a policy refused it."""
        if self.passed:
            return None
        step = self.hops[-1].walk.decided_by
        return None if step is None else (self.hops[-1], step)

    @property
    def chains(self) -> tuple[str, ...]:
        """The chains in which a rule matched, in order: for asking which way it went."""
        return tuple(step.chain for hop in self.hops for step in hop.walk.steps)


@dataclass(frozen=True)
class Scene:
    """A host: its rules, its links, and who is where.

    ``routes`` are prefixes with the interface that leads to them; the longest wins.
    ``local`` are the host's own addresses, each with its interface.
    """

    tables: Mapping[TableId, Chains]
    sets: Mapping[str, IpSet]
    ports: Mapping[str, Port]
    routes: tuple[tuple[Prefix, str], ...]
    local: Mapping[str, str] = field(default_factory=dict)

    def send(self, packet: Packet, sender: str | None) -> Journey:
        """What happens to a packet, bridged or routed as its sender would have it.

        :param sender: the bridge port or other link by which it comes; ``None``: the host sends it.
        """
        if sender is None:
            return self.from_host(packet)
        port = self.ports.get(sender)
        holder = self.neighbour(packet.destination, port) if port is not None else None
        return self.from_link(packet, sender, bridged_to=None if holder is None else holder.device)

    def from_link(self, packet: Packet, sender: str, *, bridged_to: str | None = None) -> Journey:
        """What happens to a packet that comes by a link.

        :param sender: a bridge port, or another interface.
        :param bridged_to: the port that the bridge gives the frame out by; ``None``: the host
            gets it, and routes it or takes it. What is for everybody goes both ways, one at a time.
        :raises NoRoute: it has to be routed, and there is no route; or the host takes nothing of the kind.
        """
        port = self.ports.get(sender)
        if port is None:
            arrived = replace(packet, in_interface=sender)
        else:
            mac = packet.mac_source or port.mac
            arrived = replace(packet, in_interface=port.bridge, physdev_in=sender, mac_source=mac)
        trip = _Trip(self, arrived)
        trip.pass_frames("ingress", sender)
        shown = port is None or self.shows_bridged(port.bridge, packet.family)
        if port is None:
            trip.pass_hook("PREROUTING")
        else:
            trip.pass_around("prerouting", sender, shown=shown)
        if trip.refused:
            return trip.end()
        if trip.is_redirected(packet):
            bridged_to = self.stays_bridged(trip.packet, port)
        if bridged_to is not None:
            assert port is not None, f"{sender} is no bridge port"
            trip.packet = replace(trip.packet, out_interface=port.bridge, physdev_out=bridged_to)
            trip.pass_around("forward", sender, bridged_to, shown=shown)
            trip.leave_bridged(bridged_to, shown=shown)
            return trip.end()
        if port is not None:
            trip.pass_frames("input", sender)
            trip.pass_frames("ingress", port.bridge)
            if not shown:
                trip.packet = replace(trip.packet, physdev_in=None)
                trip.pass_hook("PREROUTING")
            if trip.refused:
                return trip.end()  # it is not routed any more
        destination, redirected = trip.packet.destination, trip.is_redirected(packet)
        if trip.packet.to_local_address or self.takes(destination):
            trip.packet = replace(trip.packet, to_local_address=self.is_own(destination) or redirected)
            trip.arrive()
            trip.pass_hook("INPUT")
        else:
            trip.packet = replace(trip.packet, out_interface=trip.route())
            trip.pass_hook("FORWARD")
            trip.leave()
        return trip.end()

    def from_host(self, packet: Packet, *, out_interface: str | None = None) -> Journey:
        """What happens to a packet that the host itself sends.

        :param out_interface: the link that it must go out by; by default its route's.
        :raises NoRoute: there is no route.
        """
        led_to = LOOPBACK if self.is_own(packet.destination) else self.route(packet)
        trip = _Trip(self, replace(packet, out_interface=out_interface or led_to))
        trip.pass_hook("OUTPUT")
        if not trip.refused and trip.packet.destination != packet.destination:
            # ip_route_me_harder(), in nat OUTPUT; but filter OUTPUT after it is still shown the old interface.
            trip.packet = replace(trip.packet, out_interface=trip.route())
        trip.leave()
        if trip.packet.out_interface == LOOPBACK and not trip.refused:
            trip.come_back()
        return trip.end()

    def shows_bridged(self, bridge: str, family: int) -> bool:
        """Whether a bridge's frames are shown to IP's hooks as well (br_netfilter)."""
        return True

    def tables_at(self, hook: str, packet: Packet) -> Sequence[tuple[str, bool]]:
        """The tables that a packet meets at a hook, in order, and whether each translates."""
        return [(name, name == "nat") for name in PASSAGES[hook]]

    def walk_table(self, table: TableId, hook: str, packet: Packet) -> Walk:
        """What one table does to a packet at one hook."""
        return walk(self.tables.get(table, {}), hook, packet, self.sets)

    def frames_at(self, hook: str, packet: Packet, device: str) -> Sequence[tuple[int, str]]:
        """What a frame meets at a hook below IP, in order, each by its priority.

        :param device: the link; it matters at the hooks of single links only.
        """
        return ()

    def leads_out(self, packet: Packet) -> str | None:
        """The port by which a bridge gives out what is sent through it, if that is known; ``None``: it is no bridge."""
        beside = (port for port in self.ports.values() if port.bridge == packet.out_interface)
        return next((port.device for port in beside if packet.destination in port.addresses), None)

    def route(self, packet: Packet) -> str:
        """The interface by which a packet goes on. :raises NoRoute: none leads there."""
        destination = packet.destination
        wanted = values.prefix(destination)
        found = [(prefix.length, interface) for prefix, interface in self.routes if prefix.contains(wanted)]
        if not found:
            raise NoRoute(f"there is no route to {destination}")
        return max(found, key=lambda each: each[0])[1]

    def is_own(self, address: str) -> bool:
        """Whether an address is the host's own."""
        return address in self.local

    def takes(self, destination: str) -> bool:
        """Whether the host itself takes what is sent to an address: its own, and what is everybody's."""
        wanted = values.prefix(destination)
        return self.is_own(destination) or any(everybody.contains(wanted) for everybody in _EVERYBODY)

    def why_not_taken(self, packet: Packet) -> str | None:
        """Why the host does not take a packet that came by a link and is for itself; ``None``: it does."""
        return None

    def stays_bridged(self, packet: Packet, port: Port | None) -> str | None:
        """The port to which a frame is bridged whose new destination is on the bridge that it came by.

        br_nf_pre_routing_finish(), bridged_dnat: it is never routed, and may go back by its own port.
        """
        destination = packet.destination
        if port is None or packet.to_local_address or self.takes(destination):
            return None
        if self.route(packet) != port.bridge:
            return None
        beside = (each for each in self.ports.values() if each.bridge == port.bridge)
        return next((each.device for each in beside if destination in each.addresses), None)

    def neighbour(self, address: str, sender: Port) -> Port | None:
        """Who holds an address on the sender's bridge: what an answer to its ARP request would say."""
        beside = (port for port in self.ports.values() if port.bridge == sender.bridge and port != sender)
        return next((port for port in beside if address in port.addresses), None)


class _Trip:
    """A packet under way."""

    def __init__(self, scene: Scene, packet: Packet) -> None:
        self._scene = scene
        self.packet = packet
        self._hops: list[Hop] = []
        self._verdict = "ACCEPT"

    def pass_hook(self, hook: str, *, translated: bool = False) -> None:
        """Meet the tables of a hook, unless the packet was refused before.

        :param translated: it was decided before how the flow is translated there.
        """
        for table, translates in self._scene.tables_at(hook, self.packet):
            if self.refused:
                return
            # The mangling of a flow is decided by its first packet, and kept by connection tracking;
            # who decided it first at a hook decided it for all (nf_nat_inet_fn).
            if translates and (translated or "NEW" not in self.packet.states):
                continue
            walked = self._scene.walk_table(TableId(self.packet.family, table), hook, self.packet)
            self._hops.append(Hop(table, hook, walked))
            translated |= translates and _ends(walked.packet) != _ends(self.packet)
            self._verdict, self.packet = walked.verdict, walked.packet

    def pass_frames(
        self, hook: str, came_by: str | None, goes_by: str | None = None, *, turns: range | None = None
    ) -> None:
        """Meet what is hooked in below IP, unless the packet was refused before; there the links are the ports.

        :param turns: of those only the priorities.
        """
        device = came_by or goes_by
        assert device is not None
        for turn, table in self._scene.frames_at(hook, self.packet, device):
            if self.refused:
                return
            if turns is not None and turn not in turns:
                continue
            frame = replace(self.packet, in_interface=came_by, out_interface=goes_by)
            walked = self._scene.walk_table(TableId(frame.family, table), hook, frame)
            self._hops.append(Hop(table, hook, walked))
            self._verdict, self.packet = walked.verdict, replace(self.packet, mark=walked.packet.mark)

    def pass_around(self, hook: str, came_by: str, goes_by: str | None = None, *, shown: bool) -> None:
        """A bridge's hook, in the middle of which br_netfilter has the packet meet the hook of that name.

        :param shown: it does.
        """
        turn = BRIDGED_IP[hook]
        self.pass_frames(hook, came_by, goes_by, turns=range(-(2**31), turn))
        if shown:
            self.pass_hook(hook.upper())
        self.pass_frames(hook, came_by, goes_by, turns=range(turn, 2**31))

    @property
    def refused(self) -> bool:
        """Whether it goes no further."""
        return self._verdict != "ACCEPT"

    def is_redirected(self, sent: Packet) -> bool:
        """Whether it has another destination than when it was sent, or is the host's."""
        return self.packet.to_local_address or self.packet.destination != sent.destination

    def route(self) -> str:
        """The interface by which it goes on. :raises NoRoute: none does."""
        try:
            return self._scene.route(self.packet)
        except NoRoute as error:
            error.journey = self.end()
            raise

    def arrive(self) -> None:
        """It is for the host itself. :raises NoRoute: which does not take it."""
        reason = self._scene.why_not_taken(self.packet)
        if reason is not None:
            error = NoRoute(reason)
            error.journey = self.end()
            raise error

    def leave(self) -> None:
        """The last hook; the interface that it came by and its MAC are not known there."""
        self.packet = replace(self.packet, in_interface=None, mac_source=None)
        self.pass_hook("POSTROUTING")
        leaves_by = self.packet.out_interface
        if leaves_by is None:
            return
        self.pass_frames("egress", None, leaves_by)
        port = self._scene.leads_out(self.packet)
        if port is not None:
            for hook in ("output", "postrouting", "egress"):
                self.pass_frames(hook, None, port)

    def come_back(self) -> None:
        """The host is sent what it sent to itself; its flow is the one that it had when it left."""
        self.packet = replace(self.packet, in_interface=LOOPBACK, out_interface=None, to_local_address=True)
        self.pass_frames("ingress", LOOPBACK)
        for hook in ("PREROUTING", "INPUT"):
            self.pass_hook(hook, translated=True)

    def leave_bridged(self, port: str, *, shown: bool) -> None:
        """The last hooks of a frame that stays on its bridge, with those of IP where it is shown to them."""
        self.pass_frames("postrouting", None, port)
        self.packet = replace(self.packet, in_interface=None, mac_source=None)
        if shown:
            self.pass_hook("POSTROUTING")
        self.pass_frames("egress", None, port)

    def end(self) -> Journey:
        """What came of it."""
        return Journey(self._verdict, self.packet, tuple(self._hops))


def _ends(packet: Packet) -> tuple[object, ...]:
    return packet.source, packet.source_port, packet.destination, packet.destination_port


def tables_of(ruleset: Ruleset) -> Mapping[TableId, Chains]:
    """The chains of every table, as if nobody else had any rule."""
    return {id_: chains_of(table) for id_, table in ruleset.tables.items()}
