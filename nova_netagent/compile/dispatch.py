"""Dispatch without a scan: from a chain to one of thousands in a few comparisons.

A list of N jumps costs a new flow N comparisons. Here entries are kept in a tree of
chains: by the bits of an address, or by the letters of a device's name. A node holds at
most some twenty rules; a small host's tree is one node and reads as nova's list did.

A tree is outlined first and written down when all nodes of a table are known: their names
are hashes, and two that clash must part (``owner.short_ids``).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, TypeVar

from msgspec import Struct

from nova_netagent.model import values
from nova_netagent.model.values import FAMILY_BITS, Prefix
from nova_netagent.netfilter.owner import SHORT, Owner, digest, short_ids
from nova_netagent.netfilter.rule import Chain, Jump, Physdev, Rule

LEAF = 8
"""So many entries stay in one node: a tree pays from about fifteen rules on (measured)."""
_STRIDE = 4
_SMALLEST = 2
"""Below this many entries a child node would only add a jump."""

T = TypeVar("T")


class AddressEntry(Struct, frozen=True, gc=False):
    """A rule for packets to or from a prefix; the rule carries the address itself."""

    prefix: Prefix
    rule: Rule


class DeviceEntry(Struct, frozen=True, gc=False):
    """Rules for frames of a bridge port; each carries the physdev match itself."""

    device: str
    rules: tuple[Rule, ...]


class Node(Struct, frozen=True, gc=False):
    """A node of a tree: what it leads to below, and its own rules before and after that."""

    key: str
    """The prefix of addresses or of names that the node is about; the root's says which tree it is."""
    first: tuple[Rule, ...]
    below: tuple["Node", ...]
    last: tuple[Rule, ...]
    keys: tuple[str, ...]
    """Of all the nodes below."""


class Names(Struct, frozen=True, gc=False):
    """By a node's key the name of its chain, without the wrap name."""

    exceptions: Mapping[str, str]
    """Of the keys whose hashes clash."""
    tree: str = ""
    """What keys of this tree begin with, where another tree of the table has keys like them."""

    def __getitem__(self, key: str) -> str:
        key = self.tree + key
        return self.exceptions.get(key) or f"to-{digest(key)[:SHORT]}"


class Kept:
    """What was made of each node of a tree, by its key: so that a change makes the nodes above it only."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[tuple[Any, ...], Any]] = {}

    def get(self, key: str, of: tuple[Any, ...], make: Callable[[], T]) -> T:
        """What was made of the like; otherwise it is made."""
        known = self._made.get(key)
        if known is None or known[0] != of:
            known = self._made[key] = (of, make())
        made: T = known[1]
        return made

    def prune(self, root: Node) -> None:
        """Forget nodes that are no more, when they have become many."""
        if len(self._made) > 2 * len(root.keys) + LEAF:
            self._made = {key: self._made[key] for key in (root.key, *root.keys) if key in self._made}


Enter = Callable[[str, str], Rule]
"""Makes the rule that leads to a node, from the node's key and its wrapped chain name."""


def _node(key: str, first: Iterable[Rule], below: Sequence[Node], last: Iterable[Rule]) -> Node:
    keys = [each for child in below for each in (child.key, *child.keys)]
    return Node(key, tuple(first), tuple(below), tuple(last), tuple(keys))


@lru_cache(16)
def name_nodes(keys: tuple[str, ...]) -> Names:
    """A name for each node of a table, distinct, and the same whatever the order."""
    if len({digest(key)[:SHORT] for key in keys}) == len(keys):
        return Names({})
    digests = {digest(key): key for key in keys}
    return Names({digests[long]: f"to-{name}" for long, name in short_ids(digests).items() if long[:SHORT] != name})


