"""Floating IPs as maps: on iptables five rules each, here five elements.

A rule that gives one exact address another one is an element of a map, by what it asks for
besides; one rule of the chain looks into each map. Order is kept: a rule that would match
where an earlier one has already decided is left out, and one that cannot be moved up to its
map without passing a rule about the same address stays a rule.
"""

import ipaddress
from collections.abc import Mapping

from msgspec import Struct

from nova_netagent.backend.nft import expressions, objects
from nova_netagent.backend.nft.expressions import Expression, Meta, Nat
from nova_netagent.backend.nft.objects import INTERFACE_NAME, IPV4_ADDRESS, IPV6_ADDRESS, Element, Set, interface_name
from nova_netagent.backend.nftables import matches
from nova_netagent.backend.nftables.image import Elements, Image, Keys
from nova_netagent.backend.nftables.keys import COUNTER, Key
from nova_netagent.backend.nftables.laid import Laid
from nova_netagent.model import values
from nova_netagent.netfilter.rule import Conntrack, Dnat, Family, Match, Physdev, Rule, Snat

_ADDRESS = {4: IPV4_ADDRESS, 6: IPV6_ADDRESS}
_GUARDS: Mapping[tuple[Match, ...], str] = {
    (): "",
    (Conntrack(frozenset({"DNAT"})),): "-called",
    (Physdev(bridged=False),): "-routed",
}
_WHEN: Mapping[tuple[Match, ...], str] = {
    (Conntrack(frozenset({"DNAT"})),): "to who came by a floating IP",
    (Physdev(bridged=False),): "when it is routed",
}


class Shape(Struct, frozen=True):
    """What a translation asks for besides an address: such ones share a map."""

    kind: Nat
    destination: bool
    interface: bool
    guard: tuple[Match, ...]


class Translation(Key):
    """The key of a rule that may be an element of a map."""

    shape: Shape
    element: Element
    address: str

    def held_by(self, physical: str, family: Family) -> str:
        """The map of a chain that it may be an element of."""
        return _map(self.shape, physical, family).name


def classified(key: Key, family: Family) -> Key:
    """The same key, as what it can be in such a chain."""
    rule = key.rule
    shape = _shape(rule, family)
    if shape is None:
        return key
    assert isinstance(rule.target, Dnat | Snat)
    made = Translation(key)
    made.rule, made.shape = rule, shape
    parts = []
    if shape.kind is Nat.DESTINATION:
        assert rule.destination is not None
        made.address = rule.destination
        parts.append(_packed(rule.destination))
    else:
        assert rule.source is not None
        made.address = rule.source
        parts.append(_packed(rule.source))
        if rule.destination is not None:
            parts.append(_packed(rule.destination))
        if rule.out_interface is not None:
            parts.append(interface_name(rule.out_interface))
    comment = objects.comment(" ".join(filter(None, rule.origin or ())))
    made.element = Element(objects.key(parts), data=_packed(rule.target.address), comment=comment)
    return made


def _shape(rule: Rule, family: Family) -> Shape | None:
    if rule.in_interface is not None or rule.protocol is not None or rule.inverted or rule.matches not in _GUARDS:
        return None
    interface = rule.out_interface is not None
    if interface and str(rule.out_interface).endswith("+"):
        return None
    match rule.target:
        case Dnat(_, None) if rule.source is None and not interface and not rule.matches:
            exact = _is_host(rule.destination, family)
            return Shape(Nat.DESTINATION, True, False, ()) if exact else None
        case Snat(_) if _is_host(rule.source, family):
            if rule.destination is not None and not _is_host(rule.destination, family):
                return None
            return Shape(Nat.SOURCE, rule.destination is not None, interface, rule.matches)
    return None


def _is_host(prefix: str | None, family: Family) -> bool:
    return prefix is not None and prefix.endswith(f"/{values.FAMILY_BITS[family]}")


def _packed(address: str) -> bytes:
    return ipaddress.ip_address(address.partition("/")[0]).packed


def lay_out(keys: Keys, physical: str, family: Family) -> Laid:
    """A chain's rules and maps."""
    items: list[bytes | Shape] = []
    places: dict[Shape, int] = {}
    found: dict[Shape, dict[tuple[bytes, bool], Element]] = {}
    last: dict[str, int] = {}
    last_plain = -1
    for each in keys:
        if not isinstance(each, Translation):
            last_plain = len(items)
            items.append(each)
            continue
        elements = found.setdefault(each.shape, {})
        if (each.element.key, False) in elements:
            continue
        place = places.setdefault(each.shape, len(items))
        if place == len(items):
            items.append(each.shape)
        if max(last_plain, last.get(each.address, -1)) > place:
            last[each.address] = len(items)
            items.append(each)
        else:
            elements[each.element.key, False] = each.element
            last[each.address] = max(place, last.get(each.address, -1))
    maps: dict[str, tuple[Set, Elements]] = {}
    for shape, elements in found.items():
        described = _map(shape, physical, family)
        maps[described.name] = (described, elements)
    rules = tuple(_lookup(each, physical, family) if isinstance(each, Shape) else each for each in items)
    return Laid(rules, maps)


def maps_of(image: Image, physical: str) -> list[str]:
    """The maps that belong to a chain."""
    return [name for name in image.sets if name.startswith((f"{physical}-floating", f"{physical}-fixed"))]


def _map(shape: Shape, physical: str, family: Family) -> Set:
    address = _ADDRESS[family]
    if shape.kind is Nat.DESTINATION:
        return Set(f"{physical}-floating", (address,), address, comment="where a floating IP leads")
    name, key, when = f"{physical}-fixed", [address], [_WHEN[shape.guard]] if shape.guard else []
    if shape.destination:
        name += "-itself"
        key.append(address)
        when.append("to itself")
    if shape.interface:
        name += "-out"
        key.append(INTERFACE_NAME)
        when.append("out by that interface")
    comment = ", ".join(["as which floating IP a fixed IP shows", *when])
    return Set(name + _GUARDS[shape.guard], tuple(key), address, comment=comment)


def _lookup(shape: Shape, physical: str, family: Family) -> bytes:
    guard = b"".join(matches.match(each, family, None) for each in shape.guard)
    width = values.FAMILY_BITS[family] // 32
    loads: list[Expression] = []
    if shape.kind is Nat.DESTINATION:
        loads.append(matches.address(family, "destination"))
    else:
        loads.append(matches.address(family, "source"))
        if shape.destination:
            loads.append(matches.address(family, "destination", register=width))
        if shape.interface:
            loads.append(expressions.meta(Meta.OIFNAME, width * (1 + shape.destination)))
    found = expressions.encode((*loads, expressions.lookup_value(_map(shape, physical, family).name)))
    return (
        guard
        + found
        + COUNTER
        + expressions.encode((expressions.translate(shape.kind, matches.SOCKET_FAMILY[family]),))
    )
