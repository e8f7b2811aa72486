"""The chains of instances, and the trees by which a packet finds them.

Ingress is judged in filter (W-inst-ID, entered from W-local by bridge port or address),
egress in mangle PREROUTING (W-out-ID), the sender's own addresses in raw PREROUTING
(W-src-ID). An instance that is pending has chains too: they let nothing through.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from msgspec import Struct

from nova_netagent.compile import dispatch, egress, ingress, source
from nova_netagent.compile.dispatch import AddressEntry, DeviceEntry
from nova_netagent.compile.memo import Memo
from nova_netagent.compile.network import BRIDGED, uplink
from nova_netagent.compile.parts import Placed, Scope, network
from nova_netagent.compile.resolve import Port
from nova_netagent.compile.security_group import Direction, chain_name
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

Used = dict[tuple[Direction, Family], set[str]]
"""The groups whose chains are jumped to."""

_Pattern = Callable[[str], Physdev]


def _sent_by(device: str) -> Physdev:
    return Physdev(incoming=device)


def _sent_to(device: str) -> Physdev:
    # The kernel refuses --physdev-out without --physdev-is-bridged where OUTPUT can lead.
    return Physdev(outgoing=device, bridged=True)


class Piece(Struct, frozen=True):
    """Everything that one vif adds to the tables of a family."""

    chains: tuple[tuple[str, Chain], ...]
    """By table."""
    to_device: tuple[DeviceEntry, ...]
    to_address: tuple[AddressEntry, ...]
    from_device: tuple[DeviceEntry, ...]
    judged_from_device: tuple[DeviceEntry, ...]
    used: tuple[tuple[Direction, str], ...]


def place(scope: Scope, memo: Memo, placed: Placed) -> Used:
    """Every instance's chains and the trees that lead to them; which groups they use."""
    used: Used = {}
    for family in scope.families:
        pieces = []
        for instance_id, ports in scope.resolved.ports.items():
            for chain in _instance_chains(instance_id, ports, family, scope, memo):
                placed.add_chain(family, "filter", chain)
            pieces += [_piece(port, len(ports) == 1, family, scope, memo) for port in ports]
        for piece in pieces:
            for table, chain in piece.chains:
                placed.add_chain(family, table, chain)
            for direction, group_id in piece.used:
                used.setdefault((direction, family), set()).add(group_id)
        _place_local(pieces, family, scope, placed)
        _place_senders(pieces, family, scope, placed)
        _place_judged(pieces, family, scope, placed)
    return used


# --- one instance, one vif


def _instance_chain(instance_id: str, scope: Scope) -> str:
    return scope.chain(f"inst-{scope.names.instances[instance_id]}")


def _vif_chain(kind: str, port: Port, scope: Scope) -> str:
    return scope.chain(f"{kind}-{scope.names.vifs[port.vif.id]}")


def _groups_named(port: Port, family: Family, scope: Scope) -> tuple[str, ...]:
    """The names of a vif's groups' chains: with the port itself, what its rules depend on."""
    return tuple(chain_name(group.id, "ingress", scope) for group in port.groups)


def _instance_chains(
    instance_id: str, ports: Sequence[Port], family: Family, scope: Scope, memo: Memo
) -> tuple[Chain, ...]:
    """W-inst-ID: the rules of its only vif, or the way to the chain of each of several."""
    name = _instance_chain(instance_id, scope)
    names = tuple(
        word for port in ports for word in (scope.names.vifs[port.vif.id], *_groups_named(port, family, scope))
    )

    def make() -> tuple[Chain, ...]:
        if len(ports) == 1:
            return (Chain(name, tuple(ingress.rules(ports[0], family, scope))),)
        ways: list[Rule] = []
        for port in ports:
            if port.network is not None:
                target = Jump(_vif_chain("vif", port, scope), goto=True)
                ways.append(_to_device(port, target).rule)
                ways += [entry.rule for entry in _to_address(port, family, target)]
        fallback = Rule(Jump(scope.chain("sg-fallback")), origin=("instances", instance_id, "fallback"))
        return (Chain(name, (*ways, fallback)),)

    return memo.get(("instance", instance_id, family), (name, *names, *ports), make)


def _piece(port: Port, alone: bool, family: Family, scope: Scope, memo: Memo) -> Piece:
    instance = _instance_chain(port.instance_id, scope)
    names = (instance, scope.names.vifs[port.vif.id], *_groups_named(port, family, scope))
    return memo.get(
        ("vif", port.instance_id, port.vif.id, family),
        (port, alone, *names),
        lambda: _make_piece(port, alone, family, scope),
    )


