"""The way to an instance by its address: on iptables a tree of chains, here verdict maps.

W-local and the nodes of the compiler's tree below it (W-to-8HEX) hold entries: a prefix,
perhaps an interface, and where the packet goes. Each entry is an element of a map by the
length of its prefix; W-local looks into these maps, the longest prefixes first, as the tree
does. The nodes are no chains here, and what leads to them is no rule.
"""

from collections.abc import Iterable

from msgspec import Struct

from nova_netagent.backend.nft import expressions, objects
from nova_netagent.backend.nft.expressions import Meta, Verdict
from nova_netagent.backend.nft.objects import (
    INTERFACE_NAME,
    IPV4_ADDRESS,
    IPV6_ADDRESS,
    VERDICT,
    Element,
    Set,
    interface_name,
)
from nova_netagent.backend.nftables import matches
from nova_netagent.backend.nftables.keys import Key, Place
from nova_netagent.backend.nftables.kinds import Kind, kind
from nova_netagent.backend.nftables.names import FILTER
from nova_netagent.model import values
from nova_netagent.netfilter.rule import Conntrack, Family, Jump, Rule

_DNATED = Conntrack(frozenset({"DNAT"}))
_ADDRESS = {4: IPV4_ADDRESS, 6: IPV6_ADDRESS}


class Shape(Struct, frozen=True, order=True):
    """Of what kind an entry is, and in which order kinds are looked at."""

    shortness: int
    """How many bits of the address are left out."""
    interface: bool
    """Whether the interface counts; where it does not, the packet has to be DNATed."""


class Entry(Key):
    """The key of a rule that is an element of a map."""

    shape: Shape
    element: Element


class Way(Key):
    """The key of a rule that leads to a node: nothing in the kernel."""


def classified(key: Key, family: Family, head: str, place: Place) -> Key:
    """The same key, as what it is in a root or a node.

    :param head: the wrap name and a dash.
    """
    rule = key.rule
    if _is_way(rule, head):
        way = Way(key)
        way.rule = rule
        return way
    if isinstance(rule.target, Jump) and _is_entry(rule):
        entry = Entry(key)
        entry.rule = rule
        entry.shape, entry.element = _element(rule, rule.target, family, place)
        return entry
    return key


def _is_way(rule: Rule, head: str) -> bool:
    bare = rule.destination is not None and rule.out_interface is None and not rule.matches
    if not bare or not isinstance(rule.target, Jump) or rule.target.goto:
        return False
    return kind(FILTER, rule.target.chain, head) is Kind.NODE


def _is_entry(rule: Rule) -> bool:
    if rule.source is not None or rule.in_interface is not None or rule.protocol is not None or rule.inverted:
        return False
    if rule.out_interface is not None:
        return not rule.matches and not rule.out_interface.endswith("+")
    return rule.destination is not None and rule.matches == (_DNATED,)


def _element(rule: Rule, target: Jump, family: Family, place: Place) -> tuple[Shape, Element]:
    bits = values.FAMILY_BITS[family]
    parts: list[bytes] = []
    shortness = bits
    if rule.destination is not None:
        prefix = values.prefix(rule.destination)
        parts.append(prefix.value.to_bytes(bits // 8, "big"))
        shortness = bits - prefix.length
    if rule.out_interface is not None:
        parts.append(interface_name(rule.out_interface))
    verdict = expressions.verdict_data(Verdict.GOTO if target.goto else Verdict.JUMP, place(target.chain))
    comment = objects.comment(" ".join(filter(None, rule.origin or ())))
    return Shape(shortness, rule.out_interface is not None), Element(objects.key(parts), data=verdict, comment=comment)


def map_of(shape: Shape, root: str, family: Family) -> Set:
    """The map of a kind of entries."""
    bits = values.FAMILY_BITS[family]
    kind = "hosts" if shape.shortness == 0 else f"nets-{bits - shape.shortness}"
    key = [] if shape.shortness == bits else [_ADDRESS[family]]
    if shape.interface:
        name, comment = f"{root}-{kind}", "whose address it is, on which bridge"
        key.append(INTERFACE_NAME)
    else:
        name, comment = f"{root}-called-{kind}", "whose address it is that was a floating IP"
    return Set(name, tuple(key), VERDICT, comment=comment)


def lookups(shapes: Iterable[Shape], root: str, family: Family) -> tuple[bytes, ...]:
    """The rules of the root that look into the maps of these kinds, in their order."""
    return tuple(_lookup(shape, root, family) for shape in sorted(shapes))


def _lookup(shape: Shape, root: str, family: Family) -> bytes:
    bits = values.FAMILY_BITS[family]
    found = [] if shape.interface else list(matches.conntrack(_DNATED.states, inverted=False))
    register = 0
    if shape.shortness < bits:
        found.append(matches.address(family, "destination"))
        if shape.shortness:
            found.append(expressions.mask(matches.net_mask(family, bits - shape.shortness)))
        register = bits // 32
    if shape.interface:
        found.append(expressions.meta(Meta.OIFNAME, register))
    found.append(expressions.lookup_verdict(map_of(shape, root, family).name))
    return expressions.encode(tuple(found))
