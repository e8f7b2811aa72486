"""The chains of instances, and the trees by which a packet finds them.

Ingress is judged in filter (W-inst-ID, entered from W-local by bridge port or address),
egress in mangle PREROUTING (W-out-ID), the sender's own addresses in raw PREROUTING
(W-senders). An instance that is pending has chains too: they let nothing through.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from nova_netagent.compile import dispatch, egress, ingress, source
from nova_netagent.compile.dispatch import AddressEntry, DeviceEntry, Kept, Node, Written
from nova_netagent.compile.floating_ip import DNATED
from nova_netagent.compile.memo import InOrder, Memo
from nova_netagent.compile.network import BRIDGED
from nova_netagent.compile.parts import Placed, Reasoned, Scope, chain_of, network
from nova_netagent.compile.resolve import Port, Side
from nova_netagent.compile.uplinks import uplink_of
from nova_netagent.model import FloatingIP, values
from nova_netagent.model.lineage import changed, follow
from nova_netagent.netfilter.rule import (
    DROP,
    FAMILIES,
    RETURN,
    Chain,
    Family,
    Jump,
    Origin,
    Physdev,
    Rule,
    TableId,
    Target,
)

Used = Mapping[Side, frozenset[str]]
"""The groups whose chains are jumped to."""

_Pattern = Callable[[str], Physdev]


def _sent_by(device: str) -> Physdev:
    return Physdev(incoming=device)


def _sent_to(device: str) -> Physdev:
    # The kernel refuses --physdev-out without --physdev-is-bridged where OUTPUT can lead.
    return Physdev(outgoing=device, bridged=True)


class FamilyPiece(Struct, frozen=True, gc=False):
    """What one instance adds to the tables of one family."""

    chains: tuple[tuple[TableId, str, Chain], ...]
    """Each with its table and name."""
    own: tuple[AddressEntry, ...]
    """To its fixed IPs."""
    pairs: tuple[AddressEntry, ...]
    """To its allowed pairs, which may be others' fixed IPs."""
    sources: tuple[AddressEntry, ...]
    """From the addresses that it may send from."""
    judged: tuple[DeviceEntry, ...]
    """The devices of vifs whose egress is judged."""
    used: tuple[tuple[Side, str], ...]


class Piece(Struct, frozen=True, gc=False):
    """What one instance adds to the tables."""

    to_device: tuple[DeviceEntry, ...]
    from_device: tuple[DeviceEntry, ...]
    astray: tuple[DeviceEntry, ...]
    """The devices that pass nothing and are on no bridge of ours."""
    families: tuple[FamilyPiece, ...]
    """In the order of the scope's families."""

    def chains(self) -> Iterator[tuple[TableId, str, Chain]]:
        """Each by its table and name."""
        return (each for family in self.families for each in family.chains)

    def used(self) -> Iterator[tuple[Side, str]]:
        """Each group that a vif is judged by, by side."""
        return (each for family in self.families for each in family.used)


class _Placed(Struct, frozen=True, gc=False):
    """What all instances add to the tables."""

    placed: Placed
    used: Used


def place(scope: Scope, memo: Memo, placed: Placed) -> Used:
    """Every instance's chains and the trees that lead to them; which groups they use."""

    def make(id_: str, ports: tuple[Port, ...], _last: Piece | None) -> Piece:
        return _make_piece(id_, ports, scope)

    def names(id_: str, ports: tuple[Port, ...]) -> tuple[object, ...]:
        known = scope.names
        found = [known.instances[id_]]
        for port in ports:
            found.append(known.vifs[port.vif.id])
            if port.network is not None:
                found.append(known.networks[port.network.id])
            found += [known.groups[group.id] for group in port.groups]
        return tuple(found)

    resolved = scope.resolved
    pieces = memo.each("pieces", resolved.ports, (scope.names,), make, names)
    part = partial(_place, pieces, scope, memo)
    found = memo.get("instances", (pieces, resolved.networks, resolved.floating_ips), part)
    placed.add_all(found.placed)
    return found.used


