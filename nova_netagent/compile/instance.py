"""The chains of instances, and the trees by which a packet finds them.

Ingress is judged in filter (W-inst-ID, entered from W-local by bridge port or address),
egress in mangle PREROUTING (W-out-ID), the sender's own addresses in raw PREROUTING
(W-src-ID). An instance that is pending has chains too: they let nothing through.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from msgspec import Struct

from nova_netagent.compile import dispatch, egress, ingress, source
from nova_netagent.compile.dispatch import AddressEntry, DeviceEntry
from nova_netagent.compile.memo import Memo
from nova_netagent.compile.network import BRIDGED, uplink
from nova_netagent.compile.parts import Placed, Scope, network
from nova_netagent.compile.resolve import Port, Side
from nova_netagent.model import values
from nova_netagent.netfilter.rule import (
    DROP,
    RETURN,
    Chain,
    Family,
    Jump,
    Origin,
    Physdev,
    Rule,
    Target,
)

Used = dict[Side, set[str]]
"""The groups whose chains are jumped to."""

_Pattern = Callable[[str], Physdev]


def _sent_by(device: str) -> Physdev:
    return Physdev(incoming=device)


def _sent_to(device: str) -> Physdev:
    # The kernel refuses --physdev-out without --physdev-is-bridged where OUTPUT can lead.
    return Physdev(outgoing=device, bridged=True)


class FamilyPiece(Struct, frozen=True):
    """What one instance adds to the tables of one family."""

    chains: Mapping[str, Mapping[str, Chain]]
    """By table and name."""
    to_address: tuple[AddressEntry, ...]
    judged: tuple[DeviceEntry, ...]
    """The devices of vifs whose egress is judged."""
    used: tuple[tuple[Side, str], ...]


class Piece(Struct, frozen=True):
    """What one instance adds to the tables."""

    to_device: tuple[DeviceEntry, ...]
    from_device: tuple[DeviceEntry, ...]
    families: tuple[FamilyPiece, ...]
    """In the order of the scope's families."""


def place(scope: Scope, memo: Memo, placed: Placed) -> Used:
    """Every instance's chains and the trees that lead to them; which groups they use."""
    used: Used = {}
    pieces = [_piece(id_, ports, scope, memo) for id_, ports in scope.resolved.ports.items()]
    _place_ports("filter", [e for piece in pieces for e in piece.to_device], _sent_to, scope, placed)
    _place_ports("raw", [e for piece in pieces for e in piece.from_device], _sent_by, scope, placed)
    for index, family in enumerate(scope.families):
        for piece in pieces:
            each = piece.families[index]
            for table, chains in each.chains.items():
                placed.add_chains(family, table, chains)
            for side, group_id in each.used:
                used.setdefault(side, set()).add(group_id)
        addresses = [entry for piece in pieces for entry in piece.families[index].to_address]
        _place_addresses(addresses, family, scope, placed)
        _place_judged([entry for piece in pieces for entry in piece.families[index].judged], family, scope, placed)
    return used


# --- one instance


def _instance_chain(instance_id: str, scope: Scope) -> str:
    return scope.chain(f"inst-{scope.names.instances[instance_id]}")


def _vif_chain(kind: str, port: Port, scope: Scope) -> str:
    return scope.chain(f"{kind}-{scope.names.vifs[port.vif.id]}")


def _piece(instance_id: str, ports: tuple[Port, ...], scope: Scope, memo: Memo) -> Piece:
    names = scope.names
    words = [names.instances[instance_id]]
    for port in ports:
        words.append(names.vifs[port.vif.id])
        words += [names.groups[group.id] for group in port.groups]
    make = partial(_make_piece, instance_id, ports, scope)
    return memo.get(("instance", instance_id), (ports, *words), make)


def _make_piece(instance_id: str, ports: tuple[Port, ...], scope: Scope) -> Piece:
    target = Jump(_instance_chain(instance_id, scope))
    to_device: list[DeviceEntry] = []
    from_device: list[DeviceEntry] = []
    for port in ports:
        if port.network is None:
            to_device += _closed(port, _sent_to, scope)
            from_device += _closed(port, _sent_by, scope)
        else:
            to_device.append(_to_device(port, target))
            secured = port.vif.port_security_enabled
            sender: Target = Jump(_vif_chain("src", port, scope), goto=True) if secured else RETURN
            from_device.append(_from_device(port, sender))
    families = tuple(_family_piece(instance_id, ports, family, scope) for family in scope.families)
    return Piece(tuple(to_device), tuple(from_device), families)


def _family_piece(instance_id: str, ports: tuple[Port, ...], family: Family, scope: Scope) -> FamilyPiece:
    chains: dict[str, list[Chain]] = {"filter": [], "mangle": [], "raw": []}
    to_address: list[AddressEntry] = []
    judged: list[DeviceEntry] = []
    used: list[tuple[Side, str]] = []
    chains["filter"] += _instance_chains(instance_id, ports, family, scope)
    for port in ports:
        if port.network is None:
            continue
        to_address += _to_address(port, family, Jump(_instance_chain(instance_id, scope)))
        used += [(("ingress", family), group.id) for group in ingress.groups_of(port, family)]
        if port.vif.port_security_enabled:
            chains["raw"].append(Chain(_vif_chain("src", port, scope), tuple(source.rules(port, family, scope))))
        if egress.is_judged(port, family, scope):
            name = _vif_chain("out", port, scope)
            chains["mangle"].append(Chain(name, tuple(egress.rules(port, family, scope))))
            judged.append(_from_device(port, Jump(name, goto=True)))
            used += [(("egress", family), group.id) for group in egress.groups_of(port, family)]
    by_name = {table: {chain.name: chain for chain in found} for table, found in chains.items() if found}
    return FamilyPiece(by_name, tuple(to_address), tuple(judged), tuple(used))


