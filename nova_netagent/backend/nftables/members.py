"""A group's members as elements of a set of ranges: without overlaps, which the kernel refuses."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import ip_address

from nova_netagent.backend.nft import objects
from nova_netagent.backend.nft.objects import INET_SERVICE, IPV4_ADDRESS, IPV6_ADDRESS, Element, Set
from nova_netagent.backend.nftables.image import Elements
from nova_netagent.model import values
from nova_netagent.netfilter.rule import CUT_FLOWS, CUT_SECONDS, Family, IpSet, Origin

_ADDRESS = {4: IPV4_ADDRESS, 6: IPV6_ADDRESS}


def set_of(each: IpSet) -> Set:
    """The set in nf_tables, without its members."""
    if each.type != "hash:net":
        return ends_of_flows(each.name, each.family)
    return described(each.name, each.family, each.origin)


def described(name: str, family: Family, origin: Origin | None = None) -> Set:
    """A set of prefixes."""
    comment = objects.comment(" ".join(filter(None, origin or ())))
    return Set(name, (_ADDRESS[family],), interval=True, comment=comment)


def ends_of_flows(name: str, family: Family) -> Set:
    """A set of the ends of flows that were cut."""
    key = (_ADDRESS[family], INET_SERVICE, _ADDRESS[family])
    return Set(name, key, comment="TCP that was cut: here, port, peer", timeout=CUT_SECONDS, size=CUT_FLOWS)


def end(text: str) -> Element:
    """The end of a flow: ``ADDRESS,tcp:PORT,PEER``."""
    here, port, peer = text.split(",")
    number = int(port.removeprefix("tcp:"))
    return Element(objects.key((ip_address(here).packed, number.to_bytes(2, "big"), ip_address(peer).packed)))


def end_text(key: bytes, family: Family) -> str:
    """The end of a flow, of the key of its element."""
    size = values.FAMILY_BITS[family] // 8
    here, peer = (int.from_bytes(key[at : at + size], "big") for at in (0, size + 4))
    port = int.from_bytes(key[size : size + 2], "big")
    return f"{values.address_text(family, here)},tcp:{port},{values.address_text(family, peer)}"


def elements(members: Iterable[str]) -> Elements:
    """Each prefix that no other covers, as the element where it begins and the one that closes it."""
    found: dict[tuple[bytes, bool], Element] = {}
    covered = -1
    for prefix in sorted(map(_prefix, members)):
        if prefix.last <= covered:
            continue
        covered = prefix.last
        for each in _ends(prefix):
            found[each.key, each.closes] = each
    return found


def change(
    before: frozenset[str], add: frozenset[str], remove: frozenset[str]
) -> tuple[list[Element], list[Element]] | None:
    """The elements to add and to remove, by the members that change alone.

    ``None`` where that does not tell: a prefix changes, or one covers a member that does.
    """
    changed = [*map(_prefix, add), *map(_prefix, remove)]
    if not all(each.is_host for each in changed):
        return None
    shorter = {each for each in before if not each.endswith(("/32", "/128"))}
    wide = [_prefix(each) for each in shorter]
    if any(each.contains(host) for host in changed for each in wide):
        return None
    return (
        [end for member in add for end in _ends(_prefix(member))],
        [end for member in remove for end in _ends(_prefix(member))],
    )


def is_torn(held: Elements, changed: tuple[Iterable[Element], Iterable[Element]]) -> bool:
    """Whether a set does not hold what it should lose, or holds what it should get."""
    add, remove = changed
    return any((each.key, each.closes) in held for each in add) or any(
        (each.key, each.closes) not in held for each in remove
    )


def apart(before: Elements, after: Elements) -> set[tuple[bytes, bool]]:
    """The ends of the ranges that only one of two sets has.

    nf_tables takes ranges: an end that is put into a range, which keeps its own, is an overlap.
    """
    ends = before.keys() ^ after.keys()
    for low, high in {*_ranges(before)} ^ {*_ranges(after)} if ends else ():
        ends |= {(low, False)} if high is None else {(low, False), (high, True)}
    return ends


def prefixes(held: Elements, family: Family) -> frozenset[str]:
    """The prefixes that a set holds, whoever put them there."""
    found: list[str] = []
    for low, high in _ranges(held):
        after = 1 << values.FAMILY_BITS[family] if high is None else int.from_bytes(high, "big")
        found += _cut(int.from_bytes(low, "big"), after - 1, family)
    return frozenset(found)


def _ranges(held: Elements) -> Iterator[tuple[bytes, bytes | None]]:
    """Where each range begins, and the first key that is no longer in it, if there is one."""
    low: bytes | None = None
    for key, closes in sorted(held, key=lambda end: (end[0], not end[1])):
        if low is not None:
            yield low, key
        low = None if closes else key
    if low is not None:
        yield low, None


@lru_cache(1 << 15)
def _prefix(text: str) -> values.Prefix:
    return values.prefix(text)


@lru_cache(1 << 15)
def _ends(prefix: values.Prefix) -> tuple[Element, ...]:
    size = values.FAMILY_BITS[prefix.family] // 8
    begin = Element(prefix.value.to_bytes(size, "big"))
    after = prefix.last + 1
    # A range that ends with the last address is closed by nothing.
    return (begin,) if after >> (size * 8) else (begin, Element(after.to_bytes(size, "big"), closes=True))


def _cut(low: int, high: int, family: Family) -> Iterator[str]:
    """A range as prefixes."""
    bits = values.FAMILY_BITS[family]
    while low <= high:
        free = min((low & -low).bit_length() - 1 if low else bits, (high - low + 1).bit_length() - 1)
        yield values.prefix_text(values.Prefix(family, low, bits - free))
        low += 1 << free