def _place(pieces: Mapping[str, Piece], scope: Scope, memo: Memo) -> _Placed:
    placed = Placed()
    part = memo.part("instances")
    layer = part.get("chains", (pieces,), partial(_chains, pieces, part.last("chains")))
    for table, chains in layer.chains.items():
        placed.add_chains(table.family, table.name, chains)

    def devices(name: str, entries: Callable[[Piece], Sequence[DeviceEntry]], tail: Sequence[Rule]) -> Node:
        ordered = part.in_order(name, pieces, entries, dispatch.device_order)
        return dispatch.device_tree(ordered.items, ordered.since, _kept(part, name), tail)

    receivers = devices("receivers", attrgetter("to_device"), ())
    managed = scope.settings.network.manage_links
    senders = devices("senders", attrgetter("from_device"), (source.UNPROVED,) if managed else ())
    astray = devices("astray", attrgetter("astray"), ())
    whose = (scope.resolved.networks, bool(scope.resolved.ports))
    bridges = part.get("bridges", whose, partial(_enter_bridges, scope))
    for index, family in enumerate(scope.families):
        entries = _addresses(index, family, pieces, scope, part)
        kept = _kept(part, "addresses", family)
        addresses = dispatch.address_tree(entries.distinct(), entries.since, kept)
        proofs = part.in_order(("sources", family), pieces, _sources(index), dispatch.address_order)
        tail = (source.everything_to(scope.chain("ports")),)
        sources = dispatch.address_tree(proofs.items, proofs.since, _kept(part, "sources", family), tail)
        judged = part.in_order(("judged", family), pieces, _judged(index), dispatch.device_order)
        ways = _Ways(family, scope, part, placed, bridges)
        ways.place_receivers(receivers, addresses)
        ways.place_senders(sources, senders, astray)
        ways.place_judged(judged)
    used = {side: part.intern(("used", side), frozenset(users)) for side, users in layer.users.items() if users}
    return _Placed(placed, used)


def _kept(memo: Memo, *tree: object) -> Kept:
    """What is kept of a tree."""
    return memo.get(("kept", *tree), (), Kept)


def _judged(index: int) -> Callable[[Piece], Sequence[DeviceEntry]]:
    return lambda piece: piece.families[index].judged


def _sources(index: int) -> Callable[[Piece], Sequence[AddressEntry]]:
    return lambda piece: piece.families[index].sources


def _addresses(
    index: int, family: Family, pieces: Mapping[str, Piece], scope: Scope, memo: Memo
) -> InOrder[AddressEntry]:
    """Every address that leads to an instance, in order. A pair does not take over what is a vif's own."""

    def ordered(name: str, entries: Callable[[Piece], Sequence[AddressEntry]]) -> InOrder[AddressEntry]:
        return memo.in_order((name, family), pieces, entries, dispatch.address_order)

    own = ordered("own", lambda piece: piece.families[index].own)
    pairs = ordered("pairs", lambda piece: piece.families[index].pairs)
    parts = [own, pairs]
    if family == 4 and scope.resolved.floating_ips:
        parts.insert(1, _called_by_floating_ip(own, pairs, scope, memo))
    if not any(part.items for part in parts[1:]):
        return own
    return memo.joined(("to instances", family), parts)


class _Layer(Struct, frozen=True, gc=False):
    """The chains of all instances and the groups that they use, and what they were made from."""

    pieces: Mapping[str, Piece]
    chains: Mapping[TableId, Mapping[str, Chain]]
    users: Mapping[Side, Mapping[str, int]]
    """By side and group how often it is used, by how many vifs."""


def _chains(pieces: Mapping[str, Piece], last: _Layer | None) -> _Layer:
    """The chains of all instances; those of last time, but for the instances that came, went or changed."""
    last = last or _Layer({}, {}, {})
    put: dict[TableId, dict[str, Chain]] = {}
    gone: dict[TableId, set[str]] = {}
    more: dict[Side, Counter[str]] = {}
    for id_ in changed(last.pieces, pieces):
        for sign, piece in ((-1, last.pieces.get(id_)), (1, pieces.get(id_))):
            for side, group_id in piece.used() if piece is not None else ():
                more.setdefault(side, Counter())[group_id] += sign
        for table, name, _chain in last.pieces[id_].chains() if id_ in last.pieces else ():
            gone.setdefault(table, set()).add(name)
        for table, name, chain in pieces[id_].chains() if id_ in pieces else ():
            put.setdefault(table, {})[name] = chain
    chains = dict(last.chains)
    for table in put.keys() | gone.keys():
        new = put.get(table, {})
        chains[table] = follow(chains.get(table, {}), new, gone.get(table, set()) - new.keys())
    users = dict(last.users)
    for side, counts in more.items():
        # A plain sum of counters would go through all of them.
        found = dict(users.get(side, {}))
        for group_id, count in counts.items():
            found[group_id] = found.get(group_id, 0) + count
            if not found[group_id]:
                del found[group_id]
        users[side] = found
    return _Layer(pieces, chains, users)