def _instance_chains(instance_id: str, ports: tuple[Port, ...], family: Family, scope: Scope) -> Iterator[Chain]:
    """W-inst-ID: the rules of its only vif, or the way to the chain of each of several."""
    name = _instance_chain(instance_id, scope)
    if len(ports) == 1:
        yield Chain(name, tuple(ingress.rules(ports[0], family, scope)))
        return
    ways: list[Rule] = []
    for port in ports:
        if port.network is not None:
            target = Jump(_vif_chain("vif", port, scope), goto=True)
            ways.append(_to_device(port, target).rule)
            ways += [entry.rule for entry in _to_address(port, family, target)]
            yield Chain(target.chain, tuple(ingress.rules(port, family, scope)))
    fallback = Rule(Jump(scope.chain("sg-fallback")), origin=("instances", instance_id, "fallback"))
    yield Chain(name, (*ways, fallback))


def _closed(port: Port, side: _Pattern, scope: Scope) -> list[DeviceEntry]:
    """A vif that passes nothing. On our own bridges it has no port; on others' it is shut."""
    if scope.settings.network.manage_links or not port.holds_device:
        return []
    origin: Origin = ("instances", port.instance_id, "pending")
    return [DeviceEntry(port.vif.device, Rule(DROP, matches=(side(port.vif.device),), origin=origin))]


def _to_device(port: Port, target: Target) -> DeviceEntry:
    """Bridged frames find a vif by its bridge port: broadcast and multicast meet the rules too."""
    assert port.network is not None
    match = _sent_to(port.vif.device)
    rule = Rule(target, out_interface=port.network.bridge, matches=(match,), origin=_origin(port))
    return DeviceEntry(port.vif.device, rule)


def _to_address(port: Port, family: Family, target: Target) -> Iterator[AddressEntry]:
    """Routed packets, and the host's own, find a vif by bridge and address."""
    assert port.network is not None
    own = [values.prefix(address) for address in port.addresses]
    pairs = [values.prefix(pair.ip_address) for pair in port.vif.pairs]
    for each in dict.fromkeys((*own, *pairs)):
        if each.family == family:
            to = network(values.prefix_text(each))
            rule = Rule(target, destination=to, out_interface=port.network.bridge, origin=_origin(port))
            yield AddressEntry(each, rule)


def _from_device(port: Port, target: Target) -> DeviceEntry:
    assert port.network is not None
    match = _sent_by(port.vif.device)
    rule = Rule(target, in_interface=port.network.bridge, matches=(match,), origin=_origin(port))
    return DeviceEntry(port.vif.device, rule)


def _origin(port: Port) -> Origin:
    return ("instances", port.instance_id, "")


# --- the ways to them


def _place_ports(table: str, devices: Sequence[DeviceEntry], side: _Pattern, scope: Scope, placed: Placed) -> None:
    """filter: bridged frames find the receiving vif. raw: every frame of a port proves whose it is.

    The tree is the same for both families.
    """
    incoming = table == "raw"
    nodes = list(dispatch.device_tree("ports", devices, _unknown_port(scope), side, scope.owner))
    enter = "PREROUTING" if incoming else "local"
    for family in scope.families:
        for bridge in _bridges(scope):
            if incoming:
                rule = Rule(Jump(scope.chain("ports")), in_interface=bridge)
            else:
                rule = Rule(Jump(scope.chain("ports"), goto=True), out_interface=bridge, matches=(BRIDGED,))
            placed.add(family, table, scope.chain(enter), rule)
        placed.add(family, table, scope.chain("ports"), *_uplinks_pass(side, incoming, scope))
        for name, rules in nodes:
            placed.add(family, table, scope.chain(name), *rules)


def _place_addresses(entries: Sequence[AddressEntry], family: Family, scope: Scope, placed: Placed) -> None:
    """W-local: routed packets, and the host's own, go down a tree of addresses."""
    distinct: dict[tuple[str | None, str | None], AddressEntry] = {}
    for entry in entries:
        # An address that two vifs share (VRRP) is judged as the first one's.
        distinct.setdefault((entry.rule.destination, entry.rule.out_interface), entry)
    for name, rules in dispatch.address_tree("local", tuple(distinct.values()), scope.owner):
        placed.add(family, "filter", scope.chain(name), *rules)


def _place_judged(devices: Sequence[DeviceEntry], family: Family, scope: Scope, placed: Placed) -> None:
    """mangle: the vifs whose egress is judged at all."""
    if not devices:
        return
    for bridge in sorted({entry.rule.in_interface or "" for entry in devices}):
        enter = Rule(Jump(scope.chain("ports")), in_interface=bridge)
        placed.add(family, "mangle", scope.chain("PREROUTING"), enter)
    for name, rules in dispatch.device_tree("ports", devices, (), _sent_by, scope.owner):
        placed.add(family, "mangle", scope.chain(name), *rules)


def _uplinks_pass(side: _Pattern, incoming: bool, scope: Scope) -> list[Rule]:
    """Addresses behind a bridge's physical interface are other hosts', and not filtered here."""
    found = {
        (each.bridge, device)
        for each in scope.resolved.networks.values()
        if (device := uplink(each, scope.settings.network)) is not None
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


def _unknown_port(scope: Scope) -> Sequence[Rule]:
    """A port of our bridges that is nobody's passes nothing; other people's bridges are theirs."""
    if not scope.settings.network.manage_links:
        return ()
    return (Rule(DROP, origin=("networks", "", "unknown port")),)