def _make_piece(port: Port, alone: bool, family: Family, scope: Scope) -> Piece:
    if port.network is None:
        return _closed_piece(port, scope)
    to_instance = Jump(_instance_chain(port.instance_id, scope))
    chains: list[tuple[str, Chain]] = []
    used: list[tuple[Direction, str]] = [("ingress", group.id) for group in ingress.groups_of(port, family)]
    if not alone:
        chains.append(("filter", Chain(_vif_chain("vif", port, scope), tuple(ingress.rules(port, family, scope)))))
    sender: Target = RETURN
    if port.vif.port_security_enabled:
        name = _vif_chain("src", port, scope)
        sender = Jump(name, goto=True)
        chains.append(("raw", Chain(name, tuple(source.rules(port, family, scope)))))
    judged: tuple[DeviceEntry, ...] = ()
    if egress.is_judged(port, family, scope):
        name = _vif_chain("out", port, scope)
        judged = (_from_device(port, Jump(name, goto=True)),)
        chains.append(("mangle", Chain(name, tuple(egress.rules(port, family, scope)))))
        used += [("egress", group.id) for group in egress.groups_of(port, family)]
    return Piece(
        chains=tuple(chains),
        to_device=(_to_device(port, to_instance),),
        to_address=tuple(_to_address(port, family, to_instance)),
        from_device=(_from_device(port, sender),),
        judged_from_device=judged,
        used=tuple(used),
    )


def _closed_piece(port: Port, scope: Scope) -> Piece:
    """A vif that passes nothing. On our own bridges it has no port; on others' it is shut."""
    shut: list[DeviceEntry] = []
    if not scope.settings.network.manage_links and port.holds_device:
        origin: Origin = ("instances", port.instance_id, "pending")
        device = port.vif.device
        shut = [
            DeviceEntry(device, Rule(DROP, matches=(side(device),), origin=origin)) for side in (_sent_to, _sent_by)
        ]
    return Piece((), tuple(shut[:1]), (), tuple(shut[1:]), (), ())


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


def _place_local(pieces: Sequence[Piece], family: Family, scope: Scope, placed: Placed) -> None:
    """filter: bridged frames go to W-ports; routed packets and the host's own down W-local's tree."""
    for bridge in _bridges(scope):
        enter = Rule(Jump(scope.chain("ports"), goto=True), out_interface=bridge, matches=(BRIDGED,))
        placed.add(family, "filter", scope.chain("local"), enter)
    devices = [entry for piece in pieces for entry in piece.to_device]
    uplinks = [Rule(RETURN, out_interface=bridge, matches=(_sent_to(device),)) for bridge, device in _uplinks(scope)]
    _place_devices("filter", devices, uplinks, _unknown_port(scope), _sent_to, family, scope, placed)
    addresses: dict[tuple[str | None, str | None], AddressEntry] = {}
    for piece in pieces:
        for entry in piece.to_address:
            # An address that two vifs share (VRRP) is judged as the first one's.
            addresses.setdefault((entry.rule.destination, entry.rule.out_interface), entry)
    for name, rules in dispatch.address_tree("local", tuple(addresses.values()), scope.owner):
        placed.add(family, "filter", scope.chain(name), *rules)


def _place_senders(pieces: Sequence[Piece], family: Family, scope: Scope, placed: Placed) -> None:
    """raw: every frame of a bridge port proves whose it is."""
    for bridge in _bridges(scope):
        placed.add(family, "raw", scope.chain("PREROUTING"), Rule(Jump(scope.chain("ports")), in_interface=bridge))
    devices = [entry for piece in pieces for entry in piece.from_device]
    uplinks = [Rule(RETURN, in_interface=bridge, matches=(_sent_by(device),)) for bridge, device in _uplinks(scope)]
    _place_devices("raw", devices, uplinks, _unknown_port(scope), _sent_by, family, scope, placed)


def _place_judged(pieces: Sequence[Piece], family: Family, scope: Scope, placed: Placed) -> None:
    """mangle: the vifs whose egress is judged at all."""
    devices = [entry for piece in pieces for entry in piece.judged_from_device]
    for bridge in sorted({entry.rule.in_interface or "" for entry in devices}):
        enter = Rule(Jump(scope.chain("ports")), in_interface=bridge)
        placed.add(family, "mangle", scope.chain("PREROUTING"), enter)
    if devices:
        _place_devices("mangle", devices, (), (), _sent_by, family, scope, placed)


def _place_devices(
    table: str,
    devices: Sequence[DeviceEntry],
    head: Iterable[Rule],
    tail: Sequence[Rule],
    pattern: _Pattern,
    family: Family,
    scope: Scope,
    placed: Placed,
) -> None:
    placed.add(family, table, scope.chain("ports"), *head)
    for name, rules in dispatch.device_tree("ports", devices, tail, pattern, scope.owner):
        placed.add(family, table, scope.chain(name), *rules)


def _bridges(scope: Scope) -> Sequence[str | None]:
    """The bridges whose ports are judged; ``None``: every bridge of the host.

    Links that somebody else manages may carry a vif whose network is not known yet.
    """
    if not scope.settings.network.manage_links:
        return [None] if scope.resolved.ports else []
    return sorted({each.bridge for each in scope.resolved.networks.values()})


def _uplinks(scope: Scope) -> Sequence[tuple[str, str]]:
    """Bridges and their physical interfaces: addresses behind those are other hosts', not filtered here."""
    found = {
        (each.bridge, device)
        for each in scope.resolved.networks.values()
        if (device := uplink(each, scope.settings.network)) is not None
    }
    return sorted(found)


def _unknown_port(scope: Scope) -> Sequence[Rule]:
    """A port of our bridges that is nobody's passes nothing; other people's bridges are theirs."""
    if not scope.settings.network.manage_links:
        return ()
    return (Rule(DROP, origin=("networks", "", "unknown port")),)
