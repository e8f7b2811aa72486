"""Dispatch without a scan: from a chain to one of thousands in a few comparisons.

A list of N jumps costs a new flow N comparisons. Here entries are kept in a tree of
chains: by the bits of an address, or by the letters of a device's name. A node holds at
most some twenty rules; a small host's tree is one node and reads as nova's list did.

A tree is outlined first and written down when all nodes of a table are known: their names
are hashes, and two that clash must part (``owner.short_ids``).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from msgspec import Struct

from nova_netagent.model import values
from nova_netagent.model.values import FAMILY_BITS, Prefix
from nova_netagent.netfilter.owner import Owner, digest, short_ids
from nova_netagent.netfilter.rule import Jump, Physdev, Rule

LEAF = 8
"""So many entries stay in one node: a tree pays from about fifteen rules on (measured)."""
_STRIDE = 4
_SMALLEST = 2
"""Below this many entries a child node would only add a jump."""

Names = Mapping[str, str]
"""By a node's key the name of its chain, without the wrap name."""


class AddressEntry(Struct, frozen=True):
    """A rule for packets to a prefix; the rule carries the destination itself."""

    prefix: Prefix
    rule: Rule


class DeviceEntry(Struct, frozen=True):
    """A rule for frames of a bridge port; the rule carries the physdev match itself."""

    device: str
    rule: Rule


class Node(Struct, frozen=True):
    """A node of a tree: what it leads to below, and its own rules before and after that."""

    key: str
    """The prefix of addresses or of names that the node is about; the root's says which tree it is."""
    first: tuple[Rule, ...]
    below: tuple["Node", ...]
    last: tuple[Rule, ...]


Enter = Callable[[str, str], Rule]
"""Makes the rule that leads to a node, from the node's key and its wrapped chain name."""


def keys_of(node: Node) -> Iterator[str]:
    """The keys of the nodes below the root."""
    for child in node.below:
        yield child.key
        yield from keys_of(child)


def name_nodes(keys: Iterable[str]) -> Names:
    """A name for each node of a table, distinct, and the same whatever the order."""
    digests = {digest(key): key for key in keys}
    return {digests[long]: f"to-{short}" for long, short in short_ids(digests).items()}


def write(root: str, node: Node, names: Names, enter: Enter, owner: Owner) -> Iterator[tuple[str, tuple[Rule, ...]]]:
    """The chains of a tree by name, without the wrap name; the root first, under the name given."""
    jumps = tuple(enter(child.key, owner.chain(names[child.key])) for child in node.below)
    yield root, (*node.first, *jumps, *node.last)
    for child in node.below:
        yield from write(names[child.key], child, names, enter, owner)


# --- by address


def enter_prefix(key: str, chain: str) -> Rule:
    """Into a node of addresses: a packet that no entry there concerns comes back, and meets wider prefixes."""
    return Rule(Jump(chain), destination=key)


def address_tree(entries: Sequence[AddressEntry]) -> Node:
    """A tree over destination addresses. The longest prefix is judged first; of equal ones the first given."""
    ordered = sorted(entries, key=_order)
    return _address_node("local", ordered)


def _order(entry: AddressEntry) -> tuple[int, int, str]:
    return -entry.prefix.length, entry.prefix.value, entry.rule.out_interface or ""


def _address_node(key: str, entries: Sequence[AddressEntry]) -> Node:
    if len(entries) <= LEAF:
        return Node(key, (), (), tuple(entry.rule for entry in entries))
    inside, around = _part(entries)
    if not inside:
        return Node(key, (), (), tuple(entry.rule for entry in around))
    bits = FAMILY_BITS[inside[0].prefix.family]
    split = _shared_bits(inside) + _STRIDE
    groups: dict[int, list[AddressEntry]] = {}
    direct: list[AddressEntry] = []
    for entry in inside:
        if entry.prefix.length > split:
            groups.setdefault(entry.prefix.value >> (bits - split), []).append(entry)
        else:
            direct.append(entry)
    alone = [entry for group in groups.values() if len(group) < _SMALLEST for entry in group]
    below = []
    for value, group in sorted(groups.items()):
        if len(group) >= _SMALLEST:
            prefix = Prefix(inside[0].prefix.family, value << (bits - split), split)
            below.append(_address_node(values.prefix_text(prefix), group))
    after = (*direct, *around)
    return Node(key, tuple(entry.rule for entry in alone), tuple(below), tuple(entry.rule for entry in after))


def _part(entries: Sequence[AddressEntry]) -> tuple[list[AddressEntry], list[AddressEntry]]:
    """Those that the node's bits can part, and those so wide that they are around all others."""
    inside, around = list(entries), []
    while inside and inside[-1].prefix.length <= _shared_bits(inside):
        around.append(inside.pop())
    return inside, around[::-1]


def _shared_bits(entries: Sequence[AddressEntry]) -> int:
    """How many leading bits the prefixes of entries have in common."""
    low = min(entry.prefix.value for entry in entries)
    high = max(entry.prefix.last for entry in entries)
    return FAMILY_BITS[entries[0].prefix.family] - (low ^ high).bit_length()


# --- by device


def enter_names(side: Callable[[str], Physdev]) -> Enter:
    """Into a node of names, by goto: RETURN in a leaf leaves the whole tree.

    :param side: makes the match of a name pattern.
    """
    return lambda key, chain: Rule(Jump(chain, goto=True), matches=(side(key),))


def enter_interfaces(key: str, chain: str) -> Rule:
    """Into a node of names of interfaces that are no bridge ports."""
    return Rule(Jump(chain), in_interface=key)


def device_tree(entries: Sequence[DeviceEntry], tail: Sequence[Rule]) -> Node:
    """A tree over bridge ports' names; ``tail`` ends every node: it judges what is no entry's."""
    ordered = sorted(entries, key=lambda entry: entry.device)
    return _device_node("ports", ordered, tuple(tail))


def _device_node(key: str, entries: Sequence[DeviceEntry], tail: tuple[Rule, ...]) -> Node:
    if len(entries) <= LEAF:
        return Node(key, tuple(entry.rule for entry in entries), (), tail)
    shared = _shared_letters(entries)
    groups: dict[str, list[DeviceEntry]] = {}
    for entry in entries:
        groups.setdefault(entry.device[: shared + 1], []).append(entry)
    first: list[Rule] = []
    below: list[Node] = []
    for letters, group in sorted(groups.items()):
        # A device that is named exactly like the prefix of others has no letters to part by.
        deeper = [entry for entry in group if entry.device != letters]
        here = [entry for entry in group if entry.device == letters]
        if len(deeper) >= _SMALLEST:
            below.append(_device_node(f"{letters}+", deeper, tail))
        else:
            here += deeper
        first += [entry.rule for entry in here]
    return Node(key, tuple(first), tuple(below), tail)


def _shared_letters(entries: Sequence[DeviceEntry]) -> int:
    """How many letters all names of a sorted list begin with."""
    first, last = entries[0].device, entries[-1].device
    shared = 0
    while shared < min(len(first), len(last)) and first[shared] == last[shared]:
        shared += 1
    return min(shared, min(len(entry.device) for entry in entries))
