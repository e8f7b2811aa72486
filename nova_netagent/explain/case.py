"""A question, and everything that is looked up for it."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from nova_netagent.backend.links.routes import Asked, Route
from nova_netagent.compile import Compiled
from nova_netagent.compile.cut import set_name
from nova_netagent.compile.resolve import Port as VifPort
from nova_netagent.events import Event
from nova_netagent.explain import owners
from nova_netagent.explain.live import LiveRules, ends_of
from nova_netagent.explain.question import Question
from nova_netagent.explain.report import Outcome
from nova_netagent.explain.scene import scene_of
from nova_netagent.host import Host
from nova_netagent.model import DesiredState, Key, values
from nova_netagent.model.objects import Invalid
from nova_netagent.model.protocols import UDPLITE
from nova_netagent.netfilter.foreign import Surroundings, cast
from nova_netagent.netfilter.frames import Redirected
from nova_netagent.netfilter.journey import Journey, NoRoute, Port
from nova_netagent.netfilter.packet import Packet
from nova_netagent.plan.links import ActualLinks


@dataclass(frozen=True)
class World:
    """What an explanation is made from.

    :ivar changed: compiles the state as it would be after some events.
    """

    state: DesiredState
    compiled: Compiled
    host: Host
    changed: Callable[[list[Event]], tuple[DesiredState, Compiled]]
    troubles: Mapping[Key, tuple[str, str]]
    cut_by: Callable[[str], Collection[Key]] = lambda end: ()
    """The objects whose change cut the flow that has an end, if that is remembered."""


@dataclass(frozen=True)
class End:
    """How a packet's way ended."""

    verdict: Outcome
    journey: Journey
    reason: str = ""

    @property
    def packet(self) -> Packet:
        """The packet as it was then."""
        return self.journey.packet


