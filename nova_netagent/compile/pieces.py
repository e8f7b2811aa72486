"""What one instance adds to the tables: its chains, and what leads to them."""

from collections.abc import Callable, Iterable, Iterator

from msgspec import Struct

from nova_netagent.compile import egress, ingress, source
from nova_netagent.compile.dispatch import AddressEntry, DeviceEntry
from nova_netagent.compile.parts import Reasoned, Scope, chain_of, network
from nova_netagent.compile.resolve import Port, Side
from nova_netagent.model import values
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

_TABLES = {
    family: (TableId(family, "filter"), TableId(family, "mangle"), TableId(family, "raw")) for family in FAMILIES
}

Pattern = Callable[[str], Physdev]
"""How a rule tells the bridge port of a device."""


def sent_by(device: str) -> Physdev:
    """What a vif sends, by its bridge port."""
    return Physdev(incoming=device)


def sent_to(device: str) -> Physdev:
    """What a vif is sent, by its bridge port."""
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


def make_piece(instance_id: str, ports: tuple[Port, ...], scope: Scope) -> Piece:
    """What an instance with these vifs adds."""
    target = Jump(_instance_chain(instance_id, scope))
    to_device: list[DeviceEntry] = []
    from_device: list[DeviceEntry] = []
    astray: list[DeviceEntry] = []
    for port in ports:
        if port.network is None:
            astray += _astray(port, scope)
            to_device += _closed(port, sent_to, scope)
            from_device += _closed(port, sent_by, scope)
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


def _instance_chain(instance_id: str, scope: Scope) -> str:
    return scope.chain(f"inst-{scope.names.instances[instance_id]}")


def _vif_chain(kind: str, port: Port, scope: Scope) -> str:
    return scope.chain(f"{kind}-{scope.names.vifs[port.vif.id]}")


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


def _closed(port: Port, side: Pattern, scope: Scope) -> list[DeviceEntry]:
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
    match = sent_to(port.vif.device)
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
    match = sent_by(port.vif.device)
    return Rule(target, in_interface=_bridge(port, scope), matches=(match,), origin=_origin(port))


def _origin(port: Port) -> Origin:
    return ("instances", port.instance_id, "")