# --- one instance


def _instance_chain(instance_id: str, scope: Scope) -> str:
    return scope.chain(f"inst-{scope.names.instances[instance_id]}")


def _vif_chain(kind: str, port: Port, scope: Scope) -> str:
    return scope.chain(f"{kind}-{scope.names.vifs[port.vif.id]}")


_TABLES = {
    family: (TableId(family, "filter"), TableId(family, "mangle"), TableId(family, "raw")) for family in FAMILIES
}


def _make_piece(instance_id: str, ports: tuple[Port, ...], scope: Scope) -> Piece:
    target = Jump(_instance_chain(instance_id, scope))
    to_device: list[DeviceEntry] = []
    from_device: list[DeviceEntry] = []
    astray: list[DeviceEntry] = []
    for port in ports:
        if port.network is None:
            astray += _astray(port, scope)
            to_device += _closed(port, _sent_to, scope)
            from_device += _closed(port, _sent_by, scope)
        else:
            to_device.append(DeviceEntry(port.vif.device, (_to_device(port, target, scope),)))
            from_device.append(DeviceEntry(port.vif.device, _from_device(port, scope)))
    families = tuple(_family_piece(instance_id, target, ports, family, scope) for family in scope.families)
    return Piece(tuple(to_device), tuple(from_device), tuple(astray), families)


def _family_piece(instance_id: str, target: Jump, ports: tuple[Port, ...], family: Family, scope: Scope) -> FamilyPiece:
    filter_, mangle, raw = _TABLES[family]
    own: list[AddressEntry] = []
    pairs: list[AddressEntry] = []
    sources: list[AddressEntry] = []
    judged: list[DeviceEntry] = []
    used: list[tuple[Side, str]] = []
    chains = [(filter_, chain) for chain in _instance_chains(instance_id, target.chain, ports, family, scope)]
    for port in ports:
        if port.network is None:
            continue
        own += _to_addresses(port, port.addresses, family, target)
        if port.vif.pairs:
            pairs += _to_addresses(port, _pairs(port), family, target)
        used += [(("ingress", family), group.id) for group in ingress.groups_of(port, family)]
        if port.vif.port_security_enabled:
            if source.has_chain(port):
                chains.append((raw, _chain(_vif_chain("src", port, scope), port, source.rules(port, family, scope))))
            sources += source.proofs(port, family, _bridge(port, scope), scope)
        if egress.is_judged(port, family, scope):
            name = _vif_chain("out", port, scope)
            chains.append((mangle, _chain(name, port, egress.rules(port, family, scope))))
            judged.append(DeviceEntry(port.vif.device, (_sent(port, Jump(name, goto=True), scope),)))
            used += [(("egress", family), group.id) for group in egress.groups_of(port, family)]
    named = [(table, chain.name, chain) for table, chain in chains]
    return FamilyPiece(tuple(named), tuple(own), tuple(pairs), tuple(sources), tuple(judged), tuple(used))


def _chain(name: str, port: Port, rules: Iterable[Reasoned]) -> Chain:
    return chain_of(name, "instances", port.instance_id, rules)


