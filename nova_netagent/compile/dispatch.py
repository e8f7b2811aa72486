"""Dispatch without a scan: from a chain to one of thousands in a few comparisons.

A list of N jumps costs a new flow N comparisons. Here entries are kept in a tree of
chains: by the bits of an address, or by the letters of a device's name. A node holds at
most some twenty rules; a small host's tree is one node and reads as nova's list did.

A tree is outlined first and written down when all nodes of a table are known: their names
are hashes, and two that clash must part (``owner.short_ids``).
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial

from msgspec import Struct

from nova_netagent.compile.memo import Memo
from nova_netagent.model import values
from nova_netagent.model.values import FAMILY_BITS, Prefix
from nova_netagent.netfilter.owner import SHORT, Owner, digest, short_ids
from nova_netagent.netfilter.rule import Chain, Jump, Physdev, Rule

LEAF = 8
"""So many entries stay in one node: a tree pays from about fifteen rules on (measured)."""
_STRIDE = 4
_SMALLEST = 2
"""Below this many entries a child node would only add a jump."""


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


Enter = Callable[[str, str], Rule]
"""Makes the rule that leads to a node, from the node's key and its wrapped chain name."""


def _node(key: str, first: Iterable[Rule], below: Sequence[Node], last: Iterable[Rule]) -> Node:
    keys = [each for child in below for each in (child.key, *child.keys)]
    return Node(key, tuple(first), tuple(below), tuple(last), tuple(keys))


def name_nodes(keys: Iterable[str]) -> Names:
    """A name for each node of a table, distinct, and the same whatever the order."""
    keys = tuple(keys)
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

    def below(self, node: Node, memo: Memo) -> dict[str, Chain]:
        """The chains of the nodes below one, by name.

        :param memo: of this tree in this table.
        """
        chains: dict[str, Chain] = {}
        for child in node.below:
            chains |= memo.get(child.key, (child, self.names), partial(self._written, child, memo))
        return chains

    def _written(self, node: Node, memo: Memo) -> dict[str, Chain]:
        name = self.owner.chain(self.names[node.key])
        return {name: Chain(name, self.root(node)), **self.below(node, memo)}


# --- by address


def enter_prefix(key: str, chain: str) -> Rule:
    """Into a node of addresses: a packet that no entry there concerns comes back, and meets wider prefixes."""
    return Rule(Jump(chain), destination=key)


def enter_source(key: str, chain: str) -> Rule:
    """Into a node of addresses of hosts, by goto: RETURN in a leaf leaves the whole tree."""
    return Rule(Jump(chain, goto=True), source=key)


def address_tree(entries: Sequence[AddressEntry], memo: Memo, tail: Sequence[Rule] = ()) -> Node:
    """A tree over addresses. The longest prefix is judged first; of equal ones the first given.

    :param memo: of this tree: what is under a node is the same object as long as its entries are.
    :param tail: ends every node, where nodes are entered by goto: then all entries must be of one length.
    """
    return ordered_address_tree(sorted(entries, key=address_order), memo, tail)


def ordered_address_tree(entries: Sequence[AddressEntry], memo: Memo, tail: Sequence[Rule] = ()) -> Node:
    """``address_tree`` over entries that are in order."""
    root = _address_node("local", entries, tuple(tail), memo)
    memo.keep(root.keys)
    return root


def address_order(entry: AddressEntry) -> tuple[int, int, str]:
    """The longest prefix first."""
    return -entry.prefix.length, entry.prefix.value, entry.rule.out_interface or ""


def _address_node(key: str, entries: Sequence[AddressEntry], tail: tuple[Rule, ...], memo: Memo) -> Node:
    return memo.get(key, (*entries, *tail), partial(_grow_addresses, key, entries, tail, memo))


def _grow_addresses(key: str, entries: Sequence[AddressEntry], tail: tuple[Rule, ...], memo: Memo) -> Node:
    if len(entries) <= LEAF:
        return _node(key, [entry.rule for entry in entries], (), tail)
    inside, around = _part(entries)
    if not inside:
        return _node(key, [entry.rule for entry in around], (), tail)
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
            below.append(_address_node(values.prefix_text(prefix), group, tail, memo))
    after = [entry.rule for entry in (*direct, *around)]
    return _node(key, [entry.rule for entry in alone], below, (*after, *tail))


def _part(entries: Sequence[AddressEntry]) -> tuple[list[AddressEntry], list[AddressEntry]]:
    """Those that the node's bits can part, and those so wide that they are around all others."""
    inside, around = list(entries), []
    while inside and inside[-1].prefix.length <= _shared_bits(inside):
        around.append(inside.pop())
    return inside, around[::-1]


def _shared_bits(entries: Sequence[AddressEntry]) -> int:
    """How many leading bits the prefixes of entries have in common."""
    if entries[0].prefix.length == entries[-1].prefix.length:  # all are of one length, and so in order
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
    # The same object for the same way: what was encoded of it is found again.
    return lru_cache(1 << 14)(lambda key, chain: Rule(Jump(chain, goto), matches=(side(key),)))


def enter_interfaces(key: str, chain: str) -> Rule:
    """Into a node of names of interfaces that are no bridge ports."""
    return Rule(Jump(chain), in_interface=key)


def device_tree(entries: Sequence[DeviceEntry], tail: Sequence[Rule], memo: Memo) -> Node:
    """A tree over bridge ports' names; ``tail`` ends every node: it judges what is no entry's.

    :param memo: as in ``address_tree``.
    """
    return ordered_device_tree(sorted(entries, key=device_order), tail, memo)


def device_order(entry: DeviceEntry) -> str:
    """By name."""
    return entry.device


def ordered_device_tree(entries: Sequence[DeviceEntry], tail: Sequence[Rule], memo: Memo) -> Node:
    """``device_tree`` over entries that are in order."""
    root = _device_node("ports", entries, tuple(tail), memo)
    memo.keep(root.keys)
    return root


def _device_node(key: str, entries: Sequence[DeviceEntry], tail: tuple[Rule, ...], memo: Memo) -> Node:
    return memo.get(key, (*entries, *tail), partial(_grow_devices, key, entries, tail, memo))


def _grow_devices(key: str, entries: Sequence[DeviceEntry], tail: tuple[Rule, ...], memo: Memo) -> Node:
    if len(entries) <= LEAF:
        return _node(key, [rule for entry in entries for rule in entry.rules], (), tail)
    shared = _shared_letters(entries)
    first: list[Rule] = []
    below: list[Node] = []
    for letters, group in _by_letters(entries, shared + 1):
        # A device that is named exactly like the prefix of others has no letters to part by.
        deeper = [entry for entry in group if entry.device != letters]
        here = [entry for entry in group if entry.device == letters]
        if len(deeper) >= _SMALLEST:
            below.append(_device_node(f"{letters}+", deeper, tail, memo))
        else:
            here += deeper
        first += [rule for entry in here for rule in entry.rules]
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
