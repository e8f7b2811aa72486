"""Which flows a change has revoked: of the rules before and after it, and of the flows that there are.

A flow was let in by its first packet, and its later ones are not asked for rules. So the first
packet is led through the rules again: what was let in before and is refused now is to be cut,
and what is refused either way is somebody else's business. Not known from a flow is by which
link it came; it lives while there is one by which it may.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping

from msgspec import Struct

from nova_netagent.compile import Compiled, egress
from nova_netagent.compile.parts import Scope
from nova_netagent.compile.resolve import Group, Port, Resolved
from nova_netagent.model import values
from nova_netagent.model.lineage import changed
from nova_netagent.model.protocols import TCP
from nova_netagent.netfilter.flow import EXPECTED, Addresses, Flow, Side
from nova_netagent.netfilter.packet import Packet
from nova_netagent.netfilter.rule import FAMILIES, Dnat
from nova_netagent.whereabouts import First, Whereabouts, leads_to

EVERYBODY = Addresses(everybody=True)
_LEAST_EPHEMERAL = 32768


class Cut(Struct, frozen=True):
    """A flow to be cut."""

    flow: Flow
    remembered: bool
    """Its ends are to be noted: they are still there and may speak again, and must not resume it mid-stream."""


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
        *_of_ports(old, after.scope),
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
    single = frozenset(values.address_text(each.family, each.value) for each in prefixes if each.is_host)
    return Addresses(single, tuple(each for each in prefixes if not each.is_host))


def _of_ports(old: Resolved, scope: Scope) -> Iterator[str]:
    """The addresses of the instances that are not what they were.

    On our own bridges an instance that is not described passes nothing, so that one that arrives has
    no flows but those that the host judged from which it came, and those that somebody began when the
    address was nobody's: in these it could answer whatever its egress rules say.
    """
    new = scope.resolved
    for id_ in changed(old.ports, new.ports):
        arrives_closed = scope.settings.network.manage_links and id_ not in old.ports
        for port in {*old.ports.get(id_, ())} ^ {*new.ports.get(id_, ())}:
            if arrives_closed and not any(egress.is_judged(port, family, scope) for family in scope.families):
                continue
            yield from _own(port)


def _own(port: Port) -> Iterator[str]:
    """The addresses at which a vif's groups are asked."""
    yield from port.vif.fixed_ips
    yield values.link_local(port.vif.address)
    # A pair with everybody would have every flow looked at; it names nobody (see Whereabouts).
    yield from (pair.ip_address for pair in port.vif.pairs if not pair.ip_address.endswith("/0"))


def _of_groups(old: Resolved, new: Resolved) -> Iterator[str]:
    narrowed: dict[str, set[int]] = {}
    others = changed(old.groups, new.groups)
    gone = {id_ for id_ in others if id_ not in new.groups}
    for id_ in old.groups if gone else others:  # what a group let in that is gone may have been another's rule
        if id_ in old.groups and (families := _narrowed(old.groups[id_], new.groups.get(id_), gone)):
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
    kept = set(new.described)
    return {rule.family for rule in old.described if rule not in kept}


def _of_members(before: Compiled, after: Compiled) -> Iterator[str]:
    old, new = before.ruleset.sets, after.ruleset.sets
    others = changed(old, new)
    # By whose they are: which name a group's set has depends on which groups there are.
    come = {(new[name].origin, new[name].family): new[name] for name in others if name in new}
    for each in (old[name] for name in others if name in old):
        if (each.origin, each.family) in come:
            yield from each.members - come[each.origin, each.family].members


