"""What a group allows by ports and prefixes, as one set instead of a rule each.

All rules of a group's chain lead to the same target, so their order does not matter: those
that ask for nothing but a protocol, a port range and a prefix are elements of one set of
ranges, into which the first rule of the chain looks. Elements must not overlap: a rule that
has an address and a port in common with one before it stays a rule.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import compress
from operator import not_
from typing import cast

from msgspec import Struct

from nova_netagent.backend.nft import expressions, objects
from nova_netagent.backend.nft.expressions import Base, Meta
from nova_netagent.backend.nft.objects import (
    INET_PROTOCOL,
    INET_SERVICE,
    IPV4_ADDRESS,
    IPV6_ADDRESS,
    Element,
    Set,
)
from nova_netagent.backend.nftables import keys, matches
from nova_netagent.backend.nftables.image import Elements, Image, Keys
from nova_netagent.backend.nftables.keys import COUNTER, Key, Place
from nova_netagent.backend.nftables.laid import Laid
from nova_netagent.backend.nftables.notes import Reasons
from nova_netagent.model import values
from nova_netagent.netfilter.rule import ACCEPT, Family, Ports, Rule

_ADDRESS = {4: IPV4_ADDRESS, 6: IPV6_ADDRESS}
_PAYS_FROM = 3
"""So many rules at least: a set costs the kernel more than a rule or two."""

Range = tuple[int, int]


class Box(Struct, frozen=True, gc=False):
    """What an allowance is about: addresses, a protocol, ports."""

    addresses: Range
    protocol: int
    ports: Range

    def overlaps(self, other: "Box") -> bool:
        """Whether any packet is in both."""
        return (
            self.protocol == other.protocol
            and self.ports[0] <= other.ports[1]
            and other.ports[0] <= self.ports[1]
            and self.addresses[0] <= other.addresses[1]
            and other.addresses[0] <= self.addresses[1]
        )


class Allowed(Struct, frozen=True, gc=False):
    """What a rule says that may be an element: equal rules of thousands of groups share it."""

    box: Box
    element: Element
    at: tuple[bytes, bool]
    """The element's place among those of a set."""
    port: tuple[int, int] | None
    """Its protocol and its port, where that is one: who has another one shares no packet with it."""
    asked: bytes
    """The same as expressions."""


class Allowance(Key):
    """The key of a rule that may be an element of its chain's set."""

    allowed: Allowed

    def held_by(self, physical: str, family: Family) -> str:
        """The set of a chain that it may be an element of."""
        return _name(physical)

    @property
    def element(self) -> Element:
        """The element; what it is there for is not said."""
        return self.allowed.element


def key(rule: Rule, family: Family, place: Place, egress: bool) -> Key:
    """A rule's key, as what it can be in such a chain.

    :raises RuleRefused: it cannot be said, or would mean something else.
    """
    allowed = _allowed(rule, family, egress)
    if allowed is None:
        return keys.key(rule, family, place)
    made = Allowance(allowed.asked + COUNTER + keys.target(rule, family, place))
    made.rule, made.allowed = rule, allowed
    return made


def _allowed(rule: Rule, family: Family, egress: bool) -> Allowed | None:
    prefix, other = (rule.destination, rule.source) if egress else (rule.source, rule.destination)
    if other is not None or rule.in_interface is not None or rule.out_interface is not None or rule.inverted:
        return None
    if rule.protocol is None or len(rule.matches) != 1 or rule.origin is not None:
        return None
    (ports,) = rule.matches
    if not isinstance(ports, Ports) or ports.source is not None or ports.destination is None:
        return None
    return _made(prefix, rule.protocol, ports, family, egress)


@lru_cache(1 << 13)
def _made(prefix: str | None, protocol: int, ports: Ports, family: Family, egress: bool) -> Allowed:
    source, destination = (None, prefix) if egress else (prefix, None)
    asked = keys.asked(Rule(ACCEPT, source, destination, protocol=protocol, matches=(ports,)), family)
    known = values.prefix(prefix if prefix is not None else "0.0.0.0/0" if family == 4 else "::/0")
    assert ports.destination is not None
    first, last = ports.destination
    size = values.FAMILY_BITS[family] // 8
    low, high = (
        objects.key((address.to_bytes(size, "big"), bytes((protocol,)), port.to_bytes(2, "big")))
        for address, port in ((known.value, first), (known.last, last))
    )
    box = Box((known.value, known.last), protocol, ports.destination)
    port = (protocol, first) if first == last else None
    return Allowed(box, Element(low, end=None if low == high else high), (low, False), port, asked)