class Case:
    """One question, and the way of its packet by the rules that there are.

    :ivar said: what has to be told of how the question was understood.
    """

    def __init__(self, question: Question, world: World) -> None:
        self.question = question
        self.world = world
        self.actual: ActualLinks = world.host.links.read()
        around = Surroundings(self._is_local, self._leads_to, self._index_of, self._bridge_of, self._broadcast_on)
        owner = world.compiled.scope.owner
        self.live = LiveRules(world.host.rules, world.compiled.ruleset, owner, around, world.host.others())
        self.scene = scene_of(world.compiled, self.actual, self.live, world.host.links)
        self._routes: dict[str, Route] = {}
        self.said: list[str] = []
        self.packet = self._as_it_would_be(question.packet)
        self.sender = self._find_sender()
        if self.sender is None:
            self.packet = self._as_the_host_sends_it(self.packet)
        self.bridged_to = self._find_receiver()

    def _as_it_would_be(self, packet: Packet) -> Packet:
        """The packet; one of a TCP connection that was cut is of no known one, and is not its first either."""
        name = set_name(packet.family, self.world.compiled.scope.owner)
        ends = [each for each in ends_of(packet) if self.live.cut_ago(name, each) is not None]
        if not ends:
            return packet
        ago = min(self.live.cut_ago(name, each) or 0.0 for each in ends)
        changed_by = next(filter(None, map(self.world.cut_by, ends)), ())
        by = ", ".join(owners.holder(self.world.state, (*each, "")).text for each in sorted(changed_by))
        told = f"a connection between these ends was cut {duration(ago)} ago" + (f", by a change of {by}" if by else "")
        if packet.states & {"ESTABLISHED", "RELATED"}:
            self.said.append(f"{told}: connection tracking knows it no more, and no segment of it passes")
            return replace(packet, states=frozenset({"NEW"}), opens=False)
        self.said.append(f"{told}: its segments do not pass (--state ESTABLISHED); a new one is judged by the rules")
        return packet

    def _as_the_host_sends_it(self, packet: Packet) -> Packet:
        """The packet; checksums are judged in PREROUTING alone (``udplite_error`` in nf_conntrack_proto_udp.c)."""
        if packet.protocol != UDPLITE or self.question.state is not None:
            return packet
        return replace(packet, states=frozenset({"NEW"}))

    def _is_local(self, address: str) -> bool:
        return self.scene.is_own(address)

    def _leads_to(self, address: str) -> str | None:
        return self._route_to(address).interface

    def _broadcast_on(self, address: str) -> str | None:
        route = self._route_to(address)
        return route.interface if route.kind == "broadcast" and cast(address) == "unicast" else None

    def _route_to(self, address: str) -> Route:
        if address not in self._routes:
            self._routes[address] = self.world.host.links.route(Asked(address))
        return self._routes[address]

    def _index_of(self, name: str) -> int | None:
        link = self.actual.links.get(name)
        return None if link is None else link.index

    def _bridge_of(self, name: str) -> str | None:
        link = self.actual.links.get(name)
        return None if link is None else link.master

    def _find_sender(self) -> str | None:
        """The link that the packet comes by; ``None``: the host sends it."""
        question, scene = self.question, self.scene
        device = question.in_dev
        if device is not None:
            if device not in self.actual.links and device not in scene.vifs:
                raise Invalid("in_dev", f"there is no link {device} on this host")
            if device not in self.actual.links:
                self.said.append(f"{device} is not there yet: it is taken to be where it belongs")
            return device
        address = question.source[0]
        if self._is_local(address):
            return None
        found = [device for device, port in scene.ports.items() if address in port.addresses]
        wanted = values.prefix(address)
        found = found or [device for prefix, device in scene.pairs if prefix.contains(wanted) and prefix.length]
        if len(found) > 1:
            self.said.append(f"{address} is behind {', '.join(found)}; the first is meant, --in-dev says another")
        if found:
            return found[0]
        for bridge, device in scene.uplinks.items():
            if bridge in self.actual.links and scene.is_near(address, bridge) and not address.startswith("fe80:"):
                return device
        came_by = self.world.host.links.route(Asked(address)).interface
        if came_by is None:
            raise Invalid("in_dev", f"nothing says by which link {address} comes: name it")
        return came_by

    def _find_receiver(self) -> str | None:
        """The bridge port that the frame is given out by; ``None``: the host gets it."""
        question, scene = self.question, self.scene
        port = scene.ports.get(self.sender or "")
        if question.out_dev is not None:
            if port is None or question.out_dev not in scene.ports:
                raise Invalid("out_dev", f"{question.out_dev} is not a port of the bridge that the packet comes by")
            return question.out_dev
        address = question.destination[0]
        if port is None or question.routed or scene.takes(address):
            return None
        holder = scene.neighbour(address, port)
        if holder is not None:
            return holder.device
        return self._to_other_gateway(address, port)

    def _to_other_gateway(self, address: str, port: Port) -> str | None:
        """The uplink, when the sender's gateway is another machine and nothing takes the frame from it."""
        vif = self.scene.vifs.get(port.device)
        network = None if vif is None else vif.network
        if network is None or not network.external_gateway or ":" in address:
            return None
        redirected = self.world.compiled.frames.frames.redirected
        if any(_redirects(each, self.question.source[0], address) for each in redirected):
            return None
        return self.scene.uplinks.get(port.bridge)

    def walk(self) -> End:
        """The packet's way by the rules, as they are or as they are assumed to be."""
        packet = self.packet
        frame = self._frame_refused()
        if frame is not None:
            return End("DROP", Journey("DROP", packet, ()), frame)
        try:
            journey = self.scene.journey(packet, self.sender, self.bridged_to)
        except NoRoute as error:
            journey = error.journey or Journey("DROP", packet, ())
            return End("NO ROUTE", journey, str(error))
        unjudged = self._unjudged(leaves_by(journey.packet), journey.packet)
        if journey.verdict == "ACCEPT" and unjudged is not None:
            return End("DROP", journey, unjudged)
        return End(journey.verdict, journey)  # type: ignore[arg-type]

    def _unjudged(self, device: str | None, packet: Packet) -> str | None:
        """Why no packet of its family passes there: no rules of that family are on this host."""
        frames = self.world.compiled.frames.frames
        if packet.family not in frames.unjudged or device is None or self.world.host.frames is None:
            return None
        holder = self.scene.holder(packet.destination, device)
        port = device if holder is None else holder.device
        if port not in {each.device for each in frames.secured}:
            return None
        return (
            f"there are no rules of IPv{packet.family} on this host (use_ipv6, or what its kernel lacks):"
            f" {port}, with port security, neither sends nor is sent any"
        )

    def _frame_refused(self) -> str | None:
        """Why a port's frames go nowhere, whatever is in them."""
        return self._nobodys() or self._unjudged(self.sender, self.packet)

    def _nobodys(self) -> str | None:
        port = self.scene.ports.get(self.sender or "")
        if port is None:
            return None
        known = self.world.compiled.frames.bridges.get(port.bridge)
        if known is not None and port.device not in known.known:
            return f"{port.device} is a port of {port.bridge}, and nobody's: no described vif has it, nothing passes it"
        return None

    def vif_at(self, device: str | None, address: str) -> VifPort | None:
        """The vif of a bridge port, or behind a bridge the one that has an address."""
        scene = self.scene
        if device is None or device in scene.vifs:
            return scene.vifs.get(device or "")
        holder = scene.holder(address, device)
        return None if holder is None else scene.vifs.get(holder.device)

    def who(self, device: str | None, address: str) -> str:
        """Who is at a link, or has an address behind it; empty where that is not known."""
        if device is None:
            return "this host"
        vif = self.vif_at(device, address)
        if vif is not None:
            return owners.holder(self.world.state, ("instances", vif.instance_id, "")).text
        if device in self.scene.uplinks.values():
            return "machines beyond the host"
        return ""


def leaves_by(packet: Packet) -> str | None:
    """The bridge port that a packet is given out by, or else the link."""
    return packet.physdev_out or packet.out_interface


def duration(seconds: float) -> str:
    """A time that has passed, in the largest unit of which it has more than one."""
    for size, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"


def _redirects(each: Redirected, source: str, destination: str) -> bool:
    if not values.prefix(each.source).contains(values.prefix(source)):
        return False
    return values.prefix(each.destination).contains(values.prefix(destination)) != each.inverted
