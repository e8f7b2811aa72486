"""What a transaction makes where nothing is, read back off its messages."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from nova_netagent.backend.nft import batch as messages
from nova_netagent.backend.nft import objects, userdata
from nova_netagent.backend.nft.attributes import (
    parse,
    parse_list,
    read_long,
    read_number,
    read_signed,
    read_string,
)
from nova_netagent.backend.nft.batch import Batch
from nova_netagent.backend.nft.netlink import read_element
from nova_netagent.backend.nft.objects import BaseHook, Chain, DataType, Element, Set, SetFlag, TableId

_TYPES = {
    each.number: each
    for each in (
        objects.IPV4_ADDRESS,
        objects.IPV6_ADDRESS,
        objects.ETHER_ADDRESS,
        objects.INET_PROTOCOL,
        objects.INET_SERVICE,
        objects.INTERFACE_NAME,
        objects.VERDICT,
    )
}
_TYPE_BITS = 6
"""Of a concatenation's types each has so many bits of one number."""


@dataclass
class MadeChain:
    """A chain and its rules, each as expressions and comment."""

    chain: Chain
    rules: list[tuple[bytes, str | None]] = field(default_factory=list)


@dataclass
class MadeSet:
    """A set or map and its elements."""

    described: Set
    elements: list[Element] = field(default_factory=list)


@dataclass
class Contents:
    """A table and all that is in it, by name, in the order in which it comes."""

    table: TableId
    comment: str | None = None
    sets: dict[str, MadeSet] = field(default_factory=dict)
    chains: dict[str, MadeChain] = field(default_factory=dict)


def contents(transaction: Batch) -> list[Contents]:
    """The tables that a transaction makes.

    :raises ValueError: it takes something away.
    """
    found: dict[TableId, Contents] = {}
    for kind, family, body in transaction.messages():
        known = parse(body)
        table = TableId(family, read_string(known[1]))
        made = found.setdefault(table, Contents(table))
        match kind:
            case messages.NEW_TABLE:
                made.comment = _comment(known, 6)
            case messages.NEW_CHAIN:
                chain = _chain(known)
                made.chains[chain.name] = MadeChain(chain)
            case messages.NEW_RULE:
                made.chains[read_string(known[2])].rules.append((known[4], _comment(known, 7)))
            case messages.NEW_SET:
                described = _set(known)
                made.sets[described.name] = MadeSet(described)
            case messages.NEW_ELEMENTS:
                made.sets[read_string(known[2])].elements.extend(map(read_element, parse_list(known[3])))
            case _:
                raise ValueError(f"a message of the kind {kind} makes nothing")
    return list(found.values())


def _chain(known: dict[int, bytes]) -> Chain:
    hook = None
    if 4 in known:
        where = parse(known[4])
        hook = BaseHook(read_number(where[1]), read_signed(where[2]), read_string(known[7]))
    return Chain(read_string(known[3]), hook, _comment(known, 12))


def _set(known: dict[int, bytes]) -> Set:
    described = parse(known[9]) if 9 in known else {}
    return Set(
        read_string(known[2]),
        tuple(_types(read_number(known[4]))),
        _TYPES[read_number(known[6])] if 6 in known else None,
        interval=bool(read_number(known[3]) & SetFlag.INTERVAL),
        comment=_comment(known, 13, userdata.SET_COMMENT),
        timeout=read_long(known[11]) // 1000 if 11 in known else None,
        size=read_number(described[1]) if 1 in described else None,
    )


def _types(packed: int) -> Iterable[DataType]:
    found = []
    while packed:
        found.append(_TYPES[packed & ((1 << _TYPE_BITS) - 1)])
        packed >>= _TYPE_BITS
    return reversed(found)


def _comment(known: dict[int, bytes], attribute: int, kind: int = userdata.COMMENT) -> str | None:
    return userdata.read_comment(known[attribute], kind) if attribute in known else None