def lay_out(
    chain: Keys, physical: str, family: Family, place: Place, egress: bool, known: Reasons | None = None
) -> Laid:
    """A chain's rules and its set.

    :param known: what each rule is there for.
    """
    taken, elements = _apart(chain, family, egress)
    if len(elements) < _PAYS_FROM:
        return Laid(chain, {}, known)
    described = set_of(physical, family)
    first = cast(Allowance, next(compress(chain, taken)))
    lookup = _lookup(first, described.name, family, place, egress)
    rest = list(map(not_, taken))
    reasons: Reasons | None = None
    reasons_of: dict[str, Reasons] = {}
    if known is not None:
        reasons = Reasons(known.about, ("", *compress(known.parts, rest)))
        reasons_of[described.name] = Reasons(known.about, tuple(compress(known.parts, taken)))
    return Laid((lookup, *compress(chain, rest)), {described.name: (described, elements)}, reasons, reasons_of)


@lru_cache(1 << 10)
def _apart(chain: Keys, _family: Family, _egress: bool) -> tuple[Sequence[bool], Elements]:
    """Of each rule whether it becomes an element, and these: of one target, and with no packet in common.

    Groups that allow the same have them in common; the same bytes are other elements in another family.
    """
    taken = _taken(chain)
    chosen = cast(Iterator[Allowance], compress(chain, taken))
    return taken, {each.allowed.at: each.allowed.element for each in chosen}


def _taken(chain: Keys) -> Sequence[bool]:
    found = [each for each in chain if isinstance(each, Allowance)]
    ports = {each.allowed.port for each in found}
    if len(ports) == len(chain) and None not in ports and len({id(each.rule.target) for each in found}) == 1:
        return [True] * len(chain)
    boxes = _Boxes()
    return [
        isinstance(each, Allowance) and each.rule.target == found[0].rule.target and boxes.take(each.allowed.box)
        for each in chain
    ]


class _Boxes:
    """Boxes that share no packet."""

    def __init__(self) -> None:
        self._by_port: dict[tuple[int, int], list[Box]] = {}
        self._ranges: dict[int, list[Box]] = {}

    def take(self, box: Box) -> bool:
        """Add one, unless it shares a packet with another."""
        low, high = box.ports
        if low == high:
            known = self._by_port.setdefault((box.protocol, low), [])
            others = [*known, *self._ranges[box.protocol]] if box.protocol in self._ranges else known
        else:
            known = self._ranges.setdefault(box.protocol, [])
            alone = (
                each for (protocol, _), found in self._by_port.items() if protocol == box.protocol for each in found
            )
            others = [*known, *alone]
        if others and any(box.overlaps(each) for each in others):
            return False
        known.append(box)
        return True


def set_of(physical: str, family: Family) -> Set:
    """The set of a chain."""
    fields = (_ADDRESS[family], INET_PROTOCOL, INET_SERVICE)
    return Set(_name(physical), fields, interval=True, comment="from or to where, and to which ports")


def sets_of(image: Image, physical: str) -> list[str]:
    """The sets that belong to a chain: the one, if it is there."""
    name = _name(physical)
    return [name] if name in image.sets else []


def _name(physical: str) -> str:
    return f"{physical}-allowed"


def _lookup(each: Allowance, name: str, family: Family, place: Place, egress: bool) -> bytes:
    return _loads(family, egress) + expressions.encoded_lookup(name) + COUNTER + keys.target(each.rule, family, place)


@lru_cache(4)
def _loads(family: Family, egress: bool) -> bytes:
    width = values.FAMILY_BITS[family] // 32
    loads = (
        matches.address(family, "destination" if egress else "source"),
        expressions.meta(Meta.L4PROTO, width),
        expressions.payload(Base.TRANSPORT, 2, 2, width + 1),
    )
    return expressions.encode(loads)