def _instance_chains(
    instance_id: str, name: str, ports: tuple[Port, ...], family: Family, scope: Scope
) -> Iterator[Chain]:
    """W-inst-ID: the rules of its only vif, or the way to the chain of each of several."""
    if len(ports) == 1:
        yield _chain(name, ports[0], ingress.rules(ports[0], family, scope))
        return
    ways: list[Rule] = []
    own: list[AddressEntry] = []
    pairs: list[AddressEntry] = []
    for port in ports:
        if port.network is not None:
            target = Jump(_vif_chain("vif", port, scope), goto=True)
            ways.append(_to_device(port, target, scope))
            own += _to_addresses(port, port.addresses, family, target)
            pairs += _to_addresses(port, _pairs(port), family, target)
            yield _chain(target.chain, port, ingress.rules(port, family, scope))
    ordered = sorted(_distinct([*own, *pairs]), key=lambda entry: -entry.prefix.length)
    ways += [entry.rule for entry in ordered]
    fallback = Rule(Jump(scope.chain("sg-fallback")), origin=("instances", instance_id, "fallback"))
    yield Chain(name, (*ways, fallback))


def _closed(port: Port, side: _Pattern, scope: Scope) -> list[DeviceEntry]:
    """A vif that passes nothing. On our own bridges it has no port; on others' it is shut."""
    if scope.settings.network.manage_links or not port.holds_device:
        return []
    origin: Origin = ("instances", port.instance_id, "pending")
    return [DeviceEntry(port.vif.device, (Rule(DROP, matches=(side(port.vif.device),), origin=origin),))]


def _astray(port: Port, scope: Scope) -> list[DeviceEntry]:
    """A vif that passes nothing is on none of our bridges: what it sends comes as if to a router."""
    if not scope.settings.network.manage_links or not port.holds_device:
        return []
    origin: Origin = ("instances", port.instance_id, "pending")
    return [DeviceEntry(port.vif.device, (Rule(DROP, in_interface=port.vif.device, origin=origin),))]


def _bridge(port: Port, scope: Scope) -> str | None:
    """The bridge on which a vif's port is judged; where links are somebody else's, wherever it is."""
    assert port.network is not None
    return port.network.bridge if scope.settings.network.manage_links else None


def _to_device(port: Port, target: Target, scope: Scope) -> Rule:
    """Bridged frames find a vif by its bridge port: broadcast and multicast meet the rules too."""
    match = _sent_to(port.vif.device)
    return Rule(target, out_interface=_bridge(port, scope), matches=(match,), origin=_origin(port))


def _to_addresses(port: Port, prefixes: Iterable[str], family: Family, target: Target) -> Iterator[AddressEntry]:
    """Routed packets, and the host's own, find a vif by bridge and address."""
    assert port.network is not None
    for each in dict.fromkeys([values.prefix(text) for text in prefixes]):
        if each.family == family:
            to = network(values.prefix_text(each))
            rule = Rule(target, destination=to, out_interface=port.network.bridge, origin=_origin(port))
            yield AddressEntry(each, rule)


def _pairs(port: Port) -> Iterator[str]:
    return (pair.ip_address for pair in port.vif.pairs)


def _distinct(entries: Iterable[AddressEntry]) -> list[AddressEntry]:
    """One entry for each prefix on a bridge, the first: a pair does not take over what is a vif's own.

    An address that two vifs have as a pair (VRRP) is judged as the first one's.
    """
    found: dict[tuple[str | None, str | None], AddressEntry] = {}
    for entry in entries:
        found.setdefault((entry.rule.destination, entry.rule.out_interface), entry)
    return list(found.values())


def _from_device(port: Port, scope: Scope) -> tuple[Rule, ...]:
    if not port.vif.port_security_enabled:
        return (_sent(port, RETURN, scope),)
    chain = _vif_chain("src", port, scope) if source.has_chain(port) else None
    return source.by_port(port, _bridge(port, scope), chain, scope)


def _sent(port: Port, target: Target, scope: Scope) -> Rule:
    match = _sent_by(port.vif.device)
    return Rule(target, in_interface=_bridge(port, scope), matches=(match,), origin=_origin(port))


def _origin(port: Port) -> Origin:
    return ("instances", port.instance_id, "")


# --- the ways to them


class _Bridges(Struct, frozen=True, gc=False):
    """The rules about bridges and their uplinks, before those about vifs."""

    to_ports: tuple[Rule, ...]
    to_senders: tuple[Rule, ...]
    receiving: tuple[Rule, ...]
    """Uplinks that receive."""
    sending: tuple[Rule, ...]