def _of_floating_ips(old: Resolved, new: Resolved) -> Iterator[str]:
    """Those that lead elsewhere than they did, or nowhere; and those that lead somewhere now, where they did not."""
    was, now = leads_to(old.floating_ips), leads_to(new.floating_ips)
    yield from (each for each in {**was, **now} if was.get(each) != now.get(each))


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
    dead: Collection[str] = (),
) -> Iterator[Cut]:
    """The flows that are to be cut after a change.

    :param before: what was enforced when they were let in; ``None`` when that is not known.
    :param own: the host's addresses, each with its interface.
    :param bound: where it is not known, the addresses that the agent had given to the host for others'.
    :param dead: the ends of flows that were cut, which are noted: those go that were taken up again all the same.
    """
    now = Whereabouts(after, own)
    was = None if before is None else Whereabouts(before, own)
    for flow in flows:
        if not any(each.knows(flow) for each in (now, was) if each is not None):
            continue
        left = was is not None and any(_has_left(each, flow, was, now) for each in flow.addresses)
        if left or _is_back(flow, dead):
            yield Cut(flow, remembered=False)
        elif flow.status & EXPECTED:
            continue
        elif _passes_by(flow, now):
            yield Cut(flow, remembered=False)
        elif _translation_left(flow, was, now, bound) or not _may_live(flow, was, now):
            yield Cut(flow, remembered=flow.protocol == TCP)


def _has_left(address: str, flow: Flow, was: "Whereabouts", now: "Whereabouts") -> bool:
    """Whether an address was an instance's here, and is no longer, or is another's; or its range is not routed now."""
    if not flow.zone and was.routes(address) and not now.routes(address):
        return True
    held_by = was.holders(address, flow)
    return bool(held_by) and held_by.isdisjoint(now.holders(address, flow))


def ends(cut: Cut) -> set[str]:
    """How a cut TCP connection is remembered: client, its port, server; as each end's segments show it."""
    return {_from_client(cut.flow.original), _from_server(cut.flow.reply)}


def _from_client(side: Side) -> str:
    return f"{side.source},tcp:{side.source_port},{side.destination}"


def _from_server(side: Side) -> str:
    return f"{side.destination},tcp:{side.destination_port},{side.source}"


def _is_back(flow: Flow, dead: Collection[str]) -> bool:
    """Whether a flow was cut, and taken up again by whichever end while there was nothing to keep it from that."""
    if not (dead and flow.picked_up):
        return False
    return any(end(side) in dead for side in (flow.original, flow.reply) for end in (_from_client, _from_server))


def _passes_by(flow: Flow, now: "Whereabouts") -> bool:
    """Whether a flow was begun before a floating IP was there: it is translated by its first packet, or never."""
    destination = flow.original.destination
    return destination in now.leads_to and flow.reply.source == destination


def _translation_left(flow: Flow, was: "Whereabouts | None", now: "Whereabouts", bound: Collection[str]) -> bool:
    """Whether a flow was translated by an address of ours that no longer leads there."""
    for public, behind in _translations(flow):
        if now.leads(public, behind):
            continue
        if was is None and (public in bound or public in now.leads_to):
            return True
        if was is not None and was.leads(public, behind):
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
    directions = tuple(_directions(flow))
    came = was is not None and any(not now.holders(each, flow) <= was.holders(each, flow) for each in flow.addresses)
    if not flow.picked_up and (was is None or (came and flow.protocol == TCP)):
        directions = directions[:1]  # who opened it is known
    if was is None or came:
        # An instance that was migrated in may speak first in a connection that it did not open.
        return any(now.passes(each, flow) for each in directions)
    if now.passes(directions[0], flow):
        return True
    let_in = next((each for each in directions if was.passes(each, flow)), None)
    return let_in is None or now.passes(let_in, flow)


def _directions(flow: Flow) -> Iterator[First]:
    """The first packet as it was; then as it was if connection tracking took the server's for the client's."""
    first = _first(flow, flow.original, flow.reply)
    second = _first(flow, flow.reply, flow.original)
    if flow.picked_up and _server_spoke_first(flow):
        first, second = second, first
    yield first
    yield second


def _server_spoke_first(flow: Flow) -> bool:
    source, destination = flow.original.source_port, flow.original.destination_port
    return source is not None and destination is not None and source < _LEAST_EPHEMERAL <= destination


def _first(flow: Flow, side: Side, back: Side) -> First:
    """A direction's first packet: as it was sent, and where it was led, by whomever."""
    packet = Packet(
        source=side.source,
        destination=side.destination,
        protocol=flow.protocol,
        source_port=side.source_port,
        destination_port=side.destination_port,
        icmp=flow.original.icmp,
    )
    reached = back.source, back.source_port
    return First(packet, None if reached == (side.destination, side.destination_port) else Dnat(*reached))
