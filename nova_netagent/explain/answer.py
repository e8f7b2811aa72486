"""From a question to its explanation."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

from nova_netagent.backend.links.passable import Passable
from nova_netagent.backend.links.routes import Asked, Route
from nova_netagent.compile import Compiled
from nova_netagent.compile.cut import set_name
from nova_netagent.compile.resolve import Port as VifPort
from nova_netagent.events import Event
from nova_netagent.explain import owners, proposal
from nova_netagent.explain.live import LiveRules, Place, ends_of
from nova_netagent.explain.question import Question
from nova_netagent.explain.report import Doubt, Explanation, MetRule, Outcome, PacketAt, Proposal
from nova_netagent.explain.scene import LiveScene, scene_of
from nova_netagent.host import Host
from nova_netagent.model import DesiredState, FloatingIP, Key, values
from nova_netagent.model.objects import Invalid
from nova_netagent.model.protocols import UDPLITE
from nova_netagent.netfilter.foreign import Surroundings, cast
from nova_netagent.netfilter.frames import Redirected
from nova_netagent.netfilter.journey import Hop, Journey, NoRoute, Port
from nova_netagent.netfilter.packet import Packet
from nova_netagent.netfilter.rule import TableId
from nova_netagent.netfilter.text import end_text
from nova_netagent.plan.links import BRIDGE_SYSCTLS, ActualLinks

MOST_DOUBTS = 16
_UNTRANSLATED = "its flow is taken not to be translated; if it is, it goes on to whom only connection tracking knows"
Way = Literal["bridged", "routed", "to the host", "from the host"]


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


def explain(question: Question, world: World) -> Explanation:
    """What becomes of a packet, by the rules that the kernel has now.

    :raises Invalid: the question names a link that is not here.
    :raises BackendError: the kernel cannot be read.
    """
    return _Case(question, world).explanation()


class _Case:
    """One question, and everything that is looked up for it."""

    def __init__(self, question: Question, world: World) -> None:
        self._question = question
        self._world = world
        self._actual: ActualLinks = world.host.links.read()
        around = Surroundings(self._is_local, self._leads_to, self._index_of, self._bridge_of, self._broadcast_on)
        owner = world.compiled.scope.owner
        self._live = LiveRules(world.host.rules, world.compiled.ruleset, owner, around, world.host.others())
        self._scene = self._scene_of(world.compiled)
        self._routes: dict[str, Route] = {}
        self._notes: list[str] = []
        self._packet = self._as_it_would_be(question.packet)
        self._sender = self._find_sender()
        if self._sender is None:
            self._packet = self._as_the_host_sends_it(self._packet)
        self._bridged_to = self._find_receiver()

    def explanation(self) -> Explanation:
        end = self._walk()
        doubts = self._doubts(end)
        rules = [each for hop in end.journey.hops for each in self._met(hop)]
        refused_by = rules[-1] if end.verdict in ("DROP", "REJECT", "UNKNOWN") and rules else None
        self._guess_translation()
        self._note(end)
        obstacles = self._obstacles(end)
        return Explanation(
            verdict=end.verdict,
            reason=self._reason(end, rules, refused_by),
            certain=end.verdict != "UNKNOWN"
            and not self._live.guesses
            and not (obstacles and end.verdict == "ACCEPT")
            and all(each.verdict == end.verdict for each in doubts),
            way=self._way(end),
            state=",".join(sorted(self._packet.states)),
            sent=self._at(self._packet, self._sender),
            left=self._at(end.packet, _leaves_by(end.packet)),
            rules=rules,
            refused_by=refused_by,
            doubts=doubts,
            notes=tuple(dict.fromkeys([*obstacles, *self._notes])),
            proposal=self._propose(end, refused_by),
        )

    # --- the way

    def _as_it_would_be(self, packet: Packet) -> Packet:
        """The packet; one of a TCP connection that was cut is of no known one, and is not its first either."""
        name = set_name(packet.family, self._world.compiled.scope.owner)
        ends = [each for each in ends_of(packet) if self._live.cut_ago(name, each) is not None]
        if not ends:
            return packet
        ago = min(self._live.cut_ago(name, each) or 0.0 for each in ends)
        changed_by = next(filter(None, map(self._world.cut_by, ends)), ())
        by = ", ".join(owners.holder(self._world.state, (*each, "")).text for each in sorted(changed_by))
        told = f"a connection between these ends was cut {duration(ago)} ago" + (f", by a change of {by}" if by else "")
        if packet.states & {"ESTABLISHED", "RELATED"}:
            self._notes.append(f"{told}: connection tracking knows it no more, and no segment of it passes")
            return replace(packet, states=frozenset({"NEW"}), opens=False)
        self._notes.append(f"{told}: its segments do not pass (--state ESTABLISHED); a new one is judged by the rules")
        return packet

    def _as_the_host_sends_it(self, packet: Packet) -> Packet:
        """The packet; checksums are judged in PREROUTING alone (``udplite_error`` in nf_conntrack_proto_udp.c)."""
        if packet.protocol != UDPLITE or self._question.state is not None:
            return packet
        return replace(packet, states=frozenset({"NEW"}))

    def _scene_of(self, compiled: Compiled) -> LiveScene:
        return scene_of(compiled, self._actual, self._live, self._world.host.links)

    def _is_local(self, address: str) -> bool:
        return self._scene.is_own(address)

    def _leads_to(self, address: str) -> str | None:
        return self._route_to(address).interface

    def _broadcast_on(self, address: str) -> str | None:
        route = self._route_to(address)
        return route.interface if route.kind == "broadcast" and cast(address) == "unicast" else None

    def _route_to(self, address: str) -> Route:
        if address not in self._routes:
            self._routes[address] = self._world.host.links.route(Asked(address))
        return self._routes[address]

    def _index_of(self, name: str) -> int | None:
        link = self._actual.links.get(name)
        return None if link is None else link.index

    def _bridge_of(self, name: str) -> str | None:
        link = self._actual.links.get(name)
        return None if link is None else link.master

    def _find_sender(self) -> str | None:
        """The link that the packet comes by; ``None``: the host sends it."""
        question, scene = self._question, self._scene
        device = question.in_dev
        if device is not None:
            if device not in self._actual.links and device not in scene.vifs:
                raise Invalid("in_dev", f"there is no link {device} on this host")
            if device not in self._actual.links:
                self._notes.append(f"{device} is not there yet: it is taken to be where it belongs")
            return device
        address = question.source[0]
        if self._is_local(address):
            return None
        found = [device for device, port in scene.ports.items() if address in port.addresses]
        wanted = values.prefix(address)
        found = found or [device for prefix, device in scene.pairs if prefix.contains(wanted) and prefix.length]
        if len(found) > 1:
            self._notes.append(f"{address} is behind {', '.join(found)}; the first is meant, --in-dev says another")
        if found:
            return found[0]
        for bridge, device in scene.uplinks.items():
            if bridge in self._actual.links and scene.is_near(address, bridge) and not address.startswith("fe80:"):
                return device
        came_by = self._world.host.links.route(Asked(address)).interface
        if came_by is None:
            raise Invalid("in_dev", f"nothing says by which link {address} comes: name it")
        return came_by

    def _find_receiver(self) -> str | None:
        """The bridge port that the frame is given out by; ``None``: the host gets it."""
        question, scene = self._question, self._scene
        port = scene.ports.get(self._sender or "")
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
        vif = self._scene.vifs.get(port.device)
        network = None if vif is None else vif.network
        if network is None or not network.external_gateway or ":" in address:
            return None
        redirected = self._world.compiled.frames.frames.redirected
        if any(_redirects(each, self._question.source[0], address) for each in redirected):
            return None
        return self._scene.uplinks.get(port.bridge)

    def _walk(self) -> End:
        packet = self._packet
        frame = self._frame_refused()
        if frame is not None:
            return End("DROP", Journey("DROP", packet, ()), frame)
        try:
            journey = self._scene.journey(packet, self._sender, self._bridged_to)
        except NoRoute as error:
            journey = error.journey or Journey("DROP", packet, ())
            return End("NO ROUTE", journey, str(error))
        unjudged = self._unjudged(_leaves_by(journey.packet), journey.packet)
        if journey.verdict == "ACCEPT" and unjudged is not None:
            return End("DROP", journey, unjudged)
        return End(journey.verdict, journey)  # type: ignore[arg-type]

    def _unjudged(self, device: str | None, packet: Packet) -> str | None:
        """Why no packet of its family passes there: no rules of that family are on this host."""
        frames = self._world.compiled.frames.frames
        if packet.family not in frames.unjudged or device is None or self._world.host.frames is None:
            return None
        holder = self._scene.holder(packet.destination, device)
        port = device if holder is None else holder.device
        if port not in {each.device for each in frames.secured}:
            return None
        return (
            f"there are no rules of IPv{packet.family} on this host (use_ipv6, or what its kernel lacks):"
            f" {port}, with port security, neither sends nor is sent any"
        )

    def _frame_refused(self) -> str | None:
        """Why a port's frames go nowhere, whatever is in them."""
        return self._nobodys() or self._unjudged(self._sender, self._packet)

    def _nobodys(self) -> str | None:
        port = self._scene.ports.get(self._sender or "")
        if port is None:
            return None
        known = self._world.compiled.frames.bridges.get(port.bridge)
        if known is not None and port.device not in known.known:
            return f"{port.device} is a port of {port.bridge}, and nobody's: no described vif has it, nothing passes it"
        return None

    def _doubts(self, end: End) -> list[Doubt]:
        """What would become of the packet if one of the rules that cannot be judged applied."""
        met = list(islice(self._live.doubts, MOST_DOUBTS))
        found = []
        for place in met:
            self._live.assumed = frozenset({place})
            other = self._walk()
            rule = self._at_place(place, other)
            if rule is not None:
                found.append(Doubt(rule, other.verdict))
        self._live.assumed = frozenset()
        return found

    def _at_place(self, place: Place, end: End) -> MetRule | None:
        table, chain, index = place
        return next(
            (
                each
                for hop in end.journey.hops
                for each in self._met(hop)
                if (each.table, each.chain, each.number) == (table.name, chain, index + 1)
            ),
            None,
        )

    # --- what was met

    def _met(self, hop: Hop) -> Iterator[MetRule]:
        table = self._live.met(TableId(hop.walk.packet.family, hop.table))
        if table is None:
            return
        callers = owners.Callers(self._world.compiled.scope.owner)
        sender = self._scene.vifs.get(hop.walk.packet.physdev_in or "")
        for step in hop.walk.steps:
            found = callers.named(owners.met(self._world.state, table, hop.hook, step), step)
            yield found if sender is None else owners.of_sender(self._world.state, found, sender.instance_id)
        if hop.walk.verdict != "ACCEPT" and hop.walk.decided_by is None and hop.walk.verdict != "UNKNOWN":
            yield owners.policy(table, hop.hook, hop.walk.verdict)

    def _at(self, packet: Packet, device: str | None) -> PacketAt:
        proto = str(self._question.proto)
        if packet.icmp is not None:
            proto += f" type {packet.icmp[0]} code {packet.icmp[1]}"
        source = end_text(packet.source, packet.source_port)
        destination = end_text(packet.destination, packet.destination_port)
        address = packet.source if device == self._sender else packet.destination
        return PacketAt(source, destination, proto, device, self._who(device, address))

    def _vif_at(self, device: str | None, address: str) -> VifPort | None:
        """The vif of a bridge port, or behind a bridge the one that has an address."""
        scene = self._scene
        if device is None or device in scene.vifs:
            return scene.vifs.get(device or "")
        holder = scene.holder(address, device)
        return None if holder is None else scene.vifs.get(holder.device)

    def _who(self, device: str | None, address: str) -> str:
        if device is None:
            return "this host"
        vif = self._vif_at(device, address)
        if vif is not None:
            return owners.holder(self._world.state, ("instances", vif.instance_id, "")).text
        if device in self._scene.uplinks.values():
            return "machines beyond the host"
        return ""

    def _way(self, end: End) -> Way:
        if self._sender is None:
            return "from the host"
        if end.packet.physdev_out is not None or (self._bridged_to is not None and not end.packet.to_local_address):
            return "bridged"
        if any(hop.hook == "INPUT" for hop in end.journey.hops) or self._scene.takes(end.packet.destination):
            return "to the host"
        return "routed"

    def _reason(self, end: End, rules: list[MetRule], refused_by: MetRule | None) -> str:
        if end.reason:
            return end.reason
        if refused_by is not None:
            where = f"IPv{refused_by.family} {refused_by.table} {refused_by.chain}"
            if end.verdict == "UNKNOWN":
                return f"another program decides: {refused_by.rule} in {where}"
            place = "the policy" if refused_by.number == 0 else f"rule {refused_by.number}"
            return f"{place} of {where} refuses it: {owners.why(self._world.state, refused_by)}"
        judges = [each for each in rules if each.table != "nat"]  # which translates, and refuses nothing
        allowed = [each for each in judges if each.effect == "ACCEPT" or each.owner.kind == "security_groups"]
        by = next((each.owner.text for each in reversed(allowed) if each.owner.kind is not None), None)
        if by is None and allowed:
            by = allowed[-1].owner.text
        return "no rule refuses it" if by is None else f"it is let through by {by}"

    def _note(self, end: End) -> None:
        question = self._question
        self._note_mac()
        self._note_bridge()
        self._note_unread(end)
        self._note_nobody(end)
        self._note_elsewhere(end)
        self._note_arp(end)
        if "NEW" not in self._packet.states:
            self._notes.append("NAT was decided by its flow's first packet: the nat table is not asked again")
        floating = self._world.state.get(FloatingIP, question.destination[0])
        if floating is not None and ("floating_ips", floating.id) in self._world.troubles:
            self._notes.append(
                f"floating IP {floating.id} is {' '.join(self._world.troubles['floating_ips', floating.id])}"
            )
        ends = ((self._sender, question.source[0]), (_leaves_by(end.packet), end.packet.destination))
        for device, address in ends:
            vif = self._vif_at(device, address)
            of_instance = None if vif is None else self._world.troubles.get(("instances", vif.instance_id))
            if of_instance is not None:
                self._notes.append(f"{self._who(device, address)} is {of_instance[0]}: {of_instance[1]}")
        if question.number in (6, 17) and question.destination[1] is None:
            self._notes.append("no destination port was given: rules that name ports do not match")
        self._notes += self._live.guesses
        if self._live.doubts:
            self._notes.append("foreign rules that depend on more than the packet were taken not to apply")

    def _guess_translation(self) -> None:
        """To one of the host's own addresses comes also what connection tracking gives back to who is behind them."""
        known = self._packet.states & {"ESTABLISHED", "RELATED"}
        if known and self._sender is not None and self._scene.is_own(self._packet.destination):
            self._live.guesses.setdefault(_UNTRANSLATED)

    def _links_of(self, end: End) -> list[str]:
        """The links that a packet goes by, in order: ports, and what they are ports of."""
        scene, leaves_by = self._scene, _leaves_by(end.packet)
        leads_out = scene.leads_out(end.packet) if end.packet.physdev_out is None else None
        found = []
        for device in filter(None, (self._sender, self._bridged_to, leads_out, leaves_by)):
            port = scene.ports.get(device)
            found += [device] if port is None else [device, port.bridge]
        return list(dict.fromkeys(found))

    def _obstacles(self, end: End) -> list[str]:
        """What keeps a packet of any kind from the way that it would go by the rules."""
        found = [told for device in self._links_of(end) if (told := self._closed(device)) is not None]
        found = [f"{each}: nothing comes or goes that way" for each in found]
        came_by, goes_by = self._sender, end.packet.physdev_out or self._scene.leads_out(end.packet)
        if end.packet.physdev_out and all(
            known is not None and known.isolated for known in map(self._passable, (came_by, goes_by))
        ):
            found.append(
                f"{came_by} and {goes_by} are isolated ports: their bridge gives no frames from one to the other"
            )
        port = self._scene.ports.get(goes_by or "")
        if port is not None and port.mac is not None and port.bridge in self._actual.links:
            behind = self._world.host.links.behind(port.bridge, port.mac)
            if behind not in (None, goes_by):
                found.append(
                    f"{port.bridge} has learned {port.mac} behind {behind}: it gives frames for {goes_by} out there"
                )
        return found

    def _passable(self, device: str | None) -> Passable | None:
        return None if device is None else self._world.host.links.passable(device)

    def _closed(self, device: str) -> str | None:
        """Why no frame passes a link."""
        link, known = self._actual.links.get(device), self._passable(device)
        if link is None or known is None:
            return f"there is no link {device}"
        if not link.up:
            return f"{device} is down"
        if device in self._scene.vifs and link.master is None:
            return f"{device} is on no bridge"
        if not known.running:
            return f"{device} has no carrier: nobody is at its other end"
        if not known.forwards:
            return f"{device} does not forward yet: its bridge listens, learns or blocks there (STP)"
        return None

    def _note_bridge(self) -> None:
        """Frames of its sender's bridge are not shown to IP's hooks."""
        port, family = self._scene.ports.get(self._sender or ""), self._packet.family
        if port is None or self._scene.shows_bridged(port.bridge, family):
            return
        name = BRIDGE_SYSCTLS[family].replace("/", ".")
        self._notes.append(
            f"{name} is 0: what is bridged meets no rules of IPv{family}, the agent's neither, and what is routed is of"
            " no port to them; netagentctl resync sets it"
        )

    def _note_unread(self, end: End) -> None:
        """What decides as well, and is not looked at: programs on its links, and who has joined a group."""
        if cast(end.packet.destination) == "multicast" and self._sender is not None:
            port, group = end.packet.physdev_out, end.packet.destination
            who = "the host takes it" if port is None else f"{port} is given it by its bridge"
            self._notes.append(f"whether {who} depends on who has joined {group}, which is not looked at")
        for device in self._links_of(end):
            known = self._passable(device)
            named = () if known is None else (("a program of XDP's", known.xdp), ("filters of tc's, maybe", known.tc))
            for what, is_there in named:
                if is_there:
                    self._notes.append(f"{device} has {what}: what becomes of packets there is not looked at")

    def _note_mac(self) -> None:
        """Another's MAC: the rules that refuse its packet do not get to see it, and count nothing."""
        mac, frames = self._question.mac, self._world.compiled.frames.frames
        secured = next((each for each in frames.secured if each.device == self._sender), None)
        if mac is None or secured is None or mac in secured.macs or self._world.host.frames is None:
            return
        where = f"nft list chain bridge {self._world.compiled.scope.owner.wrap_name} from-vif"
        self._notes.append(
            f"{mac} is no MAC of {self._sender}: its frames are dropped and counted before that ({where})"
        )

    def _note_nobody(self, end: End) -> None:
        """A packet that is let out to a bridge behind which nobody is known to have its address."""
        bridge, address = end.packet.out_interface, end.packet.destination
        if (
            end.verdict != "ACCEPT"
            or bridge is None
            or end.packet.physdev_out is not None
            or cast(address) != "unicast"
        ):
            return
        is_known = bridge in self._scene.uplinks or self._scene.holder(address, bridge) is not None
        if self._scene.is_near(address, bridge) and not is_known:
            self._notes.append(f"no described instance has {address}: nobody behind {bridge} answers to it")

    def _note_elsewhere(self, end: End) -> None:
        """A packet that is for a described vif, and that the host's routes lead past its bridge."""
        leaves_by, address = end.packet.out_interface, end.packet.destination
        if end.verdict != "ACCEPT" or leaves_by is None:
            return
        vifs = self._scene.vifs.values()
        on = {port.network.bridge for port in vifs if port.network is not None and address in port.addresses}
        if on and leaves_by not in on:
            self._notes.append(f"{address} is a described vif's on {', '.join(sorted(on))}; it leaves by {leaves_by}")

    def _note_arp(self, end: End) -> None:
        """A packet that is let through, and is never sent as its sender cannot ask for a MAC."""
        if end.verdict != "ACCEPT" or end.packet.family != 4:
            return
        came_by, goes_by = self._sender, end.packet.physdev_out or self._scene.leads_out(end.packet)
        asked = [("forward", came_by, goes_by), ("forward", goes_by, came_by)] if end.packet.physdev_out else []
        between = ("prerouting", "input"), ("output", "postrouting")
        for link in (each for each in (came_by, goes_by) if each is not None):
            known = between if link in self._scene.ports else ((), ())
            asked += [(hook, link, None) for hook in ("ingress", *known[0])]
            asked += [(hook, None, link) for hook in (*known[1], "egress")]
        for hook, incoming, outgoing in asked:
            if end.packet.physdev_out and hook in ("input", "output"):
                continue
            found = self._live.refuses_arp(hook, incoming, outgoing)
            if found is not None:
                other, walked = found
                step = walked.decided_by
                where = (
                    f"rule {step.index + 1} of {other.id.name} {step.chain}"
                    if step
                    else f"the policy of {other.key.name}"
                )
                self._notes.append(f"{where}, foreign, refuses ARP: without it the packet is never sent")
                return

    # --- what would help

    def _propose(self, end: End, refused_by: MetRule | None) -> Proposal | None:
        if end.verdict not in ("DROP", "REJECT"):
            return None
        found = proposal.Attempt(self._world.state, self._world.compiled, self._scene)
        refused: tuple[End, MetRule | None] = (end, refused_by)
        for _ in range(proposal.MOST_STEPS):
            if not found.take(refused[1], refused[0].packet, self._sender):
                break
            state, compiled = self._world.changed(found.events)
            found.seen(state, compiled)
            refused = self._again(compiled)
            if refused[0].verdict == "ACCEPT":
                return found.proposal(works=True)
        self._live.instead(None)
        return found.proposal(works=False)

    def _again(self, compiled: Compiled) -> tuple[End, MetRule | None]:
        """The same packet, with our own rules as they would be."""
        self._live.instead(compiled.ruleset)
        try:
            end = self._walk()
            rules = [rule for hop in end.journey.hops for rule in self._met(hop)]
            return end, rules[-1] if rules and end.verdict != "ACCEPT" else None
        finally:
            self._live.instead(None)


def _leaves_by(packet: Packet) -> str | None:
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