def _enter_bridges(scope: Scope) -> _Bridges:
    to_ports, to_senders = Jump(scope.chain("ports"), goto=True), Jump(scope.chain("senders"))
    bridges = _bridges(scope)
    return _Bridges(
        to_ports=tuple(Rule(to_ports, out_interface=bridge, matches=(BRIDGED,)) for bridge in bridges),
        to_senders=tuple(Rule(to_senders, in_interface=bridge) for bridge in bridges),
        receiving=tuple(_uplinks_pass(_sent_to, False, scope)),
        sending=tuple(_uplinks_pass(_sent_by, True, scope)),
    )


class _Ways:
    """Writes the ways to the instances in one family."""

    def __init__(self, family: Family, scope: Scope, memo: Memo, placed: Placed, bridges: _Bridges) -> None:
        self._family = family
        self._bridges = bridges
        self._scope = scope
        self._memo = memo
        self._placed = placed

    def place_receivers(self, ports: Node, addresses: Node) -> None:
        """filter: bridged frames find the receiving vif by port; routed packets, and the host's own, by address."""
        scope = self._scope
        names = dispatch.name_nodes((*ports.keys, *addresses.keys))
        self._add("filter", "local", *self._bridges.to_ports)
        self._add("filter", "ports", *self._bridges.receiving)
        self._write("filter", "ports", ports, names, _INTO_RECEIVERS)
        if scope.settings.network.manage_links:  # other people's bridges are theirs
            self._add("filter", "ports", _NOBODYS)
        self._write("filter", "local", addresses, names, dispatch.enter_prefix)

    def place_senders(self, sources: Node, ports: Node, astray: Node) -> None:
        """raw: every frame of a bridge port proves whose it is, and what is on no bridge says nothing.

        An address leads to its vif in fewer and cheaper comparisons than a port's name (a third, measured
        at 5,000 vifs), so that it is looked at first.
        """
        tree = "astray "
        judged = (*sources.keys, *ports.keys)
        taken = dispatch.name_nodes((*judged, *(tree + key for key in astray.keys)))
        if astray.first or astray.below:
            self._write("raw", "PREROUTING", astray, dispatch.Names(taken.exceptions, tree), dispatch.enter_interfaces)
        self._add("raw", "PREROUTING", *self._bridges.to_senders)
        self._add("raw", "senders", *self._bridges.sending)
        names = taken if not astray.keys else dispatch.name_nodes(judged)
        self._write("raw", "senders", sources, names, dispatch.enter_source)
        self._write("raw", "ports", ports, names, _INTO_SENDERS)

    def place_judged(self, devices: InOrder[DeviceEntry]) -> None:
        """mangle: the vifs whose egress is judged at all."""
        if not devices.items:
            return
        for bridge in sorted({rule.in_interface for entry in devices.items for rule in entry.rules}, key=str):
            enter = Rule(Jump(self._scope.chain("ports")), in_interface=bridge)
            self._add("mangle", "PREROUTING", enter)
        kept = _kept(self._memo, "judged", self._family)
        tree = dispatch.device_tree(devices.items, devices.since, kept)
        self._write("mangle", "ports", tree, dispatch.name_nodes(tree.keys), _INTO_SENDERS)

    def _add(self, table: str, chain: str, *rules: Rule) -> None:
        self._placed.add(self._family, table, self._scope.chain(chain), *rules)

    def _write(self, table: str, root: str, node: Node, names: dispatch.Names, enter: dispatch.Enter) -> None:
        where = (self._family, table, root)
        # Interned: the names of nodes are other ones when hashes of their keys come to clash.
        names = self._memo.intern(("names", *where), names)
        written = self._memo.get(("written", *where), (names,), Written)
        way = dispatch.Way(names, enter, self._scope.owner, written)
        self._add(table, root, *way.root(node))
        self._placed.add_chains(self._family, table, way.below(node))


_INTO_RECEIVERS = dispatch.enter_names(_sent_to, goto=False)
_INTO_SENDERS = dispatch.enter_names(_sent_by, goto=True)


