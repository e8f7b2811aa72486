"""Dispatch without a scan: from a chain to one of thousands in a few comparisons.

A list of N jumps costs a new flow N comparisons. Here entries are kept in a tree of
chains: by the bits of an address, or by the letters of a device's name. A node holds at
most sixteen rules or so; a small host's tree is one node and reads as nova's list did.
"""

from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from nova_netagent.model import values
from nova_netagent.model.values import FAMILY_BITS, Prefix
from nova_netagent.netfilter.owner import Owner, hashed
from nova_netagent.netfilter.rule import Jump, Physdev, Rule

LEAF = 8
"""So many entries stay in one node: a tree pays from about fifteen rules on (measured)."""
_STRIDE = 4
_SMALLEST = 2
"""Below this many entries a child node would only add a jump."""

Node = tuple[str, tuple[Rule, ...]]
"""A chain's name without the wrap name (the root's is given by the caller), and its rules."""


class AddressEntry(Struct, frozen=True):
    """A rule for packets to a prefix; the rule carries the destination itself."""

    prefix: Prefix
    rule: Rule


class DeviceEntry(Struct, frozen=True):
    """A rule for frames of a bridge port; the rule carries the physdev match itself."""

    device: str
    rule: Rule


def address_tree(root: str, entries: Sequence[AddressEntry], owner: Owner) -> Iterator[Node]:
    """The nodes of a tree over destination addresses, the root first.

    The longest prefix is judged first. A packet that no entry of a node concerns comes
    back to the node above, so that wider prefixes there still see it.
    """
    ordered = sorted(entries, key=lambda entry: (-entry.prefix.length, entry.prefix, entry.rule.out_interface or ""))
    yield from _address_node(root, ordered, owner)


def _address_node(name: str, entries: Sequence[AddressEntry], owner: Owner) -> Iterator[Node]:
    split = _split_length(entries)
    if len(entries) <= LEAF or split >= entries[0].prefix.length:  # sixteen neighbours at most
        yield name, tuple(entry.rule for entry in entries)
        return
    below: dict[int, list[AddressEntry]] = {}
    here: list[AddressEntry] = []
    family = entries[0].prefix.family
    for entry in entries:
        if entry.prefix.length > split:
            below.setdefault(entry.prefix.value >> (FAMILY_BITS[family] - split), []).append(entry)
        else:
            here.append(entry)
    rules: list[Rule] = []
    children: list[tuple[str, list[AddressEntry]]] = []
    for bits, group in sorted(below.items()):
        if len(group) < _SMALLEST:
            rules += [entry.rule for entry in group]
            continue
        prefix = Prefix(family, bits << (FAMILY_BITS[family] - split), split)
        child = f"to-{hashed(values.prefix_text(prefix))}"
        rules.append(Rule(Jump(owner.chain(child)), destination=values.prefix_text(prefix)))
        children.append((child, group))
    yield name, (*rules, *(entry.rule for entry in here))
    for child, group in children:
        yield from _address_node(child, group, owner)


def _split_length(entries: Sequence[AddressEntry]) -> int:
    """The prefix length at which a node's longest entries part: a few bits below what they share."""
    if not entries:
        return 0
    longest = [entry.prefix for entry in entries if entry.prefix.length == entries[0].prefix.length]
    low = min(prefix.value for prefix in longest)
    high = max(prefix.value for prefix in longest)
    return FAMILY_BITS[longest[0].family] - (low ^ high).bit_length() + _STRIDE


def device_tree(
    root: str, entries: Sequence[DeviceEntry], tail: Sequence[Rule], side: Callable[[str], Physdev], owner: Owner
) -> Iterator[Node]:
    """The nodes of a tree over bridge ports' names, the root first.

    Nodes are reached by goto, so that RETURN in a leaf leaves the whole tree; ``tail`` ends
    every node: it judges what is no entry's. ``side`` makes the match of a name pattern.
    """
    ordered = sorted(entries, key=lambda entry: entry.device)
    yield from _device_node(root, ordered, tuple(tail), side, owner)


def _device_node(
    name: str, entries: Sequence[DeviceEntry], tail: tuple[Rule, ...], side: Callable[[str], Physdev], owner: Owner
) -> Iterator[Node]:
    if len(entries) <= LEAF:
        yield name, (*(entry.rule for entry in entries), *tail)
        return
    shared = _shared_letters(entries)
    below: dict[str, list[DeviceEntry]] = {}
    for entry in entries:
        below.setdefault(entry.device[: shared + 1], []).append(entry)
    rules: list[Rule] = []
    children: list[tuple[str, list[DeviceEntry]]] = []
    for letters, group in sorted(below.items()):
        # A device that is named exactly like the prefix of others has no letters to part by.
        exact = [entry for entry in group if entry.device == letters]
        deeper = [entry for entry in group if entry.device != letters]
        rules += [entry.rule for entry in exact]
        if len(deeper) < _SMALLEST:
            rules += [entry.rule for entry in deeper]
            continue
        child = f"to-{hashed(letters + '+')}"
        rules.append(Rule(Jump(owner.chain(child), goto=True), matches=(side(letters + "+"),)))
        children.append((child, deeper))
    yield name, (*rules, *tail)
    for child, group in children:
        yield from _device_node(child, group, tail, side, owner)


def _shared_letters(entries: Sequence[DeviceEntry]) -> int:
    """How many letters all names of a sorted list begin with."""
    first, last = entries[0].device, entries[-1].device
    shared = 0
    while shared < min(len(first), len(last)) and first[shared] == last[shared]:
        shared += 1
    return min(shared, min(len(entry.device) for entry in entries))
