"""The chains of instances, and the trees by which a packet finds them.

Ingress is judged in filter (W-inst-ID, entered from W-local by bridge port or address),
egress in mangle PREROUTING (W-out-ID), the sender's own addresses in raw PREROUTING
(W-senders). An instance that is pending has chains too: they let nothing through.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter

from msgspec import Struct

from nova_netagent.compile import dispatch, source
from nova_netagent.compile.called import called_by_floating_ip
from nova_netagent.compile.dispatch import AddressEntry, DeviceEntry, Kept, Node
from nova_netagent.compile.memo import InOrder, Memo
from nova_netagent.compile.parts import Placed, Scope
from nova_netagent.compile.pieces import Piece, make_piece
from nova_netagent.compile.resolve import Port, Side
from nova_netagent.compile.ways import Ways, enter_bridges
from nova_netagent.model.lineage import changed, follow
from nova_netagent.netfilter.rule import Chain, Family, Rule, TableId

Used = Mapping[Side, frozenset[str]]
"""The groups whose chains are jumped to."""


class _Placed(Struct, frozen=True, gc=False):
    """What all instances add to the tables."""

    placed: Placed
    used: Used


def place(scope: Scope, memo: Memo, placed: Placed) -> Used:
    """Every instance's chains and the trees that lead to them; which groups they use."""

    def make(id_: str, ports: tuple[Port, ...], _last: Piece | None) -> Piece:
        return make_piece(id_, ports, scope)

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
    bridges = part.get("bridges", whose, partial(enter_bridges, scope))
    for index, family in enumerate(scope.families):
        entries = _addresses(index, family, pieces, scope, part)
        kept = _kept(part, "addresses", family)
        addresses = dispatch.address_tree(entries.distinct(), entries.since, kept)
        proofs = part.in_order(("sources", family), pieces, _sources(index), dispatch.address_order)
        tail = (source.everything_to(scope.chain("ports")),)
        sources = dispatch.address_tree(proofs.items, proofs.since, _kept(part, "sources", family), tail)
        judged = part.in_order(("judged", family), pieces, _judged(index), dispatch.device_order)
        ways = Ways(family, scope, part, placed, bridges)
        ways.place_receivers(receivers, addresses)
        ways.place_senders(sources, senders, astray)
        if judged.items:
            kept = _kept(part, "judged", family)
            ways.place_judged(judged.items, dispatch.device_tree(judged.items, judged.since, kept))
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
        parts.insert(1, called_by_floating_ip(own, pairs, scope, memo))
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