class Way(Struct, frozen=True, gc=False):
    """A tree as it is written in one table."""

    names: Names
    enter: Enter
    owner: Owner

    def root(self, node: Node) -> tuple[Rule, ...]:
        """The rules of a node: its own, and into those below it."""
        into = [self.enter(child.key, self.owner.chain(self.names[child.key])) for child in node.below]
        return (*node.first, *into, *node.last)

    def below(self, node: Node, kept: Kept) -> Mapping[str, Chain]:
        """The chains of the nodes below one, by name.

        :param kept: of this tree in this table.
        """
        chains = self._below(node, kept)
        kept.prune(node)
        return chains

    def _below(self, node: Node, kept: Kept) -> dict[str, Chain]:
        chains: dict[str, Chain] = {}
        for child in node.below:
            chains |= kept.get(child.key, (child, self.names), partial(self._written, child, kept))
        return chains

    def _written(self, node: Node, kept: Kept) -> dict[str, Chain]:
        name = self.owner.chain(self.names[node.key])
        return {name: Chain(name, self.root(node)), **self._below(node, kept)}


# --- by address


# The same object for the same way: what was encoded of it is found again.
_once = lru_cache(1 << 12)


@_once
def enter_prefix(key: str, chain: str) -> Rule:
    """Into a node of addresses: a packet that no entry there concerns comes back, and meets wider prefixes."""
    return Rule(Jump(chain), destination=key)


@_once
def enter_source(key: str, chain: str) -> Rule:
    """Into a node of addresses of hosts, by goto: RETURN in a leaf leaves the whole tree."""
    return Rule(Jump(chain, goto=True), source=key)


def address_tree(entries: Sequence[AddressEntry], kept: Kept, tail: Sequence[Rule] = ()) -> Node:
    """A tree over addresses. The longest prefix is judged first; of equal ones the first given.

    :param kept: of this tree.
    :param tail: ends every node, where nodes are entered by goto: then all entries must be of one length.
    """
    return ordered_address_tree(sorted(entries, key=address_order), kept, tail)


def ordered_address_tree(entries: Sequence[AddressEntry], kept: Kept, tail: Sequence[Rule] = ()) -> Node:
    """``address_tree`` over entries that are in order."""
    root = _address_node("local", entries, tuple(tail), kept)
    kept.prune(root)
    return root


def address_order(entry: AddressEntry) -> tuple[int, int, str]:
    """The longest prefix first."""
    return -entry.prefix.length, entry.prefix.value, entry.rule.out_interface or ""


def _address_node(key: str, entries: Sequence[AddressEntry], tail: tuple[Rule, ...], kept: Kept) -> Node:
    return kept.get(key, (entries, tail), partial(_grow_addresses, key, entries, tail, kept))


def _grow_addresses(key: str, entries: Sequence[AddressEntry], tail: tuple[Rule, ...], kept: Kept) -> Node:
    if len(entries) <= LEAF:
        return _node(key, [entry.rule for entry in entries], (), tail)
    inside, around = _part(entries)
    if not inside:
        return _node(key, [entry.rule for entry in around], (), tail)
    family = inside[0].prefix.family
    split = _shared_bits(inside) + _STRIDE
    alone: list[AddressEntry] = []
    below: list[Node] = []
    groups, direct = _by_bits(inside, FAMILY_BITS[family], split)
    for value, group in groups:
        if len(group) < _SMALLEST:
            alone += group
        else:
            prefix = Prefix(family, value << (FAMILY_BITS[family] - split), split)
            below.append(_address_node(values.prefix_text(prefix), group, tail, kept))
    after = [entry.rule for entry in (*direct, *around)]
    return _node(key, [entry.rule for entry in alone], below, (*after, *tail))


_Groups = Iterable[tuple[int, Sequence[AddressEntry]]]


def _by_bits(entries: Sequence[AddressEntry], bits: int, count: int) -> tuple[_Groups, Sequence[AddressEntry]]:
    """The entries by so many first bits of their addresses, and those that are too wide to have them."""
    if _of_one_length(entries) and entries[0].prefix.length > count:
        return _slices(entries, bits - count), ()
    groups: dict[int, list[AddressEntry]] = {}
    direct = []
    for entry in entries:
        if entry.prefix.length > count:
            groups.setdefault(entry.prefix.value >> (bits - count), []).append(entry)
        else:
            direct.append(entry)
    return sorted(groups.items()), direct


def _slices(entries: Sequence[AddressEntry], shift: int) -> _Groups:
    """The entries of a list that is in the order of addresses, by the bits that are left when so many are not."""
    low = 0
    while low < len(entries):
        value = entries[low].prefix.value >> shift
        high = bisect_left(entries, value + 1 << shift, low, key=_value)
        yield value, entries[low:high]
        low = high