def _called_by_floating_ip(
    own: InOrder[AddressEntry], pairs: InOrder[AddressEntry], scope: Scope, memo: Memo
) -> InOrder[AddressEntry]:
    """What the host sends to a floating IP finds the instance by its fixed IP alone, or a pair of its network.

    filter OUTPUT still shows the interface that led to the floating IP (lo, where it is bound).
    """
    part = memo.part("called")
    floating_ips, networks = scope.resolved.floating_ips, scope.resolved.networks
    fixed = part.get("fixed", (floating_ips,), partial(_fixed, floating_ips))
    in_pairs = part.get("in pairs", (pairs, networks, fixed), partial(_in_pairs, pairs.items, fixed, scope))

    def those_with(text: str, address: values.Prefix) -> tuple[AddressEntry, ...]:
        of_vifs = own.beginning(-address.length, address.value)  # as dispatch.address_order begins
        return (*of_vifs.by_key(), *in_pairs.get(text, ()))

    def concerned(known: tuple[Any, ...]) -> Iterable[str] | None:
        before, before_in_pairs = known
        if in_pairs is not before_in_pairs or own.since is None or own.since.before is not before.items:
            return None
        return [text for each in own.since.others if (text := values.prefix_text(each.prefix)) in fixed]

    def make(text: str, address: values.Prefix, _last: object) -> tuple[AddressEntry, ...]:
        return tuple(_called(each, address) for each in those_with(text, address))

    found = part.each("called", fixed, (own, in_pairs), make, those_with, concerned)
    return part.in_order("in order", found, lambda entries: entries, dispatch.address_order)


def _fixed(floating_ips: Iterable[FloatingIP]) -> Mapping[str, values.Prefix]:
    """The fixed IPs that floating IPs lead to, by their texts."""
    found = {values.prefix(each.fixed_ip_address) for each in floating_ips}
    return {values.prefix_text(each): each for each in found}


def _in_pairs(
    pairs: Iterable[AddressEntry], fixed: Mapping[str, values.Prefix], scope: Scope
) -> Mapping[str, list[AddressEntry]]:
    """The pairs in which fixed IPs are, by the fixed IP's text: of equal ones the first."""
    bridges = {each: _bridges_of(each, scope) for each in fixed.values()} if pairs else {}
    found: dict[str, list[AddressEntry]] = {}
    seen: set[tuple[values.Prefix, str | None]] = set()
    for entry in pairs:
        where = entry.prefix, entry.rule.out_interface
        if where not in seen:
            seen.add(where)
            for each in entry.prefix.among(bridges):
                if where[1] in bridges[each]:
                    found.setdefault(values.prefix_text(each), []).append(entry)
    return found


def _bridges_of(fixed: values.Prefix, scope: Scope) -> frozenset[str | None]:
    """Where an address can be: a pair of everything is of its own network only, and leads nobody else's away."""
    return frozenset(
        each.bridge
        for each in scope.resolved.networks.values()
        for cidr in (each.cidr, each.cidr_v6)
        if cidr is not None and values.prefix(cidr).contains(fixed)
    )


def _called(entry: AddressEntry, fixed: values.Prefix) -> AddressEntry:
    to = network(values.prefix_text(fixed))
    return AddressEntry(fixed, replace(entry.rule, destination=to, out_interface=None, matches=(DNATED,)))


def _uplinks_pass(side: _Pattern, incoming: bool, scope: Scope) -> list[Rule]:
    """Addresses behind a bridge's physical interface are other hosts', and not filtered here."""
    found = {
        (each.bridge, uplink.device)
        for each in scope.resolved.networks.values()
        if (uplink := uplink_of(each, scope.settings.network)) is not None
    }
    return [
        Rule(
            RETURN,
            in_interface=bridge if incoming else None,
            out_interface=None if incoming else bridge,
            matches=(side(device),),
        )
        for bridge, device in sorted(found)
    ]


def _bridges(scope: Scope) -> Sequence[str | None]:
    """The bridges whose ports are judged; ``None``: every bridge of the host.

    Links that somebody else manages may carry a vif whose network is not known yet.
    """
    if not scope.settings.network.manage_links:
        return [None] if scope.resolved.ports else []
    return sorted({each.bridge for each in scope.resolved.networks.values()})


_NOBODYS = Rule(DROP, origin=("networks", "", "unknown port"))
"""A port of our bridges that is nobody's passes nothing."""