def _value(entry: AddressEntry) -> int:
    return entry.prefix.value


def _of_one_length(entries: Sequence[AddressEntry]) -> bool:
    """Whether all entries of a list that is in order have one length, and so are in the order of addresses."""
    return entries[0].prefix.length == entries[-1].prefix.length


def _part(entries: Sequence[AddressEntry]) -> tuple[list[AddressEntry], list[AddressEntry]]:
    """Those that the node's bits can part, and those so wide that they are around all others."""
    inside, around = list(entries), []
    while inside and inside[-1].prefix.length <= _shared_bits(inside):
        around.append(inside.pop())
    return inside, around[::-1]


def _shared_bits(entries: Sequence[AddressEntry]) -> int:
    """How many leading bits the prefixes of entries have in common."""
    if _of_one_length(entries):
        low, high = entries[0].prefix.value, entries[-1].prefix.last
    else:
        low = min(entry.prefix.value for entry in entries)
        high = max(entry.prefix.last for entry in entries)
    return FAMILY_BITS[entries[0].prefix.family] - (low ^ high).bit_length()


# --- by device


def enter_names(side: Callable[[str], Physdev], *, goto: bool) -> Enter:
    """Into a node of names.

    :param side: makes the match of a name pattern.
    :param goto: RETURN in a leaf leaves the whole tree, and each node needs the tree's tail. Otherwise
        a frame that no entry concerns comes back to the root, and the tail is the root's alone.
    """
    return _once(lambda key, chain: Rule(Jump(chain, goto), matches=(side(key),)))


@_once
def enter_interfaces(key: str, chain: str) -> Rule:
    """Into a node of names of interfaces that are no bridge ports."""
    return Rule(Jump(chain), in_interface=key)


def device_tree(entries: Sequence[DeviceEntry], tail: Sequence[Rule], kept: Kept) -> Node:
    """A tree over bridge ports' names; ``tail`` ends every node: it judges what is no entry's.

    :param kept: of this tree.
    """
    return ordered_device_tree(sorted(entries, key=device_order), tail, kept)


def device_order(entry: DeviceEntry) -> str:
    """By name."""
    return entry.device


def ordered_device_tree(entries: Sequence[DeviceEntry], tail: Sequence[Rule], kept: Kept) -> Node:
    """``device_tree`` over entries that are in order."""
    root = _device_node("ports", entries, tuple(tail), kept)
    kept.prune(root)
    return root


def _device_node(key: str, entries: Sequence[DeviceEntry], tail: tuple[Rule, ...], kept: Kept) -> Node:
    return kept.get(key, (entries, tail), partial(_grow_devices, key, entries, tail, kept))


def _grow_devices(key: str, entries: Sequence[DeviceEntry], tail: tuple[Rule, ...], kept: Kept) -> Node:
    if len(entries) <= LEAF:
        return _node(key, [rule for entry in entries for rule in entry.rules], (), tail)
    shared = _shared_letters(entries)
    first: list[Rule] = []
    below: list[Node] = []
    for letters, group in _by_letters(entries, shared + 1):
        # A device that is named exactly like the prefix of others has no letters to part by, and is before them.
        whole = bisect_right(group, letters, key=device_order)
        if len(group) - whole >= _SMALLEST:
            below.append(_device_node(f"{letters}+", group[whole:], tail, kept))
            group = group[:whole]
        first += [rule for entry in group for rule in entry.rules]
    return _node(key, first, below, tail)


def _by_letters(entries: Sequence[DeviceEntry], count: int) -> Iterator[tuple[str, Sequence[DeviceEntry]]]:
    """The entries of a sorted list by so many first letters of their names."""
    low = 0
    while low < len(entries):
        letters = entries[low].device[:count]
        # No letter comes after Unicode's last one.
        high = bisect_right(entries, f"{letters}\U0010ffff", low, key=device_order)
        yield letters, entries[low:high]
        low = high


def _shared_letters(entries: Sequence[DeviceEntry]) -> int:
    """How many letters all names of a sorted list begin with: those of the first and the last."""
    first, last = entries[0].device, entries[-1].device
    shared = 0
    while shared < min(len(first), len(last)) and first[shared] == last[shared]:
        shared += 1
    return shared
